from __future__ import annotations

import math

import numpy as np
import pytest

from registry.checkpoint.sketch import positions, splitmix64, take, to_float64
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


def test_positions_follow_the_rule_written_in_integers():
    shape, count, mask = (48, 64), 100, 2**64 - 1
    text = f"safelatch/sketch/v1\0flat\0{NAME}\x0048x64".encode()
    state = int.from_bytes(bytes.fromhex(digest_bytes(text)[7:23]), "little")
    expected = []
    for slot in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        low, high = slot * 3072 // count, (slot + 1) * 3072 // count
        expected.append(low + (z ^ (z >> 31)) % (high - low))
    assert positions(NAME, shape, count).tolist() == expected


def test_positions_are_frozen():
    """Golden values of format v1: a change here makes every record that travels lie."""
    small, large = positions(NAME, (48, 64)), positions(NAME, (8192, 28672))
    assert small[:6].tolist() == GOLDEN_SMALL
    assert large[:4].tolist() == GOLDEN_LARGE[:4]
    assert large[-2:].tolist() == GOLDEN_LARGE[4:]
    assert digest_bytes(large.astype("<i8").tobytes()) == GOLDEN_DIGEST


GOLDEN_SMALL = [0, 5, 6, 11, 12, 17]
GOLDEN_LARGE = [209491, 441481, 577384, 767616, 234591871, 234664910]
GOLDEN_DIGEST = "blake3:4b04d4892aff0c1f129a0bcdb59c5fbaa90f207f95aad3cee0a436e32a6a770c"


@pytest.mark.parametrize("shape", [(1025,), (1024, 3), (4096, 4096), (2**20, 2**20)])
def test_positions_are_sorted_unique_and_one_per_slot(shape):
    where = positions("x", shape)
    numel = math.prod(shape)
    assert where.dtype == np.int64
    assert len(where) == 1024
    slots = [slot * numel // 1024 for slot in range(1025)]
    assert all(
        low <= at < high for low, at, high in zip(slots, where.tolist(), slots[1:], strict=False)
    )


@pytest.mark.parametrize(("shape", "numel"), [((), 1), ((0, 4), 0), ((1024,), 1024), ((7, 3), 21)])
def test_a_small_tensor_is_taken_whole(shape, numel):
    assert positions("x", shape).tolist() == list(range(numel))


def test_positions_depend_on_name_and_shape():
    first = positions("a", (100, 100)).tolist()
    assert first == positions("a", (100, 100)).tolist()
    assert first != positions("b", (100, 100)).tolist()
    assert first != positions("a", (10000,)).tolist()


@pytest.mark.parametrize(("dtype", "size"), [("F64", 8), ("F32", 4), ("BF16", 2), ("F8_E4M3", 1)])
def test_take_copies_the_raw_bits(dtype, size):
    data = bytes(range(240))
    where = np.array([0, 3, 29])
    expected = b"".join(data[at * size : (at + 1) * size] for at in where)
    assert take(memoryview(b"x" + data)[1:], dtype, where) == expected  # not aligned
    assert take(b"", dtype, np.array([], dtype=np.int64)) == b""


@pytest.mark.parametrize(
    ("dtype", "numpy"),
    [("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("I8", "i1"), ("U16", "<u2"), ("I64", "<i8")],
)
def test_values_of_plain_dtypes(dtype, numpy):
    values = np.array([0, 1, 2, 100]).astype(numpy)
    assert to_float64(values.tobytes(), dtype).tolist() == [0.0, 1.0, 2.0, 100.0]


def test_bool_is_zero_or_one():
    assert to_float64(b"\0\1\2", "BOOL").tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("dtype", "torch_name", "numpy"),
    [
        ("BF16", "bfloat16", np.uint16),
        ("F16", "float16", np.uint16),
        ("F8_E4M3", "float8_e4m3fn", np.uint8),
        ("F8_E5M2", "float8_e5m2", np.uint8),
        ("F8_E8M0", "float8_e8m0fnu", np.uint8),
    ],
)
def test_every_code_of_a_small_float_is_what_torch_reads(dtype, torch_name, numpy):
    import torch

    codes = np.arange(np.iinfo(numpy).max + 1, dtype=numpy)
    expected = torch.from_numpy(codes.copy()).view(getattr(torch, torch_name)).double().numpy()
    np.testing.assert_array_equal(to_float64(codes.tobytes(), dtype), expected)


def test_a_complex_number_is_two_values():
    raw = np.array([1 + 2j], dtype=np.complex64).tobytes()
    assert to_float64(raw, "C64").tolist() == [1.0, 2.0]
