"""What samples say of a share when some matrices are sampled more densely than others.

A sketch samples about as many weights of a small matrix as of a large one, so that samples thrown
together would speak for the small ones. Each matrix's share counts by its selected weights instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from registry.measure.statistics import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.kinds.esi_mask._judged import Judged


@dataclass(frozen=True, slots=True)
class SampledShare:
    """A share of selected weights, estimated.

    Attributes:
        successes: Samples that are what they must be.
        n: Samples at selected places.
        value: The share, each matrix by its selected weights.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    successes: int
    n: int
    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, int | float]:
        """Return the JSON form."""
        return asdict(self)


def sampled_share(rows: Sequence[Judged]) -> SampledShare | None:
    """Return the share of the selected weights of ``rows``; ``None`` without a sample.

    The interval is Wilson's for the effective number of samples, ``(sum N)^2 / sum(N^2 / n)`` over
    matrices with N selected weights and n samples of them (Kish 1965, Survey Sampling). Weights of
    matrices without a sample may all be so or otherwise: it is as much wider.
    """
    seen = [row for row in rows if row.sampled]
    if not seen:
        return None
    among = sum(row.selected for row in seen)
    value = sum(row.selected * row.sampled_equal / row.sampled for row in seen) / among
    effective = max(1, int(among**2 / sum(row.selected**2 / row.sampled for row in seen)))
    interval = wilson(round(value * effective), effective)
    known = among / sum(row.selected for row in rows)
    return SampledShare(
        successes=sum(row.sampled_equal for row in seen),
        n=sum(row.sampled for row in seen),
        value=value,
        low=interval.low * known,
        high=1 - (1 - interval.high) * known,
    )
