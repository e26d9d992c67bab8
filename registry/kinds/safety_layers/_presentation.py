"""What people are shown of safety layers: the range, the sweep with its controls, the curves.

Every share is counted from the flags that travel in the bundle. What is said beside it are the
measurement's own figures, which ``parse`` has compared with those flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifact.presentation import Grid, Presentation, Verbatim
from registry.kinds.safety_layers._charts import curves_chart, share_of, sweep_chart
from registry.kinds.safety_layers._conventions import spellings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Cell, Words
    from registry.kinds.safety_layers.body import LayersBody

METHOD = "a contiguous range of layers that carries refusals, kept while training"
PAPER = (
    "Li and others, Safety Layers in Aligned Large Language Models, arXiv 2408.17003",
    "https://arxiv.org/abs/2408.17003",
)
TAGS = ("safety-layers", "sppft")
_MOST_SHOWN = 3  # bounds of the resamples, the rest are counted together
_NOT_DONE: tuple[Words, ...] = (
    (
        "It does not make a model safe. It keeps weights as they were; what a model answers "
        "depends on the layers that were trained too."
    ),
    (
        "It holds less, the more harmful data is trained on. The paper's figures, at second hand "
        "and not measured here: with the largest harmful share (p = 0.2), Llama-2-7b-chat answers "
        "68.3 % of harmful prompts with its safety layers kept, 93.5 % without."
    ),
    (
        "It is for fine-tunes of this one base. Another model is refused, whatever its shapes and "
        "its name say; a range is never scaled to another depth."
    ),
    "It brings back no refusal that the base did not have.",
)
_NOT_MEASURED: tuple[Words, ...] = (
    "Published, not re-measured: nobody who made this file has measured anything on this base.",
    (
        "That this base is the model it was published for is the word of whoever bound it: its "
        "geometry was compared, and other models have the same one."
    ),
)


def presentation(body: LayersBody, manifest: Manifest) -> Presentation:
    """Return what a card shows of this range.

    Args:
        body: The checked range.
        manifest: Its manifest, for the name; all else that is shown is in the body.
    """
    measured = body.measurement
    return Presentation(
        method=METHOD,
        paper=PAPER,
        tags=TAGS,
        facts=_facts(body, manifest.label),
        grids=() if measured is None else (_sweep_grid(body, measured),),
        limits=_NOT_MEASURED if measured is None else tuple(_limits(measured)),
        refusals=_NOT_DONE,
        charts=()
        if measured is None
        else (curves_chart(body, measured), sweep_chart(body, measured)),
        needs_base=True,
    )


def _facts(body: LayersBody, label: str) -> tuple[tuple[str, Cell], ...]:
    kept = {
        "frozen": "every tensor of these layers",
        "trainable": "attention and MLP of these layers; their norms may be trained, as in the "
        "paper",
    }[body.norms]
    facts: list[tuple[str, Cell]] = [
        ("range", f"layers {body.first} to {body.last} of 0 to {body.layers - 1}, both included"),
        ("also written", spellings(body.first, body.last)),
        ("keeps", kept),
        ("to train with it", Verbatim(f"safelatch show {label} --as trl")),
    ]
    if body.measurement is not None:
        scaling = body.measurement["scaling"]
        by = {
            "weights": "their weights",
            "contribution": "what they add to the residual stream",
            "activation": "the outputs of their linear maps",
        }[scaling["mode"]]
        facts.append(("found by", f"scaling {by} by {scaling['alpha']:g}"))
        facts.append(("origin", "measured on this base"))
    if body.source is not None:
        alpha = body.source["alpha"]
        facts += [
            ("origin", "published, not re-measured"),
            ("published for", Verbatim(body.source["model"])),
            ("published alpha", "not known" if alpha is None else f"{alpha:g}"),
            ("published in", Verbatim(body.source["paper"])),
            ("as quoted by", Verbatim(body.source["where"])),
        ]
    return tuple(facts)


def _sweep_grid(body: LayersBody, measured: Mapping[str, Any]) -> Grid:
    scaling, effect, n = measured["scaling"], measured["effect"], measured["n"]
    rows = [
        (_layers(point), what, share_of(point["refused"], n))
        for what, points in _decisive(body, measured["points"])
        for point in points
    ]
    most = "most" if scaling["alpha"] > 1 else "fewest"
    control = effect["control"]
    against = f"layers {control['first']} to {control['last']}"
    return Grid(
        title="Harmless prompts that sound harmful, refused by the base",
        lead=(
            f"The base with some of its layers scaled by {scaling['alpha']:g}, {n} prompts each; "
            f"the range is where the {most} are refused. Shares with counts and 95 % intervals."
        ),
        columns=("layers scaled", "why these", "refused"),
        rows=tuple(rows),
        notes=(
            (
                f"Prompt by prompt (exact McNemar test), the range against the base as it is: "
                f"p = {effect['p']:.2g}; against {against}, the equally wide range elsewhere that "
                f"changes most: p = {effect['control_p']:.2g}."
            ),
            _gap_note(body, measured),
        ),
    )


def _decisive(
    body: LayersBody, points: Sequence[Mapping[str, Any]]
) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    """Yield what decided: the base, the range, the bounds beside it, the ranges elsewhere."""
    by_step = {
        step: [point for point in points if point["step"] == step]
        for step in ("baseline", "lower", "upper", "control")
    }
    first, last = body.first, body.last
    yield "the base as it is", by_step["baseline"]
    yield "the range", [p for p in by_step["lower"] if p["first"] == first]
    yield (
        "another first layer",
        [p for p in by_step["lower"] if p["first"] in {first - 1, first + 1}],
    )
    yield "another last layer", [p for p in by_step["upper"] if p["last"] in {last - 1, last + 1}]
    yield "equally wide, elsewhere", by_step["control"]


def _layers(point: Mapping[str, Any]) -> str:
    return "none" if point["first"] is None else f"{point['first']} to {point['last']}"


def _gap_note(body: LayersBody, measured: Mapping[str, Any]) -> str:
    """Return the widest gap inside the range, beside its controls there."""
    gap, controls = measured["gap"], measured["controls"]
    layer = max(body.range, key=lambda index: float(gap["degrees"][index]))
    form, scary = (_degrees(controls[name], layer) for name in ("form", "scary"))
    return (
        f"Angle between harmful and harmless prompts beyond the angle within each, widest inside "
        f"the range at layer {layer}: {_degrees(gap, layer)} degrees. Where nothing is harmful: "
        f"{form} between questions and imperatives, {scary} between harmless prompts and those "
        "that only sound harmful."
    )


def _degrees(figures: Mapping[str, Sequence[float]], layer: int) -> str:
    value, low, high = (figures[name][layer] for name in ("degrees", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _limits(measured: Mapping[str, Any]) -> list[Words]:
    template, again = measured["template"]["name"], measured["resampled"]
    found: list[Words] = [
        (
            f"{measured['n']} prompts of one collection, asked once under one template (",
            Verbatim(template),
            "). Other prompts or another template may give other bounds.",
        ),
        (
            "An answer counts as refused by how it begins (scorer ",
            Verbatim(measured["scorer"]),
            f", {measured['max_new_tokens']} tokens).",
        ),
        (
            f"How firm the bounds are: of {again['resamples']} times that the prompts were drawn "
            f"again, answers as they were, the first layer came out as {_often(again['first'])}; "
            f"the last as {_often(again['last'])}."
        ),
    ]
    if not measured["initial"]["from_curves"]:
        found.append(
            "The curves named no layer to begin at: the search began in the middle of the model."
        )
    found.append(
        "Scaled layers that refuse more of what is harmless are not proof that these layers, and "
        "no others, carry the refusal of what is harmful."
    )
    return found


def _often(shares: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(shares, key=lambda row: (-row["share"], row["value"]))
    shown = [f"{row['value']} in {_percent(row['share'])}" for row in ordered[:_MOST_SHOWN]]
    rest = sum(row["share"] for row in ordered[_MOST_SHOWN:])
    return ", ".join([*shown, f"another in {_percent(rest)}"] if rest else shown)


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
