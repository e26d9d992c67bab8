"""Do this artifact and this checkpoint belong together? Every finding, worst first.

An ``error`` refuses the load; a ``warning`` is reported and written down. The checks work from two
records, so they need neither the base's weights nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.lineage import judge
from registry.checkpoint.record import BaseRecord
from registry.digest import short
from registry.errors import (
    BaseModelMismatchError,
    CompatibilityError,
    DigestMismatchError,
    EvidenceError,
    GeometryError,
)
from registry.workflows.bases import describe

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
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
    """

    severity: Severity
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The verdict on one artifact and one checkpoint."""

    artifact: str
    lineage: Lineage
    findings: tuple[Finding, ...]

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
            "findings": [
                {"severity": f.severity, "code": f.code, "message": f.message}
                for f in self.findings
            ],
        }

    def require(self) -> None:
        """Raise the error of the first refusing finding, with all of them listed."""
        if not self.errors:
            return
        error_class = _ERRORS.get(self.errors[0].code, CompatibilityError)
        rest = "".join(f"\n  also: {finding.message}" for finding in self.errors[1:])
        raise error_class(
            f"{self.artifact}: {self.errors[0].message}{rest}",
            hint="See which base this checkpoint descends from: safelatch lineage MODEL, "
            "and what is there for it: safelatch list",
        )


_ERRORS: dict[str, type[CompatibilityError | EvidenceError]] = {
    "base-mismatch": BaseModelMismatchError,
    "evidence-too-low": BaseModelMismatchError,
    "geometry": GeometryError,
    "config": GeometryError,
    "validity": EvidenceError,
}


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
    findings = [
        *_validity(bundle, now or datetime.now(timezone.utc)),
        *_geometry(bundle, record),
        *_lineage(bundle, lineage),
        *_config(lineage),
        *_texts(bundle, record),
    ]
    findings.sort(key=lambda finding: finding.severity != "error")
    return CheckReport(manifest.label, lineage, tuple(findings))


def require_own_base(bundle: Bundle, base: BaseRecord) -> None:
    """Check that the base record in ``bundle`` is of the base that the manifest names.

    Raises:
        DigestMismatchError: it is of another model.
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
                hint="Get it again: safelatch pull",
            )


def _validity(bundle: Bundle, now: datetime) -> list[Finding]:
    manifest, stamp = bundle.manifest, now.strftime("%Y-%m-%dT%H:%M:%SZ")
    findings = []
    if manifest.not_before is not None and stamp < manifest.not_before:
        findings.append(
            Finding("error", "validity", f"valid from {manifest.not_before}, now is {stamp}.")
        )
    if manifest.expires is not None and stamp >= manifest.expires:
        findings.append(
            Finding("error", "validity", f"valid until {manifest.expires}, now is {stamp}.")
        )
    return findings


def _geometry(bundle: Bundle, record: BaseRecord) -> list[Finding]:
    expected, got = dict(bundle.manifest.geometry), record.geometry.to_dict()
    return [
        Finding("error", "geometry", f"{field}: expected {expected[field]}, got {got[field]}.")
        for field in got
        if expected.get(field) != got[field]
    ]


def _lineage(bundle: Bundle, lineage: Lineage) -> list[Finding]:
    manifest = bundle.manifest
    made_for = f"made for {manifest.base.name} ({short(manifest.base.weights)})"
    if lineage.relation not in {"identical", "derived"}:
        return [
            Finding(
                "error",
                "base-mismatch",
                f"expected a fine-tune of the base it was {made_for}, within distance "
                f"{manifest.compatibility.max_distance:g}; this checkpoint is "
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


def _config(lineage: Lineage) -> list[Finding]:
    return [
        Finding(
            "warning" if field in MILD_FIELDS else "error",
            "config",
            f"config {field}: expected {expected!r} as in the base, got {got!r}.",
        )
        for field, expected, got in lineage.config_differences
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
