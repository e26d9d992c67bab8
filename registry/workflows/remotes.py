"""Which remote a reference names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.remote.directory import MARKER, DirectoryRemote
from registry.remote.hub_remote import HubRemote

if TYPE_CHECKING:
    from registry.reference import Reference
    from registry.remote.contract import Remote


def names_remote(reference: Reference) -> bool:
    """Return whether ``reference`` names a remote, and not a bundle's folder or the registry."""
    if reference.scheme != "file":
        return reference.scheme == "hf"
    return (Path(reference.location) / MARKER).is_file()


def open_remote(reference: Reference, *, private: bool = False) -> Remote:
    """Return the remote that ``reference`` names; nothing is asked yet.

    Args:
        reference: ``hf://NS/REPO`` or a folder.
        private: Whether a repository is private, if the Hub has none yet.

    Raises:
        UsageError: it names no remote, or a folder that shall be private.
    """
    if private and reference.scheme != "hf":
        raise UsageError(
            f"expected a repository on the Hub for --private, got {reference}.",
            hint="Whoever may read the folder reads it: chmod decides. Leave --private out.",
        )
    if reference.scheme == "hf":
        return HubRemote(reference.location, private=private)
    if reference.scheme == "file":
        return DirectoryRemote(Path(reference.location))
    raise UsageError(
        f"expected a remote, hf://NS/REPO or file:///DIR, got {reference}.",
        hint="Write it out: hf://namespace/repository",
    )
