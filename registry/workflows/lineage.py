"""Whose child is this model, on what evidence, and what was done to make it?

Candidates are the registered bases nearest by measurement, and those that the model's own files
name. A claim decides nothing: it is listed beside what was measured. Weights alone rarely say which
of two relatives came first; ``Candidate.direction`` says what does.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.change import Change, classify, explain
from registry.checkpoint.claims import read_claims
from registry.errors import BaseNotFoundError
from registry.workflows.bases import base_record, descents, judged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from registry.checkpoint.claims import Claim
    from registry.checkpoint.lineage import Lineage
    from registry.checkpoint.record import BaseRecord
    from registry.store.catalog import Registry
    from registry.store.values import Base
    from registry.workflows.bases import Descent
    from registry.workflows.identify import Identified

Direction = Literal["measured", "claimed", "unknown"]

_DIGEST = re.compile(r"blake3:.*|sha256:.*|[0-9a-f]{8,64}", re.DOTALL)
_ONE_WAY = frozenset(
    {"quantised-int8", "quantised-nf4", "quantised-4bit", "quantised-gguf", "vocabulary-extended"}
)
_NARROWER = frozenset({"F64 to F32", "F64 to F16", "F64 to BF16", "F32 to F16", "F32 to BF16"})


def claims_document(claims: Sequence[tuple[Claim, Base | None]]) -> list[dict[str, Any]]:
    """Return the JSON form of claims with the registered bases that they name."""
    return [
        {**claim.to_dict(), "registered_as": None if base is None else base.name}
        for claim, base in claims
    ]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered base, how the model stands to it, and what was done to it.

    Attributes:
        base: The base.
        lineage: What was measured.
        change: What was done; asked of the parent, or the nearest where none is within the bounds,
            and of claimed bases.
        claims: What the model's files say of this base.
    """

    base: Base
    lineage: Lineage
    change: Change | None
    claims: tuple[Claim, ...]

    @property
    def direction(self) -> Direction:
        """What says that the base came first: the change itself, a claim, or nothing."""
        change = self.change
        if change is not None and (
            (change.kind in _ONE_WAY and change.added_tokens >= 0)
            or change.figures.get("cast") in _NARROWER
        ):
            return "measured"
        return "claimed" if self.claims else "unknown"

    @property
    def kind(self) -> str:
        """What was done, in one word; the relation where that was not asked."""
        return self.lineage.relation if self.change is None else self.change.kind

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "base": self.base.name,
            "base_weights": self.base.weights,
            "direction": self.direction,
            "claimed_by": sorted({source for claim in self.claims for source in claim.sources}),
            "change": None if self.change is None else self.change.to_dict(),
            **self.lineage.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What is known of a model's origin.

    Attributes:
        candidates: Registered bases, best evidence first, then nearest; before them the one that
            shows the model to be a merge.
        claims: Everything that the model's files declare, with the registered base it names.
    """

    candidates: tuple[Candidate, ...]
    claims: tuple[tuple[Claim, Base | None], ...]

    @property
    def parent(self) -> Candidate | None:
        """The base it descends from, as measured; ``None`` when none is within the bounds."""
        best = self.candidates[0] if self.candidates else None
        return best if best is not None and best.lineage.is_descendant else None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "base": None if self.parent is None else self.parent.base.name,
            "claims": claims_document(self.claims),
            "descents": [candidate.to_dict() for candidate in self.candidates],
            "metadata": None,
            "adapter": None,
        }


def trace(registry: Registry, model: Identified) -> Ancestry:
    """Return the registered bases that ``model`` may descend from, and what was done to each.

    Raises:
        UnsafeFormatError: a file that declares the origin breaks the rules of its format.
        CorruptStoreError: the record of a base is not what was stored.
    """
    folder = model.path if model.path.is_dir() else model.path.parent
    claims = tuple((claim, base_of_claim(registry, claim)) for claim in read_claims(folder))
    claimed = [(base, claim) for claim, base in claims if base is not None]
    found = descents(registry, model.record)
    known = {descent.base.weights for descent in found}
    unknown = {base.weights: base for base, _ in claimed if base.weights not in known}
    found += [
        judged(registry, base, model.record)
        for base in unknown.values()
        if base.family == model.record.geometry.family
    ]
    found.sort(key=lambda d: d.order)
    relatives = [
        (descent, base_record(registry, descent.base))
        for descent in found
        if descent.lineage.is_descendant
    ]
    best, changes = _changes(model.record, relatives, {base.weights for base, _ in claimed})
    if not relatives and found and found[0].lineage.relation != "other-structure":
        nearest = base_record(registry, found[0].base)
        changes[found[0].base.weights] = classify(nearest, model.record, lineage=found[0].lineage)
    if best is not None:
        found.sort(key=lambda d: d.base.weights != best)
    candidates = tuple(
        Candidate(
            descent.base,
            descent.lineage,
            changes.get(descent.base.weights),
            tuple(claim for base, claim in claimed if base.weights == descent.base.weights),
        )
        for descent in found
    )
    return Ancestry(candidates, claims)


def base_of_claim(registry: Registry, claim: Claim) -> Base | None:
    """Return the registered base that ``claim`` names: by name, place, or its repository.

    A claim without a commit names every commit of its repository; two bases of it are no answer.
    What looks like a digest, or the beginning of one, is no claim of a name.
    """
    if _DIGEST.fullmatch(claim.base):
        return None
    with suppress(BaseNotFoundError):
        return registry.base(claim.base)
    found = [
        base
        for base in registry.bases_of_repository(claim.base)
        if any(
            alias.scheme == "hub"
            and (commit := alias.value.removeprefix(f"{claim.base}@")) != alias.value
            and claim.revision in {None, "main", commit}
            for alias in base.aliases
        )
    ]
    return found[0] if len(found) == 1 else None


def _changes(
    child: BaseRecord, relatives: Sequence[tuple[Descent, BaseRecord]], named: AbstractSet[str]
) -> tuple[str | None, dict[str, Change]]:
    """Return the relative that explains ``child`` best, and what was done to it and ``named`` ones.

    Relatives are told by their weights digest.
    """
    if not relatives:
        return None, {}
    known = [(d.base.name, record, d.lineage) for d, record in relatives]
    index, change = explain(child, known)
    best = relatives[index][0].base.weights
    changes: dict[str, Change] = {best: change}
    for descent, record in relatives:
        if descent.base.weights in named and descent.base.weights not in changes:
            others = [(name, other) for name, other, _ in known if other is not record]
            changes[descent.base.weights] = classify(
                record, child, lineage=descent.lineage, others=others
            )
    return best, changes
