"""The second half of ``docs/output.md``, made from the schema of what the commands print.

Write it anew with ``python tests/support/output_page.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/output.md"
SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas/output.v1.schema.json").read_text("utf-8"))
MARK = "## The commands\n"
SHARED = (
    "digest",
    "time",
    "geometry",
    "base-model",
    "trusted-key",
    "measured-lineage",
    "lineage-to-base",
    "stated-lineage",
    "adapter-lineage",
    "change",
    "claim",
    "error",
    "unbound",
    "training-config",
)
"""Definitions that are no command."""


def definition_of(path: tuple[str, ...]) -> str | None:
    """Return which definition describes the JSON of a command; all kinds of extract share one."""
    for name in ("-".join(path), path[0] if path else ""):
        if name in SCHEMA["$defs"] and name not in SHARED:
            return name
    return None


def schema_of(definition: str) -> dict[str, Any]:
    """Return the schema of one definition."""
    return SCHEMA | {"$ref": f"#/$defs/{definition}"}


def csv_columns(definition: str) -> list[str] | None:
    """Return the columns of the CSV form, where there is one."""
    columns: list[str] | None = SCHEMA["$defs"][definition].get("x-csv")
    return columns


def render() -> str:
    """Return the page from ``MARK`` on."""
    parts = [MARK.rstrip("\n"), ""]
    for name, definition in SCHEMA["$defs"].items():
        if name not in SHARED:
            parts += _section(f"`safelatch {name.replace('-', ' ')}`", definition)
    parts += ["## What they share", "", *map(_shared, ("digest", "time")), ""]
    parts += _section("A registered base", SCHEMA["$defs"]["base-model"])
    parts += _section("A key", SCHEMA["$defs"]["trusted-key"])
    parts += _section("An unbound import", SCHEMA["$defs"]["unbound"])
    parts += _section("A training config", SCHEMA["$defs"]["training-config"])
    parts += _section("A measured lineage", SCHEMA["$defs"]["measured-lineage"])
    parts += _section("What was done to a base", SCHEMA["$defs"]["change"])
    parts += _section("A claim", SCHEMA["$defs"]["claim"])
    parts += _section("A lineage without weights", SCHEMA["$defs"]["stated-lineage"])
    parts += _section("An adapter", SCHEMA["$defs"]["adapter-lineage"])
    return "\n".join(parts).rstrip("\n") + "\n"


def _shared(name: str) -> str:
    return f"- A {name} is text: {SCHEMA['$defs'][name]['description']}"


def _section(title: str, definition: dict[str, Any]) -> list[str]:
    is_list = definition.get("type") == "array"
    whole = definition["items"] if is_list else definition
    text = definition["description"]
    if "properties" in whole:
        lines = [
            text + (" JSON is a list of these:" if is_list else ""),
            "",
            "| member | JSON | |",
            "|---|---|---|",
            *_rows(whole["properties"]),
        ]
    else:
        lines = [f"{text}{' JSON is a list.' if is_list else ''} {_LINKS[whole['$ref']]}"]
    if "x-csv" in definition:
        lines += ["", f"CSV: `{','.join(definition['x-csv'])}`"]
    return [f"### {title}", "", *lines, ""]


def _rows(members: dict[str, Any]) -> list[str]:
    own = {name: member for name, member in members.items() if not _is_of_manifest(member)}
    rows = [f"| `{name}` | {_type(member)} | {_text(member)} |" for name, member in own.items()]
    rest = ", ".join(f"`{name}`" for name in members if name not in own)
    link = "[the manifest](../schemas/manifest.v1.schema.json)"
    return [*rows, f"| {rest} | | As in {link}. |"] if rest else rows


def _text(member: dict[str, Any]) -> str:
    return str(member.get("description", "")).replace("|", r"\|")


def _is_of_manifest(member: dict[str, Any]) -> bool:
    return bool(member.get("$ref", "").startswith("../manifest"))


_LINKS = {
    "#/$defs/base-model": "See [a registered base](#a-registered-base).",
    "#/$defs/trusted-key": "See [a key](#a-key).",
    "../audit-report/v1": "See [its schema](../schemas/audit_report.v1.schema.json).",
}
_NAMES = {
    "geometry": "object",
    "measured-lineage": "[measured lineage](#a-measured-lineage)",
    "lineage-to-base": "`base`, `base_weights`, `direction`, `claimed_by`, `change` (null or "
    "[what was done](#what-was-done-to-a-base)) and a [measured lineage](#a-measured-lineage)",
    "change": "[what was done](#what-was-done-to-a-base)",
    "claim": "[claim](#a-claim)",
    "adapter-lineage": "[adapter](#an-adapter)",
    "stated-lineage": "[lineage without weights](#a-lineage-without-weights)",
}


def _type(schema: dict[str, Any]) -> str:
    """Return what a member is, in a word or two."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _NAMES.get(name, name)
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f'`"{value}"`' for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list: {_type(schema['items'])}"
    if "properties" in schema:
        return ", ".join(f"`{name}`" for name in schema["properties"])
    return str(schema.get("type", "any")).replace("string", "text")


def write() -> None:
    """Write the page anew, behind what was written by hand."""
    by_hand, _, _ = PAGE.read_text("utf-8").partition(MARK)
    PAGE.write_text(by_hand + render(), "utf-8")


if __name__ == "__main__":
    write()
