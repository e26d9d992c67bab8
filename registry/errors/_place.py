"""The place we run in cannot do it: exit status 4."""

from __future__ import annotations

from registry.errors._root import SafelatchError


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


class GuardError(SafelatchError):
    """What an artifact protects cannot be kept while this model is trained like this."""

    code = "guard"


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


class RemoteError(HostError):
    """A remote could not be reached, or did not give or take what was asked for."""

    code = "remote"


class RemoteMovedError(RemoteError):
    """Somebody else changed the remote since it was looked at; nothing was changed."""

    code = "remote-moved"


class HubError(RemoteError):
    """The Hub could not be reached or did not give what was asked for."""

    code = "hub"
