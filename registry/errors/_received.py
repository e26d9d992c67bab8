"""What we received is refused on evidence: exit status 3."""

from __future__ import annotations

from registry.errors._root import SafelatchError
from registry.wording import listed


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


class SignatureError(EvidenceError):
    """A signature is not one of these bytes by this key."""

    code = "signature"


class UnsignedError(EvidenceError):
    """A signature is required here, and there is none."""

    code = "unsigned"


class UntrustedKeyError(EvidenceError):
    """Signed by keys of which none is trusted now: unknown, revoked, or outside its validity."""

    code = "untrusted-key"


class KeyScopeError(EvidenceError):
    """Signed by a trusted key that may not speak for this base."""

    code = "key-scope"


class LineExpiredError(EvidenceError):
    """The signed line has expired: what was revoked since then cannot be known."""

    code = "line-expired"


class RollbackError(EvidenceError):
    """The signed line is older than one that was seen before."""

    code = "rollback"


class LineForkError(EvidenceError):
    """The signed line does not continue the one that was seen before."""

    code = "line-fork"


class RevokedError(EvidenceError):
    """The version is revoked: it is never loaded again."""

    code = "revoked"


class PolicyError(EvidenceError):
    """What was found is not what the policy file requires."""

    code = "policy"


class NonFiniteTensorError(SchemaViolationError):
    """A tensor of the artifact holds NaN or infinity."""

    code = "non-finite"


class StrengthRangeError(SchemaViolationError):
    """The artifact's strength lies outside the range that it says was measured."""

    code = "strength-range"


class CompatibilityError(SafelatchError):
    """Artifact and model do not belong together."""

    code = "compatibility"
    exit_code = 3


class BaseModelMismatchError(CompatibilityError):
    """The checkpoint does not descend from the base the artifact was made for."""

    code = "base-model-mismatch"


class UnboundArtifactError(CompatibilityError):
    """The artifact was imported without the base it belongs to: it can be looked at alone."""

    code = "unbound"


class UnsupportedArchitectureError(CompatibilityError):
    """There is no row for this model family in the table of sites."""

    code = "unsupported-architecture"


class GeometryError(CompatibilityError):
    """Config and tensor shapes (or artifact and model) disagree about heads or widths."""

    code = "geometry"
