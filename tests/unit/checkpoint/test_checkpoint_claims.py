from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.checkpoint.claims import (
    CLAIM_FILES,
    LONGEST_CLAIM,
    MOST_CLAIMS,
    Claim,
    claims_in,
    read_claims,
)
from registry.errors import UnsafeFormatError

if TYPE_CHECKING:
    from pathlib import Path

yaml = pytest.importorskip("yaml")


def card(front: str) -> dict[str, bytes]:
    return {"README.md": f"---\n{front}\n---\n# A model\n".encode()}


def bases(front: str) -> list[str]:
    return [claim.base for claim in claims_in(card(front))]


def test_the_three_places_are_read_in_their_order_and_one_base_is_one_claim(
    tmp_path: Path,
) -> None:
    adapter = {"base_model_name_or_path": "org/base", "revision": "v1", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "org/base"}))
    (tmp_path / "README.md").write_text(
        "---\nbase_model: [org/other, org/base]\nbase_model_relation: merge\n---\ntext"
    )
    assert read_claims(tmp_path) == (
        Claim(("adapter_config.json", "README.md", "config.json"), "org/base", "adapter", "v1"),
        Claim(("README.md",), "org/other", "merge"),
    )


def test_a_folder_without_these_files_claims_nothing(tmp_path: Path) -> None:
    assert read_claims(tmp_path) == ()


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("base_model: org/base", ["org/base"]),
        ("license: mit\nbase_model:   org/base  # the origin\ntags: [x]", ["org/base"]),
        ("base_model: 'org/base'", ["org/base"]),
        ('base_model: "org/a base"', ["org/a base"]),
        ("base_model: 'it''s'", ["it's"]),
        ("base_model: [org/a, 'org/b', \"org/c\"]", ["org/a", "org/b", "org/c"]),
        ("base_model:\n- org/a\n- 'org/b'", ["org/a", "org/b"]),
        ("base_model:\n\n  # two\n  - org/a\n  - org/b\nlicense: mit", ["org/a", "org/b"]),
        ("base_model: gpt2", ["gpt2"]),
        ("base_model: 01-ai/Yi-6B", ["01-ai/Yi-6B"]),
        ("base_model: []", []),
    ],
)
def test_the_forms_that_cards_have_are_read_as_yaml_reads_them(
    front: str, expected: list[str]
) -> None:
    assert bases(front) == expected
    stated = yaml.safe_load(front)["base_model"]
    assert (stated if isinstance(stated, list) else [stated]) == expected


@pytest.mark.parametrize(
    "front",
    [
        "base_model: &a org/base",
        "x: &a org/base\nbase_model: *a",
        "base_model: !!python/object/apply:os.system ['true']",
        "base_model: |\n  org/base",
        "base_model: >-\n  org/base",
        "base_model: {name: org/base}",
        "base_model:\n  name: org/base",
        "base_model:\n- name: org/base",
        "base_model:\n- org/a\n  org/b",
        "base_model:\n- org/a\n    - org/b",
        "base_model: org/a\n  org/b",
        "base_model: [org/a,\n  org/b]",
        "base_model: [org/a, [org/b]]",
        "base_model: org/a\nbase_model: org/b",
        'base_model: "org/\\x62ase"',
        "base_model: 'org/base\n  more'",
        "base_model: null",
        "base_model: 3.5",
        "base_model: 12:30",
        "base_model: yes",
        "base_model: org/base: more",
        "base_model:org/base",
        "other: x\x85base_model: org/base",
        "# x\u2028y\nbase_model: org/base",
        "base_model: ''",
        "base_model: ' org/base'",
        "base_model: 'org/\x07base'",
        "base_model: 'org/\u202ebase'",
        "base_model:\n- org/a\n- &b org/b",
        "Base_Model: org/base",
        "  base_model: org/base",
    ],
)
def test_a_front_matter_that_is_not_understood_claims_nothing(front: str) -> None:
    assert bases(front) == []


@pytest.mark.parametrize(
    "text",
    [
        "base_model: org/base",
        "---\nbase_model: org/base\n",
        "# title\n---\nbase_model: org/base\n---\n",
        "--- x\nbase_model: org/base\n---\n",
    ],
)
def test_text_that_is_no_front_matter_claims_nothing(text: str) -> None:
    assert claims_in({"README.md": text.encode()}) == ()


def test_a_relation_that_nobody_defined_is_left_out() -> None:
    (claim,) = claims_in(card("base_model: org/base\nbase_model_relation: child"))
    assert claim.relation is None


