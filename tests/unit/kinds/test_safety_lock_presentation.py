"""What people are shown of a lock: the receipt's own figures, or that there are none to show."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.artifact.bundle import read_bundle
from registry.artifact.presentation import Share
from registry.kinds import KINDS, parse_body, present
from registry.kinds.safety_lock.body import IMPORTED
from registry.kinds.safety_lock.body import present as present_lock

LOCK = read_bundle(Path(__file__).parents[2] / "golden" / "card" / "lock")
BODY = parse_body(LOCK)
RECEIPT: dict[str, Any] = next(r for r in LOCK.manifest.receipts if r["type"] == "calibration")
UNREADABLE = (
    "Its calibration receipt is of another strength than the lock, or of a form that this release "
    "does not read: nothing is shown of it."
)


def shown_of(receipt: Any, **changes: Any) -> Any:
    manifest = replace(LOCK.manifest, receipts=(receipt,))
    return present_lock(replace(BODY, **changes), manifest)


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """Return the receipt with one member exchanged."""
    receipt = copy.deepcopy(dict(RECEIPT))
    inner: Any = receipt
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return receipt


def test_the_figures_are_the_receipts() -> None:
    shown = present(LOCK)
    chosen = next(row for row in RECEIPT["sweep"] if row["alpha"] == RECEIPT["alpha"])
    (grid,) = shown.grids
    for row, name, key in zip(
        grid.rows, ("harmful", "harmless", "scary"),
        ("refusal", "over_refusal", "scary_refusal"), strict=True,
    ):  # fmt: skip
        rates = (RECEIPT["unlocked"][name]["rate"], chosen[key], RECEIPT["random_control"][key])
        assert row[1:4] == tuple(
            Share(rate["successes"], rate["n"], rate["low"], rate["high"]) for rate in rates
        )
    assert (
        "strength",
        f"alpha {BODY.alpha:g}; 0 to {BODY.alpha:g} may be asked for",
    ) in shown.facts


def test_the_sweep_begins_at_the_base_and_marks_what_was_chosen() -> None:
    sweep, probes = present(LOCK).charts
    strengths = [0.0, *(row["alpha"] for row in RECEIPT["sweep"])]
    assert [[point.x for point in series.points] for series in sweep.panels[0].series] == [
        strengths
    ] * 3
    assert sweep.mark == (RECEIPT["alpha"], f"chosen: {RECEIPT['alpha']:g}")
    assert sweep.panels[1].limit == (1.0, "the budget")
    over = sweep.panels[1].series[0].points
    assert [point.y * RECEIPT["budget"]["over_refusal"] for point in over[1:]] == pytest.approx(
        [row["over_refusal_rise"] for row in RECEIPT["sweep"]]
    )
    assert probes.names == tuple(f"{layer}:{head}" for layer, head in BODY.heads)


@pytest.mark.parametrize("more", [0, 6])
def test_a_lock_without_an_effect_in_the_base_is_called_so(more: int) -> None:
    rate = RECEIPT["unlocked"]["harmful"]["rate"]
    same = {"successes": more, "n": 6, "value": more / 6, "low": 0.0, "high": 1.0}
    receipt = changed("unlocked", "harmful", "rate", to={**rate, **same})
    said = [note for note in shown_of(receipt).grids[0].notes if "No effect" in str(note)]
    assert bool(said) == (more == 6)


WRONG = [
    changed("alpha", to=None),
    changed("alpha", to=99.0),
    changed("sweep", to=[]),
    changed("sweep", to=None),
    changed("unlocked", to={}),
    changed("unlocked", "scorer", to={"a": 1}) | {"random_control": 3},
    changed("unlocked", "harmful", "rate", "n", to=0),
    changed("unlocked", "harmful", "rate", "successes", to=10**9),
    changed("unlocked", "harmful", "rate", "successes", to=1.5),
    changed("unlocked", "harmful", "rate", "low", to=0.99),
    changed("unlocked", "harmful", "rate", "high", to=2.0),
    changed("random_control", "p", to="0.01") | {"budget": "low"},
    changed("budget", "nll", to=1e300),
    changed("sweep", 0, "over_refusal_rise", to=True),
    {"type": "calibration", "created": "2030-01-01T00:00:00Z"},
]


@pytest.mark.parametrize("receipt", WRONG)
def test_a_receipt_of_another_form_is_left_out_whole(receipt: Any) -> None:
    shown = shown_of(receipt)
    assert shown.grids == ()
    assert shown.limits[0] == UNREADABLE
    assert [chart.name for chart in shown.charts] == ["probes"]


def test_the_receipt_of_another_strength_is_left_out() -> None:
    assert shown_of(RECEIPT, alpha=9.0, alpha_range=(0.0, 9.0)).limits[0] == UNREADABLE


def test_a_strength_that_gave_no_finite_value_is_not_drawn() -> None:
    rows = [*RECEIPT["sweep"], {"alpha": 99.0, "inside_budget": False, "reason": "not finite"}]
    sweep = shown_of(changed("sweep", to=rows)).charts[0]
    assert sweep.panels[0].series[0].points[-1].x == RECEIPT["sweep"][-1]["alpha"]


def test_a_budget_of_nothing_is_drawn_without_its_share() -> None:
    receipt = changed("budget", to={"over_refusal": 0, "nll": 0})
    assert len(shown_of(receipt).charts[0].panels) == 1


def test_without_a_receipt_nothing_is_claimed() -> None:
    shown = shown_of({"type": "extraction"})
    assert shown.grids == ()
    assert shown.limits[0] == (
        "No calibration receipt travels with it: nothing is known of its effect."
    )


def test_an_imported_lock_has_no_probes_and_says_where_it_is_from() -> None:
    shown = shown_of(RECEIPT, probe={"method": IMPORTED})
    assert [chart.name for chart in shown.charts] == ["calibration"]
    assert ("origin", "an official file, which does not say how it was made") in shown.facts


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RECEIPT, "rate", "n", "alpha"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(RECEIPT)), ANYTHING))
def test_no_receipt_stops_a_card(members: dict[str, Any]) -> None:
    shown_of({**RECEIPT, **members, "type": "calibration"})


def test_a_kind_that_shows_nothing_is_shown_by_its_title_and_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = KINDS["safety-lock"]
    monkeypatch.delattr(kind.verb("body"), "present")
    shown = present(LOCK)
    assert (shown.method, shown.paper, shown.charts) == (kind.title, (kind.paper, None), ())
