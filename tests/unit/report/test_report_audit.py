from __future__ import annotations

from typing import Any

import pytest

from registry.artifact.schema import validate
from registry.errors import SchemaViolationError
from registry.report.audit import COLUMNS, audit_document, audit_table, audit_text
from registry.workflows.audit import WORDS, AuditRow

DIGEST = "blake3:" + "ab" * 32
STAMP = "2030-01-02T03:04:05Z"


def row(model: str, state: Any = "available", **changes: Any) -> dict[str, Any]:
    made = AuditRow(
        **{
            "model": model, "weights": DIGEST, "claimed_base": None, "base": "tiny",
            "relation": "derived", "evidence_level": 3, "distance": 0.01, "artifact": "lock@1.0",
            "kind": "safety-lock", "declared": False, "stored": False, "applied_at": None,
            "verified_at": None, "state": state, "reason": WORDS[state],
        }
        | changes
    )  # fmt: skip
    return made.to_dict() | {"protected": made.is_protected}


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    return audit_document(
        rows, states=dict(WORDS), created=STAMP, tool="safelatch 0", registry="sqlite:///r.db"
    )


def test_document_follows_its_schema_in_every_state() -> None:
    made = document(
        row("a", "verified", applied_at=STAMP, verified_at=STAMP),
        row("b", "stored", stored=True),
        row("c"),
        row("d", "refused"),
        row("e", "no-artifact", artifact=None, kind=None),
        row("f", "no-base", artifact=None, kind=None, base=None, relation=None, distance=None),
        row("g", "unreadable", weights=None, artifact=None, kind=None, base=None, relation=None),
    )
    validate(made, "audit_report.v1", what="report")
    assert made["summary"] == {
        "models": 7, "protected": 2, "by_state": dict.fromkeys(sorted(WORDS), 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"protected": True},
        {"state": "verified", "protected": True},
        {"state": "stored", "protected": True, "stored": False},
        {"state": "protected"},
        {"weights": "sha256:00"},
        {"applied_at": "yesterday"},
    ],
)
def test_schema_refuses_a_word_that_was_not_earned(changes: dict[str, Any]) -> None:
    made = document(row("a"))
    made["rows"][0] |= changes
    with pytest.raises(SchemaViolationError):
        validate(made, "audit_report.v1", what="report")


def test_model_with_one_protecting_artifact_of_two_counts_once() -> None:
    verified = row("a", "verified", applied_at=STAMP, verified_at=STAMP)
    for rows in ((row("a"), verified, row("b")), (verified, row("a"), row("b"))):
        summary = document(*rows)["summary"]
        assert (summary["models"], summary["protected"]) == (2, 1)


def test_text_says_the_answer_first_and_keeps_the_four_words_apart() -> None:
    rows = row("a", "verified", applied_at=STAMP, verified_at=STAMP), row("b", declared=True)
    text = audit_text(document(*rows)).splitlines()
    assert text[0] == "not protected  1 of 2 models are protected"
    header, first, second = (line.split() for line in text[2:5])
    words = {w: header.index(w) for w in ("declared", "stored", "applied", "verified")}
    assert [first[i] for i in words.values()] == ["no", "no", STAMP, STAMP]
    assert [second[i] for i in words.values()] == ["yes", "no", "-", "-"]
    assert any(line.startswith("available  an artifact fits") for line in text)
    assert text[-1].startswith("declared: a name or card says so; stored:")


def test_text_calls_it_protected_only_when_every_model_is() -> None:
    protected = row("a", "stored", stored=True)
    assert audit_text(document(protected)).startswith("protected  1 of 1 models are protected\n")
    told = audit_text(document(protected, row("b")))
    assert told.startswith("not protected  1 of 2 models are protected\n")


def test_hostile_model_name_cannot_forge_a_line() -> None:
    text = audit_text(document(row("evil\nprotected  9 of 9 models\x1b[2J")))
    assert "\nprotected" not in text
    assert "\x1b" not in text


def test_csv_has_every_member_of_the_json_rows() -> None:
    made = document(row("a"))
    assert audit_table(made).records() == made["rows"]
    assert set(COLUMNS) == set(made["rows"][0])
