"""How errors are worded: the hints that many share, lists of findings, and text made printable."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REMAKE = (
    "Get the bundle again from its publisher, or make it again: "
    "safelatch extract KIND BASE --out DIR"
)
"""Hint of every error about a bundle that cannot be used."""

INSTALL_NEWER = "Install a newer release of safelatch (in a checkout: git pull, then pip install .)"
"""Hint of every error about something that a newer release made."""

RESTORE_CONFIG = "Restore the config.json that was published with these weights."
"""Hint of every error about a config that does not fit its weights."""


def printable(text: str, *, keep: str = "") -> str:
    """Return ``text`` with everything that is no printable character escaped, but ``keep``."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def listed(findings: Sequence[str], limit: int = 20) -> str:
    """Return ``findings`` as indented lines for the end of a message.

    Args:
        findings: One line each.
        limit: How many are shown; the others are counted in a last line.
    """
    lines = [*findings[:limit]]
    if len(findings) > limit:
        lines.append(f"and {len(findings) - limit} more")
    return "".join(f"\n  {line}" for line in lines)
