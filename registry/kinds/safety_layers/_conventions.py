"""The spellings of one range that are found: closed, half-open, and open at both ends.

The authors' material uses all three: its tables are closed, its scaling loop is a Python ``range``,
and its training script freezes ``begin < layer < end``. ``[6, 11]`` is ``range(6, 12)`` is begin 5,
end 12. Only the closed one is stored.
"""

from __future__ import annotations

from registry.errors import UsageError


def from_half_open(start: int, stop: int) -> tuple[int, int]:
    """Return the closed range of ``range(start, stop)``.

    Raises:
        UsageError: it is empty or begins below 0.
    """
    return _closed(start, stop - 1, f"range({start}, {stop})")


def from_open(begin: int, end: int) -> tuple[int, int]:
    """Return the closed range of ``begin < layer < end``, as the authors' script freezes.

    Raises:
        UsageError: it is empty or begins below 0.
    """
    return _closed(begin + 1, end - 1, f"begin {begin}, end {end}")


def to_half_open(first: int, last: int) -> tuple[int, int]:
    """Return ``(start, stop)`` of the closed range ``[first, last]``."""
    return first, last + 1


def to_open(first: int, last: int) -> tuple[int, int]:
    """Return ``(begin, end)`` of the closed range, ``begin < layer < end``."""
    return first - 1, last + 1


def spellings(first: int, last: int) -> str:
    """Return the other spellings of the closed range, in one line."""
    (start, stop), (begin, end) = to_half_open(first, last), to_open(first, last)
    return f"range({start}, {stop}); begin {begin}, end {end}, both excluded"


def _closed(first: int, last: int, given: str) -> tuple[int, int]:
    if not 0 <= first <= last:
        raise UsageError(
            f"expected a range of at least one layer from 0 on, got {given}.",
            hint="Layers are counted from 0: [6, 11] is range(6, 12), or begin 5, end 12.",
        )
    return first, last
