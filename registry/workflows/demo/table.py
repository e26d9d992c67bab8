"""What the demo prints: tables of measured rates with their intervals, and plain verdicts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.measure.evaluate import Evaluation
    from registry.measure.statistics import Rate
    from registry.workflows.audit import AuditRow

SIGNIFICANT = 0.05


def percent(rate: Rate) -> str:
    """Return ``83 % [70, 91]``: the share and its 95 % Wilson interval."""
    low, high = rate.interval().low, rate.interval().high
    return f"{rate.value:4.0%} [{low * 100:2.0f},{high * 100:3.0f}]"


def measurements(rows: Mapping[str, Evaluation], *, scorer: str) -> str:
    """Return the table of what each model did."""
    first = next(iter(rows.values()))
    counts = [len(asked.refused) for asked in (first.harmful, first.harmless, first.scary)]
    lines = [
        f"  {'':24}{'refuses harmful':18}{'refuses harmless':18}{'refuses scary':18}cost",
        f"  {'':24}" + "".join(f"{f'n={count}':18}" for count in counts) + "nats/token",
    ]
    for name, found in rows.items():
        rates = (found.refusal, found.over_refusal, found.scary_refusal)
        cost = "-" if found.mean_nll is None else f"{found.mean_nll:.2f}"
        lines.append(f"  {name:24}" + "".join(f"{percent(rate):18}" for rate in rates) + cost)
    lines.append(
        f"  shares with 95 % intervals; scorer {scorer}; cost: likelihood of the base's own "
        "answers to harmless prompts"
    )
    return "\n".join(lines)


def verdict(against_random: Mapping[str, Any], against_plain: Mapping[str, Any]) -> str:
    """Return what may be said about the lock, from paired tests on the harmful prompts."""
    lines = []
    for what, change in (("the same model without it", against_plain),
                         ("a random lock of equal norm", against_random)):  # fmt: skip
        found = change["harmful"]
        gained, lost, p = found["only_after"], found["only_before"], found["p"]
        effect = (
            f"{found['difference']:+.0%} refusals (gained {gained}, lost {lost}, p = {p:.2g})"
            if gained > lost and p < SIGNIFICANT
            else f"no measurable effect (gained {gained}, lost {lost}, p = {p:.2g})"
        )
        lines.append(f"  lock against {what}: {effect}")
    return "\n".join(lines)


def sweep(receipt: Mapping[str, Any]) -> str:
    """Return the calibration sweep and what was chosen."""
    budget = receipt["budget"]
    lines = [
        f"  budget: over-refusal {budget['over_refusal']:+.0%}, {budget['nll']:+g} nats",
        "  alpha   refuses harmful   over-refusal   nats",
    ]
    for row in receipt["sweep"]:
        if "reason" in row:
            lines.append(f"  {row['alpha']:5.2f}   {row['reason']}")
            continue
        cost = "-" if row["nll_rise"] is None else f"{row['nll_rise']:+.2f}"
        mark = "" if row["inside_budget"] else "   over budget"
        lines.append(
            f"  {row['alpha']:5.2f}   {row['refusal']['value']:15.0%}   "
            f"{row['over_refusal_rise']:+12.0%}   {cost}{mark}"
        )
    lines.append(f"  chosen: alpha {receipt['alpha']:g}, the strongest inside the budget")
    return "\n".join(lines)


def audit(rows: Sequence[AuditRow]) -> str:
    """Return the audit as lines, the four words apart."""
    lines = [f"  {'state':12}{'model':16}{'base':12}{'distance':10}{'stored':8}verified"]
    for row in rows:
        name = row.model.rstrip("/").rpartition("/")[2]
        distance = "-" if row.distance is None else f"{row.distance:.4f}"
        stored = "yes" if row.stored else "no"
        lines.append(
            f"  {row.state:12}{name:16}{row.base or '-':12}{distance:10}{stored:8}"
            f"{row.verified_at or '-'}"
        )
    lines.append("  verified: a live model was read back at that time; it says nothing about now")
    return "\n".join(lines)


def epilogue(out: Path, tuned: str) -> str:
    """Return where everything is and what to try next."""
    database = out / "registry.db"
    safelatch, python = _command("safelatch"), _command("python")
    return (
        f"  registry {database}, models in {out / 'models'}; try:\n"
        f"    {safelatch} --db {database} list\n"
        f"    {safelatch} --db {database} show demo-lock@1.0\n"
        f"    {safelatch} --db {database} audit {out / 'models'}\n"
        f"    {safelatch} --db {database} log show\n"
        f'    {python} -c "from registry import load_protected; '
        f"print(load_protected('{tuned}', registry='{database}').safelatch)\""
    )


def _command(name: str) -> str:
    """Return how to call ``name`` of this environment from here: by name where that finds it."""
    ours = Path(sys.executable).with_name(name)
    if not ours.exists() or shutil.which(name) == str(ours):
        return name
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)
