"""The body of safety layers: a closed range of layers, and the measurements it follows from.

Rules, all checked together and all reported:
- ``0 <= first <= last < layers``, and ``layers`` is the base's; a range is never scaled to another
  depth;
- a measured range follows from its own sweep by the stated rule, and every count is the sum of
  the flags in the bundle; curves have a value per layer;
- a published range says where it was published, and claims no measurement;
- the base record, whose tensors are protected, is of the base that the manifest names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.artifact.schema import require_schema, validate
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.record import BaseRecord
from registry.digest import digest_json
from registry.errors import SchemaViolationError
from registry.kinds.safety_layers._conventions import spellings
from registry.kinds.safety_layers._measured import measured_findings
from registry.kinds.safety_layers._presentation import presentation
from registry.kinds.safety_layers._protected import is_protected, protected_entries
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Presentation
    from registry.checkpoint.record import Entry
    from registry.digest import Digest

SCHEMA = "safelatch/safety-layers/v1"
FROZEN, TRAINABLE = "frozen", "trainable"
MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True, slots=True)
class LayersBody:
    """Checked safety layers.

    Attributes:
        first: First layer of the range, 0-based.
        last: Last layer of the range, included.
        layers: Number of decoder layers of the base.
        family: ``model_type`` of the base.
        norms: ``frozen``: every tensor of the range is protected; ``trainable``: only those below
            its attention and MLP are, as in the paper.
        origin: ``measured`` on this base, or ``published`` and not measured again.
        source: Where a published range is from; ``None`` for a measured one.
        measurement: What it was measured by (``_measured``); ``None`` for a published one.
        refused: One row per point of the sweep, one flag per prompt, uint8 [points, prompts];
            ``None`` for a published range.
        protected: The base's tensors that are protected; empty until read from a bundle.
        own: Names of all tensors that the base has in the range; empty until read from a bundle.
        samples: Their sampled raw bits, by name; empty until read from a bundle.
    """

    first: int
    last: int
    layers: int
    family: str
    norms: str = FROZEN
    origin: str = MEASURED
    source: Mapping[str, Any] | None = None
    measurement: Mapping[str, Any] | None = field(default=None, repr=False)
    refused: np.ndarray | None = field(default=None, repr=False)
    protected: tuple[Entry, ...] = field(default=(), repr=False)
    own: tuple[str, ...] = field(default=(), repr=False)
    samples: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def range(self) -> range:
        """The layers of the range."""
        return range(self.first, self.last + 1)

    @property
    def outside(self) -> tuple[int, ...]:
        """The layers that may be trained, ascending: ``layers_to_transform`` of an adapter."""
        return tuple(layer for layer in range(self.layers) if layer not in self.range)

    @property
    def content(self) -> Digest:
        """Digest of what it puts on a model: the same under every name and measurement."""
        return digest_json([entry.to_list() for entry in self.protected])

    def protects(self, name: str) -> bool:
        """Return whether the tensor (of a file) or parameter (of a live model) is protected."""
        return is_protected(
            name, sites_for(self.family), first=self.first, last=self.last, norms=self.norms
        )

    def require_ready(self) -> None:
        """Do nothing: a range has no strength that could be missing."""

    def to_manifest(self) -> dict[str, Any]:
        """Return the ``body`` member of the manifest."""
        return {
            "schema": SCHEMA,
            "first": self.first,
            "last": self.last,
            "layers": self.layers,
            "norms": self.norms,
            "origin": self.origin,
            "source": None if self.source is None else dict(self.source),
            "measurement": None if self.measurement is None else dict(self.measurement),
        }

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of the bundle: range i32 [2]; refused u8 [points, prompts]."""
        import numpy as np

        found = {"range": np.array([self.first, self.last], dtype=np.int32)}
        if self.refused is not None:
            found["refused"] = np.asarray(self.refused, dtype=np.uint8)
        return found

    def describe(self) -> dict[str, Any]:
        """Return what people ask about this range, for ``show`` and the audit."""
        known = "published, not re-measured" if self.origin == PUBLISHED else "measured"
        return {
            "origin": known,
            "range": f"{self.first}..{self.last} of 0..{self.layers - 1}, both included",
            "also_written": spellings(self.first, self.last),
            "norms": self.norms,
            **({} if self.source is None else {"source": self.source["where"]}),
            **({} if self.measurement is None else _seen(self.measurement)),
        }


