"""Do this artifact and this checkpoint belong together? Every finding, worst first.

An ``error`` refuses the load; a ``warning`` is reported and written down. The checks work from two
records, so they need neither the base's weights nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry import moment
from registry.checkpoint.change import classify
from registry.checkpoint.lineage import judge
from registry.checkpoint.record import BaseRecord
from registry.digest import short
from registry.errors import (
    BaseModelMismatchError,
    CompatibilityError,
    DigestMismatchError,
    EvidenceError,
    GeometryError,
    SchemaViolationError,
)
from registry.wording import REMAKE, RESTORE_CONFIG
from registry.workflows.bases import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.change import Change
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.lineage import Lineage

Severity = Literal["error", "warning"]
MILD_FIELDS = frozenset({"vocab_size", "max_position_embeddings"})
"""Config fields that fine-tunes change without changing what directions were measured under."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``error`` refuses, ``warning`` reports.
        code: Stable slug.
        message: The fact with both values.
        field: The config field it is about, if it is about one.
    """

    severity: Severity
    code: str
    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The verdict on one artifact and one checkpoint."""

    artifact: str
    lineage: Lineage
    change: Change
    findings: tuple[Finding, ...]
    measured: Mapping[str, Any] | None = None
    """What was measured in the live model; ``None`` from files alone."""
    signed_by: tuple[str, ...] = ()
    """Trusted keys that signed the artifact; none where nobody was asked."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that refuse."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def verdict(self) -> str:
        """``compatible`` or ``refused``."""
        return "refused" if self.errors else "compatible"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "artifact": self.artifact,
            "verdict": self.verdict,
            "lineage": self.lineage.to_dict(),
            "change": self.change.to_dict(),
            "findings": [
                {"severity": f.severity, "code": f.code, "message": f.message}
                for f in self.findings
            ],
            "measured": self.measured,
            "signed_by": list(self.signed_by),
        }

    def require(self) -> None:
        """Raise the error of the first refusing finding, with all of them listed."""
        require_no_error(self.artifact, self.errors)


_WHOSE = (
    "See which base this checkpoint descends from: safelatch lineage MODEL, "
    "and what is there for it: safelatch list"
)
_ERRORS: dict[str, tuple[type[CompatibilityError | EvidenceError], str]] = {
    "base-mismatch": (BaseModelMismatchError, _WHOSE),
    "evidence-too-low": (BaseModelMismatchError, _WHOSE),
    "geometry": (GeometryError, RESTORE_CONFIG),
    "config": (GeometryError, RESTORE_CONFIG),
    "validity": (EvidenceError, "Name a version that is valid now: safelatch list"),
    "stray-parameter": (
        CompatibilityError,
        "Load the fine-tune as its own class, without what was added to its layers.",
    ),
}

_OF_A_KIND = (
    CompatibilityError,
    "What the artifact was made from is not in this model any more: it cannot be used there.",
)
"""Of the codes that a kind's own measurements give."""


