"""The k largest scores of a whole model, exactly, in three passes and a few megabytes.

The bits of a float that is not negative, read as an integer, have the order of the floats. So the
k-th largest score is found by counting, 16 bits at a time:

1. how many scores have each upper half of the bits; the bin that holds rank k is where to look;
2. of the scores in that bin, how many have each lower half: now the k-th score is known exactly;
3. all scores beyond it are selected, and as many equal to it as are still missing.

- Ties go to the first: by the order of the tensors' names, then by flat index. The result is that
  of a stable sort, on every machine and for every split into chunks.
- Histograms add. Processes that hold other rows sum theirs (an all-reduce of 512 KiB) after passes
  1 and 2, count their ties in one more, and each emits its own part: ``emit`` is told how many of
  the ties are its own.
- The lowest k come from the same histograms, read from the other end.
- NaN, infinity and every score with its sign bit set (-0.0 among them) are refused.

Sampling a threshold instead misses entries, and a tensor at a time is another selection:
methods that do so are rows of ``benchmarks/topk.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from registry.errors import NonFiniteTensorError, UsageError
from registry.kinds.esi_mask._across import own_ties, summed, total_of
from registry.kinds.esi_mask._gap8 import index_dtype
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np

    from registry.kinds.esi_mask._across import Across

    Scores = Iterable[tuple[str, np.ndarray]]

BINS = 1 << 16

_CHUNK = 1 << 17  # scores looked at in one go: what it makes stays in a core's cache
_FIRST_REFUSED = 0x7F80  # upper half of infinity; above it NaN and all with the sign bit set
_SAME = "Let every call give the same tensors with the same values, sorted by name."


class Rank(NamedTuple):
    """A bin of a histogram, and how many of its scores are selected (counted from the best)."""

    bin: int
    inside: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The score at which a selection ends.

    Attributes:
        bits: The last selected score, its float32 bits as an integer.
        tied: How many of the scores equal to it are selected, at least 1 unless none is.
        largest: Whether scores above it are selected, not those below.
    """

    bits: int
    tied: int
    largest: bool


def select(
    scores: Callable[[], Scores], k: int, *, largest: bool = True, across: Across | None = None
) -> dict[str, np.ndarray]:
    """Return the flat indices of the k largest scores, sorted, for every tensor.

    Args:
        scores: Gives (tensor name, float32 [numel]) sorted by name; called once in each of three
            passes (four over processes), so that one tensor at a time need be in memory.
        k: How many, of all tensors together.
        largest: ``False`` selects the k smallest.
        across: Processes that hold a part of every tensor each; ``k`` is over all of them, and
            ``scores`` gives, and the result indexes, the part that is here.

    Raises:
        UsageError: k is not from 0 to the number of scores; a score is negative; tensors are not
            float32 vectors sorted by name; or a later pass gives others than the first.
        NonFiniteTensorError: a score is NaN or infinite.
    """
    upper = summed(across, lambda: upper_histogram(scores()))
    total = int(upper.sum())
    if not 0 <= k <= total:
        raise UsageError(f"k: expected 0 to {total:,} scores, got {k:,}.")
    half = rank(upper, k, largest=largest)
    lower = summed(across, lambda: lower_histogram(scores(), half.bin))
    _require_same("scores in the bin of rank k", int(upper[half.bin]), int(lower.sum()))
    cut = cut_at(half, lower, largest=largest)
    tied = None if across is None else own_ties(across, ties(scores(), cut), cut.tied)
    selected = dict(emit(scores(), cut, tied=tied))
    here = sum(indices.size for indices in selected.values())
    _require_same("scores selected", k, total_of(across, here))
    return selected


def upper_histogram(tensors: Scores) -> np.ndarray:
    """Return how many scores have each upper half of bits, int64 [65536]; every score is checked.

    Raises:
        UsageError: a score is negative, or tensors are not float32 vectors sorted by name.
        NonFiniteTensorError: a score is NaN or infinite.
    """
    import numpy as np

    total = np.zeros(BINS, dtype=np.int64)
    upper = np.empty(_CHUNK, dtype=np.intp)  # what bincount counts without a copy
    refused: dict[str, np.ndarray] = {}
    for name, array in _in_order(tensors):
        for _, bits in _chunks(array):
            np.right_shift(bits, 16, out=upper[: bits.size])
            counts = np.bincount(upper[: bits.size], minlength=BINS)
            total += counts
            if counts[_FIRST_REFUSED:].any():
                refused[name] = refused.get(name, 0) + _refusals(bits.view(np.float32))
    if refused:
        _refuse(refused)
    return total


def lower_histogram(tensors: Scores, upper: int) -> np.ndarray:
    """Return how many scores whose upper half is ``upper`` have each lower half, int64 [65536]."""
    import numpy as np

    total = np.zeros(BINS, dtype=np.int64)
    start = np.uint32(upper << 16)
    for _, array in _in_order(tensors):
        for _, bits in _chunks(array):
            offsets = bits - start  # of those below the bin it wraps around, and is large
            inside = offsets[offsets < BINS]
            if inside.size:
                total += np.bincount(inside, minlength=BINS)
    return total


def rank(histogram: np.ndarray, k: int, *, largest: bool) -> Rank:
    """Return the bin that holds rank k (1 is the best), and how many of it rank up to k."""
    import numpy as np

    best_first = histogram[::-1] if largest else histogram
    up_to = np.cumsum(best_first)
    place = int(np.searchsorted(up_to, k))
    before = int(up_to[place - 1]) if place else 0
    return Rank(BINS - 1 - place if largest else place, k - before)


