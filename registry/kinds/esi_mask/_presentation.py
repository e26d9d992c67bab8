"""What people are shown of an ESI mask: how much, where, and how firm that is.

Counts are those of the packed mask, with which ``parse`` has compared the receipt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifact.presentation import Grid, Presentation, Verbatim
from registry.kinds.esi_mask._charts import charts
from registry.kinds.esi_mask._portions import (
    OTHERS,
    by_component,
    by_layer,
    portion,
    portions,
    total,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Cell, Words
    from registry.kinds.esi_mask._portions import Portion
    from registry.kinds.esi_mask.body import MaskBody

METHOD = "the few weights that safety depends on most, kept or trained alone"
PAPER = (
    (
        "Qi and others, Towards Identification and Intervention of Safety-Critical Parameters in "
        "Large Language Models, arXiv 2604.08297"
    ),
    "https://arxiv.org/abs/2604.08297",
)
TAGS = ("esi-mask", "safeweights")
_MOST_LAYERS = 3  # that a note names
_NOT_DONE: tuple[Words, ...] = (
    (
        "It does not make a model safe. Weights that are kept are not behaviour that is kept: what "
        "a model answers depends on all the others too, and those are trained."
    ),
    (
        "It shows where safety sits, to everybody: who wants to take the safety out of this base "
        "reads here which weights to change."
    ),
    (
        "It is for fine-tunes of this one base. Another model is refused, whatever its shapes and "
        "its name say."
    ),
    "It brings back no refusal that the base did not have.",
)
_IMPORTED: Words = (
    "Imported: which pairs and which score it is from, and how firm it is, is not in the file. "
    "Nobody who made this artifact has measured anything on this base."
)
_DELTA: Words = (
    "It says how the new values were trained, by whoever trained them; what the model answers with "
    "them is measured nowhere in it."
)


def presentation(body: MaskBody, manifest: Manifest) -> Presentation:
    """Return what a card shows of this mask.

    Args:
        body: The checked mask.
        manifest: Its manifest, for the name; all else that is shown is in the body.
    """
    rows = () if body.mass is None else portions(body.mass)
    return Presentation(
        method=METHOD,
        paper=PAPER,
        tags=TAGS,
        facts=_facts(body, manifest.label),
        grids=(_grid(body, rows),) if rows else (),
        limits=tuple(_limits(body)),
        refusals=_NOT_DONE if body.delta is None else (*_NOT_DONE, _DELTA),
        charts=charts(body, rows) if rows else (),
        needs_base=body.delta is None and body.values is None,
    )


def _facts(body: MaskBody, label: str) -> tuple[tuple[str, Cell], ...]:
    used = sum(1 for count in body.counts.values() if count)
    facts: list[tuple[str, Cell]] = [
        ("selects", f"{body.selected:,} of {body.weights:,} candidate weights"),
        (
            "rho",
            f"{body.rho:.3g} of all parameters" if body.score is None else f"{body.rho:g}",
        ),
        ("in", f"{used:,} of {len(body.matrices):,} matrices"),
        ("form", _form(body)),
        *_ranking(body.score),
    ]
    if body.stability is not None:
        facts.append(("two halves agree", _agreement(body.stability)))
    if body.delta is not None:
        facts += _training(body.delta)
    else:
        facts.append(("to train with it", Verbatim(f'registry.guard(model, "{label}")')))
    return tuple(facts)


def _ranking(score: Mapping[str, Any] | None) -> list[tuple[str, Cell]]:
    if score is None:
        return [("origin", "imported, not ranked here")]
    facts: list[tuple[str, Cell]] = [
        ("ranked by", Verbatim(score["name"])),
        ("over", f"{score['pairs']:,} pair{'' if score['pairs'] == 1 else 's'}"),
    ]
    if score["judge"] is not None:
        facts.append(("judged by", Verbatim(score["judge"]["name"])))
    return facts


def _form(body: MaskBody) -> str:
    if body.delta is not None:
        return "delta: which weights, and new values for them"
    held = "with the base's values there" if body.values is not None else "without values"
    return f"mask: which weights, {held}"


def _training(delta: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    return [
        ("trained for", f"{delta['steps']:,} steps"),
        ("optimizer", Verbatim(delta["optimizer"])),
        ("learning rate", float(delta["learning_rate"])),
        ("trained on", None if delta["data"] is None else Verbatim(delta["data"])),
    ]


def _agreement(stability: Mapping[str, Any]) -> str:
    first, second = stability["pairs"]
    return (
        f"Jaccard {stability['jaccard']:.2f} of {first} and {second} pairs "
        f"(chance: {stability['chance']:.2g})"
    )


def _grid(body: MaskBody, rows: Sequence[Portion]) -> Grid:
    whole = total(rows)
    share = portion(whole.selected_scores, whole.scores)
    notes: list[Words] = []
    if share is not None:
        notes.append(
            f"The selected weights, {body.selected / body.weights:.2%} of all, have {share:.1%} of "
            "the sum of the scores."
        )
    notes += _layers_note(rows, whole)
    return Grid(
        title="Where the expected safety impact is",
        lead=(
            "Scores (expected safety impact) and selected weights of each component, all layers "
            "together; most of the scores first."
        ),
        columns=("component", "weights", "share of all scores", "selected", "of its weights"),
        rows=tuple(
            (
                row.component if row.component == OTHERS else Verbatim(row.component),
                f"{row.weights:,}",
                _percent(portion(row.scores, whole.scores)),
                f"{row.selected:,}",
                _percent(portion(row.selected, row.weights)),
            )
            for row in by_component(rows)
        ),
        notes=tuple(notes),
    )


def _layers_note(rows: Sequence[Portion], whole: Portion) -> list[Words]:
    layers = by_layer(rows)
    if not layers or not whole.scores:
        return []
    most = sorted(layers, key=lambda item: (-item[1].scores, item[0]))[:_MOST_LAYERS]
    named = ", ".join(f"{n} ({_percent(portion(row.scores, whole.scores))})" for n, row in most)
    return [f"Layers with most of the scores: {named}; of {len(layers)}."]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.2%}"


def _limits(body: MaskBody) -> list[Words]:
    found = [_IMPORTED] if body.score is None else _of_score(body.score, body.stability)
    if body.score is not None and body.mass is None:
        found.append("Where the scores are was not kept.")
    if body.coverage is not None:
        given = [tokens for row in body.coverage for tokens in row["tokens"]]
        found.append(
            f"{given.count(0):,} of {len(given):,} experts were given no token while scoring: "
            "their weights have no score, and none of them was measured."
        )
    return found


def _of_score(score: Mapping[str, Any], stability: Mapping[str, Any] | None) -> list[Words]:
    pairs = score["pairs"]
    found: list[Words] = [
        (
            f"Ranked over {pairs:,} pair{'' if pairs == 1 else 's'} of one collection, under one "
            "template. Others would select other weights."
        ),
        _firmness(stability),
        (
            "The score (",
            Verbatim(score["name"]),
            (
                ") is differentiated at the base as it is: a first-order guess at what one weight "
                "alone does. No weight was taken out to see what happens."
            ),
        ),
    ]
    if score["judge"] is not None:
        judge = Verbatim(score["judge"]["name"])
        found.append(("What is safe was decided by ", judge, ", with whatever it gets wrong."))
    return found


def _firmness(stability: Mapping[str, Any] | None) -> Words:
    if stability is None:
        return (
            (
                "How firm it is was not measured. Few pairs give masks that agree little: on a "
                "model of 135M parameters two masks of 8 pairs each agreed with Jaccard 0.21 "
                "(chance: 0.011). To measure it: "
            ),
            Verbatim("safelatch extract esi-mask BASE --out DIR"),
            ".",
        )
    first, second = stability["pairs"]
    return (
        f"How firm it is: the masks of {first} and of {second} of the pairs share "
        f"{stability['jaccard']:.0%} of what either selects (Jaccard {stability['jaccard']:.2f}); "
        f"chance alone gives {stability['chance']:.2g}. The rest depends on which pairs were asked."
    )
