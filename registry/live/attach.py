"""Additive output biases on live modules: attach all or nothing, detach bit for bit.

- A bias is a frozen ``nn.Parameter`` (a buffer would be summed once per rank under tensor
  parallelism), added to what the module had; the module's own bias object is kept and put back.
- Several owners may add to one module. Their shifts are summed in fp32 and cast once; removing one
  recomputes from those that remain, it never subtracts.
- Nothing is changed before every new bias is computed and found finite.
- ``state_dict`` shows the module as it was: a lock that is saved as a stray bias is dropped in
  silence by every loader, so it is not saved at all. Exports are a verb of their own.
- What is attached belongs to the module it was attached to: a deep copy carries its own, a module
  put in its place is left alone, and a cast or a move of the model takes the kept bias along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import AlreadyAppliedError, ApplyError, NonFiniteResultError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

WIDER = "Take a smaller alpha, or load in a wider dtype: load_protected(..., dtype='bfloat16')"
"""Hint of every error about a shift that the dtype of the model cannot hold."""

_LEDGER = "_safelatch_biases"


@dataclass(slots=True)
class _ModuleBias:
    """What is attached to one module."""

    module: nn.Module
    original: nn.Parameter | None
    shifts: dict[str, Tensor] = field(default_factory=dict)
    hook: Any = None

    def own(self) -> nn.Parameter | None:
        """Return the module's own bias object, in the dtype and place the module has now."""
        weight: Any = self.module.weight
        if self.original is not None and (
            self.original.dtype != weight.dtype or self.original.device != weight.device
        ):
            self.original.data = self.original.data.to(weight.device, weight.dtype)
        return self.original


class _OwnBiasInStateDict:
    """State-dict hook that shows a module's own bias; copied and pickled with its module."""

    def __init__(self, entry: _ModuleBias) -> None:
        self.entry = entry

    def __call__(
        self, _module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]
    ) -> None:
        own = self.entry.own()
        if own is None:
            state.pop(f"{prefix}bias", None)
        else:
            state[f"{prefix}bias"] = own.detach()


def attach(model: nn.Module, owner: str, shifts: Mapping[str, Tensor]) -> None:
    """Add ``shifts[module_name]`` (fp32, [out_features]) to the output of each module.

    Raises:
        AlreadyAppliedError: ``owner`` is attached to this model already.
        ApplyError: a shift is not as wide as its module's output; nothing was changed.
        NonFiniteResultError: a sum is not finite in the module's dtype; nothing was changed.
    """
    ledger: dict[str, _ModuleBias] = model.__dict__.setdefault(_LEDGER, {})
    if any(owner in entry.shifts for entry in ledger.values()):
        raise AlreadyAppliedError(
            f"{owner} is on this model already.",
            hint="Take it off first: registry.unprotect(model)",
        )
    planned = {}
    for name, shift in shifts.items():
        module = model.get_submodule(name)
        entry = ledger.get(name)
        if entry is None or entry.module is not module:
            entry = _ModuleBias(module, _own_bias(module))
        _require_width(name, entry, shift)
        planned[name] = (entry, _sum(name, entry, {**entry.shifts, owner: shift}))
    for name, (entry, bias) in planned.items():
        entry.shifts[owner] = shifts[name]
        ledger[name] = entry
        _set_bias(entry.module, bias)
        if entry.hook is None:
            hook: Any = entry.module.register_state_dict_post_hook(
                _OwnBiasInStateDict(entry)  # type: ignore[no-untyped-call]
            )
            entry.hook = hook


def detach(model: nn.Module, owner: str) -> int:
    """Remove what ``owner`` attached and return from how many modules.

    A module with no owner left gets its own bias object back, bit for bit.

    Raises:
        NonFiniteResultError: what remains is not finite without it; nothing was changed.
    """
    ledger: dict[str, _ModuleBias] = model.__dict__.get(_LEDGER, {})
    planned = {}
    for name, entry in ledger.items():
        if owner in entry.shifts:
            rest = {key: shift for key, shift in entry.shifts.items() if key != owner}
            planned[name] = (rest, _sum(name, entry, rest) if rest else entry.own())
    for name, (rest, bias) in planned.items():
        entry = ledger[name]
        _set_bias(entry.module, bias)
        entry.shifts = rest
        if not rest:
            entry.hook.remove()
            del ledger[name]
    return len(planned)


def owners(model: nn.Module) -> list[str]:
    """Return who is attached to this model, in order of attachment."""
    ledger: dict[str, _ModuleBias] = model.__dict__.get(_LEDGER, {})
    return list(dict.fromkeys(owner for entry in ledger.values() for owner in entry.shifts))


def original_bias(model: nn.Module, name: str) -> Tensor | None:
    """Return the bias that module ``name`` had of its own, or ``None``."""
    entry: _ModuleBias | None = model.__dict__.get(_LEDGER, {}).get(name)
    return _own_bias(model.get_submodule(name)) if entry is None else entry.own()


def expected_bias(model: nn.Module, name: str, shifts: Mapping[str, Tensor]) -> Tensor:
    """Return the bias that module ``name`` must have for these ``shifts`` of all owners."""
    own = _as_parameter(original_bias(model, name))
    return _sum(name, _ModuleBias(model.get_submodule(name), own), shifts).data


def attached_shifts(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return what each owner attached to module ``name``, fp32."""
    entry: _ModuleBias | None = model.__dict__.get(_LEDGER, {}).get(name)
    return {} if entry is None else dict(entry.shifts)


def _as_parameter(value: Tensor | None) -> nn.Parameter | None:
    from torch import nn

    return None if value is None else nn.Parameter(value, requires_grad=False)


def _own_bias(module: nn.Module) -> nn.Parameter | None:
    bias: Any = getattr(module, "bias", None)
    return bias  # type: ignore[no-any-return]


def _set_bias(module: nn.Module, bias: nn.Parameter | None) -> None:
    setattr(module, "bias", bias)  # noqa: B010 -- typed as a child module by torch


def _require_width(name: str, entry: _ModuleBias, shift: Tensor) -> None:
    own, module = entry.original, entry.module
    expected = [int(module.out_features)] if own is None else list(own.shape)  # type: ignore[arg-type]
    if list(shift.shape) != expected:
        raise ApplyError(
            f"{name}.bias: expected shape {expected}, got {list(shift.shape)}; "
            "nothing was changed.",
            hint="Make the artifact again from a base of these widths: "
            "safelatch extract KIND BASE --out DIR",
        )


def _sum(name: str, entry: _ModuleBias, shifts: Mapping[str, Tensor]) -> nn.Parameter:
    import torch

    weight: Any = entry.module.weight
    total = torch.zeros((), dtype=torch.float32, device=weight.device)
    for shift in shifts.values():
        total = total + shift.to(device=weight.device, dtype=torch.float32)
    if entry.original is not None:
        total = total + entry.original.data.to(device=weight.device, dtype=torch.float32)
    bias = total.to(weight.dtype)
    if not torch.isfinite(bias).all():
        raise NonFiniteResultError(
            f"{name}.bias: expected finite values, the sum has NaN or infinity in {weight.dtype}; "
            "nothing was changed.",
            hint=WIDER,
        )
    return torch.nn.Parameter(bias, requires_grad=False)
