"""Which quantiser left its levels in a tensor: told from runs of neighbours alone.

A quantised copy that was stored as floats again holds few values in a block, at known distances:

- nf4 (bitsandbytes): 64 neighbours are one scale times the 16 values of a table;
- GGUF: 32 neighbours are whole multiples of one step, the largest of them at the end of the scale
  (Q8_0, Q4_0, Q5_0), or whole steps between the least and the largest (Q4_1, Q5_1); 16 neighbours
  are whole multiples of one step (Q6_K);
- int8: a whole row is made of multiples of one step, at most 127 of them.

Rounding to the stored dtype is allowed for; runs in which less than a quarter changed say nothing,
since the base may be such a copy itself.

Source of the nf4 table: Dettmers et al., "QLoRA" (arXiv 2305.14314), appendix E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from registry.checkpoint.pairs import TensorPair
    from registry.checkpoint.values import Values

    Flags = NDArray[np.bool_]

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_SYMMETRIC = {"Q8_0": 127, "Q4_0": -8, "Q5_0": -16}  # at which step the largest magnitude is
_AFFINE = {"Q4_1": 15, "Q5_1": 31}  # how many steps between the least and the largest
_LEVELS_4BIT = 16
_SLACK, _WORST_SLACK = 0.02, 0.3  # of a step
_INFORMATIVE = 0.25  # share of a run
_CHANGED = 0.25


def quantisers(pair: TensorPair, precision: float) -> list[str | None]:
    """Return what made each changed run of 64 neighbours, ``None`` where nothing shows.

    Names are ``nf4``, ``int8``, ``4bit`` (16 levels of no known table) and the formats of GGUF.

    Args:
        pair: A matrix of two checkpoints.
        precision: Largest relative error of a stored value of the child: 2**-8 for bf16.
    """
    import numpy as np

    runs, before = pair.groups(pair.theirs), pair.groups(pair.cast)
    if not len(runs):
        return []
    changed = (runs != before).mean(axis=1) >= _CHANGED
    changed &= (np.abs(runs).max(axis=1) > 0) & np.isfinite(runs).all(axis=1)
    changed &= np.isfinite(before).all(axis=1)
    if not changed.any():
        return []
    now, earlier = (_signatures(each[changed], precision) for each in (runs, before))
    found: list[str | None] = [None] * int(changed.sum())
    for name, flags in reversed(now.items()):  # the first that fits is the most particular
        for index in np.flatnonzero(flags & ~earlier[name]):
            found[index] = name
    return found


def _signatures(runs: Values, precision: float) -> dict[str, Flags]:
    import numpy as np

    blocks, sixteens = runs.reshape(-1, 32), runs.reshape(-1, 16)
    made: dict[str, Flags] = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # a run of zeros has no levels
        made["nf4"] = _is_nf4(runs, precision)
        for name, flags in _gguf(blocks, precision):
            made[name] = _all(flags.reshape(-1, 2))
        made["4bit"] = np.array([len(np.unique(run)) <= _LEVELS_4BIT for run in runs])
        made["int8"] = _is_multiple(runs, 127, precision)
        made["Q6_K"] = _all(_is_multiple(sixteens, 32, precision).reshape(-1, 4))
    return made


def _is_nf4(runs: Values, precision: float) -> Flags:
    import numpy as np

    table = np.array(_NF4)
    scaled = runs / np.abs(runs).max(axis=1, keepdims=True)
    error = np.abs(scaled[:, :, None] - table).min(axis=2)
    return _all(error <= 2 * precision * np.abs(scaled) + 1e-6)


def _gguf(blocks: Values, precision: float) -> Iterator[tuple[str, Flags]]:
    import numpy as np

    magnitudes = np.abs(blocks)
    most = magnitudes.max(axis=1, keepdims=True)
    largest = np.take_along_axis(blocks, magnitudes.argmax(axis=1)[:, None], axis=1)
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    for name, end in _SYMMETRIC.items():
        yield name, _are_whole(blocks * (end / largest), magnitudes * abs(end) / most, precision)
    for name, count in _AFFINE.items():
        step = (high - low) / count
        yield name, _are_whole((blocks - low) / step, magnitudes / step, precision)


def _are_whole(multiples: Values, size: Values, precision: float) -> Flags:
    """Return which rows are whole numbers, as far as rounding ``size`` steps lets it be seen."""
    import numpy as np

    slack = _SLACK + precision * size
    clear = slack <= _WORST_SLACK
    whole = _all(~clear | (np.abs(multiples - np.rint(multiples)) <= slack))
    informative: Flags = clear.mean(axis=-1) >= _INFORMATIVE
    return whole & informative


def _is_multiple(rows: Values, most: int, precision: float) -> Flags:
    """Return which rows are whole multiples, at most ``most``, of one step that is not known.

    The step is one of the smallest magnitudes divided by a small number, then fitted to more and
    more of the row.
    """
    import numpy as np

    magnitudes = np.abs(rows)
    smallest = np.sort(np.where(magnitudes > 0, magnitudes, np.inf), axis=1)[:, :4]
    candidates = (smallest[:, :, None] / np.arange(1, 7)).reshape(len(rows), -1)
    steps = np.where(np.isfinite(candidates), candidates, 0.0)[:, :, None]
    for bound in (8, 24, most):
        counts = np.rint(magnitudes[:, None, :] / steps)
        counts = np.where(counts <= bound, counts, 0.0)
        fitted = (counts * magnitudes[:, None, :]).sum(2) / (counts**2).sum(2)
        steps = fitted[:, :, None]
    multiples = magnitudes[:, None, :] / steps
    fits = _are_whole(multiples, multiples, precision)
    fits &= multiples.max(axis=2) < most + 0.5
    return _any(fits)


def _all(flags: Flags) -> Flags:
    """Return whether each row is true throughout."""
    import numpy as np

    rows: Flags = np.logical_and.reduce(flags, axis=-1)
    return rows


def _any(flags: Flags) -> Flags:
    """Return whether each row is true somewhere."""
    import numpy as np

    rows: Flags = np.logical_or.reduce(flags, axis=-1)
    return rows
