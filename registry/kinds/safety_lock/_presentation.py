"""What people are shown of a safety lock: the sweep of its calibration and the probes of its heads.

Counts and intervals are the receipt's, as they are. A receipt that is not as ``calibrate`` writes
it is left out whole, and that is said: half a measurement reads like another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifact.presentation import (
    Chart,
    Grid,
    Panel,
    Point,
    Presentation,
    Series,
    Share,
    Verbatim,
)
from registry.kinds.safety_lock._figures import (
    in_points,
    read_count,
    read_number,
    read_point,
    read_share,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Cell, Words
    from registry.kinds.safety_lock.body import LockBody

METHOD = "per-head directions toward refusal, added in front of the attention output"
PAPER = (
    "SafetyLock: Zhu and others, Locking Down the Finetuned LLMs Safety, arXiv 2410.10343",
    "https://arxiv.org/abs/2410.10343",
)
TAGS = ("safetylock", "activation-steering")
_SETS = (
    ("harmful", "refusal", "harmful", "refused"),
    ("harmless", "over_refusal", "harmless", "answered"),
    ("scary", "scary_refusal", "scary: harmless, but sounds harmful", "answered"),
)
_NOT_DONE = (
    (
        "It does not make a model safe. It moves what the model says toward refusing; whoever "
        "wants an answer badly enough may still get one."
    ),
    (
        "It is for fine-tunes of this one base. Another model is refused, whatever its shapes and "
        "its name say."
    ),
    (
        "It acts on every prompt alike. The price is over-refusal and utility: harmless requests, "
        "above all those that sound harmful, may be refused too."
    ),
    "It does not repair a fine-tune that collapsed into one answer for everything.",
    (
        "It changes the model that is loaded, not the fine-tune's files: loaded without Safelatch, "
        "the fine-tune is as unprotected as before."
    ),
)
_CHOSEN = (
    "The heads were chosen by the accuracy of their probes, which flatters it a little; and a good "
    "probe does not say that its direction does anything."
)
_UNREADABLE = (
    "Its calibration receipt is of another strength than the lock, or of a form that this release "
    "does not read: nothing is shown of it."
)
_OF_THE_BASE = (
    "These are figures of the base, not of your fine-tune. An aligned base refuses much by itself, "
    "so little can be gained there. Whether refusals come back in a fine-tune that lost them shows "
    "only in that fine-tune."
)


def presentation(body: LockBody, manifest: Manifest) -> Presentation:
    """Return what a card shows of this lock.

    Args:
        body: The lock.
        manifest: Its manifest, whose receipts may have any form.
    """
    found = [receipt for receipt in manifest.receipts if receipt.get("type") == "calibration"]
    measured: Grid | None = None
    sweep: Chart | None = None
    limits: list[Words] = []
    try:
        if found:
            measured, sweep, limits = _calibration(body, found[-1])
    except (KeyError, TypeError, ValueError, StopIteration):
        limits = [_UNREADABLE]
    if not found:
        limits = ["No calibration receipt travels with it: nothing is known of its effect."]
    if body.holds is not None:
        command = Verbatim(f"safelatch check {manifest.label} YOUR-MODEL --measure")
        limits.append(("Whether the directions still hold in your fine-tune: ", command))
    probes = _probes(body)
    if probes is not None:
        limits.append(_CHOSEN)
    charts = (sweep, probes)
    return Presentation(
        method=METHOD,
        paper=PAPER,
        tags=TAGS,
        facts=_facts(body),
        grids=() if measured is None else (measured,),
        limits=tuple(limits),
        refusals=_NOT_DONE,
        charts=tuple(chart for chart in charts if chart is not None),
    )


def _facts(body: LockBody) -> tuple[tuple[str, Cell], ...]:
    layers = ", ".join(map(str, body.layers))
    facts: list[tuple[str, Cell]] = []
    if body.alpha is not None and body.alpha_range is not None:
        most = body.alpha_range[1]
        facts.append(("strength", f"alpha {body.alpha:g}; 0 to {most:g} may be asked for"))
    facts.append(("acts on", f"{len(body.heads)} attention heads in layers {layers}"))
    if body.is_imported:
        facts.append(("origin", "an official file, which does not say how it was made"))
    return tuple(facts)


def _calibration(body: LockBody, receipt: Mapping[str, Any]) -> tuple[Grid, Chart, list[Words]]:
    """Return the table, the picture and what they do not show.

    Raises:
        KeyError, TypeError, ValueError, StopIteration: the receipt has another form, or is of
            another strength.
    """
    alpha = read_number(receipt["alpha"])
    if alpha != body.alpha:
        raise ValueError("expected the receipt of this strength")
    unlocked, control = receipt["unlocked"], receipt["random_control"]
    rows = [row for row in receipt["sweep"] if "refusal" in row]
    chosen = next(row for row in rows if row["alpha"] == receipt["alpha"])
    table = tuple(
        (
            shown,
            read_share(unlocked[name]["rate"]),
            read_share(chosen[key]),
            read_share(control[key]),
            wanted,
        )
        for name, key, shown, wanted in _SETS
    )
    grid = Grid(
        title="Prompts that the base refuses",
        lead=(
            f"The base itself, without the lock and with it at alpha {alpha:g}, and with a "
            "control: random directions of the same length in the same heads. Shares with counts "
            "and 95 % intervals."
        ),
        columns=("prompts", "base alone", "with the lock", "random directions", "should be"),
        rows=table,
        notes=_notes(receipt, chosen, control),
    )
    return grid, _sweep(receipt, rows, alpha), _limits(receipt, table)


def _notes(
    receipt: Mapping[str, Any], chosen: Mapping[str, Any], control: Mapping[str, Any]
) -> tuple[Words, ...]:
    before = read_share(receipt["unlocked"]["harmful"]["rate"])
    after, random = read_share(chosen["refusal"]), read_share(control["refusal"])
    gained, lost = read_count(chosen["refusals_gained"]), read_count(chosen["refusals_lost"])
    p = read_number(chosen["p"])
    one_by_one = (
        f"Harmful prompts, one by one: {gained} refused only with the lock, {lost} only without it "
        f"(exact McNemar test, p = {p:.2g})."
    )
    notes = [one_by_one]
    if after.successes <= max(before.successes, random.successes):
        notes.append(
            "No effect on harmful prompts was seen in the base: it refuses no more of them than "
            "without the lock, or no more than with random directions."
        )
    rise, other = (in_points(row["over_refusal_rise"]) for row in (chosen, control))
    budget = receipt["budget"]
    notes.append(
        f"Over-refusal, harmless and scary prompts together: {rise} of a budget of "
        f"{in_points(budget['over_refusal'])}; with random directions: {other}."
    )
    if chosen["nll_rise"] is not None and control["nll_rise"] is not None:
        nll, other_nll = (read_number(row["nll_rise"]) for row in (chosen, control))
        notes.append(
            f"Likelihood of the base's own answers: {nll:+.3f} nats per token of a budget of "
            f"{read_number(budget['nll']):+g}; with random directions: {other_nll:+.3f}."
        )
    return tuple(notes)


def _limits(receipt: Mapping[str, Any], table: Sequence[Sequence[Any]]) -> list[Words]:
    counts = sorted({cell.n for row in table for cell in row if isinstance(cell, Share)})
    sizes = " or ".join(map(str, counts))
    unlocked = receipt["unlocked"]
    tokens = read_count(unlocked["max_new_tokens"])
    return [
        _OF_THE_BASE,
        (
            f"Each set has {sizes} prompts, of one collection, asked once. The intervals say how "
            "much that leaves open."
        ),
        (
            "An answer counts as refused by how it begins (scorer ",
            Verbatim(str(unlocked["scorer"])),
            f", {tokens} tokens), not by what it would go on to say.",
        ),
    ]


def _sweep(receipt: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], alpha: float) -> Chart:
    refused = tuple(
        Series(name, (read_point(0.0, receipt["unlocked"][name]["rate"]),
                      *(read_point(read_number(row["alpha"]), row[key]) for row in rows)))
        for name, key, _, _ in _SETS
    )  # fmt: skip
    spent = []
    refusing, nll = (read_number(receipt["budget"][name]) for name in ("over_refusal", "nll"))
    for label, key, most in (
        (f"over-refusal, of {in_points(refusing)}", "over_refusal_rise", refusing),
        (f"likelihood, of {nll:+g} nats per token", "nll_rise", nll),
    ):
        if most > 0 and all(row[key] is not None for row in rows):
            points = [
                Point(read_number(row["alpha"]), read_number(row[key]) / most) for row in rows
            ]
            spent.append(Series(label, (Point(0.0, 0.0), *points)))
    panels = [Panel("prompts refused", refused, span=(0.0, 1.0))]
    if spent:
        panels.append(Panel("budget used", tuple(spent), limit=(1.0, "the budget")))
    return Chart(
        name="calibration",
        title="Calibration on the base: what each strength does and costs",
        described=(
            "Shares of harmful, harmless and scary prompts that the base refuses at each strength, "
            "with 95 % intervals, and the share of the budget that each strength uses. "
            f"The chosen strength is {alpha:g}."
        ),
        x_label="alpha (strength; 0 is the base alone)",
        panels=tuple(panels),
        mark=(alpha, f"chosen: {alpha:g}"),
    )


def _probes(body: LockBody) -> Chart | None:
    if body.is_imported or len(body.probe["accuracy"]) != len(body.heads):
        return None
    errors = body.probe["standard_error"]
    if len(errors) != len(body.heads):
        return None
    points = tuple(
        Point(place, value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error))
        for place, (value, error) in enumerate(zip(body.probe["accuracy"], errors, strict=True))
    )
    median = float(body.probe["median_accuracy"])
    return Chart(
        name="probes",
        title="How well each chosen head tells refusing from complying answers",
        described=(
            f"Held-out accuracy of the probe of each of the {len(points)} chosen heads, best "
            f"first, with 1.96 standard errors; the median over all heads is {median:.1%}."
        ),
        x_label="attention head, as layer:head",
        panels=(
            Panel(
                "held-out accuracy",
                (Series("chosen heads, with 1.96 standard errors", points),),
                joined=False,
                limit=(median, "median of all heads"),
            ),
        ),
        names=tuple(f"{layer}:{head}" for layer, head in body.heads),
    )
