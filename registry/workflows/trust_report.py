"""What is said about trust where nothing is loaded: by ``show``, ``check`` and ``audit``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import EvidenceError
from registry.workflows.check import Finding
from registry.workflows.trust import trust_of, vouch

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.store.catalog import Registry
    from registry.workflows.check import CheckReport


@dataclass(frozen=True, slots=True)
class TrustStatus:
    """What trusted keys say of a bundle, or why it is refused.

    Attributes:
        state: ``unsigned`` where nobody signed and nobody is asked.
        signed_by: Trusted keys that signed it.
        sequence: Number of the line document that was verified.
        expires: When that stops being accepted.
        yanked: Why its publisher hides this version; ``None`` when it does not.
        refusal: The error with which it would not be loaded.
    """

    state: Literal["vouched", "unsigned", "refused"]
    signed_by: tuple[str, ...] = ()
    sequence: int | None = None
    expires: str | None = None
    yanked: str | None = None
    refusal: EvidenceError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "state": self.state,
            "signed_by": list(self.signed_by),
            "sequence": self.sequence,
            "expires": self.expires,
            "reason": self.reason,
        }

    @property
    def reason(self) -> str | None:
        """The message of the refusal, on one line."""
        if self.refusal is None:
            return None
        fact, *listed = self.refusal.message.split("\n  ")
        return f"{fact} {'; '.join(listed)}".rstrip()


def trust_status(bundle: Bundle, registry: Registry | None) -> TrustStatus:
    """Return what the keys of ``registry`` say of ``bundle``."""
    try:
        said = vouch(bundle, trust_of(None, registry), registry)
    except EvidenceError as error:
        return TrustStatus("refused", refusal=error)
    if said is None:
        return TrustStatus("unsigned")
    yanked = (said.reason or "no reason given") if said.is_yanked else None
    return TrustStatus("vouched", said.signers, said.line.sequence, said.line.expires, yanked)


def with_trust(report: CheckReport, status: TrustStatus) -> CheckReport:
    """Return ``report`` with what ``status`` has against the artifact, and who signed it."""
    findings = [*report.findings]
    if status.refusal is not None:
        findings.insert(0, Finding("error", status.refusal.code, status.reason or ""))
    if status.yanked is not None:
        fact = f"expected an active version, {report.artifact} is yanked: {status.yanked}."
        findings.append(Finding("warning", "yanked", fact))
    return replace(report, findings=tuple(findings), signed_by=status.signed_by)
