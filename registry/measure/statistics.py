"""Uncertainty of the rates this project prints, with the standard library alone.

- A rate never travels without its count: ``Rate`` keeps successes and n, and gives its interval.
- Two models asked the same prompts are a paired sample: their refusals are compared with the
  exact McNemar test, their likelihoods with a paired bootstrap.
- A bootstrap is seeded, so a receipt can be computed again to the last digit.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval and the confidence it was made for."""

    low: float
    high: float
    confidence: float = CONFIDENCE

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of so many.

    Attributes:
        successes: How many times it happened, 0 to ``n``.
        n: How many times it could have happened, at least 1.
    """

    successes: int
    n: int

    def __post_init__(self) -> None:
        _check_counts(self.successes, self.n)

    @classmethod
    def of(cls, flags: Iterable[bool]) -> Rate:
        """Return the share of true values among ``flags``.

        Raises:
            UsageError: there are none.
        """
        seen = [bool(flag) for flag in flags]
        return cls(sum(seen), len(seen))

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.successes / self.n

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the Wilson interval of the share."""
        return wilson(self.successes, self.n, confidence)

    def to_dict(self) -> dict[str, int | float]:
        """Return counts, share and its 95 % interval, for receipts."""
        interval = self.interval()
        return {
            "successes": self.successes,
            "n": self.n,
            "value": self.value,
            "low": interval.low,
            "high": interval.high,
        }


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a binomial share.

    Unlike the textbook interval it keeps its coverage at 0 of n and n of n, which is where
    refusal rates live.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", without continuity correction.

    Raises:
        UsageError: counts outside 0 <= successes <= n, n below 1, or confidence outside (0, 1).
    """
    _check_counts(successes, n)
    _check_confidence(confidence)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Exact at the ends, where rounding would otherwise leave 1e-17 outside.
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + spread) / scale)
    return Interval(low, high, confidence)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of a paired comparison of two yes/no answers.

    Only the discordant pairs speak: under no difference each falls to either side like a coin.

    Source: McNemar (1947), in its exact binomial form.

    Args:
        only_a: Pairs where only the first says yes.
        only_b: Pairs where only the second says yes.

    Raises:
        UsageError: a count is negative.
    """
    if only_a < 0 or only_b < 0:
        raise UsageError(f"expected two counts of at least 0, got {only_a} and {only_b}.")
    n = only_a + only_b
    tail, ways = 0, 1  # ways = n choose k
    for k in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def bootstrap_mean_difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of ``mean(after - before)`` over paired values.

    Source: Efron (1979), percentile method; pairs are resampled, never the two sides apart.

    Raises:
        UsageError: the lengths differ, there are no values, one is not finite, or
            ``confidence`` or ``resamples`` is out of range.
    """
    if len(before) != len(after) or not before:
        raise UsageError(
            f"expected as many values after as before, at least one; got {len(before)} before "
            f"and {len(after)} after."
        )
    _check_confidence(confidence)
    if resamples < 1:
        raise UsageError(f"expected at least 1 resample, got {resamples}.")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if not all(math.isfinite(difference) for difference in differences):
        raise UsageError("expected finite values, got NaN or infinity.")
    rng = random.Random(seed)  # noqa: S311 -- resampling, not secrets
    n = len(differences)
    means = sorted(math.fsum(rng.choices(differences, k=n)) / n for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Interval(_quantile(means, tail), _quantile(means, 1 - tail), confidence)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Return the ``q``-quantile of ascending values, linear between neighbours."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"expected 0 <= successes <= n with n >= 1, got {successes} of {n}.")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"expected a confidence between 0 and 1, got {confidence}.")
