"""A model under what training puts around it: its own parameters, by the names its base has.

Adapters, compilation, data parallelism and activation checkpointing wrap a model or modules of it,
and every wrapper puts a step into the names of parameters. Those steps are taken out here, and what
an adapter brought is told from what the model had. A sharded parameter keeps its name and its whole
shape; ``gathered`` puts one together, on every rank. Engines that hold weights in a form in which
single tensors cannot be read are refused: FSDP1, ZeRO-3, offloading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import GuardError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_AROUND_A_MODEL = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
}
"""Class of a wrapper, with the child that is the model."""
_IN_NAMES = ("_orig_mod", "_checkpoint_wrapped_module")
"""Steps that wrappers of single modules put into names."""
_KEPT = ("base_layer", "original_module")
"""Child of an adapter's module that is what the model had; every other child is the adapter's."""
_COPY = "modules_to_save"
_SHOWN = 5

PROVE_LATER = (
    "Or train with any engine, without a guard, and look at the result: "
    "safelatch inspect MODEL NAME@V"
)
"""What is left where an engine cannot be guarded: the files of its result."""


@dataclass(frozen=True)
class Wrapped:
    """A model, looked at under its wrappers.

    Attributes:
        model: The model itself; adapters may be among its modules.
        adapters: Config of every PEFT adapter on it, by name.
        own: Parameter of the model by the name that its base has it under, ties included.
        brought: What adapters brought, by a name of the same form. A trained copy of a module is
            under the name of the tensor that it stands for.
        path: How the model is reached from what was given: ``.module``; empty if it is the same.
    """

    model: nn.Module
    adapters: dict[str, Any]
    own: dict[str, nn.Parameter]
    brought: dict[str, nn.Parameter]
    path: str

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the model's own parameters, as ``nn.Module`` does: each once."""
        seen: set[int] = set()
        for name, parameter in self.own.items():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter


def look_under(model: nn.Module) -> Wrapped:
    """Return ``model`` without what is wrapped around it.

    Raises:
        GuardError: its weights cannot be read one by one where they are.
    """
    _require_named(model)
    inner, adapters, path = _walk(model)
    found = Wrapped(inner, adapters, {}, {}, path)
    _collect(inner, "", found, is_own=True)
    _require_readable(found.own | found.brought)
    return found


def innermost(model: nn.Module) -> nn.Module:
    """Return the model under its wrappers; nothing is asked of its weights."""
    inner, _, _ = _walk(model)
    return inner


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded; every rank must ask at the same time."""
    whole = getattr(tensor, "full_tensor", None)
    found: Tensor = tensor if whole is None else whole()
    return found


def _walk(model: nn.Module) -> tuple[nn.Module, dict[str, Any], str]:
    """Return the model under its wrappers, the adapters that were met, and the path to it."""
    adapters: dict[str, Any] = {}
    inner: Any = model
    path = ""
    while True:
        adapters |= dict(getattr(inner, "peft_config", None) or {})
        child = _AROUND_A_MODEL.get(type(inner).__name__)
        if child is not None:
            inner, path = getattr(inner, child), f"{path}.{child}"
        elif adapters and hasattr(inner, "get_base_model"):
            inner, path = inner.get_base_model(), f"{path}.get_base_model()"
        else:
            return inner, adapters, path


def _collect(module: nn.Module, prefix: str, found: Wrapped, *, is_own: bool) -> None:
    """Put the parameters at and below ``module`` into ``found``, under names without wrappers."""
    children = module._modules  # noqa: SLF001 -- as attributes, tuners answer for what they wrap
    kept = next((child for child in _KEPT if child in children), None)
    place = found.own if is_own and kept is None else found.brought
    for leaf, parameter in module._parameters.items():  # noqa: SLF001
        if parameter is not None:
            place[f"{prefix}{leaf}"] = parameter
    for step, child in children.items():
        if child is None:
            continue
        if kept is not None and step == _COPY:  # a copy under the name of each adapter
            for copy in child.children():
                _collect(copy, prefix, found, is_own=False)
            continue
        below = prefix if step in _IN_NAMES or step == kept else f"{prefix}{step}."
        _collect(child, below, found, is_own=is_own and kept in {None, step})


def _require_named(model: nn.Module) -> None:
    classes = {type(module) for module in model.modules()}
    names = {kind.__name__ for found in classes for kind in found.__mro__}
    if "FullyShardedDataParallel" in names:
        raise GuardError(
            "expected parameters under their own names, got FSDP1 (FullyShardedDataParallel), "
            "which lays those of many modules end to end and steps them together.",
            hint="Shard with FSDP2: torch.distributed.fsdp.fully_shard(module), or in "
            'TrainingArguments: fsdp_config={"version": 2}',
        )


def _require_readable(parameters: dict[str, nn.Parameter]) -> None:
    parts = [name for name, parameter in parameters.items() if hasattr(parameter, "ds_id")]
    if parts:
        raise GuardError(
            f"expected whole parameters, got {len(parts)} in the parts that DeepSpeed ZeRO-3 "
            f"keeps:{listed(parts, _SHOWN)}",
            hint=f"Shard with FSDP2. {PROVE_LATER}",
        )
    absent = [name for name, parameter in parameters.items() if parameter.device.type == "meta"]
    if absent:
        raise GuardError(
            f"expected weights on a device, {len(absent)} of {len(parameters)} parameters are "
            f"offloaded or not loaded (meta):{listed(absent, _SHOWN)}",
            hint="Load onto devices: from_pretrained(..., device_map={'': 0})",
        )
