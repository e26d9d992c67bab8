"""Additive output biases on live modules: attach all or nothing, detach bit for bit.

- A bias is a frozen ``nn.Parameter`` (a buffer would be summed once per rank under tensor
  parallelism), added to what the module had; the module's own bias object is kept and put back.
- Several owners may add to one module. Their shifts are summed in fp32 and cast once; removing one
  recomputes from those that remain, it never subtracts.
- Nothing is changed before every new bias is computed and found finite.
- ``state_dict`` shows the module as it was: a lock that is saved as a stray bias is dropped in
  silence by every loader, so it is not saved at all. Exports are a verb of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import AlreadyAppliedError, ApplyError, NonFiniteResultError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

_LEDGER = "_safelatch_biases"


@dataclass(slots=True)
class _ModuleBias:
    """What is attached to one module."""

    original: nn.Parameter | None
    shifts: dict[str, Tensor] = field(default_factory=dict)
    unhook: Callable[[], None] | None = None


def attach(model: nn.Module, owner: str, shifts: Mapping[str, Tensor]) -> None:
    """Add ``shifts[module_name]`` (fp32, [out_features]) to the output of each module.

    Raises:
        AlreadyAppliedError: ``owner`` is attached to this model already.
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
        entry = ledger.get(name) or _ModuleBias(_own_bias(module))
        planned[name] = (module, entry, _sum(name, module, entry, {**entry.shifts, owner: shift}))
    for name, (module, entry, bias) in planned.items():
        entry.shifts[owner] = shifts[name]
        ledger[name] = entry
        setattr(module, "bias", bias)  # noqa: B010 -- typed as a child module by torch
        if entry.unhook is None:
            entry.unhook = _hide_from_state_dict(module, entry)


def detach(model: nn.Module, owner: str) -> int:
    """Remove what ``owner`` attached and return from how many modules.

    A module with no owner left gets its own bias object back, bit for bit.
    """
    ledger: dict[str, _ModuleBias] = model.__dict__.get(_LEDGER, {})
    touched = [name for name, entry in ledger.items() if owner in entry.shifts]
    for name in touched:
        module, entry = model.get_submodule(name), ledger[name]
        remaining = {key: shift for key, shift in entry.shifts.items() if key != owner}
        if remaining:
            setattr(module, "bias", _sum(name, module, entry, remaining))  # noqa: B010
            entry.shifts = remaining
            continue
        setattr(module, "bias", entry.original)  # noqa: B010
        if entry.unhook is not None:
            entry.unhook()
        del ledger[name]
    return len(touched)


def owners(model: nn.Module) -> list[str]:
    """Return who is attached to this model, in order of attachment."""
    ledger: dict[str, _ModuleBias] = model.__dict__.get(_LEDGER, {})
    return list(dict.fromkeys(owner for entry in ledger.values() for owner in entry.shifts))


def original_bias(model: nn.Module, name: str) -> Tensor | None:
    """Return the bias that module ``name`` had of its own, or ``None``."""
    entry: _ModuleBias | None = model.__dict__.get(_LEDGER, {}).get(name)
    return _own_bias(model.get_submodule(name)) if entry is None else entry.original


def expected_bias(model: nn.Module, name: str, shifts: Mapping[str, Tensor]) -> Tensor:
    """Return the bias that module ``name`` must have for these ``shifts`` of all owners."""
    module = model.get_submodule(name)
    return _sum(name, module, _ModuleBias(_as_parameter(original_bias(model, name))), shifts).data


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


def _sum(
    name: str, module: nn.Module, entry: _ModuleBias, shifts: Mapping[str, Tensor]
) -> nn.Parameter:
    import torch

    weight: Any = module.weight
    total = torch.zeros((), dtype=torch.float32, device=weight.device)
    for shift in shifts.values():
        total = total + shift.to(device=weight.device, dtype=torch.float32)
    if entry.original is not None:
        total = total + entry.original.data.to(device=weight.device, dtype=torch.float32)
        if total.shape != entry.original.shape:
            raise ApplyError(
                f"{name}.bias: expected shape {list(entry.original.shape)}, "
                f"got {list(total.shape)}."
            )
    bias = total.to(weight.dtype)
    if not torch.isfinite(bias).all():
        raise NonFiniteResultError(
            f"{name}.bias: expected finite values, the sum has NaN or infinity in {weight.dtype}; "
            "nothing was changed."
        )
    return torch.nn.Parameter(bias, requires_grad=False)


def _hide_from_state_dict(module: nn.Module, entry: _ModuleBias) -> Callable[[], None]:
    def restore_own(
        _module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]
    ) -> None:
        if entry.original is None:
            state.pop(f"{prefix}bias", None)
        else:
            state[f"{prefix}bias"] = entry.original.detach()

    handle: Any = module.register_state_dict_post_hook(restore_own)  # type: ignore[no-untyped-call]
    return lambda: handle.remove()  # noqa: PLW0108 -- a bound method would hide its type
