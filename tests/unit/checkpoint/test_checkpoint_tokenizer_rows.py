"""The long rows of a tokenizer are digested from their bytes, and only where nothing is unusual."""

from __future__ import annotations

import json

import pytest

from registry.checkpoint._tokenizer_rows import parse_without_rows
from registry.checkpoint.texts import tokenizer_digest
from registry.digest import digest_bytes, parse_json
from registry.errors import UnsafeFormatError

VOCAB = {"b": 7, "a": 0, '"': 10, "\\": 2, '": ': 3, "": 4, "\x7f é\U0001f600": 5, "\ufb33": 6}
PAIRS = [["a", "b"], ['"],["', "\\"], ["", ""], [" ", "\U0001f600"]]
LINES = ["a b", '", \\', "é \x7f"]


def document(**model):
    return {"added_tokens": [], "model": {"type": "BPE", "vocab": VOCAB, "merges": PAIRS} | model}


def written(value, indent=2):
    return json.dumps(value, indent=indent, ensure_ascii=False).encode()


def taken(data):
    return parse_without_rows(data, what="tokenizer.json", limit=1 << 20)


def digest_of(folder, data):
    (folder / "tokenizer.json").write_bytes(data)
    return tokenizer_digest(folder)


@pytest.mark.parametrize("indent", [1, 2, 4])
@pytest.mark.parametrize("merges", [PAIRS, LINES, PAIRS[:1], LINES[:1]], ids=str)
def test_the_digest_is_that_of_the_parsed_rows(tmp_path, indent, merges):
    data = written(document(merges=merges), indent)
    model = taken(data)["model"]
    rows = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for name, value in (("vocab", sorted(VOCAB.items())), ("merges", rows)):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert model[name] == digest_bytes(text.encode())
    assert digest_of(tmp_path, data) == digest_of(tmp_path, written(document(merges=merges), None))


def test_a_vocabulary_without_merges_is_taken():
    value = {"model": {"type": "WordLevel", "vocab": VOCAB, "unk_token": "a"}}
    assert taken(written(value))["model"]["vocab"].startswith("blake3:")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"a": 0', b'"a": 00'),
        (b'"a": 0', b'"a": -0'),
        (b'"a": 0', b'"a": -1'),
        (b'"a": 0', b'"a": 0.5'),
        (b'"a": 0', b'"a": NaN'),
        (b'"a": 0', b'"a": 1e999'),
        (b'"a": 0', b'"a": '),
        (b'"a": 0', b'"a": 1' + b"0" * 15),
        (b'"a": 0', b'"a":  0'),
        (b'"a": 0', b'"a" : 0'),
        (b'"a": 0', b'"a\\": 0'),
        (b'"a": 0', b'"a": 0": 0'),
        (b'"a": 0', b'"a\x1f0'),
        (b'"a": 0', b'"a"b": 0'),
        (b'"a": 0', b'"b": 0'),
        (b'"a": 0', b'"\\u0062": 0'),
        (b'"a": 0', b'"\\ud800": 0'),
        (b'"a": 0', b'"\xed\xa0\x80": 0'),
        (b'"a": 0', b'"\xff": 0'),
        (b'"a": 0', b'"a\n": 0'),
        (b'"a": 0', b'"a\t": 0'),
        (b'"a": 0', b'"\\a": 0'),
        (b'"a": 0', b'"a": \\\\0'),
        (b'"a": 0', b'"a": "0"'),
        (b'"a": 0,', b'"a": 0'),
        (b'"a": 0,', b'"a": 0,,'),
        (b'"a": 0,\n      "', b'"a": 0\n'),
        (b'"a": 0,\n      "', b'"a\x1f0,\n      "": '),
    ],
)
def test_an_unusual_vocabulary_is_left_to_the_strict_parser(tmp_path, old, new):
    data = written(document())
    assert data.count(old) == 1
    changed = data.replace(old, new)
    found = taken(changed)
    assert found is None or isinstance(found["model"]["vocab"], dict)
    require_the_same_as_parsed(tmp_path, changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"b"\n', b'"b",\n        "c"\n'),
        (b'"b"\n', b"7\n"),
        (b'"b"\n', b"null\n"),
        (b'"b"\n', b'"b"x\n'),
        (b'"b"\n', b'"b""\n'),
        (b'"b"\n', b'"b\\"\n'),
        (b'"b"\n', b'"\\u0062"\n'),
        (b'"b"\n', b'"\\ud800"\n'),
        (b'"b"\n', b'"b\x1f"\n'),
        (b'"b"\n', b'"b\x00"\n'),
        (b'"b"\n', b'"\xff\xfe"\n'),
        (b'"b"\n', b'"b"\n\n'),
        (b'        "a",\n        "b"\n', b""),
        (b'        "a",\n        "b"\n', b'        "a b"\n'),
        (b'"a",\n        "b"', b'"a", "b"'),
    ],
)
def test_unusual_merges_are_left_to_the_strict_parser(tmp_path, old, new):
    data = written(document())
    assert data.count(old) == 1
    changed = data.replace(old, new)
    found = taken(changed)
    assert found is None or isinstance(found["model"]["merges"], list)
    require_the_same_as_parsed(tmp_path, changed)


@pytest.mark.parametrize("row", ["ab", "a b c", "a\\u0020b", "a\x7fb", " "])
def test_merges_of_another_number_of_words_have_the_digest_of_their_rows(tmp_path, row):
    require_the_same_as_parsed(tmp_path, written(document(merges=["a b", row])))


@pytest.mark.parametrize(
    "value",
    [
        {"vocab": VOCAB, **document()},
        document() | {"vocab": VOCAB},
        {"inner": {"vocab": VOCAB, "merges": PAIRS}, **document()},
        {"inner": {"vocab": VOCAB, "merges": PAIRS}, "model": {"vocab": {}, "merges": []}},
        {"model": {"inner": {"vocab": VOCAB, "merges": PAIRS}}},
        {"model": [{"vocab": VOCAB}]},
        {"vocab": VOCAB},
    ],
    ids=["before", "after", "first", "alone", "deeper", "list", "no model"],
)
def test_rows_that_stand_elsewhere_are_not_the_models(tmp_path, value):
    require_the_same_as_parsed(tmp_path, written(value))


def test_a_member_named_twice_is_refused_though_its_rows_were_taken(tmp_path):
    data = written(document()).replace(b'"type": "BPE"', b'"vocab": {}')
    assert taken(data) is None
    with pytest.raises(UnsafeFormatError, match="member 'vocab' appears twice"):
        digest_of(tmp_path, data)


def test_a_digest_that_the_file_itself_holds_is_not_taken_for_the_rows(tmp_path):
    digest = taken(written(document()))["model"]["vocab"]
    value = {"inner": {"vocab": VOCAB}, "model": {"vocab": digest, "merges": []}}
    data = written(value)
    assert digest_of(tmp_path, data) == digest_of(tmp_path, written(value, None))
    plain = {"inner": {"vocab": digest}, "model": {"vocab": digest, "merges": []}}
    assert digest_of(tmp_path, data) != digest_of(tmp_path, written(plain))


def require_the_same_as_parsed(folder, data):
    """Fail unless ``data`` has the digest of the same document in one line, or its refusal."""
    refusal = None
    try:
        value = parse_json(data, what="tokenizer.json", limit=1 << 20)
    except UnsafeFormatError as error:
        refusal = error.message
    if refusal is None:
        expected = digest_of(folder, json.dumps(value).encode())
        assert digest_of(folder, data) == expected
        return
    with pytest.raises(UnsafeFormatError) as refused:
        digest_of(folder, data)
    assert refused.value.message == refusal
