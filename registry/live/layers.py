"""The decoder layers of a live model and what each of them is made of, whatever holds the weights.

Modules are found by the row of the model's family, not by their weights, so a quantised model has
them too. Offloaded modules are found as well: who touches weights asks where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.errors import TargetModuleMissingError
from registry.live.sites import require_plain

if TYPE_CHECKING:
    from torch import nn

    from registry.checkpoint.architecture import Sites

_OWN_CLASS = "Load the model as its family's own class: AutoModelForCausalLM.from_pretrained(DIR)"


@dataclass(frozen=True, slots=True)
class LiveLayer:
    """One decoder layer.

    Attributes:
        name: Module name in the model.
        module: The layer; its output is the residual stream behind it, before the final norm.
        attention: Name of its attention under the layer.
        mlp: Name of its MLP under the layer.
        added: Modules whose outputs are added to the residual stream: the post norms where the
            family has them, attention and MLP otherwise.
    """

    name: str
    module: nn.Module
    attention: str
    mlp: str
    added: tuple[nn.Module, ...]


@dataclass(frozen=True, slots=True)
class LiveLayers:
    """The decoder layers of a live model, in order, and the row of its family."""

    sites: Sites
    layers: tuple[LiveLayer, ...]

    @property
    def modules(self) -> list[nn.Module]:
        """The layers' modules, in order."""
        return [layer.module for layer in self.layers]

    def __len__(self) -> int:
        return len(self.layers)


def live_layers(model: nn.Module) -> LiveLayers:
    """Return the decoder layers of ``model``.

    Raises:
        UnsupportedArchitectureError: no row in the sites table for its family.
        TargetModuleMissingError: a module is not there, or there are more layers than the config
            says.
        ApplyError: adapters are in place.
    """
    require_plain(model)
    config: Any = model.config
    sites = sites_for(config.model_type)
    count = config.num_hidden_layers
    layers = tuple(_layer(model, sites, index) for index in range(count))
    if _find(model, sites.layer_prefix(count)) is not None:
        raise TargetModuleMissingError(
            f"expected {count} decoder layers as in the config, the model has more.",
            hint=_OWN_CLASS,
        )
    return LiveLayers(sites, layers)


def _layer(model: nn.Module, sites: Sites, index: int) -> LiveLayer:
    name = sites.layer_prefix(index)
    module = _module(model, name)
    attention, mlp = (_part(sites, path) for path in (sites.attn_out, sites.mlp_out))
    added = sites.post_norms or (attention, mlp)
    _module(model, f"{name}.{attention}")
    _module(model, f"{name}.{mlp}")
    return LiveLayer(
        name, module, attention, mlp, tuple(_module(model, f"{name}.{path}") for path in added)
    )


def _part(sites: Sites, stored: str) -> str:
    """Return the live module right under a layer that holds the stored module."""
    prefix = sites.layer_prefix(0)
    path = f"{prefix}.{stored.replace('{index}', '0')}.weight"
    return sites.place_of(path).name.removeprefix(f"{prefix}.").split(".")[0]


def _module(model: nn.Module, name: str) -> nn.Module:
    found = _find(model, name)
    if found is None:
        raise TargetModuleMissingError(
            f"expected a module {name}, the model {type(model).__name__} has none.",
            hint=_OWN_CLASS,
        )
    return found


def _find(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
