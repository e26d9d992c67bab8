"""What was asked for cannot be asked for, or is not there: exit statuses 2 and 1."""

from __future__ import annotations

from registry.errors._root import SafelatchError


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


class LocalizationError(SafelatchError):
    """No contiguous range of layers was found that carries refusals."""

    code = "not-localized"
    exit_code = 1
