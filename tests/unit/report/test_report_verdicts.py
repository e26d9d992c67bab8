from __future__ import annotations

from typing import Any

import pytest

from registry.report.verdicts import (
    check_text,
    effect_text,
    inspections_csv,
    inspections_table,
    inspections_text,
    line,
    sweep_table,
)


def finding(severity: str, code: str) -> dict[str, str]:
    return {"severity": severity, "code": code, "message": f"about {code}"}


def test_refusal_says_decision_artifact_and_code_first_then_the_rest() -> None:
    report = {
        "verdict": "refused",
        "artifact": "lock@1.0",
        "measured": None,
        "findings": [
            finding("error", "base-mismatch"),
            finding("error", "config"),
            finding("warning", "tokenizer"),
        ],
    }
    assert check_text(report, model="m", lineage="of another structure").splitlines() == [
        "refused  lock@1.0  base-mismatch  about base-mismatch",
        "error  config  about config",
        "warning  tokenizer  about tokenizer",
    ]


def test_compatible_keeps_its_warnings() -> None:
    report: dict[str, Any] = {"verdict": "compatible", "artifact": "lock@1.0", "measured": None}
    report["findings"] = [finding("warning", "chat-template")]
    assert check_text(report, model="m", lineage="a fine-tune").splitlines() == [
        "compatible  lock@1.0  m  a fine-tune",
        "warning  chat-template  about chat-template",
    ]


def test_line_leaves_out_what_is_empty_and_escapes_control_characters() -> None:
    assert line("done", None, "", 0, "a\nb") == "done  0  a\\nb"


def test_inspections_of_kinds_with_other_members_share_one_table() -> None:
    common = {"kind": "k", "model": "m"}
    table = inspections_table([
        {**common, "artifact": "a@1", "stored": True, "found": {"stored": True, "alpha": 2.0}},
        {**common, "artifact": "b@1", "stored": False, "found": {"stored": False, "share": 0.5}},
    ])  # fmt: skip
    assert table.columns == ("decision", "artifact", "kind", "model", "alpha", "share")
    assert table.rows == (
        ("stored", "a@1", "k", "m", 2.0, None),
        ("not-stored", "b@1", "k", "m", None, 0.5),
    )


def test_what_a_kind_shows_in_words_stands_below_the_table_and_many_rows_are_cut() -> None:
    rows = [{"matrix": f"m{number}", "drift": 0.5} for number in range(32)]
    shown = {"selected": "3 of 4", "others": rows}
    document = {"artifact": "a@1", "kind": "k", "model": "m", "stored": False}
    text = inspections_text([{**document, "found": {"equal": 3, "rows": rows}, "shown": shown}])
    lines = text.splitlines()
    assert lines[:8] == [
        "decision    artifact  kind  model",
        "not-stored  a@1       k     m",
        "",
        "a@1  m",
        "selected  3 of 4",
        "",
        "matrix  drift",
        "m0      0.5",
    ]
    assert lines[-2:] == ["m29     0.5", "and 2 more; all of them: --format json"]
    without = inspections_text([{**document, "found": {"equal": 3}, "shown": None}])
    assert without.splitlines() == [
        "decision    artifact  kind  model  equal", "not-stored  a@1       k     m      3",
    ]  # fmt: skip


def test_inspections_for_machines_have_the_same_columns_whatever_the_kind_found() -> None:
    common = {"kind": "k", "model": "m", "weights": "w", "digest": "d", "loader_keeps": False}
    documents = [
        {**common, "artifact": "a@1", "stored": True, "found": {"alpha": 2.0}},
        {**common, "artifact": "b@1", "stored": False, "found": {"share": 0.5}},
    ]
    table = inspections_csv(documents)
    assert table.columns == inspections_csv([]).columns
    assert [row[-1] for row in table.rows] == ['{"alpha": 2.0}', '{"share": 0.5}']


def refused(count: int) -> dict[str, Any]:
    return {"successes": count, "n": 8, "value": count / 8}


def calibration(*, unlocked: int, locked: int, random: int) -> dict[str, Any]:
    costs = {"over_refusal_rise": 0.25, "nll_rise": None}
    return {
        "alpha": 2.5,
        "unlocked": {"harmful": {"rate": refused(unlocked)}},
        "sweep": [
            {"alpha": 2.5, "inside_budget": True, "refusal": refused(locked), **costs},
            {"alpha": 3.0, "inside_budget": False, "reason": "not finite"},
        ],
        "random_control": {"alpha": 2.5, "seed": 0, "refusal": refused(random), **costs},
    }


def test_sweep_begins_without_the_lock_and_ends_with_the_random_control() -> None:
    table = sweep_table(calibration(unlocked=1, locked=4, random=2))
    assert table.rows == (
        (0.0, None, 0.125, 0.0, 0.0, "no lock"),
        (2.5, True, 0.5, 0.25, None, None),
        (3.0, False, None, None, None, None),
        (2.5, None, 0.25, 0.25, None, "random directions"),
    )


@pytest.mark.parametrize(("unlocked", "locked", "random"), [(1, 0, 1), (1, 2, 2), (3, 3, 0)])
def test_lock_that_refuses_no_more_than_none_or_a_random_one_is_said_to_have_no_effect(
    unlocked: int, locked: int, random: int
) -> None:
    assert effect_text(calibration(unlocked=unlocked, locked=locked, random=random)) == (
        f"at alpha 2.5 it refuses {locked} of 8 harmful prompts, without it {unlocked} of 8, "
        f"with random directions {random} of 8: no effect was seen"
    )


def test_lock_that_refuses_more_than_none_and_a_random_one_needs_no_word() -> None:
    assert effect_text(calibration(unlocked=1, locked=3, random=2)) is None
