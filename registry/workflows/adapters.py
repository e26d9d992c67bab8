"""Which registered bases an adapter may be for, and what it does to each.

An adapter's bytes do not say which base it was trained on: it can be added to any of the same names
and shapes. The evidence is therefore level 2 at most, and the distance is that of the base with the
adapter merged into it, if it is this base. A claim of a base that it does not fit is listed with
the reasons, at level 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.checkpoint.adapter import Adapter
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.change import classify
from registry.checkpoint.claims import read_claims
from registry.checkpoint.effective import effective_record, misfits, touched
from registry.checkpoint.lineage import judge
from registry.checkpoint.record import BaseRecord
from registry.workflows.bases import base_record
from registry.workflows.check import Finding, check
from registry.workflows.lineage import base_of_claim, claims_document

if TYPE_CHECKING:
    import os

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.change import Change
    from registry.checkpoint.claims import Claim
    from registry.checkpoint.effective import Touched
    from registry.checkpoint.lineage import Lineage
    from registry.digest import Digest
    from registry.store.catalog import Registry
    from registry.store.values import Base
    from registry.workflows.check import CheckReport

MOST_JUDGED = 16
"""Most bases that are judged without being named."""
SAME_SHAPES = 2
"""Names and shapes agree; nothing more can be told from an adapter."""


@dataclass(frozen=True, slots=True)
class AdapterDescent:
    """A registered base and what an adapter does to it.

    Attributes:
        base: The base.
        claims: What the adapter's files say of this base.
        lineage: Of the base with the adapter merged into it; ``None`` when it does not fit.
        change: What the merging does; ``None`` when it does not fit.
        touched: The weights that get factors, by name.
        misfits: Why the adapter is not for this base, a line for each tensor.
    """

    base: Base
    claims: tuple[Claim, ...]
    lineage: Lineage | None = None
    change: Change | None = None
    touched: tuple[Touched, ...] = ()
    misfits: tuple[str, ...] = ()

    @property
    def is_descendant(self) -> bool:
        """Whether it fits, and the base with it merged in is within the bounds."""
        return self.lineage is not None and self.lineage.is_descendant

    @property
    def level(self) -> int:
        """Evidence: 2 names and shapes agree, 0 nothing but a claim."""
        return 0 if self.lineage is None else self.lineage.level

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "base": self.base.name,
            "base_weights": self.base.weights,
            "level": self.level,
            "claimed_by": sorted({source for claim in self.claims for source in claim.sources}),
            "lineage": None if self.lineage is None else self.lineage.to_dict(),
            "change": None if self.change is None else self.change.to_dict(),
            "touched": [item.to_dict() for item in self.touched],
            "misfits": list(self.misfits),
        }


@dataclass(frozen=True, slots=True)
class AdapterAncestry:
    """What is known of an adapter and of what it may be for.

    Attributes:
        digest: Identity of the adapter.
        descents: Registered bases that it fits or names: claimed ones first, then best evidence,
            then nearest.
        claims: Everything that its files declare, with the registered base it names.
        unseen: How many more registered bases may have its shapes and were not looked at.
    """

    digest: Digest
    descents: tuple[AdapterDescent, ...]
    claims: tuple[tuple[Claim, Base | None], ...]
    unseen: int

    @property
    def base(self) -> AdapterDescent | None:
        """The base to judge it by: the one that it names and fits, or the only one it fits.

        ``None`` too where it moves that base further than any fine-tune.
        """
        fitting = [item for item in self.descents if item.is_descendant]
        named = [item for item in fitting if item.claims]
        if len(named) == 1:
            return named[0]
        return fitting[0] if len(fitting) == 1 and not self.unseen else None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: that of an ancestry, with what is known of the adapter in it."""
        return {
            "base": None if self.base is None else self.base.base.name,
            "claims": claims_document(self.claims),
            "descents": [],
            "metadata": None,
            "adapter": {
                "digest": self.digest,
                "descents": [item.to_dict() for item in self.descents],
                "unseen": self.unseen,
            },
        }


def trace_adapter(registry: Registry, folder: str | os.PathLike[str]) -> AdapterAncestry:
    """Return the registered bases that the adapter in ``folder`` may be for.

    Raises:
        CheckpointNotFoundError, UnsafeFormatError, SchemaViolationError, CompatibilityError,
        EvidenceError: see ``Adapter.open`` and ``read_claims``.
        CorruptStoreError: the record of a base is not what was stored.
    """
    with Adapter.open(folder) as adapter:
        claims = tuple(
            (claim, base_of_claim(registry, claim)) for claim in read_claims(adapter.folder)
        )
        found, unseen = adapter_descents(registry, adapter, claims)
        return AdapterAncestry(adapter.digest, tuple(found), claims, unseen)


