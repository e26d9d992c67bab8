"""Opening a registry: its database, at the revision of this release, and its folder of blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import SafelatchError
from registry.settings import Settings
from registry.store import migrate, session, sqlite_file
from registry.store.blobs import BlobStore, User
from registry.store.identity import registry_id

if TYPE_CHECKING:
    from sqlalchemy import Engine


def settings_of(url: str | None, settings: Settings | None) -> Settings:
    """Return ``settings``, or those of this process with ``url`` as the registry."""
    if settings is None:
        return Settings.load(url)
    if url is not None:
        raise TypeError("expected url or settings, got both")
    return settings


def connected(settings: Settings, *, create: bool) -> tuple[Engine, BlobStore]:
    """Return the engine and the blobs of the registry; only a new SQLite file is migrated.

    Raises:
        RegistryMissingError: there is none, and ``create`` is false.
        DatabaseOutdatedError: it is at another revision.
        CorruptStoreError: it has no id.
        StoreError: it cannot be reached or made, or is no registry.
    """
    engine = session.connect(settings, create=create)
    try:
        if settings.sqlite_path is not None and migrate.current(engine) is None:
            if not create:
                raise sqlite_file.missing(settings.sqlite_path)
            migrate.upgrade(engine)
        migrate.require_current(engine)
        user = User(registry_id(engine), session.name_beside(engine, settings.blobs))
    except SafelatchError:
        engine.dispose()
        raise
    return engine, BlobStore(settings.blobs, user)
