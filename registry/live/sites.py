"""Sites of a live model: the modules an artifact speaks about, found by the sites table.

- The table is ``checkpoint.architecture``; module names are the tensor names without their leaf.
- Only models whose weights are plainly there are touched: adapters in place, offloaded, sharded or
  packed weights are refused with the way out, since a shift computed from them could be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.geometry import Geometry, read_geometry
from registry.errors import ApplyError, TargetModuleMissingError

if TYPE_CHECKING:
    from torch import nn


def model_geometry(model: nn.Module) -> Geometry:
    """Return the geometry of a live transformers model, from its config and its shapes.

    Raises:
        UnsupportedArchitectureError: no row in the sites table for its family.
        GeometryError: config and shapes disagree.
    """
    require_plain(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    config: Any = model.config
    return read_geometry(shapes, config.to_dict())


def attention_outputs(model: nn.Module, geometry: Geometry) -> list[nn.Module]:
    """Return each layer's attention output projection, in layer order.

    Raises:
        TargetModuleMissingError: the model has no such module.
        ApplyError: its weight is not a plain floating-point matrix on a device.
    """
    sites = sites_for(geometry.family)
    modules = []
    for layer in range(geometry.layers):
        name = sites.attn_out_weight(layer).removesuffix(".weight")
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise TargetModuleMissingError(
                f"expected a module {name}, the model {type(model).__name__} has none.",
                hint="Load the model as its family's own class: "
                "AutoModelForCausalLM.from_pretrained(DIR)",
            ) from None
        _require_dense(name, module)
        modules.append(module)
    return modules


def decoder_layers(model: nn.Module, geometry: Geometry) -> list[nn.Module]:
    """Return the decoder layers, in order; their modules must be there."""
    sites = sites_for(geometry.family)
    return [model.get_submodule(sites.layer_prefix(layer)) for layer in range(geometry.layers)]


def weight_columns(module: nn.Module, *, transposed: bool) -> Any:
    """Return the weight as [out_features, in_features] (a view), whatever the class stores."""
    weight: Any = module.weight
    return weight.T if transposed else weight


def require_plain(model: nn.Module) -> None:
    """Raise unless it is a transformers model without adapters in place.

    Raises:
        ApplyError: adapters are in place.
        TargetModuleMissingError: it has no config of transformers.
    """
    adapters: Any = getattr(model, "peft_config", None)
    if adapters:
        raise ApplyError(
            "expected a model without adapters in place, got one with "
            f"{sorted(adapters)}; its effective weights are not in its tensors.",
            hint="Merge first: model = model.merge_and_unload()",
        )
    if not hasattr(model, "config") or not hasattr(model.config, "model_type"):
        raise TargetModuleMissingError(
            f"expected a transformers model with a config, got {type(model).__name__}.",
            hint="Load it with transformers: AutoModelForCausalLM.from_pretrained(DIR)",
        )


def _require_dense(name: str, module: nn.Module) -> None:
    import torch

    weight = getattr(module, "weight", None)
    if type(module).__name__ not in {"Linear", "Conv1D"} or weight is None:
        raise ApplyError(
            f"{name}: expected a Linear or Conv1D with plain weights, got {type(module).__name__}.",
            hint="Load without quantisation: load_protected(..., dtype='bfloat16')",
        )
    if type(weight) is not torch.nn.Parameter or not weight.is_floating_point():
        raise ApplyError(
            f"{name}.weight: expected a plain floating-point parameter, "
            f"got {type(weight).__name__} of {weight.dtype}.",
            hint="Load unsharded and without quantisation.",
        )
    hook = getattr(module, "_hf_hook", None)
    if weight.device.type == "meta" or getattr(hook, "offload", False):
        raise ApplyError(
            f"{name}.weight: expected weights on a device, they are offloaded.",
            hint="Load onto one device: load_protected(..., device_map={'': 0})",
        )
