"""Selection over several processes, of which each holds some of the rows of every tensor.

A tensor's rows lie in the order of the processes: those of the first come first. So the order of
all scores, by tensor and then by index, is within each process the order of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from registry.errors import NonFiniteTensorError, SafelatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


class Across(Protocol):
    """The processes that a selection is over."""

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""

    @property
    def ranks(self) -> int:
        """How many there are."""

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sum over all of them, of integers: it is exact in every order."""


def summed(across: Across | None, count: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the histogram of all processes.

    One that refuses its scores makes all of them refuse: nobody waits for it.

    Raises:
        SafelatchError: what ``count`` raises, here or in another process.
    """
    if across is None:
        return count()
    refusal: SafelatchError | None = None
    try:
        counted = count()
    except SafelatchError as error:
        refusal = error
    refusing = total_of(across, int(refusal is not None))
    if refusal is not None:
        raise refusal
    if refusing:
        raise NonFiniteTensorError(
            f"scores: expected finite numbers from 0 in {across.ranks} processes, got others in "
            f"{refusing} of them.",
            [],
            hint="The error of each of those processes names the tensors.",
        )
    return across.sum(counted)


def total_of(across: Across | None, here: int) -> int:
    """Return the sum of a number over all processes."""
    import numpy as np

    return here if across is None else int(across.sum(np.array([here], dtype=np.int64))[0])


def by_process(across: Across, numbers: np.ndarray) -> np.ndarray:
    """Return the ``numbers`` [n] of every process, int64 [ranks, n], on each of them."""
    import numpy as np

    table = np.zeros((across.ranks, numbers.size), dtype=np.int64)
    table[across.rank] = numbers
    return across.sum(table)


def own_ties(across: Across, ties: np.ndarray, tied: int) -> int:
    """Return how many of the ``tied`` first ties over all processes are in this one.

    Args:
        across: The processes.
        ties: How many scores of each tensor, in this process, equal the cut; int64 [tensors].
        tied: How many of all of them are selected: the first by tensor, process and index.
    """
    import numpy as np

    table = by_process(across, ties).T  # in the order of the selection: tensor, then process
    before = (np.cumsum(table) - table.reshape(-1)).reshape(table.shape)
    return int(np.clip(tied - before, 0, table)[:, across.rank].sum())
