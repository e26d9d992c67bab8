"""gap8: golden bytes, what is refused, and how near the size comes to the entropy bound."""

from __future__ import annotations

import math
import re
import struct

import numpy as np
import pytest
import zstandard

from registry.artifact.tensors import read_tensors, write_tensors
from registry.errors import SchemaViolationError, UnsafeFormatError, UsageError
from registry.kinds.esi_mask._gap8 import (
    boolean,
    compress,
    decode,
    decompress,
    encode,
    index_dtype,
)
from registry.kinds.esi_mask._packed import PackedMask, pack

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GOLDEN = [
    ([], 10, b""),
    ([0], 1, b"\x00"),
    ([0, 1, 2], 3, b"\x00\x00\x00"),
    ([5, 7], 10, b"\x05\x01"),
    ([254], 255, b"\xfe"),
    ([255], 256, b"\xff\x00"),
    ([256, 511], 512, b"\xff\x01\xfe"),
    ([256, 512], 513, b"\xff\x01\xff\x00"),
    ([509, 510, 1276], 2000, b"\xff\xfe\x00\xff\xff\xff\x00"),
]


def indices_of(values, dtype=np.uint32):
    return np.array(values, dtype=dtype)


@pytest.mark.parametrize(("values", "numel", "gaps"), GOLDEN)
def test_the_bytes_of_the_codec_are_these(values, numel, gaps):
    assert encode(indices_of(values), numel, what="w") == gaps
    got = decode(gaps, numel, len(values), what="w")
    assert got.dtype == np.uint32
    assert got.tolist() == values


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64, np.int32])
def test_the_bytes_do_not_depend_on_the_integers_of_the_caller(dtype):
    given = indices_of([3, 300, 1000], dtype)
    assert encode(given, 1001, what="w") == b"\x03\xff\x29\xff\xff\xbd"
    assert given.tolist() == [3, 300, 1000]  # not written to


def test_indices_are_of_32_bits_up_to_two_to_the_32_weights():
    assert index_dtype(2**32) == np.uint32
    assert index_dtype(2**32 + 1) == np.uint64


@pytest.mark.parametrize(("numel", "dtype"), [(2**32, np.uint32), (2**32 + 300, np.uint64)])
def test_the_last_weight_of_a_huge_tensor_is_kept(numel, dtype):
    gaps = encode(indices_of([numel - 1], np.uint64), numel, what="w")
    assert len(gaps) == 1 + (numel - 1) // 255
    got = decode(gaps, numel, 1, what="w")
    assert got.dtype == dtype
    assert got.tolist() == [numel - 1]


def test_the_boolean_mask_of_a_tensor():
    mask = boolean(indices_of([1, 4]), 5)
    assert mask.dtype == np.bool_
    assert mask.tolist() == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        ([1, 5, 3], "entry 2: expected more than 5, got 3"),
        ([1, 5, 5], "entry 2: expected more than 5, got 5"),
        ([1, 10], "expected indices below 10, got 10"),
        ([-1, 3], "expected indices from 0, got -1"),
        ([-2, 12], "expected indices from 0, got -2\n  expected indices below 10, got 12"),
        ([[1]], "expected integers in one dimension, got int64 (1, 1)"),
        ([0.5], "expected integers in one dimension, got float64 (1,)"),
    ],
)
def test_indices_that_are_no_mask_are_refused(values, finding):
    with pytest.raises(SchemaViolationError) as caught:
        encode(np.array(values), 10, what="layer.weight")
    assert caught.value.message == (
        f"layer.weight: {np.size(values)} indices that are no mask of 10 weights:\n  {finding}"
    )


@pytest.mark.parametrize(
    ("gaps", "numel", "count", "finding"),
    [
        (b"\x00\x00", 10, 3, "expected 3 indices, got 2"),
        (b"\x00\x00", 10, 1, "expected 1 indices, got 2"),
        (b"", 10, 1, "expected 1 indices, got 0"),
        (b"\x0a", 10, 1, "expected the last index below 10, got 10"),
        (b"\x04\x05", 10, 2, "expected the last index below 10, got 10"),
        (b"\xff\x00", 255, 1, "expected the last index below 255, got 255"),
        (b"\x01\xff", 1000, 1, "expected a byte below 255 at the end, got 255"),
        (b"\xff\xff", 1000, 0, "expected a byte below 255 at the end, got 255"),
        (b"\x00", 0, 1, "expected the last index below 0, got 0"),
    ],
)
def test_gaps_that_break_the_format_are_refused(gaps, numel, count, finding):
    with pytest.raises(UnsafeFormatError) as caught:
        decode(gaps, numel, count, what="w")
    assert caught.value.message == f"w: {len(gaps)} bytes of gaps break the format:\n  {finding}"


