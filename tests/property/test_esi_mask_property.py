"""Masks: what is packed is unpacked, bytes are canonical, and top k is a stable sort's."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import UnsafeFormatError
from registry.kinds.esi_mask import _topk
from registry.kinds.esi_mask._gap8 import compress, decode, decompress, encode
from registry.kinds.esi_mask._packed import PackedMask, pack
from registry.kinds.esi_mask._topk import select

quick = settings(max_examples=150, deadline=None)
NUMEL = 3_000
SETS = st.sets(st.integers(0, NUMEL - 1), max_size=60).map(sorted)
NAMES = st.text("abc.", min_size=1, max_size=4)
LARGEST = float(np.finfo(np.float32).max)
TINY = 2.0**-149
FEW = st.sampled_from([0.0, TINY, 2 * TINY, 2.0**-126, 1.0, 1.0 + 2.0**-23, 2.0, LARGEST])
FLOATS = st.floats(0.0, LARGEST, width=32, allow_subnormal=True)


@quick
@given(SETS)
def test_indices_round_trip(values):
    gaps = encode(np.array(values, dtype=np.uint32), NUMEL, what="w")
    assert decode(gaps, NUMEL, len(values), what="w").tolist() == values
    assert len(values) <= len(gaps) <= len(values) + NUMEL // 255


@quick
@given(st.binary(max_size=30), st.integers(0, 2_000), st.integers(0, 30))
def test_bytes_are_refused_or_the_one_spelling_of_their_indices(gaps, numel, count):
    try:
        indices = decode(gaps, numel, count, what="w")
    except UnsafeFormatError:
        return
    assert indices.size == count
    assert encode(indices, numel, what="w") == gaps


@quick
@given(st.lists(st.sampled_from([0, 1, 254, 255]), max_size=12), st.integers(1, 3_000))
def test_bytes_are_refused_exactly_when_they_break_a_rule(steps, numel):
    """Against a reader that goes byte by byte."""
    place, want = -1, []
    for step in steps:
        place += step if step == 255 else step + 1
        want += [] if step == 255 else [place]
    breaks = bool(steps) and (steps[-1] == 255 or place >= numel)
    try:
        got = decode(bytes(steps), numel, len(want), what="w").tolist()
    except UnsafeFormatError:
        got = None
    assert got == (None if breaks else want)


@quick
@given(st.binary(max_size=200))
def test_frames_round_trip(data):
    assert decompress(compress(data), len(data), what="w") == data


@quick
@given(st.binary(min_size=1, max_size=80), st.data())
def test_a_changed_frame_is_refused_or_has_the_stated_size(data, draw):
    frame = bytearray(compress(data))
    place = draw.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= draw.draw(st.integers(1, 255))
    with contextlib.suppress(UnsafeFormatError):
        assert len(decompress(bytes(frame), len(data), what="w")) == len(data)


@quick
@given(st.dictionaries(NAMES, SETS, max_size=6))
def test_masks_round_trip_whatever_is_selected(chosen):
    numels = dict.fromkeys(chosen, NUMEL)
    arrays = {name: np.array(values, dtype=np.uint32) for name, values in chosen.items()}
    mask = pack(arrays, numels, what="m")
    again = PackedMask(mask.table, mask.frames, numels, what="m")
    assert {name: again.indices(name).tolist() for name in again.names} == chosen
    assert {name: np.flatnonzero(again.boolean(name)).tolist() for name in again.names} == chosen
    assert again.digest() == pack(dict(reversed(arrays.items())), numels, what="m").digest()


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(NAMES, st.lists(st.one_of(FEW, FLOATS), max_size=25), max_size=5),
    st.data(),
    st.booleans(),
    st.sampled_from([1, 2, 7, 1 << 17]),
)
def test_the_selection_is_that_of_a_stable_sort(tensors, draw, largest, chunk):
    scores = [(name, np.array(tensors[name], dtype=np.float32)) for name in sorted(tensors)]
    total = sum(array.size for _, array in scores)
    k = draw.draw(st.integers(0, total))
    everything = [
        (-value if largest else value, name, index)
        for name, array in scores for index, value in enumerate(array.tolist())
    ]  # fmt: skip
    want = sorted((name, index) for _, name, index in sorted(everything)[:k])
    before, _topk._CHUNK = _topk._CHUNK, chunk
    try:
        selected = select(lambda: iter(scores), k, largest=largest)
    finally:
        _topk._CHUNK = before
    assert list(selected) == sorted(tensors)
    assert [(name, i) for name, found in selected.items() for i in found.tolist()] == want
