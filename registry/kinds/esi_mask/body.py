"""The body of an ESI mask: which weights of the base, why these, and what may be put there.

An artifact has one of two forms. A ``mask`` names weights of the base, with or without the values
that the base has there; a ``delta`` has new values for exactly the weights that its mask names.

Rules, all checked together and all reported:
- names and sizes of the matrices are the base record's, by the rule that is stated; nothing that
  the artifact says about sizes is believed;
- exactly ``k = floor(rho * N)`` weights are selected, and the mask has the digest that is stated;
  an imported mask has its own rule, no score, and as rho its share of all parameters;
- the base record is of the base that the manifest names;
- every matrix's selected values in the base have a digest, and stored values are the values with
  these digests and what the base record sampled; new values are as many, and finite;
- receipts (mass, coverage) have a row for what the base has, and their counts are the mask's.

Tensors: ``table`` and ``frames`` (``_packed``), ``digests`` uint8 [matrices, 32], and uint8
``values`` and ``new_values``: raw bytes in the dtype of the base, matrix after matrix.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.artifact.schema import require_schema, validate
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.record import BaseRecord
from registry.digest import digest_bytes, digest_json
from registry.errors import SchemaViolationError
from registry.kinds.esi_mask._matrices import RULE, matrices
from registry.kinds.esi_mask._packed import PackedMask
from registry.kinds.esi_mask._presentation import presentation
from registry.kinds.esi_mask._rules import (
    base_findings,
    count_findings,
    digest_of,
    receipt_findings,
    sample_findings,
    tensor_findings,
    value_findings,
)
from registry.kinds.esi_mask._values import split_values
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Presentation
    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.record import Entry
    from registry.digest import Digest
    from registry.kinds.esi_mask._matrices import Matrix

SCHEMA = "safelatch/esi-mask/v1"
MASK, DELTA = "mask", "delta"

_WHAT = "esi-mask body"


@dataclass(frozen=True, slots=True)
class MaskBody:
    """A checked ESI mask.

    Attributes:
        matrices: The candidates, sorted by name.
        mask: Which of their weights are selected.
        rho: Share of the candidates' weights that is selected; of all parameters if imported.
        family: ``model_type`` of the base.
        score: What the weights were ranked by, over how many pairs; ``None`` if imported.
        digests: BLAKE3 of the base's selected values of each matrix, uint8 [matrices, 32].
        form: ``mask`` or ``delta``.
        values: The base's selected values: raw bytes, uint8; ``None`` where they are left out.
        new_values: What a delta puts there, in the same form; ``None`` for a mask.
        delta: How the new values were trained; ``None`` for a mask.
        stability: How far masks of two halves of the pairs agree; ``None`` if not measured.
        coverage: Tokens that each expert was given, a row per layer; ``None`` without experts.
        mass: Sum of the scores per layer and component; ``None`` if not kept.
        rule: Which weights were candidates, or that the mask was imported.
        entries: The base's tensors that hold the matrices, by name; empty until read from a bundle.
        samples: Their sampled raw bits, by name; empty until read from a bundle.
    """

    matrices: tuple[Matrix, ...]
    mask: PackedMask
    rho: float
    family: str
    score: Mapping[str, Any] | None
    digests: np.ndarray
    form: str = MASK
    values: np.ndarray | None = None
    new_values: np.ndarray | None = None
    delta: Mapping[str, Any] | None = None
    stability: Mapping[str, Any] | None = None
    coverage: tuple[Mapping[str, Any], ...] | None = None
    mass: tuple[Mapping[str, Any], ...] | None = None
    rule: str = RULE
    entries: Mapping[str, Entry] = field(default_factory=dict)
    samples: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def sites(self) -> Sites:
        """The row of the base's family."""
        return sites_for(self.family)

    @property
    def counts(self) -> dict[str, int]:
        """How many weights of each matrix are selected, by name; zeros included."""
        return self.mask.counts

    @property
    def selected(self) -> int:
        """How many weights are selected."""
        return sum(self.counts.values())

    @property
    def weights(self) -> int:
        """How many weights the candidates have."""
        return sum(matrix.numel for matrix in self.matrices)

    @property
    def content(self) -> Digest:
        """Digest of what it puts on a model: the same under every name and measurement."""
        new = None if self.new_values is None else digest_bytes(self.new_values.data)
        return digest_json([self.form, self.mask.digest(), digest_bytes(self.digests.data), new])

    def indices(self, name: str) -> np.ndarray:
        """Return the sorted flat indices of the selected weights of a matrix, shape [count]."""
        return self.mask.indices(name)

    def selected_digest(self, name: str) -> Digest:
        """Return the digest of the base's selected values of a matrix."""
        row = bisect_left(self.matrices, name, key=lambda matrix: matrix.name)
        return digest_of(self.digests, row)

    def base_values(self) -> dict[str, np.ndarray]:
        """Return the base's selected values by matrix, raw bytes; empty where they are left out."""
        return {} if self.values is None else split_values(self.values, self.matrices, self.counts)

    def put_values(self) -> dict[str, np.ndarray]:
        """Return what a delta puts in their place by matrix, raw bytes; empty for a mask."""
        if self.new_values is None:
            return {}
        return split_values(self.new_values, self.matrices, self.counts)

    def require_ready(self) -> None:
        """Do nothing: a mask has no strength that could be missing."""

    def to_manifest(self) -> dict[str, Any]:
        """Return the ``body`` member of the manifest."""
        return {
            "schema": SCHEMA,
            "form": self.form,
            "rule": self.rule,
            "rho": self.rho,
            "candidates": {"matrices": len(self.matrices), "weights": self.weights},
            "selected": self.selected,
            "mask": self.mask.digest(),
            "values": self.values is not None,
            "score": None if self.score is None else dict(self.score),
            "stability": None if self.stability is None else dict(self.stability),
            "coverage": None if self.coverage is None else [dict(row) for row in self.coverage],
            "mass": None if self.mass is None else [dict(row) for row in self.mass],
            "delta": None if self.delta is None else dict(self.delta),
        }

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of the bundle, see the module."""
        found = {"table": self.mask.table, "frames": self.mask.frames, "digests": self.digests}
        if self.values is not None:
            found["values"] = self.values
        if self.new_values is not None:
            found["new_values"] = self.new_values
        return found

    def describe(self) -> dict[str, Any]:
        """Return what people ask about this mask, for ``show`` and the audit."""
        share = self.selected / self.weights
        used = sum(1 for count in self.counts.values() if count)
        unrouted = sum(row["tokens"].count(0) for row in self.coverage or ())
        return {
            "form": self.form,
            "selected": f"{self.selected:,} of {self.weights:,} weights ({share:.2%})",
            "matrices": f"{used:,} of {len(self.matrices):,}",
            **self._ranked(),
            **self._firmness(),
            **({} if self.coverage is None else {"experts_without_tokens": unrouted}),
            **self._put(),
        }

    def _firmness(self) -> dict[str, Any]:
        if self.stability is None:
            return {}
        jaccard, chance = self.stability["jaccard"], self.stability["chance"]
        return {"halves_jaccard": jaccard, "halves_jaccard_by_chance": chance}

    def _put(self) -> dict[str, Any]:
        if self.delta is None:
            held = self.values is not None
            return {"values": "the base's are in the bundle" if held else "left out"}
        how = f"{self.delta['steps']:,} steps of {self.delta['optimizer']}"
        return {
            "values": "new ones are in the bundle",
            "trained": f"{how}, learning rate {self.delta['learning_rate']:g}",
            "trained_on": self.delta["data"] or "not said",
        }

    def _ranked(self) -> dict[str, Any]:
        if self.score is None:
            return {"rule": self.rule}
        judge = {} if self.score["judge"] is None else {"judge": self.score["judge"]["name"]}
        return {"score": self.score["name"], **judge, "pairs": self.score["pairs"]}


def parse(bundle: Bundle) -> MaskBody:
    """Return the checked body of ``bundle``.

    Raises:
        UnsupportedSchemaVersionError: the body is of another version.
        SchemaViolationError: a rule is broken; with every violated rule.
        UnsafeFormatError: the packed mask breaks its format, or does not fit the base.
        CompatibilityError: the base of the bundle has no candidates by the rule.
    """
    document = dict(bundle.manifest.body)
    require_schema(document, SCHEMA, what=_WHAT)
    validate(document, "esi_mask.v1", what=_WHAT)
    record = BaseRecord.from_tensors(bundle.base_tensors())
    _require(base_findings(bundle.manifest, record))
    candidates = matrices(record.entries, sites_for(record.geometry.family), record.geometry)
    tensors = bundle.tensors()
    findings = count_findings(document, candidates, record.numel)
    findings += tensor_findings(document, tensors, candidates)
    _require(findings)
    numels = {matrix.name: matrix.numel for matrix in candidates}
    mask = PackedMask(tensors["table"], tensors["frames"], numels, what=_WHAT)
    tensor_names = {matrix.tensor for matrix in candidates}
    _require(receipt_findings(document, candidates, mask))
    body = MaskBody(
        matrices=candidates,
        mask=mask,
        rho=document["rho"],
        family=record.geometry.family,
        score=document["score"],
        digests=tensors["digests"],
        form=document["form"],
        values=tensors.get("values"),
        new_values=tensors.get("new_values"),
        delta=document["delta"],
        stability=document["stability"],
        coverage=None if document["coverage"] is None else tuple(document["coverage"]),
        mass=None if document["mass"] is None else tuple(document["mass"]),
        rule=document["rule"],
        entries={entry.name: entry for entry in record.entries if entry.name in tensor_names},
        samples={name: record.samples[name] for name in tensor_names},
    )
    _require(value_findings(body))
    _require(sample_findings(body))
    return body


def present(body: MaskBody, manifest: Manifest) -> Presentation:
    """Return what people are shown of ``body``."""
    return presentation(body, manifest)


def _require(findings: list[str]) -> None:
    if findings:
        raise SchemaViolationError(
            f"{_WHAT} breaks {len(findings)} rule(s).", findings, hint=REMAKE
        )
