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

from registry.errors._asked import (
    ArtifactNotFoundError,
    BaseNotFoundError,
    CalibrationError,
    CheckpointNotFoundError,
    ConfirmationRequiredError,
    NotFoundError,
    ReferenceSyntaxError,
    UsageError,
    VersionNotFoundError,
)
from registry.errors._place import (
    AlreadyAppliedError,
    ApplyError,
    DatabaseBusyError,
    DatabaseOutdatedError,
    HostError,
    HubError,
    MissingDependencyError,
    NonFiniteResultError,
    RegistryMissingError,
    StoreError,
    TargetModuleMissingError,
)
from registry.errors._received import (
    BaseModelMismatchError,
    CompatibilityError,
    CorruptStoreError,
    DigestMismatchError,
    EvidenceError,
    GeometryError,
    KeyScopeError,
    LineExpiredError,
    LineForkError,
    NegatedDirectionsError,
    NonFiniteTensorError,
    NoProtectionError,
    PolicyError,
    RevokedError,
    RollbackError,
    SchemaViolationError,
    SignatureError,
    StrengthRangeError,
    UnboundArtifactError,
    UnsafeFormatError,
    UnsignedError,
    UnsupportedArchitectureError,
    UnsupportedSchemaVersionError,
    UntrustedKeyError,
    VerificationError,
    VersionConflictError,
)
from registry.errors._root import SafelatchError

__all__ = [
    "AlreadyAppliedError",
    "ApplyError",
    "ArtifactNotFoundError",
    "BaseModelMismatchError",
    "BaseNotFoundError",
    "CalibrationError",
    "CheckpointNotFoundError",
    "CompatibilityError",
    "ConfirmationRequiredError",
    "CorruptStoreError",
    "DatabaseBusyError",
    "DatabaseOutdatedError",
    "DigestMismatchError",
    "EvidenceError",
    "GeometryError",
    "HostError",
    "HubError",
    "KeyScopeError",
    "LineExpiredError",
    "LineForkError",
    "MissingDependencyError",
    "NegatedDirectionsError",
    "NoProtectionError",
    "NonFiniteResultError",
    "NonFiniteTensorError",
    "NotFoundError",
    "PolicyError",
    "ReferenceSyntaxError",
    "RegistryMissingError",
    "RevokedError",
    "RollbackError",
    "SafelatchError",
    "SchemaViolationError",
    "SignatureError",
    "StoreError",
    "StrengthRangeError",
    "TargetModuleMissingError",
    "UnboundArtifactError",
    "UnsafeFormatError",
    "UnsignedError",
    "UnsupportedArchitectureError",
    "UnsupportedSchemaVersionError",
    "UntrustedKeyError",
    "UsageError",
    "VerificationError",
    "VersionConflictError",
    "VersionNotFoundError",
]
