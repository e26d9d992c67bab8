"""Verdicts as lines: the decision first, then what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import printable
from registry.report.table import Table, cell, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def line(*words: Any) -> str:
    """Return one line: the decision, what it is about, and the fact; empty parts left out."""
    return "  ".join(cell(word, cut=False) for word in words if word not in {None, ""})


def check_text(document: Mapping[str, Any], *, model: str, lineage: str) -> str:
    """Return a compatibility verdict: ``refused  lock@1.0  base-mismatch  ...``.

    Args:
        document: ``CheckReport.to_dict()``.
        model: How the user named the checkpoint.
        lineage: What the checkpoint is to the base, in words.
    """
    errors = [f for f in document["findings"] if f["severity"] == "error"]
    warnings = [f for f in document["findings"] if f["severity"] != "error"]
    if errors:
        first = (errors[0]["code"], printable(errors[0]["message"]))
    else:
        first = (model, f"it is {lineage}")
    lines = [line(document["verdict"], document["artifact"], *first)]
    lines += [line(f["severity"], f["code"], f["message"]) for f in (*errors[1:], *warnings)]
    return "\n".join(lines)


def inspections_table(documents: Sequence[Mapping[str, Any]]) -> Table:
    """Return what bytes carry, one artifact a row (``Inspection.to_dict()`` each)."""
    extra = sorted({name for document in documents for name in document["found"]} - {"stored"})
    return Table(
        ("decision", "artifact", "kind", "model", *extra),
        tuple(
            (
                "stored" if document["stored"] else "not-stored",
                *(document[name] for name in ("artifact", "kind", "model")),
                *(document["found"].get(name) for name in extra),
            )
            for document in documents
        ),
    )


def inspections_csv(documents: Sequence[Mapping[str, Any]]) -> Table:
    """Return the same for machines: columns that no kind changes, what it found as JSON."""
    columns = ("artifact", "kind", "model", "weights", "digest", "stored", "loader_keeps")
    return Table(
        (*columns, "found"),
        tuple(
            (*(document[name] for name in columns), to_json(document["found"], indent=None))
            for document in documents
        ),
    )


def sweep_table(receipt: Mapping[str, Any]) -> Table:
    """Return the strengths that a calibration receipt measured, ascending."""
    rows = [*receipt["sweep"], {**receipt["random_control"], "inside_budget": None}]
    return Table(
        ("alpha", "inside_budget", "harmful_refused", "over_refusal_rise", "nll_rise", "control"),
        tuple(
            (
                row["alpha"],
                row["inside_budget"],
                row["refusal"]["value"],
                row["over_refusal_rise"],
                row["nll_rise"],
                "random directions" if index == len(receipt["sweep"]) else None,
            )
            for index, row in enumerate(rows)
        ),
    )