def cut_at(upper: Rank, lower: np.ndarray, *, largest: bool) -> Cut:
    """Return the cut from the bin that holds rank k and the lower histogram of that bin."""
    low = rank(lower, upper.inside, largest=largest)
    return Cut(upper.bin << 16 | low.bin, low.inside, largest)


def ties(tensors: Scores, cut: Cut) -> np.ndarray:
    """Return how many scores of each tensor equal the cut, int64 [tensors]."""
    import numpy as np

    last = np.uint32(cut.bits)
    counts = [
        sum(int(np.count_nonzero(bits == last)) for _, bits in _chunks(array))
        for _, array in _in_order(tensors)
    ]
    return np.array(counts, dtype=np.int64)


def emit(tensors: Scores, cut: Cut, *, tied: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the sorted flat indices of the selected scores of each tensor, in the given order.

    Args:
        tensors: Scores that were checked and counted, sorted by name.
        cut: Where the selection ends.
        tied: How many scores equal to the cut to select here, the first ones; all that the cut
            has by default. A process that holds a part is given its part of them.
    """
    import numpy as np

    left = cut.tied if tied is None else tied
    last = np.uint32(cut.bits)
    for name, array in _in_order(tensors):
        found = [np.empty(0, dtype=index_dtype(array.size))]
        for start, bits in _chunks(array):
            beyond = bits > last if cut.largest else bits < last
            if left:
                ties = np.flatnonzero(bits == last)[:left]
                beyond[ties] = True
                left -= ties.size
            found.append(np.flatnonzero(beyond).astype(found[0].dtype) + found[0].dtype.type(start))
        yield name, np.concatenate(found)


def random_like(
    counts: Mapping[str, int], numels: Mapping[str, int], *, seed: int
) -> dict[str, np.ndarray]:
    """Return as many weights of each tensor as ``counts`` says, drawn without replacement.

    The control of a selection: equally many weights of every tensor, at random. What is drawn
    for a tensor depends on the seed, its name and its count alone.

    Args:
        counts: How many of each tensor.
        numels: How many weights each tensor has.
        seed: Seed, from 0.

    Raises:
        UsageError: more weights are asked for than a tensor has.
    """
    wrong = [
        f"{name!r:.120}: expected 0 to {numels[name]:,} weights, got {count:,}"
        for name, count in sorted(counts.items())
        if not 0 <= count <= numels[name]
    ]
    if wrong:
        raise UsageError(f"The selection does not fit the tensors:{listed(wrong)}")
    return {name: _draw(name, counts[name], numels[name], seed) for name in sorted(counts)}


def _draw(name: str, count: int, numel: int, seed: int) -> np.ndarray:
    """Return ``count`` distinct indices below ``numel``, each set of them equally likely."""
    import numpy as np

    random = np.random.default_rng([seed, *name.encode("utf-8")])
    wanted = min(count, numel - count)  # of more than half, the others are drawn
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < wanted:
        more = random.integers(numel, size=wanted - drawn.size + 64, dtype=np.int64)
        drawn = np.union1d(drawn, more)
    surplus = random.choice(drawn.size, drawn.size - wanted, replace=False)
    drawn = np.delete(drawn, surplus)
    if wanted != count:
        others = np.ones(numel, dtype=np.bool_)
        others[drawn] = False
        drawn = np.flatnonzero(others)
    return drawn.astype(index_dtype(numel))


def _in_order(tensors: Scores) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors; refuse what is no float32 vector, and names that are not sorted."""
    import numpy as np

    before: str | None = None
    for name, array in tensors:
        if before is not None and name <= before:
            raise UsageError(
                f"scores: expected names in sorted order, got {name!r:.120} after {before!r:.120}.",
                hint=_SAME,
            )
        if array.dtype != np.float32 or array.ndim != 1:  # in the other byte order neither
            raise UsageError(
                f"scores of {name!r:.120}: expected float32 in one dimension, "
                f"got {array.dtype} {array.shape}."
            )
        before = name
        yield name, array


def _chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first index, float32 bits as uint32) of pieces of ``array``."""
    import numpy as np

    for start in range(0, array.size, _CHUNK):
        yield start, array[start : start + _CHUNK].view(np.uint32)


def _refusals(values: np.ndarray) -> np.ndarray:
    """Return how many values are NaN, infinite, and negative but none of the two."""
    import numpy as np

    nan, infinite = np.isnan(values), np.isinf(values)
    negative = np.signbit(values) & ~nan & ~infinite
    return np.array([np.count_nonzero(nan), np.count_nonzero(infinite), np.count_nonzero(negative)])


def _refuse(refused: Mapping[str, np.ndarray]) -> None:
    findings = [
        f"{name!r:.120}: {nan:,} NaN, {infinite:,} infinite, {negative:,} negative"
        for name, (nan, infinite, negative) in sorted(refused.items())
    ]
    message = "scores: expected finite numbers from 0, got:"
    if any(nan or infinite for nan, infinite, _ in refused.values()):
        raise NonFiniteTensorError(
            message, findings, hint="Score in float32, and look at the loss of each pair."
        )
    raise UsageError(message + listed(findings), hint="Score by absolute value.")


def _require_same(what: str, expected: int, got: int) -> None:
    if expected != got:
        raise UsageError(
            f"{what}: expected {expected:,} as in the first pass, got {got:,}.", hint=_SAME
        )
