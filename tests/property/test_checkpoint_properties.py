from __future__ import annotations

from dataclasses import replace
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import llama_config, tensor_shapes

from registry.checkpoint.config import computation_fields, config_digest
from registry.checkpoint.geometry import read_geometry
from registry.checkpoint.record import BaseRecord, Entry, entries_json
from registry.checkpoint.sketch import extent, positions
from registry.digest import digest_bytes
from registry.errors import SafelatchError
from registry.tensorfile import ITEM_BITS, is_tensor_name

NAMES = st.text(min_size=1, max_size=30).filter(is_tensor_name)
SHAPES = st.lists(st.integers(0, 50), max_size=3).map(tuple)
DIGESTS = st.binary(max_size=4).map(digest_bytes)


@st.composite
def records(draw):
    config = llama_config(
        num_hidden_layers=draw(st.integers(1, 2)), vocab_size=draw(st.integers(1, 40))
    )
    shapes = draw(st.dictionaries(NAMES, SHAPES, max_size=4)) | tensor_shapes(config)
    geometry = read_geometry(shapes, config)
    dtypes = st.sampled_from(sorted(ITEM_BITS))
    fill = bytes([draw(st.integers(0, 255))])

    def entry(name, shape):
        made = Entry(name, draw(dtypes), shape, draw(DIGESTS))
        whole = digest_bytes(fill * made.sample_bytes)
        return replace(made, digest=whole) if extent(shape).is_whole else made

    entries = tuple(entry(name, shape) for name, shape in sorted(shapes.items()))
    fields = computation_fields(config, geometry)
    return BaseRecord(
        weights=digest_bytes(entries_json(entries)),
        entries=entries,
        samples={entry.name: fill * entry.sample_bytes for entry in entries},
        config=fields,
        config_digest=config_digest(fields),
        tokenizer=draw(st.none() | DIGESTS),
        chat_template=draw(st.none() | DIGESTS),
        geometry=geometry,
    )


@settings(max_examples=50, deadline=None)
@given(records())
def test_every_record_round_trips(record):
    payloads = record.to_tensors()
    assert BaseRecord.from_tensors(payloads) == record
    assert BaseRecord.from_tensors(payloads).to_tensors() == payloads


@settings(max_examples=100, deadline=None)
@given(records(), st.data())
def test_one_changed_byte_of_the_documents_never_gives_the_same_record(record, data):
    payloads = record.to_tensors()
    name = data.draw(st.sampled_from(["record", "entries"]))
    changed = bytearray(payloads[name])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = BaseRecord.from_tensors(payloads | {name: bytes(changed)})
    except SafelatchError:
        return
    assert name == "record"  # entries cannot change under their digest
    assert read != record


@settings(max_examples=200, deadline=None)
@given(NAMES, st.lists(st.integers(1, 2**20), max_size=3).map(tuple))
def test_the_parts_of_a_sketch_are_sorted_unique_and_inside(name, shape):
    where, parts = positions(name, shape), extent(shape)
    assert len(where) == parts.count
    grid = parts.flat + parts.rows * parts.columns
    for part in (where[: parts.flat], where[parts.flat : grid], where[grid:]):
        assert (part[1:] > part[:-1]).all()
        assert ((part >= 0) & (part < prod(shape))).all()
