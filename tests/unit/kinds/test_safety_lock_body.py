from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.locks import bundle_of, draft_manifest, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import make_bundle
from registry.errors import (
    NonFiniteTensorError,
    SchemaViolationError,
    StrengthRangeError,
    UnsupportedSchemaVersionError,
    UsageError,
)
from registry.kinds import KINDS, kind_of, parse_body
from registry.kinds.safety_lock.body import parse
from registry.kinds.safety_lock.guard import guard


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_checkpoint(tmp_path_factory.mktemp("body"), llama_config()))


def bundle_with(record, *, tensors=None, document=None, **changes):
    """Return a self-consistent bundle whose tensors or body document were tampered with."""
    lock = make_lock()
    body = lock.to_manifest() | (document or {})
    manifest = draft_manifest(record, lock, body=body, **changes)
    return make_bundle(manifest, lock.to_tensors() | (tensors or {}), record.to_tensors())


def test_a_body_round_trips_through_its_bundle(record):
    lock = make_lock()
    got = parse_body(bundle_of(record, lock))
    assert (got.heads, got.alpha, got.alpha_range) == (lock.heads, 2.0, (0.0, 2.0))
    assert got.directions.tobytes() == lock.directions.tobytes()
    assert got.sigma.tobytes() == lock.sigma.tobytes()
    assert (got.answer_tokens, got.form, dict(got.probe)) == (5, "constant", dict(lock.probe))
    assert got.layers == (0, 1)
    assert [head for head, _ in got.of_layer(0)] == [1, 3]


def direction(index, value):
    directions = make_lock().directions.copy()
    directions[index] = value
    return {"directions": directions}


def sigma(value):
    scales = make_lock().sigma.copy()
    scales[1] = value
    return {"sigma": scales}


def heads(*rows):
    return {"heads": np.array(rows, dtype=np.int32)}


BROKEN = {
    "NaN in a direction": (direction((1, 3), np.nan), "head 0:3: expected a direction of length 1"),
    "infinity in a direction": (direction((1, 3), np.inf), "head 0:3: expected a direction"),
    "a direction of length 2": (direction(0, make_lock().directions[0] * 2), "length 1, got 2"),
    "a direction of length 0": (direction(0, 0), "length 1, got 0"),
    "sigma 0": (sigma(0), "head 0:3: expected sigma above 0, got 0"),
    "sigma negative": (sigma(-1), "sigma above 0, got -1"),
    "sigma NaN": (sigma(np.nan), "sigma above 0, got nan"),
    "sigma infinite": (sigma(np.inf), "sigma above 0, got inf"),
    "head twice": (heads((0, 1), (0, 1), (1, 0)), "head 0:1 appears 2 times"),
    "head out of range": (heads((0, 4), (0, 3), (1, 0)), "head 0:4: expected layer below 2"),
    "layer out of range": (heads((2, 0), (0, 3), (1, 0)), "head 2:0: expected layer below 2"),
    "head negative": (heads((0, -1), (0, 3), (1, 0)), "head 0:-1"),
    "layer negative": (heads((-1, 0), (0, 3), (1, 0)), "head -1:0"),
    "heads as int64": (
        {"heads": np.array([(0, 1), (0, 3), (1, 0)], dtype=np.int64)},
        "heads: expected int32 [3, 2], got ('int64', (3, 2))",
    ),
    "directions as fp16": (
        {"directions": make_lock().directions.astype(np.float16)},
        "directions: expected float32 [3, 16], got ('float16', (3, 16))",
    ),
    "directions transposed": (
        {"directions": make_lock().directions.T.copy()},
        "directions: expected float32 [3, 16], got ('float32', (16, 3))",
    ),
    "one sigma too many": ({"sigma": np.ones(4, np.float32)}, "sigma: expected float32 [3]"),
    "no heads at all": ({"heads": np.zeros((0, 2), np.int32)}, "heads: expected int32 [3, 2]"),
    "a tensor too many": ({"extra": np.ones(1, np.float32)}, "unexpected tensor 'extra'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_lock_with_this_fault_is_refused(record, name):
    tensors, text = BROKEN[name]
    with pytest.raises(SchemaViolationError) as caught:
        parse(bundle_with(record, tensors=tensors))
    assert any(text in line for line in caught.value.violations), caught.value.violations


def test_all_faults_are_listed_together(record):
    lock = make_lock()
    directions, scales = lock.directions.copy(), lock.sigma.copy()
    directions[0] *= 3
    directions[2, 0] = np.nan
    scales[1] = -2
    tensors = {"directions": directions, "sigma": scales, **heads((0, 1), (0, 1), (7, 9))}
    document = {"alpha": 3.0, "alpha_range": [0, 2]}
    with pytest.raises(SchemaViolationError) as caught:
        parse(bundle_with(record, tensors=tensors, document=document))
    assert len(caught.value.violations) == 6
    listed = "\n".join(caught.value.violations)
    for text in ("appears 2 times", "got 3", "got nan", "got -2", "7:9", "alpha within [0, 2]"):
        assert text in listed


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"alpha": -1.0}, "$.alpha"),
        ({"alpha": 2.5}, "alpha within [0, 2]"),
        ({"alpha": None}, "expected alpha and alpha_range together"),
        ({"alpha_range": None}, "expected alpha and alpha_range together"),
        ({"alpha_range": [-6, 2]}, "$.alpha_range"),
        ({"alpha_range": [0, 2, 3]}, "$.alpha_range"),
        ({"alpha_range": [0]}, "$.alpha_range"),
        ({"alpha": True}, "$.alpha"),
        ({"alpha": "2"}, "$.alpha"),
        ({"sign": "away-from-refusal"}, "$.sign"),
        ({"form": "conditional"}, "$.form"),
        ({"site": "mlp"}, "$.site"),
        ({"heads": 2}, "heads: expected int32 [2, 2]"),
        ({"head_dim": 8}, "directions: expected float32 [3, 8]"),
        ({"answer_tokens": 0}, "$.answer_tokens"),
        ({"note": "hello"}, "$"),
    ],
    ids=str,
)
def test_a_body_document_with_this_member_is_refused(record, document, text):
    with pytest.raises(SchemaViolationError) as caught:
        parse(bundle_with(record, document=document))
    assert any(line.startswith(text) or text in line for line in caught.value.violations)


