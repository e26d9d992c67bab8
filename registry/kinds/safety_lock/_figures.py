"""The figures of a receipt, read strictly: a receipt may have any form, a shown figure may not.

Each function raises ``TypeError`` or ``ValueError`` for what ``calibrate`` does not write.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from registry.artifact.presentation import Point, Share

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUNDING = 1e-9
_MOST = 1e6  # no measured figure is near it, and everything below it can be drawn


def read_point(x: float, rate: Mapping[str, Any]) -> Point:
    """Return the point of a share and its interval."""
    share = read_share(rate)
    return Point(x, share.value, share.low, share.high)


def read_share(rate: Mapping[str, Any]) -> Share:
    """Return the share that ``Rate.to_dict`` wrote down."""
    successes, n = (read_count(rate[name]) for name in ("successes", "n"))
    low, high = (read_number(rate[name]) for name in ("low", "high"))
    if not n or not 0 <= low <= successes / n + _ROUNDING <= high + 2 * _ROUNDING or high > 1:
        raise ValueError("expected a share within its interval")
    return Share(successes, n, low, high)


def in_points(rise: Any) -> str:
    """Return a change of a share as percentage points."""
    return f"{100 * read_number(rise):+.1f} points"


def read_count(value: Any) -> int:
    """Return a count."""
    found = read_number(value)
    if found != int(found) or found < 0:
        raise ValueError("expected a count")
    return int(found)


def read_number(value: Any) -> float:
    """Return a finite number that somebody can have measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("expected a number")
    if abs(value) > _MOST:
        raise ValueError("expected a figure that somebody measured")
    return float(value)
