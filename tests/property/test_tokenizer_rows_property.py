"""A tokenizer taken from its bytes has the digest that the strict parser gives the same bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from registry.checkpoint._tokenizer_rows import parse_without_rows
from registry.digest import digest_bytes, parse_json
from registry.errors import UnsafeFormatError

LIMIT = 1 << 20
words = st.text(st.sampled_from('ab "\\:,[]{}0\x7fé\U0001f600_'), max_size=4)
plain = st.text(st.sampled_from('ab"\\:,[]'), max_size=3)
vocabularies = st.dictionaries(words, st.integers(0, 10**15), min_size=1, max_size=6)
merges = st.lists(st.tuples(words, words), min_size=1, max_size=4) | st.lists(
    st.builds("{} {}".format, plain, plain), min_size=1, max_size=4
)
models = st.fixed_dictionaries({"vocab": vocabularies, "merges": merges})
FRAGMENTS = (
    b'"', b"\\", b'\\"', b"\\\\", b"\n", b",", b" ", b'": ', b',\n      "', b'",\n      "',
    b'",\n        "', b'"\n      ],\n      [\n        "', b"\n    }", b'"\n    ]', b"[", b"]", b"{",
    b"}", b"0", b"-0", b"9" * 16, b"\\ud800", b"\xff", b"\xfe", b"\x1f", b'"vocab": {\n      "',
)  # fmt: skip
edits = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 3), st.sampled_from(FRAGMENTS)), max_size=3
)


def edited(model, changes):
    data = json.dumps({"model": model}, indent=2, ensure_ascii=False).encode()
    for number, cut, fragment in changes:
        place = number % (len(data) + 1)
        data = data[:place] + fragment + data[place + cut :]
    return data


@given(models, edits)
def test_rows_that_are_taken_are_those_that_the_strict_parser_reads(model, changes):
    data = edited(model, changes)
    document = parse_without_rows(data, what="x", limit=LIMIT)
    if document is None:
        return
    parsed = parse_json(data, what="x", limit=LIMIT)["model"]
    rows = {
        "vocab": lambda value: sorted(value.items()),
        "merges": lambda value: [row.split(" ") if type(row) is str else row for row in value],
    }
    for name, found in document["model"].items():
        if found != parsed[name]:
            text = json.dumps(rows[name](parsed[name]), ensure_ascii=False, separators=(",", ":"))
            assert found == digest_bytes(text.encode())


@given(models)
def test_what_the_library_writes_is_taken(model):
    data = json.dumps({"model": model}, indent=2, ensure_ascii=False).encode()
    document = parse_without_rows(data, what="x", limit=LIMIT)
    assert document is not None
    short = max(model["vocab"].values()) < 10**15
    assert isinstance(document["model"]["merges"], str)
    assert isinstance(document["model"]["vocab"], str) == short


@given(models, edits)
def test_what_the_strict_parser_refuses_is_never_taken(model, changes):
    data = edited(model, changes)
    try:
        parse_json(data, what="x", limit=LIMIT)
    except UnsafeFormatError:
        assert parse_without_rows(data, what="x", limit=LIMIT) is None