def test_all_that_is_wrong_with_gaps_is_told_at_once():
    with pytest.raises(UnsafeFormatError, match="expected 5 indices, got 1") as caught:
        decode(b"\x09\xff", 10, 5, what="w")
    assert "expected the last index below 10, got 264" in caught.value.message
    assert "expected a byte below 255 at the end, got 255" in caught.value.message


def test_a_last_index_beyond_32_bits_does_not_wrap_around():
    gaps = b"\xff" * (2**32 // 255 + 1) + b"\x00"
    with pytest.raises(UnsafeFormatError, match="expected the last index below 4,294,967,296, got"):
        decode(gaps, 2**32, 1, what="w")


def test_a_frame_is_unpacked_to_what_was_packed():
    gaps = bytes(range(255)) * 40
    frame = compress(gaps)
    assert frame.startswith(ZSTD_MAGIC)
    assert decompress(memoryview(frame), len(gaps), what="w") == gaps
    assert compress(b"") == b""
    assert decompress(b"", 0, what="w") == b""


def test_a_bomb_is_refused_before_anything_is_unpacked():
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(50_000_000))
    assert len(bomb) < 5_000
    with pytest.raises(
        UnsafeFormatError,
        match=re.escape("w: expected a zstd frame of 100 bytes, its head states 50,000,000."),
    ):
        decompress(bomb, 100, what="w")


def frame_stating(size, body):
    """Return a frame whose head states ``size`` bytes (8 bytes wide, one segment)."""
    return ZSTD_MAGIC + b"\xe0" + struct.pack("<Q", size) + body


def last_raw_block(data):
    return (len(data) << 3 | 1).to_bytes(3, "little") + data


def test_a_head_that_states_a_terabyte_makes_no_room_for_it():
    frame = frame_stating(1 << 40, last_raw_block(b"abc"))
    with pytest.raises(UnsafeFormatError, match=r"of 3 bytes, its head states 1,099,511,627,776\."):
        decompress(frame, 3, what="w")


def test_a_frame_that_holds_more_than_its_head_states_is_refused():
    run = (50_000 << 3 | 0b011).to_bytes(
        3, "little"
    ) + b"\x00"  # last block: one byte, 50,000 times
    assert decompress(frame_stating(3, last_raw_block(b"abc")), 3, what="w") == b"abc"
    with pytest.raises(UnsafeFormatError, match="expected one zstd frame of 3 bytes, got 17 bytes"):
        decompress(frame_stating(3, run), 3, what="w")


def test_a_frame_without_its_size_is_refused():
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")
    with pytest.raises(UnsafeFormatError, match=r"of 3 bytes, its head states none\."):
        decompress(frame, 3, what="w")


SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (b"", 3),
        (b"abc", 3),
        (compress(b"abc")[:-1], 3),
        (compress(b"abc") + b"x", 3),
        (compress(b"abc") + compress(b"abc"), 3),
        (SKIPPABLE, 3),
        (compress(b"abc") + SKIPPABLE, 3),
        (SKIPPABLE, 0),
        (compress(b"abc"), 0),
        (zstandard.ZstdCompressor().compress(b""), 0),
    ],
)
def test_what_is_not_one_frame_of_the_size_is_refused(frame, size):
    with pytest.raises(UnsafeFormatError, match=f"^w: expected (one|a) zstd frame of {size} bytes"):
        decompress(frame, size, what="w")


def uniform(numel, share, seed):
    random = np.random.default_rng(seed)
    chosen = random.permutation(numel)[: round(share * numel)]
    return np.sort(chosen).astype(np.uint32)