def check_adapter(bundle: Bundle, folder: str | os.PathLike[str]) -> CheckReport:
    """Judge ``bundle`` against its own base with the adapter in ``folder`` merged into it.

    The report warns that an adapter's bytes do not say which base it was trained on.

    Raises:
        GeometryError: the adapter is not for this base.
        CheckpointNotFoundError, UnsafeFormatError, SchemaViolationError, CompatibilityError,
        EvidenceError: see ``Adapter.open`` and ``check``.
    """
    with Adapter.open(folder) as adapter:
        base = BaseRecord.from_tensors(bundle.base_tensors())
        report = check(bundle, effective_record(base, adapter))
    promised = bundle.manifest.base.name
    doubt = Finding(
        "warning",
        "adapter",
        f"expected a model, got an adapter: judged as merged into {promised}, which its names and "
        "shapes fit; that it was trained on it they do not say.",
    )
    return replace(report, findings=(*report.findings, doubt))


def adapter_descents(
    registry: Registry,
    adapter: Adapter,
    claims: tuple[tuple[Claim, Base | None], ...] = (),
    *,
    most: int = MOST_JUDGED,
) -> tuple[list[AdapterDescent], int]:
    """Return the bases that ``claims`` name and those that an open adapter fits, judged.

    Returns:
        The descents in order, and how many more bases may fit and were not looked at: all bases of
        one shape are as good, so that no order among them would help.
    """
    named: dict[str, tuple[Claim, ...]] = {}
    for claim, base in claims:
        if base is not None:
            named[base.weights] = (*named.get(base.weights, ()), claim)
    bases = registry.bases()
    others = [base for base in bases if base.weights not in named and _may_fit(base, adapter)]
    looked_at = [*(base for base in bases if base.weights in named), *others[:most]]
    found = [_descent(registry, base, adapter, named.get(base.weights, ())) for base in looked_at]
    kept = [item for item in found if item.claims or item.lineage is not None]
    return sorted(kept, key=_order), len(others[most:])


def _order(item: AdapterDescent) -> tuple[bool, int, float, str]:
    distance = float("inf") if item.lineage is None else item.lineage.distance
    return (not item.claims, -item.level, distance, item.base.name)


def _descent(
    registry: Registry, base: Base, adapter: Adapter, claims: tuple[Claim, ...]
) -> AdapterDescent:
    record = base_record(registry, base)
    wrong = misfits(record, adapter)
    if wrong:
        return AdapterDescent(base, claims, misfits=tuple(wrong))
    effective = effective_record(record, adapter)
    lineage = judge(record, effective)
    change = _with_known_rank(record, adapter, classify(record, effective, lineage=lineage))
    modest = replace(lineage, level=min(lineage.level, SAME_SHAPES))
    return AdapterDescent(base, claims, modest, change, touched(record, adapter))


def _with_known_rank(base: BaseRecord, adapter: Adapter, change: Change) -> Change:
    """Return ``change`` with the rank that the factors have; a sketch shows none above 32.

    A change that factors alone make is a merged LoRA, of whatever rank and however local.
    """
    if change.kind not in {"fine-tune", "merged-lora", "sparse-edit"}:
        return change
    ranks = {module.weight: module.rank for module in adapter.modules}
    matrices = {entry.name for entry in base.entries if len(entry.shape) > 1}
    if not matrices.intersection(change.changed) <= ranks.keys():
        return change
    figures = {**change.figures, "rank": max(ranks.values())}
    return replace(change, kind="merged-lora", figures=figures)


def _may_fit(base: Base, adapter: Adapter) -> bool:
    """Return whether the counts of ``base`` allow the adapter's shapes, without its record."""
    sites = sites_for(base.family)
    width = base.heads * base.head_dim
    is_known = False
    for module in adapter.modules:
        if module.weight == sites.embedding:
            is_known = True
            if module.out_features != base.hidden_size:
                return False
        layer = sites.layer_of(module.weight)
        if layer is None:
            continue
        is_known = True
        role = module.name.removeprefix(f"{sites.layer_prefix(layer)}.")
        shape = (module.out_features, module.in_features)
        is_query = role == sites.query and shape[1] != base.hidden_size
        is_output = role == sites.attn_out and shape != (base.hidden_size, width)
        if layer >= base.layers or is_query or is_output:
            return False
    return is_known
