"""Give a bundle its line and version, and put it into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.artifact.bundle import BASE, read_bundle
from registry.checkpoint.record import BaseRecord
from registry.errors import UsageError
from registry.kinds import parse_body
from registry.reference import skeleton
from registry.workflows.bases import require_same_record
from registry.workflows.check import require_own_base

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry
    from registry.store.values import Version


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the registry, and whether this call put it there."""

    version: Version
    is_new: bool


def publish(registry: Registry, folder: Path, *, name: str, version: str) -> Published:
    """Publish the bundle at ``folder`` as ``name@version``.

    The bundle is checked completely first: digests, schema, the kind's own rules, that it is ready
    to be applied, and that its base record is of the base it names. The same content again is no
    news; other content under a published version is refused.

    Raises:
        EvidenceError: the bundle is not what it says.
        VersionConflictError: the version exists with other content, or is not the newest.
        ConfirmationRequiredError: it is not ready to be applied (its strength is not measured).
        UsageError: the bundle carries another name or version already, or the name is a line's that
            only differs in its separators.
    """
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    named = bundle.named(name, version)
    if manifest.name is not None and manifest.label != named.manifest.label:
        raise UsageError(
            f"expected a draft or a bundle of {named.manifest.label}, got {manifest.label}.",
            hint=f"Publish it as what it is: --name {manifest.name} --version {manifest.version}",
        )
    _require_no_twin(registry, name)
    parse_body(named).require_ready()
    record = BaseRecord.from_tensors(named.base_tensors())
    require_own_base(named, record)
    base = registry.add_base(
        _free_name(registry, manifest.base.name, record), record, named.files[BASE]
    )
    record_file = named.manifest.files[BASE].digest
    require_same_record(base, record_file, f"the one in {named.manifest.label}")
    stored, is_new = registry.add_version(named.manifest, named.files, base_name=base.name)
    return Published(stored, is_new)


def _require_no_twin(registry: Registry, name: str) -> None:
    """Raise if ``my_lock`` is new and there is a ``my-lock``: people take one for the other."""
    names = [line.name for line in registry.lines()]
    twins = [other for other in names if skeleton(other) == skeleton(name)]
    if twins and name not in names:
        raise UsageError(
            f"expected a name that is taken for no other line's, got {name} beside {twins[0]}.",
            hint=f"Publish it as a version of {twins[0]}, or choose another name: --name NAME",
        )


def _free_name(registry: Registry, declared: str, record: BaseRecord) -> str:
    """Return a name for the bundle's base: the declared one unless another base holds it."""
    taken = {base.name: base.weights for base in registry.bases()}
    if taken.get(declared, record.weights) == record.weights:
        return declared
    return f"{declared}-{record.weights.removeprefix('blake3:')[:8]}"
