"""Every error this package raises on purpose.

Rules:
- The roots say who is at fault: what you asked for, what we received, or the place we run in.
- The first sentence is the fact with both values, expected first. ``hint`` is the repair.
- ``code`` is a stable slug for machines; ``exit_code`` is what the command line returns:
  1 the honest answer is no, 2 typed wrong, 3 refused on evidence, 4 environment.
- Names and values in a message come from files: what could steer a terminal is escaped.
- Wrong call order stays ``RuntimeError`` or ``TypeError``, so these never swallow it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

REMAKE = (
    "Get the bundle again from its publisher, or make it again: "
    "safelatch extract KIND BASE --out DIR"
)
"""Hint of every error about a bundle that cannot be used."""

INSTALL_NEWER = "Install a newer release of safelatch (in a checkout: git pull, then pip install .)"
"""Hint of every error about something that a newer release made."""

RESTORE_CONFIG = "Restore the config.json that was published with these weights."
"""Hint of every error about a config that does not fit its weights."""


def printable(text: str, *, keep: str = "") -> str:
    """Return ``text`` with everything that is no printable character escaped, but ``keep``."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def listed(findings: Sequence[str], limit: int = 20) -> str:
    """Return ``findings`` as indented lines for the end of a message.

    Args:
        findings: One line each.
        limit: How many are shown; the others are counted in a last line.
    """
    lines = [*findings[:limit]]
    if len(findings) > limit:
        lines.append(f"and {len(findings) - limit} more")
    return "".join(f"\n  {line}" for line in lines)


class SafelatchError(Exception):
    """Root of all errors raised here.

    Attributes:
        code: Stable machine-readable slug.
        exit_code: Exit status of the command line.
        hint: What to do about it, usually a command; ``None`` when there is nothing to do.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # A line of ours begins with two blanks: a name with a line break cannot add a hint.
        self.message = re.sub("\n(?!  )", r"\\n", printable(message, keep="\n"))
        super().__init__(self.message)
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(SafelatchError):
    """What was asked for cannot be asked for."""

    code = "usage"
    exit_code = 2


class ReferenceSyntaxError(UsageError):
    """The text is not a reference to an artifact."""

    code = "reference-syntax"


class ConfirmationRequiredError(UsageError):
    """The request is dangerous and was not confirmed with its explicit switch."""

    code = "confirmation-required"


class NotFoundError(SafelatchError):
    """What was asked for is not there."""

    code = "not-found"
    exit_code = 1


class BaseNotFoundError(NotFoundError):
    """No registered base model answers to this name or digest."""

    code = "base-not-found"


class ArtifactNotFoundError(NotFoundError):
    """No artifact line of this name is registered."""

    code = "artifact-not-found"


class VersionNotFoundError(NotFoundError):
    """The artifact line exists, this version of it does not."""

    code = "version-not-found"


class CheckpointNotFoundError(NotFoundError):
    """No safetensors checkpoint at this place."""

    code = "checkpoint-not-found"


class CalibrationError(SafelatchError):
    """No strength that was measured stays inside the budget."""

    code = "calibration"
    exit_code = 1


class EvidenceError(SafelatchError):
    """What we received is wrong: tampered, malformed, or not what was promised."""

    code = "evidence"
    exit_code = 3


class DigestMismatchError(EvidenceError):
    """Bytes do not have the digest that was promised."""

    code = "digest-mismatch"


class SchemaViolationError(EvidenceError):
    """A document does not follow its schema; carries every violation, shows the first 40.

    Attributes:
        violations: One line each, ``$.path: message``.
    """

    code = "schema-violation"

    def __init__(self, message: str, violations: list[str], *, hint: str | None = None) -> None:
        super().__init__(message + listed(violations, 40), hint=hint)
        self.violations = violations


class UnsupportedSchemaVersionError(EvidenceError):
    """The document is of a version that this release does not read."""

    code = "unsupported-schema-version"


class UnsafeFormatError(EvidenceError):
    """The file is of a kind that could run code, or breaks the rules of its format."""

    code = "unsafe-format"


class CorruptStoreError(EvidenceError):
    """The registry's own records contradict each other (a broken chain, a missing blob)."""

    code = "corrupt-store"


class VersionConflictError(EvidenceError):
    """The version exists with other content, or is not newer than what is published."""

    code = "version-conflict"


class NoProtectionError(EvidenceError):
    """The load would have ended without a verified artifact."""

    code = "no-protection"


class VerificationError(EvidenceError):
    """The live model was read back and is not what the artifact prescribes."""

    code = "verification"


class NegatedDirectionsError(EvidenceError):
    """The directions point away from refusing: applying them would remove protection."""

    code = "negated-directions"


class CompatibilityError(SafelatchError):
    """Artifact and model do not belong together."""

    code = "compatibility"
    exit_code = 3


class BaseModelMismatchError(CompatibilityError):
    """The checkpoint does not descend from the base the artifact was made for."""

    code = "base-model-mismatch"


class UnsupportedArchitectureError(CompatibilityError):
    """There is no row for this model family in the table of sites."""

    code = "unsupported-architecture"


class GeometryError(CompatibilityError):
    """Config and tensor shapes (or artifact and model) disagree about heads or widths."""

    code = "geometry"


class StoreError(SafelatchError):
    """The database cannot serve the request."""

    code = "store"


class RegistryMissingError(StoreError):
    """There is no registry at this place."""

    code = "registry-missing"


class DatabaseOutdatedError(StoreError):
    """The database is at another revision than this release."""

    code = "database-outdated"


class DatabaseBusyError(StoreError):
    """Another process held the database for longer than the time-out."""

    code = "database-busy"


class ApplyError(SafelatchError):
    """The artifact could not be put onto the live model; the model is as it was."""

    code = "apply"


class TargetModuleMissingError(ApplyError):
    """The model has no module at the site the artifact names."""

    code = "target-module-missing"


class AlreadyAppliedError(ApplyError):
    """The artifact is already on this model."""

    code = "already-applied"


class NonFiniteResultError(ApplyError):
    """A computed value is NaN or infinite in the model's dtype."""

    code = "non-finite-result"


class HostError(SafelatchError):
    """The place we run in lacks something (an extra, a network, a device)."""

    code = "environment"


class MissingDependencyError(HostError):
    """An optional package is needed and not installed."""

    code = "missing-dependency"


class HubError(HostError):
    """The Hub could not be reached or did not give what was asked for."""

    code = "hub"
