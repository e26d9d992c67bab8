"""The audit report: which models carry protection, on what evidence, since when.

- Declared, stored, applied and verified are four columns; none stands in for another.
- The first line is the answer: how many models are protected.
- A model counts as protected when at least one of its rows shows it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.report.table import Table
from registry.report.verdicts import line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA = "safelatch/audit-report/v1"

READING = (
    "declared: a name or card says so; stored: the bytes carry it; applied: our code put it on a "
    "live model; verified: a live model was read back and matched, at that time."
)
"""How the four columns are read."""

COLUMNS = (
    "model", "weights", "claimed_base", "base", "relation", "evidence_level", "distance",
    "artifact", "kind", "declared", "stored", "applied_at", "verified_at", "state", "protected",
    "reason",
)  # fmt: skip
"""Members of a row, and columns of the CSV form."""

_SHOWN = (
    ("state", "state"), ("model", "model"), ("artifact", "artifact"), ("base", "base"),
    ("distance", "distance"), ("declared", "declared"), ("stored", "stored"),
    ("applied", "applied_at"), ("verified", "verified_at"), ("reason", "reason"),
)  # fmt: skip


def audit_document(
    rows: Sequence[Mapping[str, Any]],
    *,
    states: Mapping[str, str],
    created: str,
    tool: str,
    registry: str,
) -> dict[str, Any]:
    """Return the report as a document that follows ``audit_report.v1``.

    Args:
        rows: One per model and artifact, with the members ``COLUMNS``.
        states: What each state means.
        created: When the audit was made, UTC.
        tool: What made it, with its version.
        registry: Whose event log was asked, without any password.
    """
    protected = _protected(rows)
    counts = Counter(str(row["state"]) for row in rows)
    return {
        "schema": SCHEMA,
        "created": created,
        "tool": tool,
        "registry": registry,
        "reading": READING,
        "states": {state: states[state] for state in sorted(counts)},
        "summary": {
            "models": len(protected),
            "protected": sum(protected.values()),
            "by_state": dict(sorted(counts.items())),
        },
        "rows": [{name: row[name] for name in COLUMNS} for row in rows],
    }


def audit_table(document: Mapping[str, Any]) -> Table:
    """Return every column of the report, for CSV."""
    return Table(COLUMNS, tuple(tuple(row[name] for name in COLUMNS) for row in document["rows"]))


def audit_text(document: Mapping[str, Any]) -> str:
    """Return the report for people: the answer, the table, and what its words mean."""
    summary = document["summary"]
    everyone = summary["protected"] == summary["models"]
    decision = "protected" if everyone else "not protected"
    shown = Table(
        tuple(title for title, _ in _SHOWN),
        tuple(tuple(row[name] for _, name in _SHOWN) for row in document["rows"]),
    )
    width = max((len(state) for state in document["states"]), default=0)
    meanings = [f"{state.ljust(width)}  {text}" for state, text in document["states"].items()]
    return "\n".join([
        line(decision, f"{summary['protected']} of {summary['models']} models are protected"),
        "",
        shown.to_text(),
        "",
        *meanings,
        document["reading"],
    ])  # fmt: skip


def _protected(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for row in rows:
        found[row["model"]] = found.get(row["model"], False) or bool(row["protected"])
    return found
