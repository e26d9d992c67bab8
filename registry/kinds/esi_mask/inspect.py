"""How many of the selected weights are what they must be in these bytes, and how far is the rest?

Works on bytes alone, without torch: see ``_judged`` for the words. For a mask the selected weights
must be the base's, for a delta they must be its new values. Only where every one of them is, bit
for bit, the artifact is ``stored``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.kinds.esi_mask._judged import STATES, drift_of, judged
from registry.kinds.esi_mask._patches import patches
from registry.kinds.esi_mask._sampled_share import sampled_share
from registry.kinds.esi_mask._stored import read_effective, read_stored
from registry.kinds.esi_mask._targets import Targets
from registry.kinds.esi_mask.body import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites
    from registry.kinds.contract import BaseTensors
    from registry.kinds.esi_mask._judged import Judged
    from registry.kinds.esi_mask._sampled_share import SampledShare
    from registry.kinds.esi_mask._stored import Reading
    from registry.kinds.esi_mask.body import MaskBody

__all__ = ["MaskInspection", "inspect", "inspect_adapter", "inspect_beside", "patches"]


@dataclass(frozen=True, slots=True)
class MaskInspection:
    """What the bytes say.

    Attributes:
        form: ``mask`` or ``delta``.
        matrices: One per candidate, sorted by name.
        tensors: The stored tensors with selected weights, when all of those are what they must be.
        loader_keeps: Every loader reads a model's own weights.
        explains: No config field differs because of them.
    """

    form: str
    matrices: tuple[Judged, ...]
    tensors: tuple[str, ...]
    loader_keeps: bool = True
    explains: tuple[str, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether every selected weight is what it must be, bit for bit."""
        return all(row.state == "same" for row in self.matrices)

    @property
    def kept(self) -> bool:
        """Whether every selected weight is what it must be, as far as the dtype can hold it."""
        return all(row.state in {"same", "rounded"} for row in self.matrices)

    @property
    def selected(self) -> int:
        """How many weights are selected."""
        return sum(row.selected for row in self.matrices)

    @property
    def equal(self) -> int | None:
        """How many of these are what they must be; ``None`` where that was not counted."""
        counts = [row.equal for row in self.matrices]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def estimate(self) -> SampledShare | None:
        """Share of equal ones in the matrices that were not counted; ``None`` without a sample."""
        return sampled_share([row for row in self.matrices if row.equal is None and row.selected])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: counts, and a row for each matrix with selected weights."""
        rows = [row for row in self.matrices if row.selected]
        states = [row.state for row in rows]
        drift, estimate, equal = drift_of(list(self.matrices)), self.estimate, self.equal
        return {
            "stored": self.stored,
            "loader_keeps": self.loader_keeps,
            "form": self.form,
            "selected": self.selected,
            "equal": equal,
            "share": None if equal is None else equal / self.selected,
            "not_counted": sum(row.selected for row in rows if row.equal is None),
            "estimate": None if estimate is None else estimate.to_dict(),
            "drift_of_the_rest": float(f"{drift:.6g}") if math.isfinite(drift) else None,
            "same": states.count("same"),
            "rounded": states.count("rounded"),
            "drifted": states.count("drifted"),
            "unknown": states.count("unknown"),
            "matrices": [row.to_dict() for row in rows],
        }

    def describe(self) -> dict[str, Any]:
        """Return what people are shown: in words, and the matrices that are not the same."""
        rows = [row for row in self.matrices if row.selected]
        counts = Counter(row.state for row in rows)
        states = (f"{counts[state]:,} {state}" for state in STATES if counts[state])
        others = sorted((row for row in rows if row.state != "same"), key=lambda row: -row.drift)
        return {
            "selected weights": _counted(self),
            "the other weights": _rest(self.matrices),
            "matrices": ", ".join(states),
            "not the same": [
                {
                    "matrix": row.name,
                    "state": row.state,
                    "selected": row.selected,
                    "equal": _equal(row),
                    "drift": row.drift if math.isfinite(row.drift) else None,
                    "fact": row.fact or ("cannot be told" if row.state == "unknown" else ""),
                }
                for row in others
            ],
        }


def _counted(found: MaskInspection) -> str:
    """Return how many selected weights are what they must be, and how far that was counted."""
    wanted = "the base's" if found.form == MASK else "the delta's"
    counted = [row for row in found.matrices if row.equal is not None]
    equal = sum(row.equal or 0 for row in counted)
    among = sum(row.selected for row in counted)
    left = found.selected - among
    if found.stored:
        return f"all {among:,} are {wanted}, bit for bit"
    if not left:
        cast = any(row.state == "rounded" for row in found.matrices)
        share = equal / among if equal == among else min(equal / among, 0.9999)
        return (
            f"{equal:,} of {among:,} are {wanted} ({share:.2%})"
            f"{', rounded where the dtype is too narrow for them' if cast else ''}"
        )
    known = f"at least {equal:,} of {found.selected:,} are {wanted}; " if equal else ""
    estimate = found.estimate
    if estimate is None:
        return f"{known}of {left:,} it cannot be told: no sample meets them"
    return (
        f"{known}{left:,} were not counted: of {estimate.n:,} sampled, {estimate.successes:,} are "
        f"{wanted} (weighted by matrix {estimate.value:.1%}, 95 % interval {estimate.low:.1%} to "
        f"{estimate.high:.1%})"
    )


def _equal(row: Judged) -> int | str | None:
    if row.equal is not None or not row.sampled:
        return row.equal
    return f"{row.sampled_equal} of {row.sampled} sampled"


def _rest(matrices: Sequence[Judged]) -> str:
    drift = drift_of(list(matrices))
    if not math.isfinite(drift):
        return "unknown: a matrix is missing, or not of its shape"
    if not drift:
        return "no sample differs from the base's"
    return f"{drift:.4g} from the base's (relative distance), estimated from samples"


def inspect(checkpoint: Checkpoint, body: MaskBody, sites: Sites) -> MaskInspection:
    """Return which selected weights are what they must be in the bytes of ``checkpoint``."""
    return _inspection(read_stored(checkpoint, body, sites), body, None)


def inspect_beside(
    checkpoint: Checkpoint, body: MaskBody, sites: Sites, base: BaseTensors
) -> MaskInspection:
    """Return the same, counted beside the base's files where the artifact has no values.

    Raises:
        CheckpointNotFoundError: a matrix drifted, and the base is not at hand.
        EvidenceError, CompatibilityError: what is at hand is another model.
    """
    return _inspection(read_stored(checkpoint, body, sites), body, base)


def inspect_adapter(record: BaseRecord, body: MaskBody, sites: Sites) -> MaskInspection:  # noqa: ARG001 -- the contract's parameters
    """Return what an adapter leaves of the selected weights.

    A matrix that it changes is drift: its factors change the selected weights with the others.

    Args:
        record: Of the base of ``body`` with the adapter merged into it
            (``checkpoint.effective.effective_record``).
        body: The mask.
        sites: The row of the family.
    """
    return _inspection(read_effective(record, body), body, None)


def _inspection(
    readings: Iterable[Reading], body: MaskBody, base: BaseTensors | None
) -> MaskInspection:
    targets = Targets(body, base)
    rows = [judged(each, body, targets, read_base=base is not None) for each in readings]
    matrices = tuple(sorted(rows, key=lambda row: row.name))
    found = MaskInspection(body.form, matrices, ())
    if not found.stored:
        return found
    counts = body.counts
    tensors = sorted({matrix.tensor for matrix in body.matrices if counts[matrix.name]})
    return MaskInspection(body.form, matrices, tuple(tensors))