def test_a_uniform_mask_of_one_percent_is_within_two_percent_of_the_entropy_bound():
    numels = {f"layer.{i:02d}.weight": 500_000 for i in range(20)}
    chosen = {name: uniform(numels[name], 0.01, i) for i, name in enumerate(numels)}
    mask = pack(chosen, numels, what="mask")
    stored = len(write_tensors({"frames": mask.frames, "table": mask.table}))
    share = 0.01
    bound = -sum(numels.values()) / 8 * (
        share * math.log2(share) + (1 - share) * math.log2(1 - share)
    )  # fmt: skip
    assert 0.99 * bound < stored < 1.02 * bound
    for name, indices in chosen.items():
        assert np.array_equal(mask.indices(name), indices)


# The mask of a whole model


NUMELS = {"b": 1000, "a": 300, "c": 50, "d": 0}
CHOSEN = {"a": indices_of([0, 299]), "b": indices_of([1, 2, 900])}


def test_a_packed_mask_is_read_from_an_artifact_one_tensor_at_a_time():
    mask = pack(CHOSEN, NUMELS, what="mask")
    stored = write_tensors({"frames": mask.frames, "table": mask.table})
    tensors = read_tensors(stored, what="x")
    again = PackedMask(tensors["table"], tensors["frames"], NUMELS, what="mask")
    assert again.names == ("a", "b", "c", "d")
    assert again.counts == {"a": 2, "b": 3, "c": 0, "d": 0}
    assert again.indices("b").tolist() == [1, 2, 900]
    assert again.gaps("a") == b"\x00\xff\x2b"
    assert again.indices("c").tolist() == []
    assert again.indices("d").tolist() == []
    assert np.flatnonzero(again.boolean("a")).tolist() == [0, 299]
    assert again.digest() == mask.digest()


def test_the_header_does_not_grow_with_the_number_of_tensors():
    numels = {f"model.layers.{i}.mlp.experts.{i}.up_proj.weight": 8 for i in range(20_000)}
    mask = pack(dict.fromkeys(numels, indices_of([3])), numels, what="mask")
    stored = write_tensors({"frames": mask.frames, "table": mask.table})
    assert struct.unpack_from("<Q", stored)[0] < 200
    assert np.count_nonzero(mask.table[:, 2]) == 1  # nor is there a frame for each of 20,000


def large_mask():
    """Return a mask with tensors of which the first two share a frame, as do the last two."""
    numels = {"a": 500_000, "b": 7_000_000, "c": 0, "d": 9_000_000, "e": 200, "f": 200}
    chosen = {name: uniform(numel, 0.01, 3) for name, numel in numels.items()}
    return pack(chosen, numels, what="mask"), chosen, numels


def test_a_frame_is_ended_at_64_kib_of_gaps_and_not_inside_a_tensor():
    mask, chosen, _ = large_mask()
    assert (mask.table[:, 2] > 0).tolist() == [True, False, False, True, True, False]
    for name in ("f", "a", "e", "d", "c", "b", "a"):  # in no order
        assert np.array_equal(mask.indices(name), chosen[name])


def test_one_broken_frame_does_not_keep_the_others_from_being_read():
    mask, chosen, numels = large_mask()
    frames = mask.frames.copy()
    frames[: int(mask.table[0, 2])] = 0
    broken = PackedMask(mask.table, frames, numels, what="mask")
    for name in "def":
        assert np.array_equal(broken.indices(name), chosen[name])
    for name in "ab":
        with pytest.raises(UnsafeFormatError, match=f"^mask: frame of {name}: expected one zstd"):
            broken.indices(name)


def test_the_digest_of_a_mask_is_this():
    """Frozen: names, sizes, counts and gaps, whatever zstd made of them."""
    assert pack(CHOSEN, NUMELS, what="mask").digest() == (
        "blake3:a8cb36febbb3168c313abe68604ef250aaf042bc3c71acdbd8bc831c5c3388a4"
    )


@pytest.mark.parametrize(
    ("chosen", "numels"),
    [
        ({"a": indices_of([0, 298]), "b": CHOSEN["b"]}, NUMELS),
        ({"a": CHOSEN["b"], "b": CHOSEN["a"]}, {**NUMELS, "a": 1000}),
        (CHOSEN, {**NUMELS, "c": 51}),
        (CHOSEN, {"a": 300, "b": 1000, "c": 50}),
        (CHOSEN, {"a": 300, "b": 1000, "c": 50, "e": 0}),
    ],
)
def test_another_mask_or_other_candidates_have_another_digest(chosen, numels):
    assert pack(chosen, numels, what="m").digest() != pack(CHOSEN, NUMELS, what="m").digest()