def require_no_error(artifact: str, findings: Sequence[Finding]) -> None:
    """Raise the error of the first refusing finding, with all of them listed."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    error_class, hint = _ERRORS.get(errors[0].code, _OF_A_KIND)
    rest = "".join(f"\n  also: {finding.message}" for finding in errors[1:])
    raise error_class(f"{artifact}: {errors[0].message}{rest}", hint=hint)


def check(bundle: Bundle, record: BaseRecord, *, now: datetime | None = None) -> CheckReport:
    """Judge ``bundle`` against the checkpoint that ``record`` measures.

    Args:
        bundle: A checked bundle.
        record: The checkpoint's record.
        now: Time for the validity window; the clock's by default.

    Raises:
        DigestMismatchError: the bundle's base record is not of the base its manifest names.
    """
    manifest = bundle.manifest
    base = BaseRecord.from_tensors(bundle.base_tensors())
    require_own_base(bundle, base)
    lineage = judge(base, record, max_distance=manifest.compatibility.max_distance)
    change = classify(base, record, lineage=lineage)
    findings = [
        *validity_findings(bundle, now or moment.now()),
        *geometry_findings(bundle, record.geometry),
        *_lineage(bundle, lineage),
        *_change(change),
        *config_findings(lineage.config_differences),
        *_texts(bundle, record),
    ]
    findings.sort(key=lambda finding: finding.severity != "error")
    return CheckReport(manifest.label, lineage, change, tuple(findings))


def require_own_base(bundle: Bundle, base: BaseRecord) -> None:
    """Check that the base record in ``bundle`` is of the base that the manifest names.

    Raises:
        DigestMismatchError: it is of another model.
        SchemaViolationError: it is of another geometry than the manifest states.
    """
    promised = bundle.manifest.base
    pairs = (
        ("weights", promised.weights, base.weights),
        ("config", promised.config, base.config_digest),
        ("tokenizer", promised.tokenizer, base.tokenizer),
        ("chat template", promised.chat_template, base.chat_template),
    )
    for what, expected, got in pairs:
        if expected != got:
            raise DigestMismatchError(
                f"{bundle.manifest.label}: its manifest names {what} {expected}, its base record "
                f"has {got}.",
                hint=REMAKE,
            )
    stated, measured = dict(bundle.manifest.geometry), base.geometry.to_dict()
    if stated != measured:
        raise SchemaViolationError(
            f"{bundle.manifest.label}: expected the geometry of its base record.",
            [
                f"$.geometry.{name}: stated {stated.get(name)}, the base record has {value}"
                for name, value in measured.items()
                if stated.get(name) != value
            ],
            hint=REMAKE,
        )


def validity_findings(bundle: Bundle, now: datetime) -> list[Finding]:
    """Return what ``now`` says about the bundle's validity window."""
    manifest, stamp = bundle.manifest, moment.stamp(now)
    findings = []
    if manifest.not_before is not None and stamp < manifest.not_before:
        findings.append(
            Finding(
                "error",
                "validity",
                f"expected a time from {manifest.not_before} on, when it becomes valid, "
                f"got {stamp}.",
            )
        )
    if manifest.expires is not None and stamp >= manifest.expires:
        findings.append(
            Finding(
                "error",
                "validity",
                f"expected a time before {manifest.expires}, when it expired, got {stamp}.",
            )
        )
    return findings


def geometry_findings(bundle: Bundle, geometry: Geometry) -> list[Finding]:
    """Return a finding for each count or width that differs from the base's."""
    expected, got = dict(bundle.manifest.geometry), geometry.to_dict()
    return [
        Finding("error", "geometry", f"{field}: expected {expected[field]}, got {got[field]}.")
        for field in got
        if expected.get(field) != got[field]
    ]


def _lineage(bundle: Bundle, lineage: Lineage) -> list[Finding]:
    manifest = bundle.manifest
    base = f"{manifest.base.name} ({short(manifest.base.weights)})"
    if not lineage.is_descendant:
        return [
            Finding(
                "error",
                "base-mismatch",
                f"expected a fine-tune of {base} within distance "
                f"{manifest.compatibility.max_distance:g}, the checkpoint is "
                f"{describe(lineage)}.",
            )
        ]
    if lineage.level < manifest.compatibility.min_evidence:
        return [
            Finding(
                "error",
                "evidence-too-low",
                f"expected evidence level {manifest.compatibility.min_evidence} or more, "
                f"got {lineage.level}.",
            )
        ]
    return []


def _change(change: Change) -> list[Finding]:
    """Return a warning for a change that is made to remove what artifacts rest on."""
    if change.kind != "abliterated":
        return []
    return [
        Finding(
            "warning",
            "abliterated",
            "expected a fine-tune, the checkpoint is abliterated: a direction was taken out of "
            "what writes to the residual stream. Whether the artifact still holds there: "
            "safelatch check NAME@V MODEL --measure",
        )
    ]


def config_findings(differences: Iterable[tuple[str, Any, Any]]) -> list[Finding]:
    """Return a finding for each config field, expected and got, that differs from the base's."""
    return [
        Finding(
            "warning" if field in MILD_FIELDS else "error",
            "config",
            f"config {field}: expected {expected!r} as in the base, got {got!r}.",
            field,
        )
        for field, expected, got in differences
    ]


def _texts(bundle: Bundle, record: BaseRecord) -> list[Finding]:
    base = bundle.manifest.base
    pairs = (
        ("tokenizer", base.tokenizer, record.tokenizer),
        ("chat template", base.chat_template, record.chat_template),
    )
    return [
        Finding(
            "warning",
            what.replace(" ", "-"),
            f"{what}: expected {expected and short(expected)} as in the base, "
            f"got {got and short(got)}; the artifact was measured under the base's.",
        )
        for what, expected, got in pairs
        if expected != got
    ]
