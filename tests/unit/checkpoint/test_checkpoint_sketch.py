from __future__ import annotations

import math

import numpy as np
import pytest

from registry.checkpoint.sketch import (
    Sampler,
    extent,
    grid_axes,
    positions,
    splitmix64,
)
from registry.digest import digest_bytes

NAME = "model.layers.0.self_attn.o_proj.weight"


def test_splitmix64_gives_the_published_numbers():
    """The first outputs for seed 1234567, as published with the reference implementation."""
    assert splitmix64(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def seed_of(part, name, shape):
    text = f"safelatch/sketch/v2\0{part}\0{name}\0" + "x".join(map(str, shape))
    return int.from_bytes(bytes.fromhex(digest_bytes(text.encode())[7:23]), "little")


def outputs(seed, count):
    """splitmix64 in Python's integers."""
    mask, made = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        made.append(z ^ (z >> 31))
    return made


def slots(size, count, seed):
    drawn = outputs(seed, count)
    ends = [slot * size // count for slot in range(count + 1)]
    return [low + z % (high - low) for low, high, z in zip(ends, ends[1:], drawn, strict=False)]


def axis(size):
    if size <= 48:
        return list(range(size))
    hashes = outputs(seed_of("axis", "", ()), size)
    return sorted(sorted(range(size), key=lambda index: hashes[index])[:48])


@pytest.mark.parametrize("shape", [(60, 100), (40, 2000), (3, 50, 64), (300, 20)])
def test_positions_follow_the_rule_written_in_integers(shape):
    numel, columns = math.prod(shape), shape[-1]
    rows, sides = numel // columns, axis(columns)
    expected = slots(numel, 1024, seed_of("flat", NAME, shape))
    expected += [row * columns + column for row in axis(rows) for column in sides]
    starts = slots(numel // 64, 8, seed_of("groups", NAME, shape))
    expected += [start * 64 + step for start in starts for step in range(64)]
    assert positions(NAME, shape).tolist() == expected
    assert len(expected) == extent(shape).count


def test_positions_are_frozen():
    """Golden values of format v2: a change here makes every record that travels lie."""
    small, large = positions(NAME, (48, 64)), positions(NAME, (8192, 28672))
    assert small[:6].tolist() == GOLDEN_SMALL
    assert large[:3].tolist() == GOLDEN_LARGE[:3]
    assert large[-2:].tolist() == GOLDEN_LARGE[3:]
    assert digest_bytes(large.astype("<i8").tobytes()) == GOLDEN_DIGEST


GOLDEN_SMALL = [2, 4, 8, 9, 13, 16]
GOLDEN_LARGE = [17653, 33433, 57458, 212577278, 212577279]
GOLDEN_DIGEST = "blake3:a80b877991fa8b1a0205df84ee5d4ea64b3fec10ba9ac2060b3edceb3ffd76d6"


@pytest.mark.parametrize(
    ("shape", "flat"),
    [((1025, 1), 1024), ((4096, 1024), 1024), ((4096, 4096), 4096), ((2**20, 2**20), 8192)],
)
def test_flat_samples_are_one_per_slot(shape, flat):
    where = positions("x", shape)
    numel = math.prod(shape)
    assert where.dtype == np.int64
    assert extent(shape).flat == flat
    ends = [slot * numel // flat for slot in range(flat + 1)]
    assert all(
        low <= at < high for low, at, high in zip(ends, where.tolist(), ends[1:], strict=False)
    )


@pytest.mark.parametrize("shape", [(49, 60), (2**20, 7), (2**20 + 1, 7), (2**31, 2**31)])
def test_every_part_is_sorted_unique_and_inside(shape):
    parts = extent(shape)
    flat, grid, groups = np.split(
        positions("x", shape), [parts.flat, parts.flat + parts.rows * parts.columns]
    )
    for part in (flat, grid, groups):
        assert (np.diff(part) > 0).all()
        assert part[0] >= 0
        assert part[-1] < math.prod(shape)
    assert (groups.reshape(-1, 64)[:, 0] % 64 == 0).all()


@pytest.mark.parametrize(
    ("shape", "numel"), [((), 1), ((0, 4), 0), ((1024,), 1024), ((7, 3), 21), ((65536,), 65536)]
)
def test_a_small_tensor_or_a_vector_is_taken_whole(shape, numel):
    assert extent(shape).is_whole
    assert positions("x", shape).tolist() == list(range(numel))


def test_a_vector_of_more_elements_is_sampled():
    parts = extent((65537,))
    assert (parts.flat, parts.rows, parts.groups, parts.is_whole) == (1024, 0, 8, False)
    assert len(positions("x", (65537,))) == parts.count


def test_flat_positions_depend_on_name_and_shape():
    first = positions("a", (100, 100))[:1024].tolist()
    assert first == positions("a", (100, 100))[:1024].tolist()
    assert first != positions("b", (100, 100))[:1024].tolist()
    assert first != positions("a", (10, 1000))[:1024].tolist()


def test_layers_share_the_rows_and_columns_of_their_grids():
    parts = extent((576, 1536))
    grid = slice(parts.flat, parts.flat + 48 * 48)
    assert positions("a", (576, 1536))[grid].tolist() == positions("b", (576, 1536))[grid].tolist()
    rows, columns = grid_axes((576, 1536))
    assert grid_axes((1536, 576))[1].tolist() == rows.tolist()
    assert (len(rows), len(columns)) == (48, 48)


def test_an_axis_that_grows_keeps_most_of_its_positions():
    before, after = (set(grid_axes((size, 8))[0].tolist()) for size in (49152, 49152 + 64))
    assert len(before & after) >= 46


@pytest.mark.parametrize(("dtype", "size"), [("F64", 8), ("F32", 4), ("BF16", 2), ("F8_E4M3", 1)])
@pytest.mark.parametrize("count", [777, 6000, 1])
def test_a_sketch_taken_in_pieces_is_the_raw_bits_at_the_positions(dtype, size, count):
    data = np.random.default_rng(0).bytes(6000 * size)
    sampler = Sampler(NAME, dtype, (60, 100))
    for start in range(0, 6000, count):
        piece = data[start * size : (start + count) * size]
        sampler.add(memoryview(b"x" + piece)[1:])  # not aligned
    expected = [data[at * size : (at + 1) * size] for at in positions(NAME, (60, 100)).tolist()]
    assert sampler.bits() == b"".join(expected)
    assert Sampler(NAME, dtype, (0,)).bits() == b""
