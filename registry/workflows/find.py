"""Finding an artifact: from what a user wrote to the checked bundle it names."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifact.bundle import Bundle, check_files, read_bundle
from registry.errors import NotFoundError, UsageError, VersionConflictError
from registry.reference import Reference

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from registry.store.catalog import Registry
    from registry.store.values import Version


def find_bundle(
    artifact: Reference | str | os.PathLike[str], registry: Registry | str | None = None
) -> Bundle:
    """Return the checked bundle that ``artifact`` names.

    Raises:
        ArtifactNotFoundError, VersionNotFoundError: it is not there.
        EvidenceError: its bytes are not what was published.
    """
    if isinstance(artifact, Reference):
        reference = artifact
    elif isinstance(artifact, str):
        reference = Reference.parse_or_path(artifact)
    else:  # a path is a folder, never the name of a line
        reference = Reference.of_folder(artifact)
    if reference.scheme == "file":
        return _bundle_in_folder(reference)
    if reference.scheme == "hf":
        raise UsageError(
            f"expected a bundle in the registry or a folder, got {reference}: this release "
            "does not fetch artifacts from the Hub.",
            hint=f"Fetch it first: hf download {reference.location} --local-dir DIR",
        )
    with open_registry(registry) as opened:
        return stored_bundle(opened, reference)[0]


def stored_bundle(registry: Registry, reference: Reference) -> tuple[Bundle, Version]:
    """Return the bundle that ``reference`` names in the registry, checked again, and its version.

    Raises:
        ArtifactNotFoundError, VersionNotFoundError: nothing of this name.
        EvidenceError: revoked, or its bytes are not what was published.
    """
    version = registry.resolve(reference)
    return check_files(registry.bundle_files(version), expected=version.digest), version


def bundles_for_base(registry: Registry, weights: str) -> list[Bundle]:
    """Return the checked bundle of the active version of each line of a base."""
    return [
        check_files(registry.bundle_files(version), expected=version.digest)
        for version in registry.versions_for_base(weights)
    ]


def known_version(registry: Registry, bundle: Bundle) -> Version | None:
    """Return the published version this bundle is, or ``None`` when the registry has none.

    Raises:
        EvidenceError: it is revoked there.
    """
    try:
        return registry.resolve(Reference("digest", location=bundle.manifest.digest))
    except NotFoundError:
        return None


def require_not_revoked(registry: Registry, bundle: Bundle) -> None:
    """Raise ``EvidenceError`` if the registry has revoked this bundle, wherever it came from."""
    known_version(registry, bundle)


@contextmanager
def open_registry(registry: Registry | str | None) -> Iterator[Registry]:
    """Yield ``registry``, opening it (and closing it after) when a URL or nothing is given."""
    from registry.store.catalog import Registry as Opened

    if isinstance(registry, Opened):
        yield registry
        return
    with Opened.open(registry) as opened:
        yield opened


def _bundle_in_folder(reference: Reference) -> Bundle:
    bundle = read_bundle(Path(reference.location))
    expected = (reference.name, reference.version or bundle.manifest.version)
    if reference.name is not None and expected != (bundle.manifest.name, bundle.manifest.version):
        wanted = reference.name + (f"@{reference.version}" if reference.version else "")
        raise VersionConflictError(
            f"{reference.location}: expected {wanted}, the bundle is {bundle.manifest.label}.",
            hint=f"Name it as what it is: file://{reference.location}#{bundle.manifest.label}",
        )
    return bundle
