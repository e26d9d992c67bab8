"""What people are shown of an ESI mask: the sums of its receipt, and in plain words what it is not."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from support.masked import mask_bundle
from support.tiny_models import FAMILIES, save_with_transformers

from registry.artifact.presentation import Verbatim
from registry.kinds import parse_body, present
from registry.kinds.esi_mask._portions import OTHERS, by_component, portions
from registry.kinds.esi_mask._presentation import presentation
from registry.report.markdown import cell, words
from registry.report.plots import draw

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.artifact.presentation import Presentation
    from registry.kinds.esi_mask.body import MaskBody

STABILITY = {"pairs": [4, 4], "jaccard": 0.21, "chance": 0.005}
TRAINED = {
    "steps": 1200, "optimizer": "AdamW", "learning_rate": 3e-5, "weight_decay": 0.01,
    "data": None, "seed": 7,
}  # fmt: skip


@cache
def bundle() -> Bundle:
    """Return a mask of a tiny Llama, without measurements."""
    with TemporaryDirectory() as folder:
        config = {"model_type": "llama", **FAMILIES["llama"]}
        base = save_with_transformers(Path(folder) / "base", config)
        return mask_bundle(None, base)


@cache
def mass() -> tuple[dict[str, Any], ...]:
    """Return a receipt for it: the value projections have twice the score of all others."""
    body = parse_body(bundle())
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for matrix in body.matrices:
        row = rows.setdefault(
            (-1 if matrix.layer is None else matrix.layer, matrix.component),
            {"layer": matrix.layer, "component": matrix.component, "weights": 0, "selected": 0},
        )
        row["weights"] += matrix.numel
        row["selected"] += body.counts[matrix.name]
    for row in rows.values():
        each = 2.0 if row["component"].endswith("v_proj") else 1.0
        row |= {"sum": each * row["weights"], "selected_sum": each * row["selected"]}
    return tuple(rows[place] for place in sorted(rows))


def body_of(**changes: Any) -> MaskBody:
    return replace(parse_body(bundle()), **{"mass": mass(), "stability": STABILITY, **changes})


def shown_of(**changes: Any) -> Presentation:
    return presentation(body_of(**changes), bundle().manifest)


def text_of(shown: Presentation) -> str:
    parts = [*shown.limits, *shown.refusals, *(note for grid in shown.grids for note in grid.notes)]
    return "\n".join(map(words, parts))


def test_the_facts_are_those_of_the_body() -> None:
    body = body_of()
    used = sum(count > 0 for count in body.counts.values())
    assert dict(shown_of().facts) == {
        "selects": f"{body.selected:,} of {body.weights:,} candidate weights",
        "rho": "0.02",
        "in": f"{used} of {len(body.matrices)} matrices",
        "form": "mask: which weights, without values",
        "ranked by": Verbatim("random"),
        "over": "1 pair",
        "two halves agree": "Jaccard 0.21 of 4 and 4 pairs (chance: 0.005)",
        "to train with it": Verbatim('registry.guard(model, "(draft)")'),
    }


def test_a_delta_says_how_it_was_trained_and_that_nothing_was_measured() -> None:
    shown = shown_of(form="delta", delta=TRAINED)
    facts = dict(shown.facts)
    assert facts["form"] == "delta: which weights, and new values for them"
    assert (facts["trained for"], facts["learning rate"]) == ("1,200 steps", 3e-5)
    assert (facts["optimizer"], facts["trained on"]) == (Verbatim("AdamW"), None)
    assert "to train with it" not in facts
    assert "measured nowhere in it" in text_of(shown)
    assert "measured nowhere in it" not in text_of(shown_of())


def test_the_grid_has_the_sums_of_the_receipt_over_the_layers() -> None:
    (grid,) = shown_of().grids
    whole = sum(row["sum"] for row in mass())
    for name, weights, share, selected, of_its in grid.rows:
        rows = [row for row in mass() if Verbatim(row["component"]) == name]
        counts = [sum(row[part] for row in rows) for part in ("weights", "selected")]
        assert (weights, selected) == tuple(f"{count:,}" for count in counts)
        assert share == f"{sum(row['sum'] for row in rows) / whole:.2%}"
        assert of_its == f"{counts[1] / counts[0]:.2%}"
    assert len(grid.rows) == len({row["component"] for row in mass()})
    assert sum(int(str(row[3]).replace(",", "")) for row in grid.rows) == body_of().selected


def test_the_notes_say_what_the_selected_have_and_which_layers_have_most() -> None:
    (grid,) = shown_of().grids
    whole, part = (sum(row[name] for row in mass()) for name in ("sum", "selected_sum"))
    assert f"have {part / whole:.1%} of the sum of the scores." in str(grid.notes[0])
    assert str(grid.notes[1]).startswith("Layers with most of the scores: ")


def test_agreement_stands_beside_chance() -> None:
    said = text_of(shown_of())
    assert (
        "the masks of 4 and of 4 of the pairs share 21% of what either selects (Jaccard 0.21); "
        "chance alone gives 0.005." in said
    )
    assert "was not measured" not in said


def test_agreement_that_was_not_measured_is_said_with_the_command() -> None:
    said = text_of(shown_of(stability=None))
    assert "How firm it is was not measured." in said
    assert "`safelatch extract esi-mask BASE --out DIR`" in said


def test_what_a_mask_is_not_is_said() -> None:
    said = text_of(shown_of())
    assert "Weights that are kept are not behaviour that is kept" in said
    assert "who wants to take the safety out of this base reads here which weights" in said


def test_experts_without_a_token_are_counted() -> None:
    coverage = ({"layer": 0, "tokens": [5, 0]}, {"layer": 1, "tokens": [0, 7]})
    assert "2 of 4 experts were given no token" in text_of(shown_of(coverage=coverage))


def test_names_of_others_are_shown_letter_by_letter() -> None:
    judge = {
        "name": "[a](b)",
        "weights": None,
        "chat_template": "",
        "verdicts": {},
        "estimator": "",
    }
    score = {**body_of().score, "name": "<b>", "judge": judge}
    shown = shown_of(score=score)
    assert dict(shown.facts)["judged by"] == Verbatim("[a](b)")
    parts = [part for limit in shown.limits if isinstance(limit, tuple) for part in limit]
    assert {Verbatim("[a](b)"), Verbatim("<b>")} <= set(parts)
    rows = copy.deepcopy(list(mass()))
    rows[0]["component"] = "a|<b>"
    grid = shown_of(mass=tuple(rows)).grids[0]
    assert "`a¦<b>`" in [cell(row[0]) for row in grid.rows]


def test_an_imported_mask_is_shown_as_not_ranked() -> None:
    shown = shown_of(score=None, mass=None, stability=None, rho=0.0123456)
    facts = dict(shown.facts)
    assert facts["origin"] == "imported, not ranked here"
    assert facts["rho"] == "0.0123 of all parameters"
    assert not {"ranked by", "over"} & set(facts)
    (said,) = shown.limits
    assert words(said).startswith("Imported: which pairs and which score it is from")


def test_a_mask_without_the_receipt_has_no_grid_and_no_picture() -> None:
    shown = present(bundle())
    assert (shown.grids, shown.charts) == ((), ())
    assert "Where the scores are was not kept." in text_of(shown)


def test_the_chart_has_a_line_per_block_and_a_point_per_layer() -> None:
    layers, components = shown_of().charts
    assert (layers.name, components.name) == ("layers", "components")
    count = len({row["layer"] for row in mass()} - {None})
    for panel in layers.panels:
        assert [series.label for series in panel.series] == ["mlp", "self_attn"]
        assert [[p.x for p in one.points] for one in panel.series] == [list(range(count))] * 2
    every = sum(point.y for series in layers.panels[0].series for point in series.points)
    head = sum(row["sum"] for row in mass() if row["layer"] is None)
    assert every == pytest.approx(100 - 100 * head / sum(row["sum"] for row in mass()))
    assert layers.panels[1].limit == (pytest.approx(2, abs=0.01), "overall")
    for series in components.panels[0].series:
        assert len(series.points) == len(components.names)
        assert sum(point.y for point in series.points) == pytest.approx(100)


def test_both_charts_are_drawn() -> None:
    images = draw(shown_of().charts)
    assert images is not None
    assert set(images) == {"layers", "components"}


def test_of_very_many_components_the_rest_is_one_row() -> None:
    rows = [
        {"layer": 0, "component": f"part{n}.w", "weights": 2, "selected": 1, "sum": float(n),
         "selected_sum": 0.0}
        for n in range(40)
    ]  # fmt: skip
    found = by_component(portions(rows))
    assert len(found) == 21
    assert (found[0].component, found[-1].component) == ("part39.w", OTHERS)
    assert (found[-1].weights, found[-1].scores) == (40, sum(range(20)))
    layers, components = shown_of(mass=tuple(rows)).charts
    assert [series.label for series in layers.panels[0].series][-1] == OTHERS
    assert (len(layers.panels[0].series), len(components.names)) == (6, 21)


def test_scores_of_nothing_are_no_division() -> None:
    rows = tuple(row | {"sum": 0.0, "selected_sum": 0.0} for row in mass())
    shown = shown_of(mass=rows)
    assert draw(shown.charts) is not None
    assert {row[2] for row in shown.grids[0].rows} == {None}
