"""What a reading of the candidates says: which selected weights are what they must be.

A matrix is

    same       every selected weight is what it must be, bit for bit (by digest)
    rounded    it is held in a dtype too narrow for the base's values, and every selected weight is
               what it must be, rounded; where the values are not known: every sampled one
    drifted    any other; a matrix that is missing or reshaped is drift
    unknown    held too narrow, the values not known, and no sample at a selected place

How many weights are equal is counted where the values that must be there are known. Otherwise it is
estimated from the samples of the base record that fall on selected places, with their number.
The drift of the rest is ``||W - W_base||_F / ||W_base||_F`` over the weights that are not selected,
estimated from samples: an edit that no sample meets has drift 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from registry.checkpoint.lineage import Squares
from registry.checkpoint.values import holds, is_float, item_size, rounded, to_float64
from registry.digest import digest_bytes
from registry.kinds.esi_mask._stored import equal_values, in_dtype
from registry.kinds.esi_mask.body import DELTA

if TYPE_CHECKING:
    import numpy as np

    from registry.kinds.esi_mask._stored import Reading, Sampled
    from registry.kinds.esi_mask._targets import Targets
    from registry.kinds.esi_mask.body import MaskBody

State = Literal["same", "rounded", "drifted", "unknown"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Judged:
    """One matrix.

    Attributes:
        name: Of the matrix.
        state: See the module.
        selected: How many of its weights are selected.
        equal: How many of these are what they must be; ``None`` where that was not counted.
        sampled: How many sampled weights are selected.
        sampled_equal: How many of those are what they must be.
        change: Sum of the squares of the change of the other weights, estimated.
        size: The same of the base's values.
        fact: What is there instead, for people; empty where something of its shape is.
    """

    name: str
    state: State
    selected: int
    equal: int | None
    sampled: int
    sampled_equal: int
    change: float
    size: float
    fact: str = ""

    @property
    def drift(self) -> float:
        """Relative distance of the weights that are not selected; infinite where it is unknown."""
        return math.inf if self.fact else drift_of([self])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        drift = self.drift
        return {
            "matrix": self.name,
            "state": self.state,
            "selected": self.selected,
            "equal": self.equal,
            "sampled": self.sampled,
            "sampled_equal": self.sampled_equal,
            "drift": float(f"{drift:.6g}") if math.isfinite(drift) else None,
            "fact": self.fact,
        }


def drift_of(rows: list[Judged]) -> float:
    """Return the relative distance of the weights that are not selected, over all ``rows``."""
    squares = Squares()
    for row in rows:
        squares.add(row.change, row.size)
    return squares.ratio() if squares.tensors else 0.0


def judged(reading: Reading, body: MaskBody, targets: Targets, *, read_base: bool) -> Judged:
    """Return what ``reading`` says.

    Args:
        reading: Of one matrix.
        body: The mask.
        targets: What must be at the selected places.
        read_base: Whether values that the artifact does not have may be read from the base.
    """
    matrix = reading.matrix
    count = body.counts[matrix.name]
    if reading.fact:
        state: State = "drifted" if count else "same"
        return Judged(matrix.name, state, count, 0, 0, 0, math.inf, 0.0, reading.fact)
    sampled, sampled_equal = _sampled_equal(reading, body, targets)
    change, size = _rest(reading, matrix.numel - count)
    equal = exact = _exactly(reading, body, targets, count)
    if equal is None and reading.selected is not None:
        wanted = targets.raw(matrix) if read_base else targets.known(matrix)
        if wanted is not None:
            found = equal_values(reading.selected, reading.dtype, wanted, matrix.dtype)
            equal = int(found.sum())
    state = "same"
    if exact is None:
        state = _inexact(reading, count, equal, (sampled, sampled_equal))
    return Judged(matrix.name, state, count, equal, sampled, sampled_equal, change, size)


def _exactly(reading: Reading, body: MaskBody, targets: Targets, count: int) -> int | None:
    """Return ``count`` where every selected weight is what it must be, bit for bit."""
    matrix = reading.matrix
    if not count or (reading.is_same and body.form != DELTA):
        return count
    if reading.selected is None:
        return None
    bits = in_dtype(reading.selected, reading.dtype, matrix.dtype)
    return count if bits is not None and digest_bytes(bits) == targets.digest(matrix) else None


def _inexact(reading: Reading, count: int, equal: int | None, sampled: tuple[int, int]) -> State:
    """Return the state of a matrix that is not the same: what is held narrower may be rounded."""
    matrix = reading.matrix
    if reading.selected is None or holds(reading.dtype, matrix.dtype):
        return "drifted"
    if equal is not None:
        return "rounded" if equal == count else "drifted"
    if sampled[0] != sampled[1]:
        return "drifted"
    return "rounded" if sampled[0] else "unknown"


def _sampled_equal(reading: Reading, body: MaskBody, targets: Targets) -> tuple[int, int]:
    import numpy as np

    seen, matrix = reading.sampled, reading.matrix
    if seen is None:
        return 0, 0
    at = seen.rank >= 0
    wanted = seen.ours[at]
    if body.form == DELTA:
        bits = np.frombuffer(targets.raw(matrix), dtype=f"<u{item_size(matrix.dtype)}")
        wanted = to_float64(bits[seen.rank[at]].tobytes(), matrix.dtype)
    wanted = _cast(wanted, reading, matrix.dtype)
    same = (seen.theirs[at] == wanted) & (np.signbit(seen.theirs[at]) == np.signbit(wanted))
    return int(at.sum()), int(same.sum())


def _rest(reading: Reading, numel: int) -> tuple[float, float]:
    """Return the squares of the change of the weights that are not selected, and of the base's."""
    import numpy as np

    seen: Sampled | None = reading.sampled
    if seen is None or not (seen.rank < 0).any():
        return 0.0, 0.0
    rest = seen.rank < 0
    ours = seen.ours[rest]
    with np.errstate(invalid="ignore", over="ignore"):
        change = seen.theirs[rest] - _cast(ours, reading, reading.matrix.dtype)
        return float(np.mean(change**2)) * numel, float(np.mean(ours**2)) * numel


def _cast(values: np.ndarray, reading: Reading, dtype: str) -> np.ndarray:
    """Return ``values`` of a dtype as a cast to what is held leaves them."""
    if reading.dtype == dtype or not is_float(reading.dtype):
        return values
    cast = rounded(values, reading.dtype)
    return values if cast is None else cast
