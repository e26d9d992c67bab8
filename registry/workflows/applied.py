"""What is on a live model, in the four words: applied, and verified with the time of the reading.

``model.safelatch`` says it. It is a convenience; the truth is what ``verify()`` reads from the
model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from registry.errors import ApplyError
from registry.kinds import kind_of
from registry.moment import stamp


@dataclass(slots=True)
class Applied:
    """An artifact that is on a live model.

    Attributes:
        label: ``name@version`` of the artifact.
        digest: Its identity.
        content: Digest of what it puts on a model: the same under every name and version.
        kind: Its kind.
        alpha: Strength that was applied; ``None`` where the kind has none.
        applied_at: When, UTC.
        verified_at: When the model was last read back and found to carry it; ``None`` if never.
        evidence: What that reading found.
        body: The artifact's checked body.
        precondition: What the kind found on the model before applying; ``None`` if not asked.
        signed_by: Trusted keys that signed it; none where nobody was asked.
        recorded: Whether the registry's event log has this application.
    """

    label: str
    digest: str
    content: str
    kind: str
    alpha: float | None
    applied_at: str
    verified_at: str | None
    evidence: dict[str, Any]
    precondition: dict[str, Any] | None
    signed_by: tuple[str, ...]
    recorded: bool
    body: Any = field(repr=False)
    _model: Any = field(repr=False)
    _application: Any = field(repr=False)

    def verify(self) -> dict[str, Any]:
        """Read the model back and return the evidence.

        Raises:
            VerificationError: the artifact is not on the model as it prescribes; from then on
                ``verified_at`` is ``None`` and there is no evidence.
        """
        self.verified_at, self.evidence = None, {}
        found = kind_of(self.kind).verb("verify").verify(self._model, self.body, self._application)
        self.evidence = found.to_dict()
        self.verified_at = stamp()
        return self.evidence

    def undo(self) -> None:
        """Take the artifact off; every tensor is again what it was, bit for bit.

        Raises:
            ApplyError: another that put weights in place went on after it, and would give back what
                this one put there; or see the kind's ``undo``. Nothing was changed.
        """
        self._require_last()
        kind_of(self.kind).verb("apply").undo(self._model, self._application)
        remaining = [entry for entry in applied_to(self._model) if entry is not self]
        remember(self._model, tuple(remaining))

    def _require_last(self) -> None:
        """Kinds do not know of each other: of those that rewrite, the last one comes off first."""
        if not kind_of(self.kind).rewrites:
            return
        there = applied_to(self._model)
        place = next((n for n, entry in enumerate(there) if entry is self), len(there))
        later = [
            entry.label
            for entry in there[place + 1 :]
            if entry.kind != self.kind and kind_of(entry.kind).rewrites
        ]
        if later:
            raise ApplyError(
                f"expected {self.label} to come off last, {', '.join(later)} went on after it and "
                "keeps what was there before; nothing was changed.",
                hint="Take off what went on last first, or everything: registry.unprotect(model)",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "artifact": self.label,
            "digest": self.digest,
            "kind": self.kind,
            "alpha": self.alpha,
            "applied_at": self.applied_at,
            "verified_at": self.verified_at,
            "evidence": self.evidence,
            "precondition": self.precondition,
            "signed_by": list(self.signed_by),
            "recorded": self.recorded,
        }


@dataclass(frozen=True, slots=True)
class Protection:
    """What ``model.safelatch`` says.

    Attributes:
        applied: The artifacts on the model, in order.
        checkpoint: Weights digest of the checkpoint, when it was loaded from files.
        base: Name of its base.
        lineage: Measured lineage, as a document.
        policy: Policy of the load; ``None`` for ``protect``.
        noted: Whether the load itself is in a registry's event log.
        receipt: File that says what is on the model, where no registry could write it down.
    """

    applied: tuple[Applied, ...]
    checkpoint: str | None = None
    base: str | None = None
    lineage: dict[str, Any] | None = None
    policy: str | None = None
    noted: bool = False
    receipt: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the event log knows of the load and of everything that is on the model."""
        return self.noted and all(entry.recorded for entry in self.applied)

    @property
    def verified(self) -> bool:
        """Whether every artifact was read back, and there is at least one."""
        return bool(self.applied) and all(entry.verified_at for entry in self.applied)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "applied": [entry.to_dict() for entry in self.applied],
            "verified": self.verified,
            "checkpoint": self.checkpoint,
            "base": self.base,
            "lineage": self.lineage,
            "policy": self.policy,
            "recorded": self.recorded,
            "receipt": self.receipt,
        }


def remember(model: Any, handles: tuple[Applied, ...]) -> None:
    """Write ``handles`` on the model, beside what is known about where it came from."""
    known = getattr(model, "safelatch", None)
    known = known if isinstance(known, Protection) else Protection(())
    model.safelatch = replace(known, applied=handles)


def applied_to(model: Any) -> tuple[Applied, ...]:
    """Return the handles of the artifacts on ``model``."""
    protection = getattr(model, "safelatch", None)
    return protection.applied if isinstance(protection, Protection) else ()
