"""The command's whole story on tiny models: made, measured, published, checked, audited."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.cli_world import MEASURE, PAIRS, SMALL
from support.command_line import safelatch

from registry import load_protected
from registry.artifact.schema import validate

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World


def test_results_are_on_stdout_and_advice_on_stderr(world: World, published: Path) -> None:
    again = safelatch("init")
    assert again.out == f"opened  sqlite:///{world.folder / 'home/registry.db'}\n"
    assert not again.err
    out = world.folder / "second"
    made = safelatch("extract", "safety-lock", world.base, "--out", out, "--seed", 4, *SMALL)
    assert made.out.startswith(f"made  {out}  safety-lock  from tiny\n")
    assert made.err == f"next, measure its strength: safelatch calibrate {out}\n"
    assert published.is_dir()


def test_registered_base_is_found_by_its_weights_not_its_name(
    world: World, published: Path
) -> None:
    moved = world.folder / "copy-with-another-name"
    shutil.copytree(world.base, moved, dirs_exist_ok=True)
    outcome = safelatch("base", "add", moved, "--name", "other-name")
    digest = safelatch("fingerprint", world.base).out.strip()
    assert outcome.out == f"tiny  {digest}\n"
    assert "registered already, as tiny" in outcome.err


def test_list_and_show_agree_on_what_was_published(published: Path) -> None:
    listed = safelatch("list", "--format", "json").document
    assert [(row["artifact"], row["state"], row["base"]) for row in listed] == [
        ("lock@1.0", "active", "tiny")
    ]
    digest = safelatch("show", "lock@1.0", "--field", "digest")
    assert digest.out == f"{listed[0]['digest']}\n"
    shown = safelatch("show", "lock", "--format", "json").document
    assert shown["contents"]["alpha"] == shown["contents"]["alpha_range"][1]
    assert [receipt["type"] for receipt in shown["receipts"]] == ["extraction", "calibration"]
    assert shown["receipts"][0]["pairs_given"] == PAIRS  # those of split "make" alone
    assert safelatch("show", "lock").out.startswith("active  lock@1.0  safety-lock\n")
    rows = list(csv.DictReader(io.StringIO(safelatch("list", "--format", "csv").out)))
    assert rows[0]["digest"] == listed[0]["digest"]
    assert safelatch("show", published).out.startswith("not published  (draft)  safety-lock\n")


def test_publishing_the_same_again_is_no_news(published: Path) -> None:
    before = safelatch("log", "verify").out
    outcome = safelatch("publish", published, "--name", "lock", "--version", "1.0")
    assert outcome.status == 0
    assert outcome.out.startswith("already published  lock@1.0  blake3:")
    assert safelatch("log", "verify").out == before


def test_publish_refuses_other_content_under_a_published_version(
    world: World, published: Path
) -> None:
    other = world.folder / "other-lock"
    made = safelatch("extract", "safety-lock", "tiny", "--out", other, "--heads", 2)
    assert made.status == 0
    assert safelatch("calibrate", other, *MEASURE).status == 0
    outcome = safelatch("publish", other, "--name", "lock", "--version", "1.0")
    assert outcome.status == 3
    assert not outcome.out
    assert outcome.err.startswith("error [version-conflict]: ")


def test_publish_refuses_a_draft_whose_strength_was_not_measured(
    world: World, published: Path
) -> None:
    draft = world.folder / "unmeasured"
    assert safelatch("extract", "safety-lock", "tiny", "--out", draft, *SMALL).status == 0
    outcome = safelatch("publish", draft, "--name", "unmeasured", "--version", "1.0")
    assert (outcome.status, outcome.out) == (2, "")
    assert "safelatch calibrate" in outcome.err
    assert safelatch("show", "unmeasured").status == 1


def test_published_lock_is_recalibrated_only_into_a_new_draft(
    world: World, published: Path
) -> None:
    refused = safelatch("calibrate", "lock@1.0", *MEASURE)
    assert (refused.status, refused.out) == (2, "")
    assert "--out DIR" in refused.err
    out = world.folder / "recalibrated"
    outcome = safelatch("calibrate", "lock@1.0", *MEASURE, "--out", out, "--format", "json")
    assert outcome.status == 0
    assert outcome.document["receipt"]["type"] == "calibration"
    assert safelatch("show", out, "--field", "version").out == "null\n"


def test_calibration_outside_the_budget_is_an_honest_no(world: World, published: Path) -> None:
    draft = world.folder / "no-budget"
    shutil.copytree(published, draft)
    before = (draft / "manifest.json").read_bytes()
    outcome = safelatch("calibrate", draft, *MEASURE[:4], "--nll-budget", 0, "--budget", 0)
    assert outcome.status == 1
    assert outcome.err.startswith("error [calibration]: ")
    assert (draft / "manifest.json").read_bytes() == before


def test_calibration_refuses_a_model_that_is_not_the_base(world: World, published: Path) -> None:
    outcome = safelatch("calibrate", published, "--base", world.tuned, *MEASURE)
    assert outcome.status == 3
    assert outcome.err.startswith("error [base-model-mismatch]: ")
    assert outcome.err.endswith("\nhint: Name that base: --base tiny\n")


def test_check_says_the_decision_first(world: World, published: Path) -> None:
    good = safelatch("check", "lock@1.0", world.tuned)
    assert good.status == 0
    assert good.out.startswith(f"compatible  lock@1.0  {world.tuned}  fine-tune at distan")
    bad = safelatch("check", "lock@1.0", world.stranger)
    assert bad.status == 3
    assert bad.out.startswith("refused  lock@1.0  base-mismatch  expected a fine-tune of tiny (")
    assert not bad.err
    report = safelatch("check", published, world.tuned, "--format", "json").document
    assert (report["verdict"], report["recorded"]) == ("compatible", True)


def test_check_measures_the_directions_in_the_live_model(world: World, published: Path) -> None:
    asked = ("--measure", "--data", world.pairs, "--device", "cpu")
    good = safelatch("check", "lock@1.0", world.tuned, *asked)
    assert good.status == 0
    decision, summary, *rows = good.out.splitlines()
    assert decision.startswith(f"compatible  lock@1.0  {world.tuned}  fine-tune at distan")
    assert summary.split() == ["figure", "value", "least", "most"]
    assert [row.split()[0] for row in rows[:4]] == ["cosine", "positive", "dose", "floor"]
    assert rows[4].split()[:4] == ["layer", "head", "cosine", "base_cosine"]
    assert len(rows) == 4 + 1 + 3  # a row per head
    bad = safelatch("check", "lock@1.0", world.stranger, *asked, "--format", "json")
    assert bad.status == 3
    codes = [f["code"] for f in bad.document["findings"]]
    assert codes[0] == "base-mismatch"
    assert "directions" in codes
    assert len(bad.document["measured"]["heads"]) == 3


def test_check_measures_on_the_pairs_it_was_made_from_or_not_at_all(
    world: World, published: Path
) -> None:
    outcome = safelatch("check", "lock@1.0", world.tuned, "--measure")
    assert outcome.status == 3
    assert outcome.err.startswith("error [compatibility]: expected the preference pairs pairs (")
    assert outcome.err.endswith("made from: --data FILE\n")
    alone = safelatch("check", "lock@1.0", world.tuned, "--data", world.pairs)
    assert alone.status == 2
    assert "--data goes with --measure." in alone.err


def test_check_without_measure_loads_no_torch(world: World, published: Path) -> None:
    act = (
        "import sys\n"
        "from registry.cli.main import cli\n"
        "try:\n"
        f"    cli(['check', {str(published)!r}, {str(world.tuned)!r}])\n"
        "finally:\n"
        "    print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", act], capture_output=True, text=True, check=True)
    decision, loaded = done.stdout.splitlines()
    assert decision.startswith("compatible  ")
    assert loaded == "[]"


def test_lineage_names_the_base_or_says_there_is_none(world: World, published: Path) -> None:
    child = safelatch("lineage", world.tuned)
    assert child.status == 0
    assert child.out.startswith("fine-tune  tiny  at distance 0.0")
    stranger = safelatch("lineage", world.stranger, "--format", "json")
    assert stranger.status == 1
    assert stranger.document["base"] is None
    assert stranger.document["descents"][0]["relation"] == "unrelated"


def test_inspect_finds_nothing_stored_in_a_plain_fine_tune(world: World, published: Path) -> None:
    for arguments in ((world.tuned,), (world.tuned, "lock@1.0"), (world.tuned, published)):
        outcome = safelatch("inspect", *arguments)
        assert outcome.status == 1
        assert outcome.out.splitlines()[1].startswith("not-stored  ")


def test_audit_knows_a_protected_load_and_when(world: World, published: Path) -> None:
    models = world.base.parent
    before = safelatch("audit", models)
    assert before.status == 1
    assert before.out.startswith("not protected  0 of 3 models are protected\n")
    model = load_protected(world.tuned)
    when = model.safelatch.applied[0].verified_at
    report = world.folder / "report.json"
    after = safelatch("audit", models, "--format", "json", "--out", report)
    assert (after.status, after.out) == (1, "")
    assert after.err == "1 of 3 models are protected\n"
    document = json.loads(report.read_text("utf-8"))
    validate(document, "audit_report.v1", what="report")
    states = {row["model"].rpartition("/")[2]: row for row in document["rows"]}
    assert {name: row["state"] for name, row in states.items()} == {
        "base": "available", "tuned": "verified", "stranger": "no-base",
    }  # fmt: skip
    assert states["tuned"]["verified_at"] == when
    only = safelatch("audit", world.tuned)
    assert only.status == 0
    assert only.out.startswith("protected  1 of 1 models are protected\n")
    whole = safelatch("log", "verify")
    assert whole.status == 0
    assert whole.out.startswith("whole  ")


def test_audit_keeps_going_past_a_model_it_cannot_read(world: World, published: Path) -> None:
    outcome = safelatch("audit", world.folder / "nowhere", world.base, "--format", "csv")
    states = [row["state"] for row in csv.DictReader(io.StringIO(outcome.out))]
    assert outcome.status == 1
    assert states == ["unreadable", "available"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("fingerprint", "/nowhere/model"), 1, "checkpoint-not-found"),
        (("base", "add", "/nowhere/model"), 1, "checkpoint-not-found"),
        (("show", "lock@9.9"), 1, "version-not-found"),
        (("show", "another"), 1, "artifact-not-found"),
        (("show", "lock", "--field", "nothing"), 2, "usage"),
        (("show", "NAME!"), 2, "reference-syntax"),
        (("base", "show", "nobody"), 1, "base-not-found"),
        (("extract", "safety-lock", "nobody", "--out", "NEW"), 1, "base-not-found"),
        (("extract", "safety-lock", "tiny", "--out", "NEW", "--heads", 99), 2, "usage"),
        (("extract", "safety-lock", "tiny", "--out", "NEW", "--data", "/nowhere"), 1, "not-found"),
        (("extract", "safety-lock", "tiny", "--out", "LOCK"), 2, "usage"),
        (("extract", "safety-lock", "FILE", "--out", "NEW"), 2, "usage"),
        (("publish", "/nowhere/lock", "--name", "x", "--version", "1"), 1, "artifact-not-found"),
        (("publish", "LOCK", "--name", "x", "--version", "latest"), 2, "usage"),
        (("--db", "/nowhere/registry.db", "list"), 4, "registry-missing"),
    ],
)
def test_what_cannot_be_done_says_which_kind_of_no_it_is(
    world: World, published: Path, arguments: tuple[object, ...], status: int, code: str
) -> None:
    places = {
        "NEW": world.folder / "never-made",
        "LOCK": published,
        "FILE": world.base / "model.safetensors",
    }
    typed = [places.get(str(argument), argument) for argument in arguments]
    as_text = safelatch(*typed)
    assert (as_text.status, as_text.out) == (status, "")
    assert as_text.err.startswith(f"error [{code}]: ")
    as_json = safelatch(*typed, "--format", "json")
    assert (as_json.status, as_json.err) == (status, "")
    assert as_json.document["error"]["code"] == code
    assert not places["NEW"].exists()
