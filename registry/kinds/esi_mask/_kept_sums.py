"""Sums of gradients that an interrupted run need not make again.

- They are kept between two pairs, never within one: a run that goes on adds the same numbers in the
  same order, and ends with the same bits.
- They are as large as the model in fp32. They are written when the last time is half a minute ago
  and twenty times as long as writing takes: it costs a run 5 % at most, and whoever interrupts it
  loses what came since.
- Notes that cannot be written, on a full disk say, are warned about once. The run goes on.
- The key is what the sums depend on, and the base is what the notes are of: sums of another score,
  of other pairs, parameters, processes or another torch are not found.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

from registry.digest import digest_json
from registry.errors import HostError
from registry.kinds.esi_mask._across import by_process, total_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from registry.kinds.contract import Notes
    from registry.kinds.esi_mask._scores import Score
    from registry.kinds.esi_mask._shards import Shards

_EVERY_S = 30.0
_TIMES_COST = 20
_BYTES_PER_S = 500e6  # that a disk takes, before it was measured


class KeptSums:
    """The sums of one run in its notes."""

    def __init__(self, notes: Notes, run: Mapping[str, Any]) -> None:
        """Keep them in ``notes``, as those of ``run``: JSON values that say what is summed."""
        self._notes: Notes | None = notes
        self._run = dict(run)
        self._key = ""
        self._shards: Shards | None = None
        self._last_s = self._cost_s = 0.0

    def take_up(
        self,
        sums: Sequence[Mapping[str, Tensor]],
        routed: dict[str, list[int]],
        *,
        score: Score,
        parts: Sequence[int],
        shards: Shards | None,
    ) -> list[float]:
        """Return the scores of the pairs that are in the kept sums, once ``sums`` are those.

        Args:
            sums: Zeros; filled with what was kept, where something was.
            routed: Empty; likewise.
            score: What is differentiated.
            parts: Which part's sums each pair goes into.
            shards: Of a sharded model, what is in this process. Sums are taken up where all
                processes have kept those of the same pairs.
        """
        import torch

        self._shards = None if shards is None or shards.is_one else shards
        self._key = "sums " + digest_json(
            {
                **self._run,
                "score": score.describe(),
                "parts": list(parts),
                "torch": torch.__version__,
                "process": [] if self._shards is None else [self._shards.rank, self._shards.ranks],
                "shapes": {name: list(total.shape) for name, total in sums[0].items()},
            }
        )
        self._last_s = time.monotonic()
        self._cost_s = sum(t.nbytes for part in sums for t in part.values()) / _BYTES_PER_S
        held = None if self._notes is None else self._notes.recall_tensors(self._key)
        done = 0 if held is None else len(held[0]["scores"])
        is_agreed = self._is_agreed(done)  # asked by every process, also by one that has none
        if held is None or not is_agreed:
            return []
        value, tensors = held
        for number, part in enumerate(sums):
            for name, total in part.items():
                total.copy_(torch.from_numpy(tensors[f"{number} {name}"]))
        routed.update(value["routed"])
        scores: list[float] = value["scores"]
        return scores

    def keep(
        self,
        sums: Sequence[Mapping[str, Tensor]],
        scores: Sequence[float],
        routed: Mapping[str, Sequence[int]],
    ) -> None:
        """Keep the sums of the pairs that have these ``scores``, if it is time to."""
        began = time.monotonic()
        is_due = began - self._last_s >= max(_EVERY_S, _TIMES_COST * self._cost_s)
        if not total_of(self._shards, int(is_due)) or self._notes is None:
            return
        tensors = {
            f"{number} {name}": total.cpu().numpy()
            for number, part in enumerate(sums)
            for name, total in part.items()
        }
        value = {"scores": list(scores), "routed": {name: list(n) for name, n in routed.items()}}
        try:
            self._notes.keep_tensors(self._key, value, tensors)
        except HostError as error:
            warnings.warn(f"an interrupted run would begin anew: {error.message}", stacklevel=2)
            self._notes = None
        self._last_s = time.monotonic()
        self._cost_s = self._last_s - began

    def _is_agreed(self, done: int) -> bool:
        """Return whether all processes have kept the sums of the same pairs."""
        import numpy as np

        if self._shards is None:
            return True
        everywhere = by_process(self._shards, np.array([done], dtype=np.int64))
        return bool((everywhere == done).all())