@pytest.mark.parametrize("name", ["directions", "sigma"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_has_an_error_of_its_own_with_every_finding(record, name, value):
    array = getattr(make_lock(), name).copy()
    array.reshape(-1)[0] = value
    document = {"alpha": 3.0, "alpha_range": [0, 2]}
    with pytest.raises(NonFiniteTensorError) as caught:
        parse(bundle_with(record, tensors={name: array}, document=document))
    assert len(caught.value.violations) == 2
    assert "expected alpha within [0, 2], got 3" in caught.value.violations


@pytest.mark.parametrize(
    "document", [{"alpha": 2.5}, {"alpha": 0, "alpha_range": [0, 2]}, {"alpha": None}]
)
def test_a_strength_outside_its_range_has_an_error_of_its_own_with_every_finding(record, document):
    sigma = make_lock().sigma.copy()
    sigma[0] = -1
    with pytest.raises(StrengthRangeError) as caught:
        parse(bundle_with(record, tensors={"sigma": sigma}, document=document))
    assert len(caught.value.violations) == 2


def test_every_other_fault_is_a_violation_of_the_schema(record):
    sigma = make_lock().sigma.copy()
    sigma[0] = -1
    with pytest.raises(SchemaViolationError) as caught:
        parse(bundle_with(record, tensors={"sigma": sigma}))
    assert type(caught.value) is SchemaViolationError


def test_a_head_width_of_another_geometry_is_refused(record):
    geometry = record.geometry.to_dict() | {"head_dim": 8}
    with pytest.raises(SchemaViolationError, match="expected head_dim 8, got 16"):
        parse(bundle_with(record, geometry=geometry))


@pytest.mark.parametrize("schema", ["safelatch/safety-lock/v2", "safelatch/esi-mask/v1", ""])
def test_a_body_of_another_schema_is_called_unsupported_and_not_broken(record, schema):
    if not schema:
        with pytest.raises(SchemaViolationError):
            bundle_with(record, document={"schema": schema})
        return
    with pytest.raises(UnsupportedSchemaVersionError, match="expected schema"):
        parse(bundle_with(record, document={"schema": schema}))


def test_a_published_strength_of_zero_is_refused(record):
    with pytest.raises(SchemaViolationError, match="alpha above 0"):
        parse(bundle_with(record, document={"alpha": 0, "alpha_range": [0, 2]}))


def test_the_calibrated_strength_is_the_default_and_the_range_is_closed():
    lock = make_lock().calibrated(1.5, (0.0, 2.0))
    assert lock.strength() == 1.5
    assert lock.strength(2.0) == 2.0
    assert lock.strength(0) == 0.0
    assert lock.strength(-6.0, allow_unsafe=True) == -6.0
    assert replace(lock, alpha_range=None).strength(1.0, allow_unsafe=True) == 1.0


def test_a_safety_lock_has_no_guard_and_says_so():
    with pytest.raises(UsageError, match="has no guard"):
        guard(None, None)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="safety-lock"):
        kind_of("safety-lcok")
    assert all(kind.verb("body").parse for kind in KINDS.values())
