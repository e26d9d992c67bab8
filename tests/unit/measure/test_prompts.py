from __future__ import annotations

import json
from collections import Counter

import pytest

from registry.digest import digest_bytes
from registry.errors import NotFoundError, SchemaViolationError, UnsafeFormatError, UsageError
from registry.measure import prompts as module
from registry.measure.prompts import (
    PACKAGED,
    Pair,
    load_pairs,
    load_prompts,
    read_pairs,
    read_prompts,
)

ROW = {
    "id": "own-1", "prompt": "Name a river.", "form": "imperative", "topic": "geography",
    "split": "make",
}  # fmt: skip
PAIR = ROW | {"refusing": "I won't.", "complying": "The Danube."}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def violations(path, read=read_prompts):
    with pytest.raises(SchemaViolationError) as caught:
        read(path)
    assert caught.value.hint.startswith("Write one JSON object a line: ")
    return caught.value.violations


# the packaged sets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"),
    [("preference_pairs", 100), ("harmful", 200), ("harmless", 300), ("scary", 100)],
)
def test_packaged_set_is_large_enough_and_half_questions(name, least):
    prompts = load_prompts(name)
    forms = Counter(row.form for row in prompts.rows)
    assert len(prompts) >= least
    assert abs(forms["question"] - forms["imperative"]) <= 0.1 * len(prompts)
    assert prompts.version == "1"
    assert prompts.part is None


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("split", ["make", "calibrate", "report"])
def test_each_prefix_of_a_packaged_split_is_mixed_in_form(name, split):
    rows = load_prompts(name).split(split).rows
    for n in range(10, len(rows) + 1):
        questions = sum(row.form == "question" for row in rows[:n])
        assert 0.3 <= questions / n <= 0.7, f"{questions} questions in the first {n}"
    assert len({row.topic for row in rows[:10]}) >= 3


def test_packaged_sets_share_no_id_and_no_prompt():
    rows = [(name, row) for name in PACKAGED for row in load_prompts(name).rows]
    ids = Counter(row.id for _, row in rows)
    texts = Counter(" ".join(row.prompt.casefold().split()) for _, row in rows)
    assert [key for key, n in ids.items() if n > 1] == []
    assert [key for key, n in texts.items() if n > 1] == []


@pytest.mark.parametrize("name", PACKAGED)
def test_splits_of_a_packaged_set_are_disjoint_and_cover_it(name):
    prompts = load_prompts(name)
    parts = [prompts.split(split) for split in ("make", "calibrate", "report")]
    texts = [text for part in parts for text in part.texts]
    assert len(texts) == len(set(texts)) == len(prompts)
    assert {part.digest for part in parts} == {prompts.digest}


def test_packaged_pairs_have_both_answers():
    pairs = load_pairs()
    assert all(isinstance(row, Pair) and row.refusing != row.complying for row in pairs.rows)
    assert pairs.texts == load_prompts("preference_pairs").texts


def test_unknown_set_is_refused_with_the_list():
    with pytest.raises(NotFoundError, match="harmful, harmless, preference_pairs, scary"):
        load_prompts("../harmful")


# parts and receipts -----------------------------------------------------------------------


def test_describe_names_the_rows_for_a_receipt():
    part = load_prompts("harmful").split("report").first(7)
    assert part.describe() == {
        "name": "harmful",
        "version": "1",
        "digest": load_prompts("harmful").digest,
        "split": "report",
        "rows": 7,
    }
    assert part.rows == load_prompts("harmful").split("report").rows[:7]


def test_first_of_more_than_there_are_says_how_many_there_were(tmp_path):
    prompts = read_prompts(write(tmp_path / "own.jsonl", ROW))
    assert prompts.first(50).describe()["rows"] == 1


@pytest.mark.parametrize("n", [0, -3])
def test_first_of_none_is_refused(n, tmp_path):
    with pytest.raises(UsageError, match="at least 1 row of own"):
        read_prompts(write(tmp_path / "own.jsonl", ROW)).first(n)


def test_split_without_rows_is_refused(tmp_path):
    prompts = read_prompts(write(tmp_path / "own.jsonl", ROW))
    with pytest.raises(NotFoundError, match="'report' in own, got make 1"):
        prompts.split("report")


# a user's own file ------------------------------------------------------------------------


def test_own_file_is_read_with_the_digest_of_its_bytes(tmp_path):
    path = write(tmp_path / "own.jsonl", ROW, ROW | {"id": "own-2", "prompt": "Name a hill."})
    prompts = read_prompts(path)
    assert prompts.name == "own"
    assert prompts.version == "file"
    assert prompts.texts == ("Name a river.", "Name a hill.")
    assert prompts.digest == digest_bytes(path.read_bytes())


def test_own_pairs_are_read(tmp_path):
    pairs = read_pairs(write(tmp_path / "own.jsonl", PAIR))
    assert pairs.rows[0].refusing == "I won't."
    assert pairs.rows[0].complying == "The Danube."


def test_line_separator_inside_a_prompt_is_not_a_new_row(tmp_path):
    row = ROW | {"prompt": "one\u2028two\x85three"}
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(row, ensure_ascii=False).encode())
    assert read_prompts(path).texts == (row["prompt"],)


def test_every_fault_is_listed_with_its_line(tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [
        json.dumps(ROW),
        json.dumps(ROW | {"prompt": "name  A river."}),
        "not json",
        json.dumps(ROW | {"id": "own-4", "prompt": "x", "form": "poem", "split": "test"}),
        json.dumps({"id": "own-5", "prompt": "y"}),
        "",
        json.dumps(["a list"]),
        json.dumps(ROW | {"id": "own-8", "prompt": " padded"}),
        json.dumps(ROW | {"id": 9, "prompt": "z"}),
        '{"id": "own-10", "id": "own-11"}',
    ]
    path.write_text("\n".join(lines))
    found = violations(path)
    expected = [
        ("line 2", "id of line 1 again"),
        ("line 2", "prompt of line 1 again"),
        ("line 3", "not strict JSON"),
        ("line 4", "form: expected one of imperative, question, got 'poem'"),
        ("line 4", "split: expected one of make, calibrate, report, got 'test'"),
        ("line 5", "expected the members id, prompt, form, topic, split"),
        ("line 6", "not strict JSON"),
        ("line 7", "got list"),
        ("line 8", "prompt: expected text without blanks around it"),
        ("line 9", "id: expected text"),
        ("line 10", "not strict JSON"),
    ]
    assert len(found) == len(expected)
    for line, (where, what) in zip(found, expected, strict=True):
        assert line.startswith(f"{where}:")
        assert what in line


def test_pairs_are_not_read_as_prompts_nor_prompts_as_pairs(tmp_path):
    assert "refusing" in violations(write(tmp_path / "pairs.jsonl", PAIR))[0]
    assert "complying" in violations(write(tmp_path / "prompts.jsonl", ROW), read_pairs)[0]


def test_pair_of_two_equal_answers_is_refused(tmp_path):
    path = write(tmp_path / "pairs.jsonl", PAIR | {"complying": "I won't."})
    assert violations(path, read_pairs) == ["line 1: refusing and complying are one text"]


def test_empty_file_is_refused(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"")
    assert violations(path) == ["no lines"]


def test_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(NotFoundError, match="expected JSON lines at"):
            read_prompts(path)


def test_file_over_the_limit_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "own.jsonl", ROW)
    monkeypatch.setattr(module, "FILE_LIMIT", 10)
    with pytest.raises(UnsafeFormatError, match="at most 10 bytes"):
        read_prompts(path)
