from __future__ import annotations

import json
import struct

import pytest

from registry.errors import UnsafeFormatError
from registry.tensorfile import ITEM_BITS, header_length, parse_header


def field(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def parse(document, data_size, **options):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_header(text, file_size=8 + len(text) + data_size, what="x.safetensors", **options)


def refused(document, data_size, **options):
    with pytest.raises(UnsafeFormatError) as caught:
        parse(document, data_size, **options)
    assert caught.value.message.startswith("x.safetensors")
    return caught.value.message


def length_of(prefix, file_size=108):
    return header_length(prefix, file_size=file_size, what="x", limit=100)


def test_a_header_is_read_in_the_order_of_names():
    document = {"b": field(), "a": field("BF16", (3, 2), 8, 20), "__metadata__": {"format": "pt"}}
    header = parse(document, 20)
    assert [entry.name for entry in header.entries] == ["a", "b"]
    assert header.metadata == {"format": "pt"}
    assert header.data_start == 8 + len(json.dumps(document))
    first = header.entries[0]
    assert (first.dtype, first.shape, first.nbytes, first.numel) == ("BF16", (3, 2), 12, 6)


def test_what_the_official_writer_writes_is_read():
    import numpy as np
    from safetensors.numpy import save

    arrays = {
        "x": np.arange(6.0).reshape(2, 3),
        "s": np.array(3, dtype=np.int8),
        "e": np.zeros((0, 2)),
    }
    data = save(arrays, {"note": "é"})
    length = header_length(data[:8], file_size=len(data), what="x", limit=1000)
    header = parse_header(data[8 : 8 + length], file_size=len(data), what="x")
    for entry in header.entries:
        raw = data[header.data_start + entry.begin : header.data_start + entry.end]
        assert entry.shape == arrays[entry.name].shape
        assert raw == arrays[entry.name].tobytes()


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_every_dtype_has_its_size(dtype):
    size = ITEM_BITS[dtype] // 8
    assert parse({"a": field(dtype, (3,), 0, 3 * size)}, 3 * size).entries[0].nbytes == 3 * size
    assert "takes" in refused({"a": field(dtype, (3,), 0, 3 * size + 1)}, 3 * size + 1)


def test_a_file_without_tensors_is_read():
    assert parse({}, 0).entries == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dtype": "F32", "shape": [2]}, "exactly dtype, shape and data_offsets"),
        (field() | {"extra": 1}, "exactly dtype"),
        ([], "exactly dtype"),
        (field("F33"), "unknown dtype 'F33'"),
        (field("f32"), "unknown dtype"),
        (field() | {"dtype": 7}, "unknown dtype '7'"),
        (field() | {"dtype": ["F32"]}, "unknown dtype"),
        (field(shape=(-2,)), "non-negative integers"),
        (field() | {"shape": [2.0]}, "non-negative integers"),
        (field() | {"shape": [True, 2]}, "non-negative integers"),
        (field() | {"shape": "2"}, "non-negative integers"),
        (field() | {"shape": None}, "non-negative integers"),
        (field(shape=(1,) * 65, end=4), "at most 64 non-negative integers"),
        (field(shape=(2**60,)), "fewer than 2^60 elements"),
        (field() | {"data_offsets": [0]}, "non-negative integers"),
        (field() | {"data_offsets": [0, 8, 9]}, "non-negative integers"),
        (field(begin=8, end=0), "span -8"),
        (field(shape=(3,)), r"takes 12 bytes, data_offsets span 8"),
        (field(shape=(2**53 - 1,)), "data_offsets span 8"),
        (
            field(shape=(2**53,)),
            "integers below 2^53 and fewer than 2^60 elements, got [9007199254740992]",
        ),
        (field(shape=(2**40, 2**40)), "fewer than 2^60 elements"),
        (field(shape=(2**40, 2**40, 0), end=0), "fewer than 2^60 elements"),
        (field(shape=(0, 2**55), end=0), "below 2^53 and fewer than 2^60 elements, got [0, 3602"),
        (field() | {"data_offsets": [2**63, 2**63 + 8]}, "below 2^63"),
    ],
)
def test_a_malformed_tensor_is_refused(fields, said):
    message = refused({"a": fields}, 8)
    assert "'a'" in message
    assert said in message


@pytest.mark.parametrize(
    ("document", "size", "said"),
    [
        ({"a": field(begin=0), "b": field(begin=4, end=12)}, 12, "overlaps"),
        ({"a": field(), "b": field()}, 8, "overlaps"),
        ({"a": field(), "b": field(begin=9, end=17)}, 17, "leaves a hole"),
        ({"a": field(begin=1, end=9)}, 9, "leaves a hole"),
        ({"a": field()}, 9, "the file has 9"),
        ({"a": field()}, 7, "the file has 7"),
        ({}, 1, "the file has 1"),
    ],
)
def test_data_must_be_covered_exactly(document, size, said):
    assert said in refused(document, size)


@pytest.mark.parametrize("metadata", [[], {"a": 1}, {"a": None}, {"a": {}}, "x"])
def test_metadata_is_an_object_of_text(metadata):
    assert "__metadata__" in refused({"__metadata__": metadata}, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'"a"',
        b"{",
        b"{} {}",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}',
    ],
)
def test_a_header_that_is_no_strict_json_is_refused(text):
    assert refused(text, 0)


def test_a_tensor_that_is_named_twice_is_refused():
    one = json.dumps(field())
    assert "appears twice" in refused(f'{{"a":{one},"a":{one}}}'.encode(), 8)


def test_a_member_that_is_named_twice_is_refused():
    text = b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    assert "appears twice" in refused(text, 0)


def test_every_broken_rule_is_listed_up_to_twenty():
    message = refused({"a": field("F33"), "b": field(shape=(3,))}, 8)
    assert "'a'" in message
    assert "'b'" in message
    assert "and 5 more" in refused({f"t{index}": {} for index in range(25)}, 0)


def test_a_header_over_the_limit_is_refused_before_it_is_parsed():
    assert "at most 4 bytes" in refused({"a": field()}, 8, limit=4)
    with pytest.raises(UnsafeFormatError, match="at most 100 bytes, got 101"):
        length_of(struct.pack("<Q", 101))
    with pytest.raises(UnsafeFormatError):
        length_of(b"\xff" * 8)
    assert length_of(struct.pack("<Q", 100)) == 100
    with pytest.raises(UnsafeFormatError, match="header of 100 bytes, the file has 107"):
        length_of(struct.pack("<Q", 100), file_size=107)


@pytest.mark.parametrize("prefix", [b"", b"1234567"])
def test_a_file_too_short_for_a_length_is_refused(prefix):
    with pytest.raises(UnsafeFormatError, match=f"got {len(prefix)} bytes"):
        length_of(prefix)
