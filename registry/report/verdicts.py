"""Verdicts as lines: the decision first, then what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.report.table import Table, cell, pairs, to_json
from registry.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_MOST_ROWS = 30


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
    first = (errors[0]["code"], printable(errors[0]["message"])) if errors else (model, lineage)
    lines = [line(document["verdict"], document["artifact"], *first)]
    lines += [line(f["severity"], f["code"], f["message"]) for f in (*errors[1:], *warnings)]
    if document["measured"] is not None:
        lines += [table.to_text() for table in _measured_tables(document["measured"])]
    return "\n".join(lines)


def _measured_tables(measured: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return each figure beside its bounds, and each head beside the base."""
    heads = ("layer", "head", "cosine", "base_cosine", "margin", "base_margin", "dose", "base_dose")
    summary = ("figure", "value", "least", "most")
    return (
        Table(summary, tuple(tuple(row[name] for name in summary) for row in measured["summary"])),
        Table(heads, tuple(tuple(row[name] for name in heads) for row in measured["heads"])),
    )


def inspections_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return what bytes carry, and below it what a kind found part by part.

    Args:
        documents: ``Inspection.to_dict()`` each; with ``shown``, which is printed in place of
            ``found`` where it is not ``None``.
    """
    table = [{**each, "found": {}} if each.get("shown") else each for each in documents]
    parts = []
    for document in documents:
        head = f"{cell(document['artifact'])}  {cell(document['model'])}"
        shown = document.get("shown")
        members = shown or document["found"]
        if shown:
            head += f"\n{pairs({n: v for n, v in shown.items() if not isinstance(v, list)})}"
            parts.append(head)
            head = ""
        parts += [f"{head}\n{_listed(v)}".lstrip() for v in members.values() if _is_rows(v)]
    return "\n\n".join([inspections_table(table).to_text(), *parts])


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _listed(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as text; of very many the first, and how many more."""
    more = len(records) - _MOST_ROWS
    text = _rows(records[:_MOST_ROWS]).to_text()
    return f"{text}\nand {more:,} more; all of them: --format json" if more > 0 else text


def _rows(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return records as a table; of a longer list the first, and how many more."""
    return Table(
        tuple(records[0]),
        tuple(tuple(_brief(value) for value in record.values()) for record in records),
    )


def _brief(value: Any) -> Any:
    is_long = isinstance(value, list) and len(value) > 1
    return f"{cell(value[0])} and {len(value) - 1} more" if is_long else value


def inspections_table(documents: Sequence[Mapping[str, Any]]) -> Table:
    """Return what bytes carry, one artifact a row (``Inspection.to_dict()`` each)."""
    found = [pair for document in documents for pair in document["found"].items()]
    extra = sorted({name for name, value in found if not _is_rows(value)} - {"stored"})
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
    """Return what a calibration receipt measured: no lock, the strengths ascending, the control."""
    free = {"over_refusal_rise": 0.0, "nll_rise": 0.0}
    unlocked = {"alpha": 0.0, "refusal": receipt["unlocked"]["harmful"]["rate"], **free}
    rows = [
        (unlocked, "no lock"),
        *((row, None) for row in receipt["sweep"]),
        (receipt["random_control"], "random directions"),
    ]
    return Table(
        ("alpha", "inside_budget", "harmful_refused", "over_refusal_rise", "nll_rise", "control"),
        tuple(
            (
                row["alpha"],
                row.get("inside_budget"),
                row.get("refusal", {}).get("value"),  # not measured where a value is not finite
                row.get("over_refusal_rise"),
                row.get("nll_rise"),
                control,
            )
            for row, control in rows
        ),
    )


def effect_text(receipt: Mapping[str, Any]) -> str | None:
    """Return why a calibration shows no effect of the lock, in one line; ``None`` if it does.

    It shows one when more harmful prompts are refused at the chosen strength than without the
    lock, and more than with random directions.
    """
    chosen = next(row for row in receipt["sweep"] if row["alpha"] == receipt["alpha"])
    locked, random = chosen["refusal"], receipt["random_control"]["refusal"]
    unlocked = receipt["unlocked"]["harmful"]["rate"]
    if locked["successes"] > max(unlocked["successes"], random["successes"]):
        return None
    return (
        f"at alpha {receipt['alpha']:g} it refuses {locked['successes']} of {locked['n']} harmful "
        f"prompts, without it {unlocked['successes']} of {unlocked['n']}, with random directions "
        f"{random['successes']} of {random['n']}: no effect was seen"
    )
