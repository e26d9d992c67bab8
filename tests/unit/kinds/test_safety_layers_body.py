"""What a body of safety layers may say: each rule is broken once, alone, and said by its own line."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.locks import read_record
from support.ranges import FIRST, LAST, LAYERS, PROMPTS, a_base, a_body, range_bundle
from support.refusals import refusal

from registry.artifact.bundle import Bundle, make_bundle
from registry.errors import SafelatchError, SchemaViolationError, UnsupportedSchemaVersionError
from registry.kinds import parse_body
from registry.kinds.safety_layers._published import PUBLISHED
from registry.kinds.safety_layers.body import LayersBody

if TYPE_CHECKING:
    from registry.checkpoint.record import BaseRecord


@cache
def record() -> BaseRecord:
    with TemporaryDirectory() as folder:
        return read_record(a_base(Path(folder) / "base"))


@cache
def good() -> Bundle:
    return range_bundle(record(), a_body())


def published(**changes: Any) -> LayersBody:
    source = PUBLISHED["llama-2-7b-chat"].source
    body = LayersBody(
        first=4, last=7, layers=LAYERS, family="llama", origin="published", source=source
    )
    return replace(body, **changes)


def changed(*path: Any, to: Any, bundle: Bundle | None = None) -> Bundle:
    """Return the bundle with one member of its body exchanged, digests fresh."""
    bundle = good() if bundle is None else bundle
    document = copy.deepcopy(dict(bundle.manifest.body))
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    manifest = replace(bundle.manifest, body=document)
    return make_bundle(manifest, bundle.tensors(), bundle.base_tensors())


def with_tensors(**tensors: Any) -> Bundle:
    """Return the bundle with these tensors, ``None`` for one that is left out."""
    every = {**good().tensors(), **tensors}
    kept = {name: array for name, array in every.items() if array is not None}
    return make_bundle(good().manifest, kept, good().base_tensors())


def violations(bundle: Bundle) -> list[str]:
    error = refusal(SchemaViolationError, lambda: parse_body(bundle))
    assert isinstance(error, SchemaViolationError)
    return error.violations


def points() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = copy.deepcopy(good().manifest.body["measurement"]["points"])
    return found


def place(step: str, first: int | None, last: int | None) -> int:
    """Return the number of the point of the sweep with this range."""
    return next(
        number
        for number, point in enumerate(points())
        if (point["step"], point["first"], point["last"]) == (step, first, last)
    )


def test_a_measured_body_is_read_back_as_it_was_made() -> None:
    made, body = a_body(), parse_body(good())
    assert (body.first, body.last, body.layers) == (FIRST, LAST, LAYERS)
    assert body.measurement == made.measurement
    assert np.array_equal(body.refused, made.refused)
    bare = replace(body, protected=(), own=(), samples={}, refused=None)
    assert bare == replace(made, refused=None)
    assert list(body.range) == [4, 5, 6, 7]
    assert body.outside == (0, 1, 2, 3, 8, 9, 10, 11)


@pytest.mark.parametrize(("norms", "each"), [("frozen", 9), ("trainable", 7)])
def test_what_is_protected_is_read_from_the_record_of_the_base(norms: str, each: int) -> None:
    body = parse_body(range_bundle(record(), a_body(norms=norms)))
    names = [entry.name for entry in body.protected]
    assert len(names) == 4 * each
    assert {int(name.split(".")[2]) for name in names} == {4, 5, 6, 7}
    assert all(map(body.protects, names))
    others = {entry.name for entry in record().entries} - set(names)
    assert not any(map(body.protects, others))
    assert body.samples == {name: record().samples[name] for name in names}
    assert [entry for entry in record().entries if entry in body.protected] == list(body.protected)


def test_a_published_body_is_read_back_and_claims_no_measurement() -> None:
    body = parse_body(range_bundle(record(), published()))
    assert (body.origin, body.measurement, body.refused) == ("published", None, None)
    assert body.describe()["origin"] == "published, not re-measured"
    assert "mode" not in body.describe()


def test_a_body_of_another_version_is_unsupported() -> None:
    other = changed("schema", to="safelatch/safety-layers/v2")
    refusal(UnsupportedSchemaVersionError, lambda: parse_body(other), "safety-layers/v2")


def test_a_base_of_another_depth_is_refused() -> None:
    deeper = replace(good().manifest, geometry={**good().manifest.geometry, "layers": 24})
    bundle = make_bundle(deeper, good().tensors(), good().base_tensors())
    assert violations(bundle) == ["layers: expected 24 as in the base, got 12"]


@pytest.mark.parametrize(("first", "last"), [(4, 12), (5, 4), (0, 9999)])
def test_a_published_range_outside_the_model_is_refused(first: int, last: int) -> None:
    bundle = range_bundle(record(), published(first=first, last=last))
    assert violations(bundle) == [f"range: expected first <= last < 12, got [{first}, {last}]"]


def test_a_range_that_its_tensor_does_not_hold_is_refused() -> None:
    bundle = with_tensors(range=np.array([4, 8], dtype=np.int32))
    assert violations(bundle) == ["range: expected [4, 7] as the body says, its tensor has [4, 8]"]


@pytest.mark.parametrize(
    ("tensors", "line"),
    [({"more": np.zeros(1, np.uint8)}, "unexpected tensor 'more'"),
     ({"refused": None}, "refused: expected uint8 [18, 40], got None"),
     ({"refused": np.zeros((18, 39), np.uint8)},
      "refused: expected uint8 [18, 40], got ('uint8', (18, 39))"),
     ({"refused": np.zeros((18, 40), np.int32)},
      "refused: expected uint8 [18, 40], got ('int32', (18, 40))"),
     ({"range": np.array([4, 7], np.uint8)}, "range: expected int32 [2], got ('uint8', (2,))"),
     ({"range": np.array([4, 7, 7], np.int32)}, "range: expected int32 [2], got ('int32', (3,))"),
     ({"range": None}, "range: expected int32 [2], got None")],
)  # fmt: skip
def test_a_tensor_too_many_one_too_few_and_another_shape_are_refused(
    tensors: dict[str, Any], line: str
) -> None:
    assert len(points()) == 18
    assert violations(with_tensors(**tensors)) == [line]


def test_a_published_range_with_flags_is_refused() -> None:
    body = published(refused=a_body().refused)
    assert violations(range_bundle(record(), body)) == ["unexpected tensor 'refused'"]


def test_a_published_range_with_a_measurement_is_refused() -> None:
    body = published(measurement=a_body().measurement, refused=a_body().refused)
    assert any("$" in line for line in violations(range_bundle(record(), body)))


def test_a_published_range_that_does_not_say_where_is_refused() -> None:
    assert violations(range_bundle(record(), published(source=None)))


def test_a_measured_range_without_a_measurement_is_refused() -> None:
    assert violations(range_bundle(record(), published(origin="measured", source=None)))


def test_a_published_range_that_calls_itself_measured_is_refused() -> None:
    assert violations(range_bundle(record(), published(origin="measured")))


def test_a_published_range_of_another_status_is_refused() -> None:
    source = {**PUBLISHED["llama-2-7b-chat"].source, "status": "measured again"}
    (line,) = violations(range_bundle(record(), published(source=source)))
    assert line.startswith("$.source: ")


def test_a_count_that_is_not_the_sum_of_its_flags_is_refused() -> None:
    number = place("control", 0, 3)
    bundle = changed("measurement", "points", number, "refused", to=1)
    assert violations(bundle) == [
        f"points[{number}]: expected 0 refused as its flags, got 1",
    ]


def test_a_flag_that_is_neither_yes_nor_no_is_refused() -> None:
    flags = good().tensors()["refused"].copy()
    flags[place("control", 0, 3), 0] = 2
    assert violations(with_tensors(refused=flags))[0] == "refused: expected flags of 0 and 1, got 2"


@pytest.mark.parametrize(
    "path", [("curves", "harmful", "mean"), ("curves", "between", "std"), ("gap", "degrees"),
             ("gap", "paper"), ("controls", "form", "low"), ("controls", "scary", "high")]
)  # fmt: skip
def test_a_curve_without_a_value_per_layer_is_refused(path: tuple[str, ...]) -> None:
    bundle = changed("measurement", *path, to=[0.5] * (LAYERS - 1))
    assert violations(bundle) == [
        f"{'.'.join(path)}: expected 12 values, one per layer, got 11",
    ]


@pytest.mark.parametrize(("first", "last"), [(4, 8), (5, 7), (3, 7)])
def test_a_range_that_does_not_follow_from_its_sweep_is_refused(first: int, last: int) -> None:
    """What a publisher could do to say another range: everything else is as it was measured."""
    bundle = range_bundle(record(), a_body(first=first, last=last))
    stated = [line for line in violations(bundle) if line.startswith("range: ")]
    width = last - first + 1
    if width == 4:
        assert stated == [
            f"range: expected [4, 7] by the rule and the sweep, got [{first}, {last}]"
        ]
    else:
        assert any(f"expected another range of {width} layers" in v for v in violations(bundle))


def test_a_sweep_that_names_another_range_is_refused() -> None:
    """Flags and counts are changed together: the range of the sweep is then another one."""
    number, flags = place("lower", 3, 7), good().tensors()["refused"].copy()
    flags[number, :35] = 1
    rows = points()
    rows[number]["refused"] = 35
    bundle = changed("measurement", "points", to=rows)
    bundle = make_bundle(
        bundle.manifest, {**bundle.tensors(), "refused": flags}, bundle.base_tensors()
    )
    assert violations(bundle) == ["range: expected [3, 7] by the rule and the sweep, got [4, 7]"]


def test_a_point_outside_the_model_is_refused() -> None:
    number = place("control", 8, 11)
    bundle = changed("measurement", "points", number, "last", to=12)
    assert f"points[{number}]: expected a range below 12, got [8, 12]" in violations(bundle)


@pytest.mark.parametrize(
    ("step", "where", "member", "value", "line"),
    [("upper", (5, 7), "alpha", 1.2, "points: upper [5, 7] by 1.2: expected alpha 1.3"),
     ("control", (0, 3), "alpha", 1.1, "points: control [0, 3] by 1.1: expected alpha 1.3"),
     ("baseline", (None, None), "alpha", 1.3,
      "points: baseline [None, None] by 1.3: expected alpha 1"),
     ("control", (0, 3), "last", 2, "points: control [0, 2] by 1.3: expected another range of 4 layers"),
     ("control", (0, 3), "first", 4, "expected a range below 12"),
     ("upper", (5, 7), "step", "baseline", "points: expected one baseline, got 2"),
     ("baseline", (None, None), "step", "alpha", "points: expected one baseline, got 0"),
     ("upper", (5, 5), "last", 6, "points: upper [5, 6] by 1.3: expected once, got 2 times")],
)  # fmt: skip
def test_a_point_that_the_search_does_not_ask_is_refused(
    step: str, where: tuple[Any, Any], member: str, value: Any, line: str
) -> None:
    bundle = changed("measurement", "points", place(step, *where), member, to=value)
    assert any(line in each for each in violations(bundle)), violations(bundle)


def test_the_range_itself_is_no_control_of_its_own() -> None:
    number, rows = place("control", 0, 3), points()
    rows[number] |= {"first": 4, "last": 7}
    assert "points: control [4, 7] by 1.3: expected another range of 4 layers" in violations(
        changed("measurement", "points", to=rows)
    )


@pytest.mark.parametrize(
    ("member", "value", "got"),
    [("baseline", 7, "8"), ("range", 29, "28"), ("p", 0, "1.9"), ("control_p", 1e-12, "7.4"),
     ("control", {"first": 8, "last": 11, "refused": 0}, "{'first': 0")],
)  # fmt: skip
def test_an_effect_that_is_not_the_one_of_the_flags_is_refused(
    member: str, value: Any, got: str
) -> None:
    (line,) = violations(changed("measurement", "effect", member, to=value))
    assert line.startswith(f"effect.{member}: expected {got}")
    assert line.endswith(f"by the flags, got {value}")


@pytest.mark.parametrize("step", ["baseline", "control"])
def test_a_range_without_an_effect_of_its_own_is_refused(step: str) -> None:
    """As many refused unscaled, or with equals elsewhere: ``extract`` would have written nothing."""
    flags, rows = good().tensors()["refused"].copy(), points()
    for number, row in enumerate(rows):
        if row["step"] == step:
            flags[number, :28] = 1
            row["refused"] = 28
    bundle = changed("measurement", "points", to=rows)
    bundle = make_bundle(
        bundle.manifest, {**bundle.tensors(), "refused": flags}, bundle.base_tensors()
    )
    (line,) = violations(bundle)
    assert line.startswith("effect: expected layers 4 to 7 scaled by 1.3 to change ")


def test_a_sweep_without_a_control_is_refused() -> None:
    kept = [number for number, row in enumerate(points()) if row["step"] != "control"]
    bundle = changed("measurement", "points", to=[points()[number] for number in kept])
    tensors = {**good().tensors(), "refused": good().tensors()["refused"][kept]}
    (line,) = violations(make_bundle(bundle.manifest, tensors, bundle.base_tensors()))
    assert line.startswith("effect: expected a range that leaves another of its width")


@pytest.mark.parametrize(
    ("path", "value"),
    [(("first",), -1), (("first",), 4.5), (("first",), "4"), (("first",), True),
     (("norms",), "melted"), (("more",), 1), (("measurement", "scaling", "alpha"), 0),
     (("measurement", "scaling", "alpha"), 1e9), (("measurement", "scaling", "mode"), "magic"),
     (("measurement", "n"), 10**9), (("measurement", "n"), 0),
     (("measurement", "points"), []), (("measurement", "points", 0, "step"), "guess"),
     (("measurement", "gap", "degrees", 0), "much"), (("measurement", "gap", "low", 0), 1e300),
     (("measurement", "scorer"), ""), (("measurement", "effect", "p"), 1.5),
     (("measurement", "resampled", "first"), [{"value": 1}]), (("measurement", "seed"), -1)],
)  # fmt: skip
def test_a_value_of_another_type_or_size_is_refused_by_the_schema(
    path: tuple[Any, ...], value: Any
) -> None:
    assert violations(changed(*path, to=value))


def test_all_findings_are_told_at_once() -> None:
    body = published(first=9, last=3, layers=13)
    assert violations(range_bundle(record(), body)) == [
        "layers: expected 12 as in the base, got 13",
        "range: expected first <= last < 13, got [9, 3]",
    ]


def test_the_widest_answers_sheet_that_the_schema_allows_is_checked_in_seconds() -> None:
    """An exact test over a million prompts takes minutes: the schema stops before that."""
    assert violations(changed("measurement", "n", to=100_001))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_flag_that_was_turned_is_always_seen(data: st.DataObject) -> None:
    flags = good().tensors()["refused"].copy()
    flags[data.draw(st.integers(0, 17)), data.draw(st.integers(0, PROMPTS - 1))] ^= 1
    refusal(SchemaViolationError, lambda: parse_body(with_tensors(refused=flags)))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(), ("measurement",), ("measurement", "scaling"), ("measurement", "effect"),
                        ("measurement", "points", 3), ("measurement", "resampled")]),
       st.data())  # fmt: skip
def test_no_value_stops_the_check_with_anything_but_a_refusal(
    path: tuple[Any, ...], data: st.DataObject
) -> None:
    inner: Any = good().manifest.body
    for step in path:
        inner = inner[step]
    member = data.draw(st.sampled_from(sorted(inner)))
    with suppress(SafelatchError):
        parse_body(changed(*path, member, to=data.draw(ANYTHING)))
