"""Tensor files: what is written is read back bit by bit, and one changed byte is never unseen."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.artifact.tensors import (
    read_payloads,
    read_tensors,
    write_payloads,
    write_tensors,
)
from registry.errors import UnsafeFormatError
from registry.tensorfile import ITEM_BITS, header_length, is_tensor_name, parse_header

quick = settings(max_examples=100, deadline=None)
NAMES = st.text(min_size=1, max_size=12).filter(
    lambda name: is_tensor_name(name) and name != "__metadata__"  # the format's own member
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])


@st.composite
def arrays(draw):
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    size = int(np.prod(shape)) * dtype.itemsize
    bits = draw(st.binary(min_size=size, max_size=size))  # NaN and infinities among them
    return np.frombuffer(bits, dtype).reshape(shape)


@quick
@given(st.dictionaries(NAMES, arrays(), max_size=4))
def test_tensors_round_trip_bit_by_bit(tensors):
    data = write_tensors(tensors)
    again = read_tensors(data, what="x")
    assert set(again) == set(tensors)
    for name, array in tensors.items():
        got = again[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert write_tensors(again) == data


@quick
@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=4))
def test_payloads_round_trip(payloads):
    assert read_payloads(write_payloads(payloads), what="x") == payloads


@quick
@given(st.data())
def test_headers_of_any_order_and_spelling_are_read_alike(data):
    tensors = data.draw(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(ITEM_BITS)), SHAPES),
                                        max_size=4))  # fmt: skip
    fields, position = {}, 0
    for name in data.draw(st.permutations(sorted(tensors))):
        dtype, shape = tensors[name]
        end = position + int(np.prod(shape)) * ITEM_BITS[dtype] // 8
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    written = {name: fields[name] for name in data.draw(st.permutations(sorted(fields)))}
    text = json.dumps(
        written, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
    ).encode() + b" " * data.draw(st.integers(0, 8))
    header = parse_header(text, file_size=8 + len(text) + position, what="x")
    assert [entry.name for entry in header.entries] == sorted(tensors)
    for entry in header.entries:
        assert (entry.dtype, entry.shape) == tensors[entry.name]
        assert [entry.begin, entry.end] == fields[entry.name]["data_offsets"]


@quick
@given(st.dictionaries(NAMES, arrays(), min_size=1, max_size=3), st.data())
def test_a_file_of_another_length_is_never_read(tensors, data):
    whole = write_tensors(tensors)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for changed in (whole[:cut], whole + b"\0" * data.draw(st.integers(1, 9))):
        try:
            length = header_length(changed[:8], file_size=len(changed), what="x", limit=10**6)
            parse_header(changed[8 : 8 + length], file_size=len(changed), what="x")
        except UnsafeFormatError:
            continue
        raise AssertionError(changed)
