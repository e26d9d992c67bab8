from __future__ import annotations

import json

import pytest

from registry.checkpoint.texts import chat_template_digest, tokenizer_digest
from registry.digest import digest_bytes
from registry.errors import UnsafeFormatError

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "model": {
        "type": "BPE",
        "dropout": None,
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": [["a", "b"]],
    },
}


def digest_of(folder, document):
    (folder / "tokenizer.json").write_text(json.dumps(document, indent=1))
    return tokenizer_digest(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2.0"},
        {"truncation": {"max_length": 8}},
        {"padding": {"strategy": "BatchLongest"}},
        {"model": TOKENIZER["model"] | {"merges": ["a b"]}},
        {"model": TOKENIZER["model"] | {"ignore_merges": False, "unk_token": None}},
        {"model": TOKENIZER["model"] | {"vocab": {"ab": 2, "b": 1, "a": 0}}},
    ],
)
def test_spellings_of_one_tokenizer_have_one_digest(tmp_path, change):
    assert digest_of(tmp_path, TOKENIZER | change) == digest_of(tmp_path, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": []},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"model": TOKENIZER["model"] | {"merges": []}},
        {"model": TOKENIZER["model"] | {"merges": [["b", "a"]]}},
        {"model": TOKENIZER["model"] | {"ignore_merges": True}},
        {"model": TOKENIZER["model"] | {"vocab": {"a": 1, "b": 0, "ab": 2}}},
    ],
)
def test_another_tokenizer_has_another_digest(tmp_path, change):
    assert digest_of(tmp_path, TOKENIZER | change) != digest_of(tmp_path, TOKENIZER)


def test_without_tokenizer_json_the_raw_files_count(tmp_path):
    assert tokenizer_digest(tmp_path) is None
    (tmp_path / "vocab.json").write_bytes(b"{}")
    assert tokenizer_digest(tmp_path) is None
    (tmp_path / "merges.txt").write_bytes(b"a b")
    pair = tokenizer_digest(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"b a")
    assert tokenizer_digest(tmp_path) not in {pair, None}
    (tmp_path / "tokenizer.model").write_bytes(b"model")
    assert tokenizer_digest(tmp_path) == digest_bytes(b"model")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a": 1, "a": 1}', '{"a": 1e999}', '{"a": "\\ud800"}']
)
def test_a_malformed_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UnsafeFormatError, match=r"tokenizer\.json"):
        tokenizer_digest(tmp_path)


def write_config(folder, template):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


def test_a_template_is_its_text_wherever_it_is_stored(tmp_path):
    assert chat_template_digest(tmp_path) is None
    write_config(tmp_path, None)
    assert chat_template_digest(tmp_path) is None
    expected = digest_bytes("{{ é }}\n".encode())
    for template in (
        "{{ é }}\n",
        [{"name": "default", "template": "{{ é }}\n"}],
        {"default": "{{ é }}\n"},
    ):
        write_config(tmp_path, template)
        assert chat_template_digest(tmp_path) == expected
    write_config(tmp_path, "another")
    (tmp_path / "chat_template.jinja").write_bytes("{{ é }}\n".encode())
    assert chat_template_digest(tmp_path) == expected


def test_named_templates_count_all(tmp_path):
    write_config(tmp_path, [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}])
    listed = chat_template_digest(tmp_path)
    assert listed not in {None, digest_bytes(b"a")}
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("a")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("b")
    assert chat_template_digest(tmp_path) == listed


@pytest.mark.parametrize("template", [7, ["a"], [{"name": "a"}], {"default": 1}])
def test_a_template_that_is_no_text_is_refused(tmp_path, template):
    write_config(tmp_path, template)
    with pytest.raises(UnsafeFormatError, match="chat_template"):
        chat_template_digest(tmp_path)


def test_a_template_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UnsafeFormatError, match="UTF-8"):
        chat_template_digest(tmp_path)
