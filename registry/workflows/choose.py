"""Which artifacts a load gets: those that were named, or the one of each kind for the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import (
    ArtifactNotFoundError,
    BaseNotFoundError,
    NoProtectionError,
    RegistryMissingError,
    UsageError,
    VersionNotFoundError,
)
from registry.kinds import kind_of
from registry.wording import listed
from registry.workflows.bases import descents, describe, find_base
from registry.workflows.discover import discover
from registry.workflows.find import bundles_for_base, find_bundle

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from registry.artifact.bundle import Bundle
    from registry.artifact.policy import Policy
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.identify import Identified


def choose(
    opened: Registry | None,
    place: str,
    model: Identified,
    artifacts: Sequence[str | os.PathLike[str] | Reference] | None,
    *,
    policy: Policy | None = None,
    approve: Callable[[Bundle], object] | None = None,
) -> tuple[list[Bundle], str | None]:
    """Return the bundles to apply, and the base's name in the registry.

    Args:
        opened: The registry, if there is one.
        place: Where it is, or would be.
        model: What was read.
        artifacts: References or folders; ``None`` for what the registry has for the base, or can
            find for it (``discover``). A kind that puts other weights into the model
            (``Kind.rewrites``) is never chosen unnamed: a fine-tune keeps its own.
        policy: May name where to look.
        approve: Asked before the large files of a bundle in a remote are read (``fetch``).

    Raises:
        NoProtectionError: there is none, or more than one of a kind.
        UsageError: what was named cannot be.
    """
    if artifacts is not None:
        return _named(opened, place, artifacts, approve), None
    if opened is None:
        raise NoProtectionError(
            f"expected a registry to find protection in, found none at {place}.",
            hint="Create one and add the base: safelatch init, then safelatch base add MODEL; "
            "or name a bundle: load_protected(..., artifacts=['file:///path/to/bundle'])",
        )
    try:
        descent = find_base(opened, model)
    except BaseNotFoundError as error:
        raise NoProtectionError(error.message, hint=error.hint) from error
    base = descent.base
    bundles = bundles_for_base(opened, base.weights)
    if not bundles:
        refused = discover(opened, base, policy)
        bundles = bundles_for_base(opened, base.weights)
        also = f", and none was accepted from elsewhere:{listed(refused)}" if refused else "."
    if not bundles:
        raise NoProtectionError(
            f"expected an active artifact for the base {base.name}, the registry has none{also}",
            hint=_of_another_base(opened, model)
            or f"Make and publish one: safelatch extract safety-lock {base.name} "
            "--out DIR, then safelatch publish DIR --name NAME --version VERSION",
        )
    rewriting = [b for b in bundles if kind_of(b.manifest.kind).rewrites]
    bundles = [bundle for bundle in bundles if bundle not in rewriting]
    if not bundles:
        names = [bundle.manifest.label for bundle in rewriting]
        raise NoProtectionError(
            f"expected an artifact that goes onto the model as it is, the registry has "
            f"{', '.join(names)} for the base {base.name}, which replaces weights of the model: by "
            "the base's, or by others that were trained.",
            hint=f"If that is wanted, name it: load_protected(..., artifacts=[{names[0]!r}])",
        )
    labels: dict[str, list[str]] = {}
    for bundle in bundles:
        labels.setdefault(bundle.manifest.kind, []).append(bundle.manifest.label)
    for kind, names in labels.items():
        if len(names) > 1:
            raise NoProtectionError(
                f"expected one {kind} for the base {base.name}, got {', '.join(names)}.",
                hint=f"Name one: load_protected(..., artifacts=[{names[0]!r}])",
            )
    return bundles, base.name


def _named(
    opened: Registry | None,
    place: str,
    artifacts: Sequence[str | os.PathLike[str] | Reference],
    approve: Callable[[Bundle], object] | None,
) -> list[Bundle]:
    if not artifacts or isinstance(artifacts, str):
        raise UsageError(
            f"expected a list of at least one artifact, got {artifacts!r}.",
            hint="Write a list: load_protected(..., artifacts=['NAME@VERSION'])",
        )
    try:
        return [find_bundle(name, opened or place, approve=approve) for name in artifacts]
    except (ArtifactNotFoundError, VersionNotFoundError, RegistryMissingError) as error:
        raise NoProtectionError(error.message, hint=error.hint) from error


def _of_another_base(opened: Registry, model: Identified) -> str | None:
    """Return the hint that names an artifact of a farther base that ``model`` descends from too."""
    for descent in descents(opened, model.record):
        if descent.lineage.is_descendant:
            for bundle in bundles_for_base(opened, descent.base.weights):
                return (
                    f"It is {describe(descent.lineage)} of {descent.base.name} too; name that "
                    f"one's: load_protected(..., artifacts=[{bundle.manifest.label!r}])"
                )
    return None
