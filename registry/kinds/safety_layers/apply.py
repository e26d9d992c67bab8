"""Put the base's layers back into a live model: those that drifted, bit for bit, or none.

- Every tensor that must be written is read from the base, its digest checked, and decoded before
  the first is written. Parameters stay the objects they are, on their device and in their dtype.
- A narrower dtype than the base's is compared with the base whole where it is at hand.
- The values that were there are kept on the CPU, so that undo gives them back bit for bit; an
  interruption puts them back.
- What was computed from a weight goes on after it and comes off before it: a lock folded through
  the output projection of a layer holds for the weights it was folded through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.errors import (
    AlreadyAppliedError,
    ApplyError,
    CheckpointNotFoundError,
    HubError,
    UsageError,
)
from registry.kinds.safety_layers._live import (
    carried,
    read_live,
    require_same_family,
    unexpected_parameters,
)
from registry.kinds.safety_layers._live_bits import bits_of
from registry.live.compare import decode
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from registry.checkpoint.record import Entry
    from registry.kinds.contract import BaseTensors
    from registry.kinds.safety_layers._live import LiveTensor
    from registry.kinds.safety_layers._live_bits import Bits
    from registry.kinds.safety_layers.body import LayersBody

_LEDGER = "_safelatch_layers"
_OWN_CLASS = "Load it whole and plain: load_protected(MODEL, artifacts=[...], dtype='bfloat16')"


@dataclass(frozen=True, slots=True)
class LayersApplication:
    """Layers that are on a model.

    Attributes:
        owner: Identity under which they went on (the artifact's digest or label).
        body: The safety layers.
        originals: The tensors that were written, by the base's name, with what was there before.
        bits: What every tensor holds since then, by the base's name.
        sampled: The tensors that samples alone vouch for: the model's dtype is narrower than the
            base's, and the base was not at hand.
        alpha: A range has no strength.
    """

    owner: str
    body: LayersBody
    originals: Mapping[str, Tensor]
    bits: Mapping[str, Bits]
    sampled: frozenset[str]
    alpha: None = None

    @property
    def written(self) -> set[int]:
        """The layers in which a tensor was written."""
        sites = sites_for(self.body.family)
        return {layer for name in self.originals if (layer := sites.layer_of(name)) is not None}


def apply(
    model: nn.Module,
    body: LayersBody,
    *,
    base: BaseTensors | None = None,
    owner: str,
    alpha: float | None = None,
    allow_unsafe: bool = False,  # noqa: ARG001 -- the contract's: the base's own weights are safe
) -> LayersApplication:
    """Put every drifted tensor of the range back and return what was done.

    Args:
        model: A transformers model with plain weights, a fine-tune of the base.
        body: The safety layers.
        base: The base's weights; asked for what drifted, and for what samples alone vouch for.
        owner: Identity under which they go on; applying one owner twice is refused.
        alpha: Must be ``None``: a range has no strength.
        allow_unsafe: Not asked.

    Raises:
        UsageError: a strength is given.
        AlreadyAppliedError: ``owner`` is on this model already.
        GeometryError: the model is of another family or depth.
        CheckpointNotFoundError: layers drifted, and the base is not at hand.
        EvidenceError, CompatibilityError: what is at hand is another model.
        ApplyError: the model cannot take them now; it is as it was.
    """
    if alpha is not None:
        raise UsageError(
            f"expected no alpha for safety layers, which have no strength, got {alpha:g}.",
            hint="Leave alpha out.",
        )
    ledger = _ledger(model)
    if owner in ledger:
        raise AlreadyAppliedError(
            f"{owner} is on this model already.",
            hint="Take it off first: registry.unprotect(model)",
        )
    require_same_family(model, body)
    found = read_live(model, body)
    _require_whole(model, body, found)
    between, sampled = _between_samples(base, found)
    drifted = [item for item in found if item.fact] + between
    values: dict[str, Tensor] = {}
    if drifted:
        _require_free(model, body, drifted)
        values = _values(base, body, drifted)
    bits = {
        item.entry.name: bits_of(values.get(item.entry.name, item.held))
        for item in found
        if item.held is not None
    }
    originals = _copies(drifted)
    application = LayersApplication(owner, body, originals, bits, sampled)
    try:
        _write(drifted, values)
        model.__dict__.setdefault(_LEDGER, {})[owner] = application
    except BaseException:
        _write(drifted, originals)
        _ledger(model).pop(owner, None)
        raise
    return application


def undo(model: nn.Module, application: LayersApplication) -> None:
    """Give back what was there before, bit for bit; nothing, if that was done already.

    Raises:
        ApplyError: something went on after these layers that holds for them alone; nothing was
            changed.
    """
    ledger = _ledger(model)
    if application.owner not in ledger:
        return
    _require_nothing_on_top(model, application, ledger)
    body, before = application.body, application.originals
    held = [item for item in read_live(model, body) if item.entry.name in before]
    _require_there(held, "to give back what was there before")
    there = _copies(held)
    try:
        _write(held, before)
    except BaseException:
        _write(held, there)
        raise
    del ledger[application.owner]


def _ledger(model: nn.Module) -> dict[str, LayersApplication]:
    ledger: dict[str, LayersApplication] = model.__dict__.get(_LEDGER, {})
    return ledger


def _require_whole(model: nn.Module, body: LayersBody, found: Sequence[LiveTensor]) -> None:
    """Raise unless every tensor can be written where it is, and nothing stands beside them."""
    _require_there(found, "in the layers that are protected")
    beside = unexpected_parameters(model, body)
    if beside:
        raise ApplyError(
            f"expected only the base's parameters in the protected layers, got {len(beside)} "
            f"more:{listed(beside)}",
            hint="Load the fine-tune as its own class, without what was added to its layers.",
        )


def _require_there(found: Sequence[LiveTensor], what: str) -> None:
    """Raise unless plain floating-point weights of the base's shape hold each tensor."""
    lines = []
    for item in found:
        if item.held is None:
            lines.append(f"{item.entry.name}: {item.fact}")
        elif item.fact and not item.held.is_floating_point():
            lines.append(f"{item.entry.name}: expected a float, got {item.held.dtype}")
    if lines:
        raise ApplyError(
            f"expected plain weights {what}; the model is as it was:{listed(lines)}",
            hint=_OWN_CLASS,
        )


def _require_free(model: nn.Module, body: LayersBody, drifted: Sequence[LiveTensor]) -> None:
    """Raise if something on the model holds for the very weights that would be replaced."""
    sites = sites_for(body.family)
    layers = {sites.layer_of(item.entry.name) for item in drifted} - {None}
    on_it = carried(model, body, {layer for layer in layers if layer is not None})
    names = [item.entry.name for item in drifted]
    on_it += [
        owner for owner, other in _ledger(model).items() if any(map(other.body.protects, names))
    ]
    if on_it:
        raise ApplyError(
            f"expected nothing on the layers that are put back ({_named(layers)}), got "
            f"{', '.join(on_it)}: what is on them holds for the weights they have now.",
            hint="Take it off, put the layers on, then it again: registry.unprotect(model), "
            "registry.protect(model, LAYERS), registry.protect(model, LOCK)",
        )


def _require_nothing_on_top(
    model: nn.Module, application: LayersApplication, ledger: Mapping[str, LayersApplication]
) -> None:
    owners = list(ledger)
    later = owners[owners.index(application.owner) + 1 :]
    on_top = carried(model, application.body, application.written)
    on_top += [
        owner for owner in later if any(map(ledger[owner].body.protects, application.originals))
    ]
    if on_top:
        raise ApplyError(
            f"expected {application.owner} to come off last, {', '.join(on_top)} went on after it "
            f"and holds for these layers ({_named(application.written)}); nothing was changed.",
            hint="Take off what went on last first, or everything: registry.unprotect(model)",
        )


def _named(layers: set[int] | set[int | None]) -> str:
    return ", ".join(str(layer) for layer in sorted(layers, key=lambda layer: layer or 0))


def _values(
    base: BaseTensors | None, body: LayersBody, drifted: Sequence[LiveTensor]
) -> dict[str, Tensor]:
    """Return the base's tensors, every one read and decoded, as the live dtypes hold them."""
    if base is None:
        sites = sites_for(body.family)
        layers = {sites.layer_of(item.entry.name) for item in drifted}
        raise CheckpointNotFoundError(
            f"expected the base to put {len(drifted)} drifted tensors of the layers "
            f"{_named(layers)} back, got none; the model is as it was.",
            hint="Say where it is: registry.protect(model, ARTIFACT, base=DIR), or register it: "
            "safelatch base add MODEL",
        )
    return {
        item.entry.name: _value(base, item.entry, item.held.dtype)
        for item in drifted
        if item.held is not None
    }


def _value(base: BaseTensors, entry: Entry, dtype: torch.dtype) -> Tensor:
    """Return the base's tensor, cast as a loader casts it."""
    return decode(base.read(entry.name), entry.dtype).reshape(entry.shape).to(dtype)


def _between_samples(
    base: BaseTensors | None, found: Sequence[LiveTensor]
) -> tuple[list[LiveTensor], frozenset[str]]:
    """Return what drifted where no sample is; and what samples vouch for, without a base to ask.

    Which values are sampled is known to everybody: an edit can spare them.
    """
    drifted, rounded = [], [item for item in found if item.is_rounded]
    for item in rounded:
        if base is None or item.held is None:
            break
        try:
            value = _value(base, item.entry, item.held.dtype)
        except (CheckpointNotFoundError, HubError):
            break
        if bits_of(value) != bits_of(item.held):
            drifted.append(item)
    else:
        return drifted, frozenset()
    return [], frozenset(item.entry.name for item in rounded)


def _copies(items: Sequence[LiveTensor]) -> dict[str, Tensor]:
    """Return what is there, on the CPU."""
    return {
        item.entry.name: item.held.to("cpu", copy=True) for item in items if item.held is not None
    }


def _write(items: Sequence[LiveTensor], values: Mapping[str, Tensor]) -> None:
    """Write each value where its tensor is held."""
    import torch

    with torch.no_grad():
        for item in items:
            if item.held is not None:
                item.held.copy_(values[item.entry.name])