def test_other_frames_of_the_same_gaps_are_the_same_mask():
    mask = pack(CHOSEN, NUMELS, what="mask")
    frames = [zstandard.ZstdCompressor(level=19, write_checksum=True).compress(mask.gaps(name))
              for name in "ab"]  # fmt: skip
    table = mask.table.copy()
    table[:2, 2] = [len(frames[0]), len(frames[1])]
    other = PackedMask(table, np.frombuffer(b"".join(frames), np.uint8), NUMELS, what="mask")
    assert other.frames.tobytes() != mask.frames.tobytes()
    assert other.indices("b").tolist() == [1, 2, 900]
    assert other.digest() == mask.digest()


def test_indices_of_a_tensor_that_is_no_candidate_are_refused():
    with pytest.raises(UsageError) as caught:
        pack({"z": indices_of([0])}, NUMELS, what="mask")
    assert caught.value.message == (
        "mask: expected indices of the 4 candidate tensors, got 1 that are none:\n  'z'"
    )


def test_indices_outside_their_tensor_are_refused_by_its_name():
    with pytest.raises(SchemaViolationError, match=r"^mask: c: 1 indices that are no mask of 50"):
        pack({"c": indices_of([50])}, NUMELS, what="mask")


@pytest.mark.parametrize(
    ("row", "column", "value", "finding"),
    [
        (0, 0, 301, "'a': expected at most 300 selected weights, got 301"),
        (0, 1, 1, "'a': expected 2 to 3 bytes of gaps, got 1"),
        (0, 1, 4, "'a': expected 2 to 3 bytes of gaps, got 4"),
        (2, 1, 1, "'c': expected 0 to 0 bytes of gaps, got 1"),
        (2, 0, 1, "'c': expected 1 to 1 bytes of gaps, got 0"),
        (0, 2, 0, "'a': expected a frame for 3 bytes of gaps, got none"),
        (3, 2, 1000, "expected frames of 1,018 bytes, got 18"),
        (3, 2, 2**64 - 1, "expected frames of 18,446,744,073,709,551,633 bytes, got 18"),
        (0, 2, 17, "expected frames of 17 bytes, got 18"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(row, column, value, finding):
    mask = pack(CHOSEN, NUMELS, what="mask")
    assert mask.frames.size == 18
    table = mask.table.copy()
    table[row, column] = value
    with pytest.raises(UnsafeFormatError, match=r"^mask: the table breaks the format:") as caught:
        PackedMask(table, mask.frames, NUMELS, what="mask")
    assert f"\n  {finding}" in caught.value.message


def test_frames_cut_elsewhere_than_they_end_are_refused():
    table = pack(CHOSEN, NUMELS, what="mask").table.copy()
    frames = pack(CHOSEN, NUMELS, what="mask").frames
    table[0, 2], table[1, 2] = 10, 8
    mask = PackedMask(table, frames, NUMELS, what="mask")
    for name in "ab":
        with pytest.raises(UnsafeFormatError, match=f"^mask: frame of {name}: expected"):
            mask.indices(name)


def test_a_table_of_other_candidates_or_another_dtype_is_refused():
    mask = pack(CHOSEN, NUMELS, what="mask")
    expected = r"^mask: expected uint64 \({}, 3\) and uint8 in one dimension, got {} and "
    for table, count, got in [
        (mask.table[:3], 4, r"uint64 \(3, 3\)"),
        (mask.table.astype(np.int64), 4, r"int64 \(4, 3\)"),
    ]:
        with pytest.raises(UnsafeFormatError, match=expected.format(count, got)):
            PackedMask(table, mask.frames, NUMELS, what="mask")
    with pytest.raises(UnsafeFormatError, match=expected.format(4, r"uint64 \(4, 3\)")):
        PackedMask(mask.table, mask.frames.view(np.int8), NUMELS, what="mask")


def test_no_candidates_are_an_empty_mask():
    mask = pack({}, {}, what="mask")
    assert mask.table.shape == (0, 3)
    assert mask.names == ()