def _seen(measurement: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the search saw, in short."""
    effect, scaling = measurement["effect"], measurement["scaling"]
    return {
        "mode": scaling["mode"],
        "alpha": scaling["alpha"],
        "refused": f"{effect['range']} of {measurement['n']} scary prompts with the range scaled, "
        f"{effect['baseline']} as it is, {effect['control']['refused']} with the strongest control",
    }


def parse(bundle: Bundle) -> LayersBody:
    """Return the checked body of ``bundle``.

    Raises:
        UnsupportedSchemaVersionError: the body is of another version.
        SchemaViolationError: a rule is broken; with every violated rule.
    """
    document = dict(bundle.manifest.body)
    require_schema(document, SCHEMA, what="safety-layers body")
    validate(document, "safety_layers.v1", what="safety-layers body")
    geometry = bundle.manifest.geometry
    tensors = bundle.tensors()
    findings = _range_findings(document, geometry["layers"])
    findings += _tensor_findings(document, tensors)
    if not findings and document["measurement"] is not None:
        findings = measured_findings(document, tensors["refused"])
    if findings:
        raise SchemaViolationError(
            f"safety-layers body breaks {len(findings)} rule(s).", findings, hint=REMAKE
        )
    record = BaseRecord.from_tensors(bundle.base_tensors())
    findings = _base_findings(bundle.manifest, record)
    if findings:
        raise SchemaViolationError(
            "safety-layers bundle: expected the base record of the base that it names.",
            findings,
            hint=REMAKE,
        )
    sites = sites_for(record.geometry.family)
    wanted = {"first": document["first"], "last": document["last"]}
    protected = protected_entries(record, sites, norms=document["norms"], **wanted)
    return LayersBody(
        first=document["first"],
        last=document["last"],
        layers=document["layers"],
        family=record.geometry.family,
        norms=document["norms"],
        origin=document["origin"],
        source=document["source"],
        measurement=document["measurement"],
        refused=tensors.get("refused"),
        protected=protected,
        own=tuple(
            entry.name
            for entry in record.entries
            if is_protected(entry.name, sites, norms=FROZEN, **wanted)
        ),
        samples={entry.name: record.samples[entry.name] for entry in protected},
    )


def present(body: LayersBody, manifest: Manifest) -> Presentation:
    """Return what people are shown of ``body`` and of the receipts in its manifest."""
    return presentation(body, manifest)


def _base_findings(manifest: Manifest, record: BaseRecord) -> list[str]:
    """Return where the record is of another model: its names would protect nothing in this one."""
    stated, held = dict(manifest.geometry), record.geometry.to_dict()
    findings = [
        f"base record: expected {name} {stated.get(name)}, got {value}"
        for name, value in held.items()
        if stated.get(name) != value
    ]
    if record.weights != manifest.base.weights:
        findings.append(
            f"base record: expected weights {manifest.base.weights}, got {record.weights}"
        )
    return findings


def _range_findings(document: Mapping[str, Any], layers: int) -> list[str]:
    first, last = document["first"], document["last"]
    findings = []
    if document["layers"] != layers:
        findings.append(f"layers: expected {layers} as in the base, got {document['layers']}")
    if not first <= last < document["layers"]:
        findings.append(
            f"range: expected first <= last < {document['layers']}, got [{first}, {last}]"
        )
    return findings


def _tensor_findings(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> list[str]:
    measured = document["measurement"]
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"range": ("int32", (2,))}
    if measured is not None:
        expected["refused"] = ("uint8", (len(measured["points"]), measured["n"]))
    findings = [f"unexpected tensor {name!r}" for name in sorted(set(tensors) - set(expected))]
    for name, form in expected.items():
        array = tensors.get(name)
        got = None if array is None else (array.dtype.name, array.shape)
        if got != form:
            findings.append(f"{name}: expected {form[0]} {list(form[1])}, got {got}")
    if not findings:
        stated, held = [document["first"], document["last"]], tensors["range"].tolist()
        if stated != held:
            findings.append(f"range: expected {stated} as the body says, its tensor has {held}")
    return findings
