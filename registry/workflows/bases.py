"""Registered bases, and finding the one that a checkpoint descends from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifact.tensors import read_payloads, write_payloads
from registry.checkpoint.lineage import MAX_DISTANCE, Lineage, judge
from registry.checkpoint.record import BaseRecord
from registry.digest import digest_bytes
from registry.errors import (
    BaseNotFoundError,
    CheckpointNotFoundError,
    ConfirmationRequiredError,
    DigestMismatchError,
)
from registry.reference import suggest_name
from registry.workflows.aliases import measure_sha256_set

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.store.catalog import Registry
    from registry.store.values import Base
    from registry.workflows.identify import Identified


@dataclass(frozen=True, slots=True)
class Descent:
    """A registered base and how a checkpoint stands to it."""

    base: Base
    lineage: Lineage

    @property
    def order(self) -> tuple[int, float, str]:
        """Sorts by evidence, the best first, then by distance."""
        return -self.lineage.level, self.lineage.distance, self.base.name


def add_base(
    registry: Registry,
    model: Identified,
    name: str | None = None,
    *,
    anyway: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Base:
    """Register the weights of ``model`` as a base and return it; the same weights are no news.

    Args:
        registry: Where.
        model: The base, read completely.
        name: What to call it; the folder's or repository's name by default.
        anyway: Accept a model that is near a registered base.
        progress: Called with (bytes done, all) while its files are hashed for the alias by which
            copies on the Hub are known.

    Raises:
        ConfirmationRequiredError: it is near a registered base, and was not confirmed.
        EvidenceError: a file changed since it was read.
        DigestMismatchError: the registry holds another record of these weights.
    """
    if not anyway:
        _require_own(registry, model)
    chosen = name or default_name(model)
    aliases = [
        ("path", str(model.path.resolve())),
        ("sha256-set", measure_sha256_set(model, progress=progress)),
    ]
    if model.commit is not None:
        aliases.append(("hub", f"{model.locator}@{model.commit}"))
    known = next((one for one in registry.bases() if one.weights == model.record.weights), None)
    if known is not None and not known.is_measured and known.name != chosen:
        aliases.append(("name", chosen))  # the one it has is the word of whoever made its bundle
    payload = write_payloads(model.record.to_tensors())
    base = registry.add_base(chosen, model.record, payload, aliases=aliases)
    require_same_record(base, digest_bytes(payload), "what was measured now from its bytes")
    return base


def _require_own(registry: Registry, model: Identified) -> None:
    """Refuse a fine-tune as a base: it would take its own base's artifacts out of sight."""
    for near in descents(registry, model.record):
        if near.lineage.relation == "derived":
            raise ConfirmationRequiredError(
                f"expected a base of its own, {model.locator} is at distance "
                f"{near.lineage.distance:.3g} of {near.base.name}: the two would compete for the "
                "same fine-tunes.",
                hint=f"For a fine-tune of {near.base.name} nothing needs to be registered. "
                "If it is meant: safelatch base add MODEL --anyway",
            )
        if near.lineage.relation == "identical":
            return


def require_same_record(base: Base, record: str, what: str) -> None:
    """Check a record of a registered base against the one the registry holds.

    A record holds samples that no digest of the weights covers: one that came in a bundle could
    call a stranger a child of this base.

    Raises:
        DigestMismatchError: the two differ.
    """
    if base.record != record:
        raise DigestMismatchError(
            f"the record of base {base.name}: expected {base.record} as registered, {what} is "
            f"{record}.",
            hint="One of the two was not measured from these weights. Register the base from its "
            "bytes in a registry of its own: safelatch --db NEW init, then base add MODEL",
        )


def registered_files(base: Base) -> tuple[str, str | None]:
    """Return where the files of ``base`` are: a folder that exists, or a Hub id and a commit.

    Raises:
        CheckpointNotFoundError: nowhere that is known here.
    """
    for alias in base.aliases:
        if alias.scheme == "path" and Path(alias.value).exists():
            return alias.value, None
    for alias in base.aliases:
        if alias.scheme == "hub":
            repo, _, commit = alias.value.partition("@")
            return repo, commit or None
    raise CheckpointNotFoundError(
        f"expected the files of the base {base.name}, none are known here.",
        hint="Say where they are: safelatch base add MODEL",
    )


def default_name(model: Identified) -> str:
    """Return what to call a base that nobody named: its repository or folder."""
    if model.commit is not None:
        return suggest_name(model.locator.rpartition("/")[2])
    path = model.path.absolute()
    cached = re.fullmatch(r"models--.+--(.+)", path.parent.parent.name)  # of the Hub's client
    return suggest_name(cached[1] if cached and path.parent.name == "snapshots" else path.name)


def base_record(registry: Registry, base: Base) -> BaseRecord:
    """Return the stored record of ``base``, checked."""
    payload = registry.base_record_bytes(base)
    return BaseRecord.from_tensors(read_payloads(payload, what=f"record of {base.name}"))


def descents(
    registry: Registry, record: BaseRecord, *, max_distance: float = MAX_DISTANCE
) -> list[Descent]:
    """Return the registered bases of this geometry that may be nearest, judged, nearest first.

    Of many, ``Registry.bases_near`` says which are judged; every base, of eight or fewer.
    """
    found = [
        judged(registry, base, record, max_distance=max_distance)
        for base in registry.bases_near(record)
    ]
    return sorted(found, key=lambda d: d.order)


def judged(
    registry: Registry, base: Base, record: BaseRecord, *, max_distance: float = MAX_DISTANCE
) -> Descent:
    """Return ``base`` with the lineage that was measured between it and ``record``."""
    return Descent(base, judge(base_record(registry, base), record, max_distance=max_distance))


def describe(lineage: Lineage) -> str:
    """Return what a lineage says, in words with its figure."""
    words = {
        "identical": "the base itself",
        "derived": f"a descendant at distance {lineage.distance:.3g}",
        "distant": f"of related weights, too far for a fine-tune at distance "
        f"{lineage.distance:.3g} (norms and biases {lineage.vectors:.3g})",
        "unrelated": f"of the same shapes with other weights, at distance {lineage.distance:.3g} "
        f"(norms and biases {lineage.vectors:.3g})",
        "other-structure": f"of another structure ({len(lineage.missing)} tensors missing, "
        f"{len(lineage.reshaped)} of another shape)",
    }
    return words[lineage.relation]


def find_base(registry: Registry, model: Identified) -> Descent:
    """Return the base that ``model`` descends from, on measured evidence.

    Raises:
        BaseNotFoundError: no registered base is within the distance bounds; the nearest is named.
    """
    candidates = descents(registry, model.record)
    for candidate in candidates:
        if candidate.lineage.is_descendant:
            return candidate
    geometry = model.record.geometry
    nearest = "none has its geometry"
    if candidates:
        closest = min(candidates, key=lambda d: d.lineage.distance)
        nearest = f"the nearest, {closest.base.name}, is {describe(closest.lineage)}"
    raise BaseNotFoundError(
        f"expected a registered base for {model.locator} ({geometry.family}, {geometry.layers} "
        f"layers, {geometry.heads} heads); of {registry.base_count()} registered, {nearest}.",
        hint="Register its base: safelatch base add MODEL, or name an artifact that brings its "
        "base along: load_protected(..., artifacts=['file:///path/to/bundle'])",
    )
