"""What a model's own files declare: a kind of artifact, and a base. Neither is evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.reader import Checkpoint
from registry.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path


def declarations(path: Path) -> tuple[bool, str | None]:
    """Return whether a card or config declares a kind of artifact, and the claimed base."""
    folder = path if path.is_dir() else path.parent
    with Checkpoint.open(path) as checkpoint:
        config = checkpoint.config
    card = ""
    if (folder / "README.md").is_file():
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            card = file.read(200_000)
    words = (folder.name + card).lower()
    declaring = ("safelatch", *(word for kind in KINDS.values() for word in kind.words))
    declared = "safelatch" in config or any(word in words for word in declaring)
    claimed = config.get("_name_or_path") or None
    for line in card.splitlines()[:200]:
        key, colon, value = line.partition(":")
        if colon and key.strip() == "base_model" and value.strip():
            claimed = value.strip()
    return declared, claimed if isinstance(claimed, str) else None