@pytest.mark.parametrize(
    "value",
    [3, None, True, ["org/base"], {"a": 1}, "", " x", "a\nb", "a\x1b[31m", "x" * 513, "\ufffd"],
)
def test_a_value_that_cannot_be_a_name_is_no_claim(value: Any) -> None:
    text = json.dumps({"_name_or_path": value, "base_model_name_or_path": value}).encode()
    assert claims_in({"config.json": text, "adapter_config.json": text}) == ()


def test_a_name_of_the_longest_length_is_a_claim() -> None:
    text = json.dumps({"_name_or_path": "x" * LONGEST_CLAIM}).encode()
    assert [claim.base for claim in claims_in({"config.json": text})] == ["x" * LONGEST_CLAIM]


@pytest.mark.parametrize("name", ["adapter_config.json", "config.json"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "a": 2}', "member 'a' appears twice"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"[]", "expected a JSON object"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_json_that_is_not_strict_is_refused(name: str, data: bytes, says: str) -> None:
    with pytest.raises(UnsafeFormatError, match=says):
        claims_in({name: data})


def test_an_adapter_config_of_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "adapter_config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnsafeFormatError, match="expected at most 1,048,576 bytes"):
        read_claims(tmp_path)


def test_of_a_long_card_only_the_beginning_is_read(tmp_path: Path) -> None:
    with (tmp_path / "README.md").open("wb") as file:
        file.write(card("base_model: org/base")["README.md"])
        file.truncate(1 << 40)
    assert [claim.base for claim in read_claims(tmp_path)] == ["org/base"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_place_of_the_card_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(UnsafeFormatError, match="expected a regular file"):
        read_claims(tmp_path)


def test_more_bases_than_the_limit_are_cut() -> None:
    front = f"base_model: [{', '.join(f'org/m{n}' for n in range(1000))}]"
    assert bases(front) == [f"org/m{n}" for n in range(MOST_CLAIMS)]


def test_a_flow_list_is_read_no_further_than_the_limit() -> None:
    known = ", ".join(f"org/m{n}" for n in range(MOST_CLAIMS))
    assert bases(f"base_model: [{known}, *anchor]") == [f"org/m{n}" for n in range(MOST_CLAIMS)]
    assert bases("base_model: [org/one, *anchor]") == []


@pytest.mark.timeout(60)  # each is one pass; what goes back and forth in a megabyte takes hours
@pytest.mark.parametrize(
    "line",
    [
        "base_model: " + "[" * 1_000_000,
        "base_model: [" + "] " * 500_000,
        "base_model: [" + "a," * 500_000 + "?",
        "base_model: " + "'" * 1_000_000,
        "base_model: a" + " " * 1_000_000 + "b",
        "base_model: a" + " #" * 500_000,
        "\n".join(["base_model:", *["- a"] * 250_000]),
        "\n".join(["base_model: a"] * 70_000),
        "a: &a [x,x]\n"
        + "\n".join(f"b{n}: &b{n} [*a,*a,*a]" for n in range(50))
        + "\nbase_model: *b9",
    ],
)
def test_a_card_made_to_keep_a_parser_busy_is_over_soon(line: str) -> None:
    assert len(claims_in(card(line))) <= MOST_CLAIMS


TEXTS = st.text(st.sampled_from("ab/:- #'\"[]{}&*!|>,\\\n\t\r~.1\x85\u2028é"), max_size=24)
FRONTS = st.lists(
    st.tuples(st.sampled_from(["base_model:", "base_model: ", "- ", "  - ", "x: ", "base_model_relation: ", ""]), TEXTS)
    .map("".join), max_size=6,
).map("\n".join)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CLAIM_FILES)), st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_own_error(name: str, data: bytes) -> None:
    for content in (data, b"---\nbase_model: " + data + b"\n---\n"):
        try:
            claims = claims_in({name: content})
        except UnsafeFormatError:
            assert name != "README.md"
            continue
        assert len(claims) <= MOST_CLAIMS
        assert all(0 < len(c.base) <= LONGEST_CLAIM and c.base.isprintable() for c in claims)


@settings(max_examples=300, deadline=None)
@given(FRONTS)
def test_what_is_claimed_is_what_yaml_reads_or_yaml_refuses(front: str) -> None:
    claims = claims_in(card(front))
    assert all(len(c.base) <= LONGEST_CLAIM for c in claims)
    if not claims:
        return
    try:
        stated = yaml.safe_load(front)["base_model"]
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        return
    listed = stated if isinstance(stated, list) else [stated]
    assert {c.base for c in claims} <= {item for item in listed if isinstance(item, str)}
