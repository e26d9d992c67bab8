"""Put selected weights into a live model: the base's own (a mask) or new ones (a delta), or none.

- Everything that must be written is read, checked and decoded before the first is written, and goes
  to its places on the device. Parameters stay the objects they are, in their place and dtype.
- The values that were there are kept on the CPU, so that undo gives them back bit for bit.
- A delta was trained from the base's values at these places. In a fine-tune they may have moved:
  the delta's go in their place, and how many matrices had moved is said.
- What was computed from a weight goes on after it and comes off before it: a lock is folded through
  an output projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import AlreadyAppliedError, ApplyError, UsageError
from registry.kinds.esi_mask._live import (
    carried,
    indices_on,
    is_narrower,
    is_same,
    live_matrices,
    require_same_family,
)
from registry.kinds.esi_mask._targets import Targets
from registry.kinds.esi_mask.body import DELTA
from registry.live.bits import digest_as, digest_of
from registry.live.compare import decode, torch_dtype
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from registry.digest import Digest
    from registry.kinds.contract import BaseTensors
    from registry.kinds.esi_mask._live import LiveMatrix
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.body import MaskBody

_LEDGER = "_safelatch_masks"
_OWN_CLASS = "Load it whole and plain: load_protected(MODEL, artifacts=[...], dtype='bfloat16')"


@dataclass(frozen=True, slots=True)
class MaskApplication:
    """Selected weights that are on a model.

    Attributes:
        owner: Identity under which they went on (the artifact's digest or label).
        body: The mask.
        originals: What was there, [count] by matrix, of the matrices that were written.
        rounded: Digest of the live bits of each matrix in a narrower dtype than the base's.
        written: How many weights have other bits than before.
        drifted: Matrices of a delta whose selected weights were not the base's before; ``None`` for
            a mask, and where the dtype is too narrow to tell.
        alpha: A mask has no strength.
    """

    owner: str
    body: MaskBody
    originals: Mapping[str, Tensor]
    rounded: Mapping[str, Digest]
    written: int
    drifted: int | None
    alpha: None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """Values that go to the selected places of one matrix."""

    matrix: Matrix
    held: Tensor
    before: Tensor
    after: Tensor


def apply(
    model: nn.Module,
    body: MaskBody,
    *,
    base: BaseTensors | None = None,
    owner: str,
    alpha: float | None = None,
    allow_unsafe: bool = False,  # noqa: ARG001 -- the contract's: there is no strength
) -> MaskApplication:
    """Put every selected weight that is not what it must be there and return what was done.

    Args:
        model: A transformers model with plain weights: the base, or a fine-tune of it.
        body: The mask, read from a bundle.
        base: The base's weights; asked where weights drifted and the mask has no values.
        owner: Identity under which they go on; applying one owner twice is refused.
        alpha: Must be ``None``: a mask has no strength.
        allow_unsafe: Not asked.

    Raises:
        UsageError: a strength is given.
        AlreadyAppliedError: ``owner`` is on this model already.
        GeometryError: the model is of another family or depth.
        CheckpointNotFoundError: weights drifted, and neither the mask nor a base at hand has them.
        EvidenceError, CompatibilityError: what is at hand is another model.
        ApplyError: the model cannot take them now; it is as it was.
    """
    if alpha is not None:
        raise UsageError(
            f"expected no alpha for an ESI mask, which has no strength, got {alpha:g}.",
            hint="Leave alpha out.",
        )
    ledger = _ledger(model)
    if owner in ledger:
        raise AlreadyAppliedError(
            f"{owner} is on this model already.",
            hint="Take it off first: registry.unprotect(model)",
        )
    require_same_family(model, body)
    found = list(live_matrices(model, body))
    _require_plain(found)
    targets = Targets(body, base)
    changes, rounded, moved = [], dict[str, "Digest"](), list[bool | None]()
    for item in found:
        if item.held is None:
            continue
        matrix, before = item.matrix, item.held.take(indices_on(body, item.matrix, item.held))
        moved.append(_moved(before, matrix, body))
        if is_same(before, matrix, targets):
            continue
        after = decode(targets.raw(matrix), matrix.dtype).to(before.dtype)
        if is_narrower(before, matrix):
            _require_finite(after, matrix)
            rounded[matrix.name] = digest_of(after)
        if digest_of(after) != digest_of(before):
            changes.append(_Change(matrix, item.held, before.cpu(), after))
    _require_free(model, body, [change.matrix for change in changes])
    _exchange(body, changes)
    application = MaskApplication(
        owner,
        body,
        {change.matrix.name: change.before for change in changes},
        rounded,
        sum(_differing(change) for change in changes),
        None if body.form != DELTA or None in moved else sum(map(bool, moved)),
    )
    model.__dict__.setdefault(_LEDGER, {})[owner] = application
    return application


def undo(model: nn.Module, application: MaskApplication) -> None:
    """Give back what was there before, bit for bit; nothing, if that was done already.

    Raises:
        ApplyError: something went on after these weights that holds for them alone; nothing was
            changed.
    """
    ledger = _ledger(model)
    if application.owner not in ledger:
        return
    _require_nothing_on_top(model, application, ledger)
    body, originals = application.body, application.originals
    found = [item for item in live_matrices(model, body) if item.matrix.name in originals]
    _require_plain(found)
    changes = []
    for item in found:
        if item.held is not None:
            now = item.held.take(indices_on(body, item.matrix, item.held)).cpu()
            changes.append(_Change(item.matrix, item.held, now, originals[item.matrix.name]))
    _exchange(body, changes)
    del ledger[application.owner]


def _ledger(model: nn.Module) -> dict[str, MaskApplication]:
    ledger: dict[str, MaskApplication] = model.__dict__.get(_LEDGER, {})
    return ledger


def _require_plain(found: Sequence[LiveMatrix]) -> None:
    lines = [f"{item.matrix.name}: {item.fact}" for item in found if item.fact]
    if lines:
        raise ApplyError(
            "expected plain weights where the mask has selected some; the model is as it was:"
            f"{listed(lines)}",
            hint=_OWN_CLASS,
        )


def _moved(before: Tensor, matrix: Matrix, body: MaskBody) -> bool | None:
    """Return whether selected weights are not the base's; ``None`` where that cannot be told."""
    if is_narrower(before, matrix):
        return None
    return digest_as(before, torch_dtype(matrix.dtype)) != body.selected_digest(matrix.name)


def _require_finite(after: Tensor, matrix: Matrix) -> None:
    import torch

    if not bool(torch.isfinite(after).all()):
        raise ApplyError(
            f"{matrix.name}: expected values that {after.dtype} can hold, some are beyond it; the "
            "model is as it was.",
            hint="Load in the base's dtype: load_protected(..., dtype='bfloat16')",
        )


def _require_free(model: nn.Module, body: MaskBody, matrices: Sequence[Matrix]) -> None:
    """Raise if something on the model holds for the very weights that would be replaced."""
    on_it = carried(model, body, matrices)
    on_it += [
        owner
        for owner, other in _ledger(model).items()
        if any(other.body.counts.get(matrix.name) for matrix in matrices)
    ]
    if on_it:
        raise ApplyError(
            f"expected nothing on the {len(matrices)} matrices that are written, got "
            f"{', '.join(on_it)}: what is on them holds for the weights they have now.",
            hint="Take it off, put the weights in, then it again: registry.unprotect(model), "
            "registry.protect(model, MASK), registry.protect(model, LOCK)",
        )


def _require_nothing_on_top(
    model: nn.Module, application: MaskApplication, ledger: Mapping[str, MaskApplication]
) -> None:
    owners = list(ledger)
    later = owners[owners.index(application.owner) + 1 :]
    written = [each for each in application.body.matrices if each.name in application.originals]
    on_top = carried(model, application.body, written)
    on_top += [
        owner for owner in later if any(ledger[owner].body.counts.get(m.name) for m in written)
    ]
    if on_top:
        raise ApplyError(
            f"expected {application.owner} to come off last, {', '.join(on_top)} went on after it "
            "and holds for these weights; nothing was changed.",
            hint="Take off what went on last first, or everything: registry.unprotect(model)",
        )


def _differing(change: _Change) -> int:
    """Return how many values have other bits."""
    import torch

    size = change.before.element_size()
    before, after = (
        tensor.contiguous().view(torch.uint8).view(-1, size)
        for tensor in (change.before, change.after)
    )
    return int((before != after).any(dim=1).sum())


def _exchange(body: MaskBody, changes: Sequence[_Change]) -> None:
    """Write each value at its place; an interruption leaves all of them as they were."""
    import torch

    with torch.no_grad():
        try:
            for change in changes:
                _put(body, change, change.after)
        except BaseException:
            for change in changes:
                _put(body, change, change.before)
            raise


def _put(body: MaskBody, change: _Change, values: Tensor) -> None:
    import torch

    view = change.held
    places = indices_on(body, change.matrix, view)
    on_device = values.to(device=view.device, dtype=view.dtype)
    if view.is_contiguous():
        view.view(-1).index_copy_(0, places, on_device)
    else:  # columns of a tensor; ``put_`` refuses where algorithms must be deterministic
        view[torch.unravel_index(places, view.shape)] = on_device
