"""What people are shown of a range: the counts of its flags, and in plain words what they are not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.locks import read_record
from support.ranges import a_base, a_body, range_bundle

from registry.artifact.presentation import Share, Verbatim
from registry.kinds import parse_body, present
from registry.kinds.safety_layers._presentation import presentation
from registry.kinds.safety_layers._published import PUBLISHED
from registry.measure.statistics import Rate
from registry.report.markdown import cell, words
from registry.report.plots import draw

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.artifact.presentation import Presentation


@cache
def bundle() -> Bundle:
    with TemporaryDirectory() as folder:
        return range_bundle(read_record(a_base(Path(folder) / "base")), a_body())


def shown_of(**changes: Any) -> Presentation:
    """Return what is shown of the body with these members of its measurement exchanged."""
    measurement = {**(a_body().measurement or {}), **changes}
    return presentation(a_body(measurement=measurement), bundle().manifest)


def published() -> Presentation:
    row = PUBLISHED["gemma-2b-it"]
    return presentation(row.bind(row.geometry), bundle().manifest)


def text_of(shown: Presentation) -> str:
    parts = [*shown.limits, *shown.refusals, *(note for grid in shown.grids for note in grid.notes)]
    return "\n".join(map(words, parts))


def test_the_facts_are_those_of_the_body() -> None:
    facts = dict(present(bundle()).facts)
    assert facts == {
        "range": "layers 4 to 7 of 0 to 11, both included",
        "also written": "range(4, 8); begin 3, end 8, both excluded",
        "keeps": "every tensor of these layers",
        "to train with it": Verbatim("safelatch show (draft) --as trl"),
        "found by": "scaling their weights by 1.3",
        "origin": "measured on this base",
    }


def test_norms_that_may_be_trained_are_said() -> None:
    facts = dict(presentation(a_body(norms="trainable"), bundle().manifest).facts)
    assert "norms may be trained" in str(facts["keeps"])


@pytest.mark.parametrize(
    ("mode", "said"), [("contribution", "what they add to the residual stream"),
                       ("activation", "the outputs of their linear maps")]
)  # fmt: skip
def test_what_was_scaled_is_said(mode: str, said: str) -> None:
    scaling = {**(a_body().measurement or {})["scaling"], "mode": mode}
    assert dict(shown_of(scaling=scaling).facts)["found by"] == f"scaling {said} by 1.3"


def test_every_share_is_the_sum_of_its_flags_with_its_wilson_interval() -> None:
    body = parse_body(bundle())
    (grid,) = present(bundle()).grids
    sums = {
        (point["step"], point["first"], point["last"]): int(row.sum())
        for point, row in zip(body.measurement["points"], body.refused, strict=True)
    }
    steps = {"the base as it is": "baseline", "the range": "lower", "another first layer": "lower",
             "another last layer": "upper", "equally wide, elsewhere": "control"}  # fmt: skip
    for where, why, share in grid.rows:
        ends = (None, None) if where == "none" else tuple(map(int, str(where).split(" to ")))
        seen = sums[(steps[str(why)], *ends)]
        interval = Rate(seen, 40).interval()
        assert share == Share(seen, 40, interval.low, interval.high)
    assert [row[:2] for row in grid.rows] == [
        ("none", "the base as it is"), ("4 to 7", "the range"), ("3 to 7", "another first layer"),
        ("5 to 7", "another first layer"), ("5 to 6", "another last layer"),
        ("5 to 8", "another last layer"), ("0 to 3", "equally wide, elsewhere"),
        ("8 to 11", "equally wide, elsewhere"),
    ]  # fmt: skip
    assert cell(grid.rows[1][2]) == "**70%** (28 of 40) [55, 82]"


def test_effect_and_control_are_said_with_their_p() -> None:
    (grid,) = present(bundle()).grids
    assert words(grid.notes[0]) == (
        "Prompt by prompt (exact McNemar test), the range against the base as it is: p = 1.9e-06; "
        "against layers 0 to 3, the equally wide range elsewhere that changes most: p = 7.5e-09."
    )
    assert "where the most are refused" in str(grid.lead)


def test_a_factor_below_1_looks_for_the_fewest_refusals() -> None:
    scaling = {**(a_body().measurement or {})["scaling"], "alpha": 0.8}
    assert "where the fewest are refused" in str(shown_of(scaling=scaling).grids[0].lead)


def test_the_gap_is_shown_beside_what_it_is_without_any_harm() -> None:
    note = words(present(bundle()).grids[0].notes[1])
    assert "at layer 7: 38.1 \\[36.6, 39.6\\] degrees" in note
    assert "2.9 \\[1.4, 4.4\\] between questions and imperatives" in note


def test_how_firm_the_bounds_are_is_said() -> None:
    again = {
        "resamples": 1000,
        "first": [{"value": v, "share": s} for v, s in ((3, 0.1), (4, 0.6), (5, 0.2), (6, 0.096), (7, 0.004))],
        "last": [{"value": 7, "share": 0.995}, {"value": 8, "share": 0.005}],
    }  # fmt: skip
    (said,) = [words(limit) for limit in shown_of(resampled=again).limits if "firm" in words(limit)]
    assert said.endswith(
        "the first layer came out as 4 in 60 %, 5 in 20 %, 3 in 10 %, another in 10 %; "
        "the last as 7 in 100 %, 8 in less than 1 %."
    )


def test_curves_that_named_no_layer_are_said() -> None:
    initial = {"first": 4, "last": 7, "rule": "r", "from_curves": False}
    assert "The curves named no layer" in text_of(shown_of(initial=initial))
    assert "The curves named no layer" not in text_of(present(bundle()))


def test_prompts_template_and_scorer_are_named_letter_by_letter() -> None:
    shown = shown_of(template={"name": "[x](y)", "digest": None}, scorer="<b>")
    assert (Verbatim("[x](y)") in shown.limits[0], Verbatim("<b>") in shown.limits[1]) == (
        True,
        True,
    )
    assert "40 prompts of one collection" in words(shown.limits[0])


def test_what_a_range_does_not_do_is_said_with_the_papers_own_failure() -> None:
    said = text_of(present(bundle()))
    assert "68.3 % of harmful prompts" in said
    assert "at second hand and not measured here" in said


def test_a_published_range_is_shown_as_not_measured() -> None:
    shown = published()
    assert (shown.grids, shown.charts) == ((), ())
    facts = dict(shown.facts)
    assert facts["origin"] == "published, not re-measured"
    assert facts["published for"] == Verbatim("gemma-2b-it")
    assert facts["published alpha"] == "not known"
    assert "found by" not in facts
    assert words(shown.limits[0]).startswith("Published, not re-measured")
    assert "geometry was compared" in words(shown.limits[1])


def test_the_curves_have_a_point_per_layer_and_the_band_is_the_range() -> None:
    curves, sweep = present(bundle()).charts
    assert curves.band == sweep.band == (4, 7, "layers 4 to 7")
    for panel in curves.panels:
        assert [[point.x for point in one.points] for one in panel.series] == [list(range(12))] * 3
    gap = curves.panels[1].series[0].points[7]
    assert (gap.low, gap.high) == pytest.approx((gap.y - 1.5, gap.y + 1.5))


def test_the_sweep_moves_one_bound_at_a_time_beside_the_base() -> None:
    _, sweep = present(bundle()).charts
    last, first = sweep.panels[0].series
    assert [point.x for point in last.points] == [5, 6, 7, 8]
    assert [point.x for point in first.points] == [3, 4, 5, 6, 7]
    assert max(first.points, key=lambda point: point.y).x == 4
    assert sweep.panels[0].limit == (0.2, "the base as it is")
    own, elsewhere = sweep.panels[1].series
    assert [(point.x, point.y) for point in own.points] == [(4, 0.7)]
    assert [point.x for point in elsewhere.points] == [0, 8]


def test_both_charts_are_drawn() -> None:
    images = draw(present(bundle()).charts)
    assert images is not None
    assert set(images) == {"curves", "sweep"}


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_figures_that_nobody_measured_are_still_drawn(value: float) -> None:
    flat = {"mean": [value] * 12, "std": [0.0] * 12}
    wide = {"degrees": [value] * 12, "low": [1e6] * 12, "high": [-1e6] * 12}
    shown = shown_of(
        curves=dict.fromkeys(("harmless", "harmful", "between"), flat),
        gap=wide | {"paper": [0.0] * 12}, controls={"form": wide, "scary": wide},
    )  # fmt: skip
    assert draw(shown.charts)


def test_a_range_without_neighbours_is_shown_by_itself() -> None:
    """Two layers are the least with a control: the range is one of them."""
    body = a_body()
    points = [
        {"step": step, "first": first, "last": last, "alpha": alpha, "refused": refused}
        for step, first, last, alpha, refused in (
            ("baseline", None, None, 1, 0), ("upper", 1, 1, 1.3, 9), ("lower", 1, 1, 1.3, 9),
            ("control", 0, 0, 1.3, 1),
        )
    ]  # fmt: skip
    measurement = {**(body.measurement or {}), "points": points}
    flags = np.zeros((4, 40), np.uint8)
    shown = presentation(
        replace(body, first=1, last=1, measurement=measurement, refused=flags), bundle().manifest
    )
    assert [row[0] for row in shown.grids[0].rows] == ["none", "1 to 1", "0 to 0"]
    assert draw(shown.charts)
