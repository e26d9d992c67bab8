"""``check --measure``: the files' verdict first, then the live model beside the base's figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.locks import fine_tuned, packaged_planted

from registry.errors import CompatibilityError, EvidenceError, UsageError
from registry.kinds import kind_of, parse_body
from registry.settings import Settings
from registry.workflows.check import check
from registry.workflows.check_measure import check_measured
from registry.workflows.identify import identify
from registry.workflows.journal import reports


class Opened:
    """A model that counts how often it was opened."""

    def __init__(self, model, tokenizer):
        self.live, self.times = (model, tokenizer), 0

    def __call__(self):
        self.times += 1
        return self.live


@pytest.fixture
def tuned(world):
    return Opened(world.tuned, world.planted.tokenizer)


def record_of(folder):
    return identify(folder, settings=Settings.load()).record


def saved(world, model, folder):
    return replace(world.planted, model=model).save(folder)


def with_bounds(world, **changes):
    holds = parse_body(world.bundle).holds
    return world.edited(holds=replace(holds, bounds=replace(holds.bounds, **changes)))


def codes(report):
    return [(finding.severity, finding.code) for finding in report.findings]


def test_a_fine_tune_holds_and_the_files_verdict_is_in_it(world, tuned):
    record = record_of(world.tune)
    report = check_measured(world.bundle, record, tuned)
    assert (report.verdict, tuned.times) == ("compatible", 1)
    alone = check(world.bundle, record)
    assert (alone.findings, alone.measured) == (report.findings, None)
    document = report.to_dict()
    assert {row["figure"] for row in document["measured"]["summary"]} == {
        "cosine", "positive", "dose", "floor"
    }  # fmt: skip
    assert [(h["layer"], h["head"]) for h in document["measured"]["heads"]] == [
        *parse_body(world.bundle).heads
    ]
    json.dumps(document, allow_nan=False)


def test_an_impostor_is_refused_by_its_files_and_by_its_directions(world, tmp_path):
    other = packaged_planted(seed=1)
    folder = other.save(tmp_path / "impostor")
    live = Opened(other.model, other.tokenizer)
    report = check_measured(world.bundle, record_of(folder), live)
    assert report.verdict == "refused"
    assert ("error", "base-mismatch") in codes(report)
    assert ("error", "directions") in codes(report)
    with pytest.raises(CompatibilityError):
        report.require()


def test_a_fine_tune_whose_heads_were_turned_is_refused_though_its_files_fit(world, tmp_path):
    model = fine_tuned(world.planted.model, relative=0.001)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight.neg_()
    bundle = world.bundle.with_manifest(
        replace(
            world.bundle.manifest,
            compatibility=replace(world.bundle.manifest.compatibility, max_distance=10.0),
        )
    )
    record = record_of(saved(world, model, tmp_path / "turned"))
    report = check_measured(bundle, record, Opened(model, world.planted.tokenizer))
    assert {("error", "turned-heads"), ("error", "directions")} <= set(codes(report))
    with pytest.raises(CompatibilityError, match="in this model any more") as caught:
        replace(
            report, findings=tuple(f for f in report.findings if f.code != "base-mismatch")
        ).require()
    assert "also: " in caught.value.message


def test_the_publishers_bounds_decide(world, tuned):
    record = record_of(world.tune)
    strict = check_measured(with_bounds(world, dose=(5.0, 6.0)), record, tuned)
    assert codes(strict) == [("error", "dose")]
    lax = check_measured(with_bounds(world, min_cosine=0.0), record, tuned)
    assert codes(lax) == []


def test_errors_come_before_the_warnings_of_the_files(world, tuned):
    record = replace(record_of(world.tune), chat_template=None)
    report = check_measured(with_bounds(world, dose=(5.0, 6.0)), record, tuned)
    assert codes(report) == [("error", "dose"), ("warning", "chat-template")]


def test_nothing_is_opened_where_heads_differ(world, tuned):
    record = record_of(world.tune)
    fewer = replace(record, geometry=replace(record.geometry, heads=2))
    report = check_measured(world.bundle, fewer, tuned)
    assert (report.verdict, report.measured, tuned.times) == ("refused", None, 0)


def test_a_bundle_without_the_bases_figures_is_refused_before_a_model_is_opened(world, tuned):
    with pytest.raises(EvidenceError, match="made before that was written down") as caught:
        check_measured(world.edited(holds=None), record_of(world.tune), tuned)
    assert "safelatch extract" in caught.value.hint
    assert tuned.times == 0


def test_other_pairs_are_refused_before_a_model_is_opened(world, tuned):
    holds = replace(parse_body(world.bundle).holds, ids=("nobody",))
    with pytest.raises(CompatibilityError, match="expected the preference pairs"):
        check_measured(world.edited(holds=holds), record_of(world.tune), tuned)
    assert tuned.times == 0


def test_a_kind_without_directions_is_told_so(world, tuned, monkeypatch):
    monkeypatch.delattr(kind_of("safety-lock").verb("verify"), "measure")
    with pytest.raises(UsageError, match="a safety-lock has nothing to measure in a model"):
        check_measured(world.bundle, record_of(world.tune), tuned)


def test_what_was_measured_is_written_down(world, registry, tuned):
    model = identify(world.tune, settings=Settings.load())
    report = check_measured(world.bundle, model.record, tuned)
    assert reports(registry, model, [world.bundle], [report])
    (kept,) = registry.reports(model.record.weights, "check")
    assert kept.verdict == "compatible"
