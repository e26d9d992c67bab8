"""The verdict on an artifact and a checkpoint: every finding, worst first."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from registry.artifact.manifest import Compatibility
from registry.errors import (
    BaseModelMismatchError,
    CompatibilityError,
    EvidenceError,
    GeometryError,
)
from registry.settings import Settings
from registry.workflows.check import check
from registry.workflows.identify import identify

NOW = datetime(2030, 6, 1, tzinfo=timezone.utc)


@pytest.fixture
def record(world):
    return identify(world.tune, settings=Settings.load()).record


def verdict(world, record, *, now=NOW, **changes):
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, **changes))
    return check(bundle, record, now=now)


def test_a_fine_tune_fits_and_nothing_is_found(world, record):
    report = verdict(world, record)
    assert (report.verdict, report.findings) == ("compatible", ())
    report.require()
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "stamp", "fits"),
    [
        ({"expires": "2030-06-01T00:00:00Z"}, (2030, 5, 31, 23, 59, 59), True),
        ({"expires": "2030-06-01T00:00:00Z"}, (2030, 6, 1, 0, 0, 0), False),
        ({"not_before": "2030-06-01T00:00:00Z"}, (2030, 5, 31, 23, 59, 59), False),
        ({"not_before": "2030-06-01T00:00:00Z"}, (2030, 6, 1, 0, 0, 0), True),
    ],
)
def test_validity_is_from_the_first_second_to_before_the_last(world, record, changes, stamp, fits):
    report = verdict(world, record, now=datetime(*stamp, tzinfo=timezone.utc), **changes)
    assert (report.verdict == "compatible") is fits
    if not fits:
        with pytest.raises(EvidenceError, match="valid"):
            report.require()


def test_a_closer_bound_of_the_publisher_counts(world, record):
    with pytest.raises(BaseModelMismatchError, match=r"within distance 0\.001"):
        verdict(world, record, compatibility=Compatibility(max_distance=0.001)).require()


def test_more_evidence_than_there_is_is_refused(world, record):
    strict = Compatibility(min_evidence=4)
    with pytest.raises(BaseModelMismatchError, match="level 4 or more, got 3"):
        verdict(world, record, compatibility=strict).require()


@pytest.mark.parametrize(
    ("field", "severity"),
    [("vocab_size", "warning"), ("rms_norm_eps", "error"), ("rope_parameters", "error"),
     ("hidden_act", "error"), ("attention_bias", "error")],
)  # fmt: skip
def test_a_config_field_that_differs_is_found_with_both_values(world, record, field, severity):
    other = replace(record, config={**record.config, field: "other"})
    (finding,) = verdict(world, other).findings
    assert (finding.severity, finding.code, finding.field) == (severity, "config", field)
    assert "got 'other'" in finding.message
    if severity == "error":
        with pytest.raises(GeometryError):
            verdict(world, other).require()


@pytest.mark.parametrize("field", ["tokenizer", "chat_template"])
def test_another_tokenizer_or_template_is_a_warning(world, record, field):
    report = verdict(world, replace(record, **{field: None}))
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert report.verdict == "compatible"


def test_errors_come_first_and_all_are_in_the_text(world, record):
    other = replace(
        record, tokenizer=None, config={**record.config, "hidden_act": "x", "vocab_size": 1}
    )
    report = verdict(world, other, expires="2001-01-01T00:00:00Z")
    assert [finding.severity for finding in report.findings] == ["error"] * 2 + ["warning"] * 2
    with pytest.raises(EvidenceError, match="a time before 2001") as caught:
        report.require()
    assert "also: config hidden_act" in caught.value.message
    assert not isinstance(caught.value, CompatibilityError)
