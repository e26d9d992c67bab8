from __future__ import annotations

import csv
import io
import json

import pytest

from registry.report.table import Table, cell, pairs, printable, to_json

DIGEST = "blake3:" + "0123456789abcdef" * 4
TABLE = Table(
    ("name", "stored", "distance", "digest"),
    (("a lock", True, 0.0123456, DIGEST), ("b", False, None, None)),
)


def test_text_is_aligned_and_cuts_digests() -> None:
    assert TABLE.to_text().splitlines() == [
        "name    stored  distance  digest",
        "a lock  yes     0.01235   blake3:0123456789ab…",
        "b       no      -         -",
    ]


def test_csv_keeps_every_value_whole() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.to_csv())))
    assert rows == [
        ["name", "stored", "distance", "digest"],
        ["a lock", "true", "0.0123456", DIGEST],
        ["b", "false", "", ""],
    ]


def test_csv_value_with_comma_quote_and_newline_survives() -> None:
    value = 'one, "two"\nthree'
    rows = list(csv.reader(io.StringIO(Table(("x",), ((value,),)).to_csv(), newline="")))
    assert rows[1] == [value]


def test_records_are_the_same_columns_with_values_as_they_are() -> None:
    assert TABLE.records()[0] == {
        "name": "a lock", "stored": True, "distance": 0.0123456, "digest": DIGEST,
    }  # fmt: skip


def test_table_without_rows_prints_nothing_but_keeps_its_csv_header() -> None:
    empty = Table(("a", "b"), ())
    assert not empty.to_text()
    assert empty.to_csv() == "a,b\n"


def test_row_with_a_missing_value_is_an_error_not_a_shift() -> None:
    with pytest.raises(ValueError, match="zip"):
        Table(("a", "b"), ((1,),)).records()


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\r\nc") == "a\\x1b[31mb\\r\\nc"
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"
    assert Table(("x",), (("one\ntwo\x1b]0;t\x07",),)).to_text().count("\n") == 1


def test_undecodable_path_can_be_printed() -> None:
    assert printable("a\udcffb").encode("utf-8") == b"a\\udcffb"


def test_pairs_keep_digests_whole() -> None:
    assert pairs({"a": DIGEST, "long": [1, 2]}) == f"a     {DIGEST}\nlong  1, 2"


def test_empty_list_is_a_dash() -> None:
    assert cell([]) == cell(None) == cell("") == "-"


def test_json_refuses_what_is_not_json() -> None:
    assert json.loads(to_json({"a": "ü"})) == {"a": "ü"}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"distance": float("inf")})
