"""Ways to store which 1 % of the weights are selected, in one run.

    pip install -r benchmarks/requirements-masks.txt
    python benchmarks/mask_codec.py [--numel 134479872] [--rounds 7]

Each row writes the same sorted indices of one vector, reads them back as indices, and reads them
back as a new boolean mask; packbits is given the boolean mask to write. Times are of the processor
and not of the clock: every row is one thread in memory, and what else runs on the machine is not
counted. Rounds are interleaved; a ratio is the median of the ratios within each round. Masks are
uniform, or clustered: every row of 576 weights has a rate of its own (log-normal, sigma 1.5). The
entropy bound is that of as many weights spread uniformly: a clustered mask can be below it. Round
trips are compared once, before anything is timed. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import math
import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import zstandard

from registry.kinds.esi_mask._gap8 import boolean, compress, decode, decompress, encode
from registry.kinds.esi_mask._packed import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HIDDEN, WIDE, NARROW, LAYERS, VOCABULARY = 576, 1536, 192, 30, 49_152
OURS = "gap8 + zstd1 (ours)"
PACKED = "the same by tensor (ours)"
SHARE = 0.01


class Row(NamedTuple):
    """One way to store a mask; ``size`` is of what ``write`` returns."""

    name: str
    write: Callable[[np.ndarray, np.ndarray], Any]
    size: Callable[[Any], int]
    indices: Callable[[Any, int], np.ndarray]
    mask: Callable[[Any, int], np.ndarray | Iterator[np.ndarray]]


def sizes(numel: int) -> dict[str, int]:
    """Return the matrices of a Llama of 134.5 million weights; the last one takes what is left."""
    one = {
        "q": HIDDEN * HIDDEN, "k": HIDDEN * NARROW, "v": HIDDEN * NARROW, "o": HIDDEN * HIDDEN,
        "gate": HIDDEN * WIDE, "up": HIDDEN * WIDE, "down": HIDDEN * WIDE,
    }  # fmt: skip
    found = {f"layers.{i:02d}.{name}": size for i in range(LAYERS) for name, size in one.items()}
    left = numel - sum(found.values())
    return {**found, "lm_head": left} if left > 0 else {"w": numel}


def uniform(numel: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.flatnonzero(random.random(numel, dtype=np.float32) < SHARE).astype(np.uint32)


def clustered(numel: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rates = random.lognormal(sigma=1.5, size=-(-numel // HIDDEN)).astype(np.float32)
    rates *= SHARE / rates.mean()
    chosen = random.random(numel, dtype=np.float32) < np.repeat(rates, HIDDEN)[:numel]
    return np.flatnonzero(chosen).astype(np.uint32)


def bits_of(count: int, numel: int) -> float:
    """Return the bits that tell which ``count`` of ``numel`` weights are selected."""
    share = count / numel
    return -numel * (share * math.log2(share) + (1 - share) * math.log2(1 - share))


def zstd(level: int) -> Callable[[bytes], bytes]:
    return lambda data: zstandard.ZstdCompressor(level=level).compress(data)


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def leb128(indices: np.ndarray) -> bytes:
    gaps = np.diff(indices.astype(np.int64), prepend=-1) - 1
    widths = 1 + sum((gaps >= 1 << bits).astype(np.int64) for bits in (7, 14, 21, 28))
    ends = np.cumsum(widths)
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    for place in range(int(widths.max())):
        here = np.flatnonzero(widths > place)
        low = (gaps[here] >> 7 * place) & 127
        out[ends[here] - widths[here] + place] = low | ((widths[here] > place + 1) << 7)
    return out.tobytes()


def unleb128(data: bytes) -> np.ndarray:
    steps = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(steps < 128)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    gaps = (steps[starts] & 127).astype(np.uint32)
    for place in range(1, int((ends - starts).max()) + 1):
        here = np.flatnonzero(ends - starts >= place)
        gaps[here] |= (steps[starts[here] + place] & 127).astype(np.uint32) << np.uint32(7 * place)
    gaps += 1
    return np.cumsum(gaps, dtype=np.uint32) - np.uint32(1)


def blocks(indices: np.ndarray) -> bytes:
    counts = np.bincount(indices >> 16).astype("<u4")
    head = np.array([counts.size], dtype="<u4")
    return head.tobytes() + counts.tobytes() + indices.astype("<u2").tobytes()


def unblocks(data: bytes) -> np.ndarray:
    number = int(np.frombuffer(data, "<u4", 1)[0])
    counts = np.frombuffer(data, "<u4", number, 4)
    low = np.frombuffer(data, "<u2", -1, 4 + 4 * number)
    return np.repeat(np.arange(number, dtype=np.uint32) << np.uint32(16), counts) + low


def undelta(data: bytes) -> np.ndarray:
    return np.cumsum(np.frombuffer(unzstd(data), np.int32), dtype=np.uint32)


def from_bits(data: bytes, numel: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=numel).view(np.bool_)


def of_indices(
    name: str, write: Callable[[np.ndarray], bytes], read: Callable[[Any], np.ndarray]
) -> Row:
    return Row(
        name,
        lambda indices, _mask: write(indices),
        len,
        lambda data, _numel: read(data),
        lambda data, numel: boolean(read(data), numel),
    )


def of_bits(name: str, write: Callable[[bytes], bytes], read: Callable[[bytes], bytes]) -> Row:
    return Row(
        name,
        lambda _indices, mask: write(np.packbits(mask).tobytes()),
        len,
        lambda data, numel: np.flatnonzero(from_bits(read(data), numel)),
        lambda data, numel: from_bits(read(data), numel),
    )


def roaring() -> list[Row]:
    if importlib.util.find_spec("pyroaring") is None:
        return []
    from pyroaring import BitMap

    def write(indices: np.ndarray) -> bytes:
        found = BitMap(indices)
        found.run_optimize()
        return bytes(found.serialize())

    def read(data: bytes) -> np.ndarray:
        return np.asarray(BitMap.deserialize(data).to_array(), dtype=np.uint32)

    return [
        of_indices("roaring", write, read),
        of_indices("roaring + zstd3", lambda i: zstd(3)(write(i)), lambda d: read(unzstd(d))),
    ]


def ours(numel: int, count: int) -> list[Row]:
    numels = sizes(numel)
    ends = np.cumsum([numels[name] for name in sorted(numels)])
    starts = dict(zip(sorted(numels), [0, *ends[:-1].tolist()], strict=True))

    def by_tensor(indices: np.ndarray) -> dict[str, np.ndarray]:
        cuts = np.searchsorted(indices, ends)
        parts = np.split(indices, cuts[:-1])
        return {n: part - np.uint32(starts[n]) for n, part in zip(starts, parts, strict=True)}

    def all_indices(mask: Any, _numel: int) -> np.ndarray:
        return np.concatenate([mask.indices(n) + np.uint32(starts[n]) for n in mask.names])

    def plain(data: bytes, _numel: int) -> np.ndarray:
        return decode(data, numel, count, what="w")

    def packed(data: tuple[int, bytes], _numel: int) -> np.ndarray:
        return decode(decompress(data[1], data[0], what="w"), numel, count, what="w")

    def write(indices: np.ndarray) -> tuple[int, bytes]:
        gaps = encode(indices, numel, what="w")
        return len(gaps), compress(gaps)

    return [
        Row("gap8", lambda i, _: encode(i, numel, what="w"), len, plain,
            lambda d, n: boolean(plain(d, n), n)),
        Row(OURS, lambda i, _: write(i), lambda d: len(d[1]), packed,
            lambda d, n: boolean(packed(d, n), n)),
        Row(PACKED, lambda i, _: pack(by_tensor(i), numels, what="m"),
            lambda m: m.frames.nbytes + m.table.nbytes, all_indices,
            lambda m, _: (m.boolean(n) for n in m.names)),
    ]  # fmt: skip


def rows(numel: int, count: int) -> list[Row]:
    int32, int64 = np.uint32, np.int64
    return [
        of_bits("packbits", lambda d: d, lambda d: d),
        of_bits("packbits + zstd1", zstd(1), unzstd),
        of_indices("int64 indices", lambda i: i.astype(int64).tobytes(),
                   lambda d: np.frombuffer(d, int64)),
        of_indices("int32 indices", lambda i: i.tobytes(), lambda d: np.frombuffer(d, int32)),
        of_indices("int32 indices + zstd3", lambda i: zstd(3)(i.tobytes()),
                   lambda d: np.frombuffer(unzstd(d), int32)),
        of_indices("int32 deltas + zstd3",
                   lambda i: zstd(3)(np.diff(i, prepend=int32(0)).tobytes()), undelta),
        of_indices("u16 in blocks of 64 Ki", blocks, unblocks),
        *roaring(),
        of_indices("LEB128 deltas", leb128, unleb128),
        of_indices("LEB128 deltas + zstd3", lambda i: zstd(3)(leb128(i)),
                   lambda d: unleb128(unzstd(d))),
        *ours(numel, count),
    ]  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    started = time.thread_time()
    work()
    return (time.thread_time() - started) * 1e3


def use(masks: np.ndarray | Iterator[np.ndarray]) -> None:
    """Take masks that come one at a time, and let each go."""
    for _ in () if isinstance(masks, np.ndarray) else masks:
        pass


def measure(name: str, indices: np.ndarray, numel: int, rounds: int) -> None:
    mask = boolean(indices, numel)
    table = rows(numel, indices.size)
    stored, times = {}, {}
    for row in table:
        stored[row.name] = data = row.write(indices, mask)
        same = np.array_equal(row.indices(data, numel), indices)
        whole = row.mask(data, numel)
        whole = whole if isinstance(whole, np.ndarray) else np.concatenate(list(whole))
        times[row.name] = [[], [], []]
        if not same or not np.array_equal(whole, mask):
            print(f"{row.name}: what was read is not what was written")
    zeros = []
    for _ in range(rounds):
        zeros.append(timed(lambda: np.zeros(numel, dtype=np.bool_).fill(0)))
        for row in table:
            data, spent = stored[row.name], times[row.name]
            spent[0].append(timed(lambda row=row: row.write(indices, mask)))
            spent[1].append(timed(lambda row=row, data=data: row.indices(data, numel)))
            spent[2].append(timed(lambda row=row, data=data: use(row.mask(data, numel))))
    bound = bits_of(indices.size, numel)
    print(f"\n{name}: {indices.size:,} of {numel:,} weights; {rounds} rounds; the bound of a "
          f"uniform mask is {bound / 8e6:.3f} MB, {bound / numel:.4f} bits per weight")  # fmt: skip
    print(f"{'':26}{'MB':>8}{'of bound':>10}{'write ms':>10}{'x ours':>8}{'indices ms':>12}"
          f"{'x ours':>8}{'boolean ms':>12}{'x ours':>8}")  # fmt: skip
    for row in table:
        size = row.size(stored[row.name])
        print(f"{row.name:26}{size / 1e6:8.3f}{8 * size / bound:10.3f}", end="")
        for width, spent, own in zip((10, 12, 12), times[row.name], times[OURS], strict=True):
            ratio = statistics.median(a / b for a, b in zip(spent, own, strict=True))
            print(f"{statistics.median(spent):{width}.2f}{ratio:8.2f}", end="")
        print()
    print(f"{'zeros alone (the limit)':26}{'':48}{statistics.median(zeros):12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    layers = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * NARROW + 3 * HIDDEN * WIDE)
    parser.add_argument("--numel", type=int, default=layers + HIDDEN * VOCABULARY)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    libraries = [f"{name} {version(name)}" for name in ("numpy", "zstandard")]
    libraries.append(f"libzstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}")
    if importlib.util.find_spec("pyroaring") is not None:
        libraries.append(f"pyroaring {version('pyroaring')}")
    print(f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f} before, Python {platform.python_version()}, "
          f"{', '.join(libraries)}")  # fmt: skip
    for make in (uniform, clustered):
        indices = make(arguments.numel, arguments.seed)
        measure(make.__name__, indices, arguments.numel, arguments.rounds)


if __name__ == "__main__":
    main()
