"""Ways to select the largest 1 % of the scores of a whole model, in one run.

    python benchmarks/topk.py [--scores 100000000] [--rounds 3] [--limit 100] [--only NAME ...]

Scores are synthetic, rand^3 times 10^(-3..3) for each tensor, and held as one float32 array per
tensor. Each row is a process of its own, forked from the one that holds the scores: its time by the
clock and on the processor, and its peak memory beyond them (imports come before; Linux alone tells
them apart). Rounds are interleaved; a ratio is the median of the ratios of processor time within
each round. A row that takes longer than the limit is stopped. "As ours" compares the digest of the
selected indices with that of ours; that ours are those of a stable sort is what the tests are for.
Nothing is asserted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import multiprocessing
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from registry.digest import digest_pieces
from registry.kinds.esi_mask._topk import select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tensors = list[tuple[str, np.ndarray]]
    Pieces = Iterator[tuple[int, np.ndarray]]  # flat indices, and what to add to them

OURS = "two-pass histogram (ours)"
LOWEST = "  the same, smallest k"
RHO = 0.01
SIZES = (1 << 22, 1 << 20, 1 << 20, 1 << 22, 11 << 20, 11 << 20, 11 << 20)  # q k v o gate up down


class Outcome(NamedTuple):
    """What one row did in one round; ``selected`` is the digest of the flat indices."""

    seconds: float
    processor: float
    extra_gb: float
    count: int
    selected: str


def synthetic(total: int, seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    made: Tensors = []
    left = total
    while left:
        size = min(SIZES[len(made) % len(SIZES)], left)
        scores = random.random(size, dtype=np.float32)
        scores **= 3
        scores *= np.float32(10 ** random.uniform(-3, 3))
        made.append((f"tensor.{len(made):05d}", scores))
        left -= size
    return made


def flat(tensors: Tensors) -> np.ndarray:
    return np.concatenate([array for _, array in tensors])


def at_least(tensors: Tensors, threshold: Any) -> Pieces:
    """Yield the selection of every method that finds a threshold alone: ties are all in."""
    start = 0
    for _, array in tensors:
        yield start, np.flatnonzero(array >= threshold)
        start += array.size


def ours(tensors: Tensors, k: int, *, largest: bool = True) -> Pieces:
    selected = select(lambda: iter(tensors), k, largest=largest)
    start = 0
    for name, array in tensors:
        yield start, selected[name]
        start += array.size


def smallest(tensors: Tensors, k: int) -> Pieces:
    return ours(tensors, k, largest=False)


def partition(tensors: Tensors, k: int) -> Pieces:
    everything = flat(tensors)
    place = everything.size - k
    everything.partition(place)
    threshold = everything[place]
    del everything
    return at_least(tensors, threshold)


def torch_topk(tensors: Tensors, k: int) -> Pieces:
    import torch

    yield 0, torch.topk(torch.from_numpy(flat(tensors)), k, sorted=False).indices.numpy()


def merged(tensors: Tensors, k: int) -> Pieces:
    import torch

    values, places, start = [], [], 0
    for _, array in tensors:
        found = torch.topk(torch.from_numpy(array), min(k, array.size), sorted=False)
        values.append(found.values)
        places.append(found.indices + start)
        start += array.size
    best = torch.topk(torch.cat(values), k, sorted=False).indices
    yield 0, torch.cat(places)[best].numpy()


def sampled(tensors: Tensors, k: int) -> Pieces:
    """Return what the quantile of every hundredth score of each tensor selects: not exact."""
    total = sum(array.size for _, array in tensors)
    sample = np.concatenate([array[::100] for _, array in tensors])
    return at_least(tensors, np.quantile(sample, 1 - k / total))


ROWS: dict[str, Callable[[Tensors, int], Pieces]] = {
    OURS: ours,
    LOWEST: smallest,
    "np.partition of all": partition,
    "torch.topk per tensor, merged": merged,
    "torch.topk of all": torch_topk,
    "quantile of a strided sample": sampled,
}


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def work(name: str, tensors: Tensors, k: int, answer: Any) -> None:
    if "torch" in name:
        import torch

        torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is counted from here
    before = status_bytes("VmRSS")
    started, used = time.perf_counter(), time.process_time()
    pieces = list(ROWS[name](tensors, k))
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    extra = status_bytes("VmHWM") - before
    found = np.sort(np.concatenate([part.astype("<i8") + start for start, part in pieces]))
    digest = digest_pieces([found.tobytes()])
    answer.send(Outcome(seconds, processor, extra / 1e9, found.size, digest))


def run(name: str, tensors: Tensors, k: int, limit: float) -> Outcome | None:
    """Return what the row did, ``None`` if it took longer than ``limit`` seconds or died."""
    fork = multiprocessing.get_context("fork")
    ours_end, its_end = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(name, tensors, k, its_end))
    process.start()
    its_end.close()
    try:
        return ours_end.recv() if ours_end.poll(limit) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def median_of(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def print_row(name: str, outcomes: list[Outcome | None], own: list[Outcome | None], k: int) -> None:
    done = [one for one in outcomes if one is not None]
    if not done:
        print(f"{name:32}{'no result':>10}")
        return
    ratios = [
        one.processor / mine.processor
        for one, mine in zip(outcomes, own, strict=False)
        if one is not None and mine is not None
    ]
    as_ours = "-"
    if name != LOWEST and own[0] is not None:
        as_ours = "yes" if done[0].selected == own[0].selected else "no"
    seconds, extra = [one.seconds for one in done], max(one.extra_gb for one in done)
    processor = [one.processor for one in done]
    print(f"{name:32}{median_of(seconds):10.2f}{median_of(processor):10.2f}{median_of(ratios):8.2f}"
          f"{extra:12.3f}{done[0].count - k:+14,}{as_ours:>9}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scores", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=100.0, help="seconds for a row")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tensors = synthetic(arguments.scores, arguments.seed)
    k = int(RHO * arguments.scores)
    print(f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, one thread for "
          f"each row, load {os.getloadavg()[0]:.1f} before, Python {platform.python_version()}, "
          f"numpy {version('numpy')}, torch {version('torch')}\n"
          f"the largest {k:,} of {arguments.scores:,} scores in {len(tensors)} tensors, "
          f"{4 * arguments.scores / 1e9:.2f} GB held; {arguments.rounds} rounds")  # fmt: skip
    names = [name for name in ROWS if name in arguments.only]
    outcomes: dict[str, list[Outcome | None]] = {name: [] for name in names}
    slow: set[str] = set()
    for _ in range(arguments.rounds):
        for name in names:
            one = None if name in slow else run(name, tensors, k, arguments.limit)
            outcomes[name].append(one)
            if one is None:
                slow.add(name)
    print(f"{'':32}{'seconds':>10}{'CPU s':>10}{'x ours':>8}{'extra GB':>12}{'beyond k':>14}"
          f"{'as ours':>9}")  # fmt: skip
    for name in names:
        print_row(name, outcomes[name], outcomes.get(OURS, []), k)


if __name__ == "__main__":
    main()
