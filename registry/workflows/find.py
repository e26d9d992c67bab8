"""Finding an artifact: from what a user wrote to the checked bundle it names."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifact.bundle import Bundle, check_files, read_bundle
from registry.errors import (
    NotFoundError,
    RegistryMissingError,
    UsageError,
    VersionConflictError,
    VersionNotFoundError,
)
from registry.reference import Reference
from registry.workflows.fetch import fetch_bundle
from registry.workflows.remotes import names_remote

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from registry.store.catalog import Registry
    from registry.store.values import Version


def find_bundle(
    artifact: Reference | str | os.PathLike[str],
    registry: Registry | str | None = None,
    *,
    approve: Callable[[Bundle], object] | None = None,
) -> Bundle:
    """Return the checked bundle that ``artifact`` names.

    Args:
        artifact: A reference, or a folder.
        registry: Where names are looked up; the default one otherwise.
        approve: Asked before the large files of a bundle in a remote are read (``fetch``).

    Raises:
        ArtifactNotFoundError, VersionNotFoundError: it is not there.
        RemoteError: the remote that it is in cannot be reached, or refuses.
        EvidenceError: its bytes are not what was published.
    """
    if isinstance(artifact, Reference):
        reference = artifact
    elif isinstance(artifact, str):
        reference = Reference.parse_or_path(artifact)
    else:  # a path is a folder, never the name of a line
        reference = Reference.of_folder(artifact)
    if names_remote(reference):
        return fetch_bundle(reference, approve=approve).bundle
    if reference.scheme == "file":
        return _bundle_in_folder(reference)
    with open_registry(registry) as opened:
        return stored_bundle(opened, reference)[0]


def stored_bundle(registry: Registry, reference: Reference) -> tuple[Bundle, Version]:
    """Return the bundle that ``reference`` names in the registry, checked again, and its version.

    Raises:
        ArtifactNotFoundError, VersionNotFoundError: nothing of this name.
        EvidenceError: revoked, or its bytes are not what was published.
    """
    version = registry.resolve(reference)
    return bundle_of(registry, version), version


def version_named(registry: Registry, reference: Reference) -> Version:
    """Return the version that ``reference`` names exactly, whatever its state.

    Raises:
        UsageError: it names a line, or another place.
        ArtifactNotFoundError, VersionNotFoundError: there is none.
    """
    if reference.name is None or reference.version is None or reference.scheme != "registry":
        raise UsageError(
            f"expected a version of this registry, NAME@VERSION, got {reference}.",
            hint="List them: safelatch list",
        )
    from packaging.version import InvalidVersion
    from packaging.version import Version as Number

    published = registry.versions(reference.name)
    with suppress(InvalidVersion):
        wanted = Number(reference.version)
        for version in published:
            if Number(version.version) == wanted:
                return version
    raise VersionNotFoundError(
        f"expected a version out of {', '.join(one.version for one in published[:8])}, got "
        f"{reference.version}.",
        hint=f"List them: safelatch show {reference.name}",
    )


def bundle_of(registry: Registry, version: Version) -> Bundle:
    """Return the bundle of ``version``, checked again, with its envelopes.

    Raises:
        EvidenceError: its bytes are not what was published.
    """
    bundle = check_files(registry.bundle_files(version), expected=version.digest)
    return replace(
        bundle,
        signature=registry.signature_bytes(version),
        line=registry.line_bytes(version.name),
    )


def bundles_for_base(registry: Registry, weights: str) -> list[Bundle]:
    """Return the checked bundle of the active version of each line of a base."""
    return [bundle_of(registry, version) for version in registry.versions_for_base(weights)]


def known_version(registry: Registry, bundle: Bundle) -> Version | None:
    """Return the published version this bundle is, or ``None`` when the registry has none.

    Raises:
        RevokedError: it is revoked there.
    """
    try:
        return registry.resolve(Reference("digest", location=bundle.manifest.digest))
    except NotFoundError:
        return None


@contextmanager
def open_registry(registry: Registry | str | None) -> Iterator[Registry]:
    """Yield ``registry``, opening it (and closing it after) when a URL or nothing is given."""
    from registry.store.catalog import Registry as Opened

    if isinstance(registry, Opened):
        yield registry
        return
    with Opened.open(registry) as opened:
        yield opened


@contextmanager
def registry_if_any(registry: Registry | str | None) -> Iterator[Registry | None]:
    """Yield what ``open_registry`` does, or ``None`` where no registry was made yet."""
    with ExitStack() as stack:
        opened = None
        with suppress(RegistryMissingError):
            opened = stack.enter_context(open_registry(registry))
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
