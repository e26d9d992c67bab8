"""The registry: one object through which everything else reads and writes the catalog.

- Every change and its event are one transaction; what decides a change is read inside it.
- Bytes are stored before the rows that name them: a crash leaves at most a file nobody names,
  which ``collect_garbage`` removes.
- Nothing is migrated by opening; values come out, never rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.digest import digest_bytes
from registry.store import bases, blobs, events, garbage, publish, session, versions
from registry.store.opening import connected, settings_of
from registry.store.trust import Signing, TrustRecords, require_own

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

    from registry.artifact.manifest import Manifest
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.record import BaseRecord
    from registry.digest import Digest
    from registry.reference import Reference
    from registry.settings import Settings
    from registry.store.values import Base, Line, SignedLine, Version


class Registry(TrustRecords):
    """The catalog of base models, artifacts, checkpoints and events.

    Made by ``open`` or ``create``; a context manager that closes its connections. One value may
    be used by several threads, not across a fork.
    """

    @classmethod
    def open(cls, url: str | None = None, *, settings: Settings | None = None) -> Registry:
        """Open the registry.

        Args:
            url: Database URL or SQLite file; by default the environment's or the user's own.
            settings: Settings read before, instead of ``url``.

        Raises:
            RegistryMissingError: there is none; make one with ``create``.
            DatabaseOutdatedError: its tables are of another release.
            StoreError: it cannot be reached, or is no registry.
        """
        return cls(*connected(settings_of(url, settings), create=False))

    @classmethod
    def create(cls, url: str | None = None, *, settings: Settings | None = None) -> Registry:
        """Open the registry, making it first if it is a SQLite file that is not there.

        Safe to repeat, and safe for several processes at once.

        Raises:
            DatabaseOutdatedError: its tables are of another release; or it is an empty database
                on a server, whose tables only ``safelatch db upgrade`` makes.
            StoreError: it cannot be reached or made, or is no registry.
        """
        return cls(*connected(settings_of(url, settings), create=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; safe to repeat."""
        self._engine.dispose()

    @property
    def location(self) -> str:
        """Where the registry is, without any password."""
        return session.location(self._engine)

    @property
    def is_read_only(self) -> bool:
        """Whether this registry can be read but not written here."""
        return session.is_read_only(self._engine)

    # Base models

    def add_base(
        self,
        name: str,
        record: BaseRecord,
        record_bytes: bytes,
        aliases: Iterable[tuple[str, str]] = (),
    ) -> Base:
        """Register a base model; one with the same weights is returned as it is.

        Args:
            name: Unique name; kept from the first time when the weights are known already.
            record: What was read from the checkpoint.
            record_bytes: The record as ``base.safetensors``.
            aliases: (scheme, value) pairs, see ``values.Alias``; new ones are added to a known
                base too.

        Raises:
            VersionConflictError: another base has the name, or an alias that cannot move.
            UsageError: the name or an alias cannot be one.
        """
        bases.require_base_name(name)
        wanted = bases.require_aliases(aliases)
        record_digest = digest_bytes(record_bytes)
        with session.read(self._engine) as connection:
            known = bases.by_weights(connection, record.weights)
            if known is None:
                bases.refuse_taken_name(connection, name, record.weights)
        if known is None:
            session.require_writable(self._engine)
        if known is None or known.record == record_digest:
            self._blobs.put(record_bytes)
        if known is not None and set(wanted) <= set(known.aliases):
            return known
        with session.write(self._engine) as connection:
            base = bases.by_weights(connection, record.weights)
            if base is None:
                self._blobs.keep(record_digest, record_bytes)
                blobs.remember(connection, record_digest, len(record_bytes))
                base = bases.add(connection, name, record, record_digest)
                detail = {"weights": base.weights, "record": record_digest}
                events.log(connection, "base.register", base.name, detail)
            added = bases.point(connection, base, wanted)
            if added:
                shown = [f"{alias.scheme}:{alias.value}" for alias in added]
                events.log(connection, "base.alias", base.name, {"aliases": shown})
            return bases.find(connection, base.weights)

    def bases(self) -> list[Base]:
        """Return all base models, by name."""
        with session.read(self._engine) as connection:
            return bases.everything(connection)

    def base(self, text: str) -> Base:
        """Return the base model that a name, digest, alias or digest prefix (8 or more) names.

        Raises:
            BaseNotFoundError: none, or more than one.
        """
        with session.read(self._engine) as connection:
            return bases.find(connection, text)

    def bases_like(self, geometry: Geometry) -> list[Base]:
        """Return the base models of exactly this geometry: candidates, not evidence."""
        with session.read(self._engine) as connection:
            return bases.like(connection, geometry)

    def bases_near(self, record: BaseRecord, limit: int = 8) -> list[Base]:
        """Return the base models of the record's geometry that may be nearest to it, by name.

        Candidates, not evidence: the ``limit`` nearest by their probes, with those that are as near
        as the last of them, to 64 in all; every one without a probe; and the one with the same
        weights. All of the geometry when the record has no probe: slow, and misses nothing.
        """
        with session.read(self._engine) as connection:
            return bases.near(connection, record, limit)

    def bases_of_repository(self, repo_id: str) -> list[Base]:
        """Return the base models registered from a commit of a Hub repository, by name."""
        with session.read(self._engine) as connection:
            return bases.of_repository(connection, repo_id)

    def base_count(self) -> int:
        """Return how many base models there are."""
        with session.read(self._engine) as connection:
            return bases.count(connection)

    def base_record_bytes(self, base: Base) -> bytes:
        """Return the stored record of ``base``, as it was given.

        Raises:
            CorruptStoreError: the file is gone.
            DigestMismatchError: the file holds other bytes.
        """
        with session.read(self._engine) as connection:
            size = blobs.stored_size(connection, base.record)
        return self._blobs.get(base.record, size=size, what=f"record of base {base.name}")

    # Artifacts

    def add_version(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes],
        *,
        base_name: str,
        signature: bytes | None = None,
        key_id: str | None = None,
        line: SignedLine | None = None,
        follows: Digest | None = None,
        in_order: bool = True,
        origin: Mapping[str, str] | None = None,
    ) -> tuple[Version, bool]:
        """Publish a version; return it and whether it is new here.

        The same version with the same content again changes nothing but damaged files, which
        are put back, and what ``sign_version`` would change.

        Args:
            manifest: The parsed ``manifest.json``, with name and version.
            files: Every file of the bundle by name, ``manifest.json`` included.
            base_name: Name of the registered base; its weights are the manifest's.
            signature: The envelope of ``manifest.json``, verified.
            key_id: The trusted key that signed it; given with ``signature``.
            line: The signed document that names the version, verified.
            follows: Digest of the head that ``line`` was found to follow; ``None`` for a first one.
            in_order: Refuse a version older than the newest published one; not for one that a
                line from elsewhere names.
            origin: Where it came from, for its event.

        Raises:
            VersionConflictError: other content under this version, not newer than the newest
                published one, or a line of another kind or base; or the head is another by now.
            DigestMismatchError: the files are not the manifest's, or the base has other weights.
            BaseNotFoundError: the base is not registered.
        """
        if (signature is None) != (key_id is None):
            raise TypeError("expected signature and key_id together, got one of them")
        stored = publish.entries(manifest, files)
        with session.read(self._engine) as connection:
            base = bases.find(connection, base_name)
            publish.conflicts(connection, manifest, base, in_order=in_order)
        require_own(manifest.name, base.weights, line)
        signing = Signing(signature, key_id, line, follows)
        self._put(line, signature)
        for data in files.values():
            self._blobs.put(data)
        with session.write(self._engine) as connection:
            known = publish.conflicts(connection, manifest, base, in_order=in_order)
            if known is not None:
                return self._sign(connection, known, signing), False
            for path, digest, _ in stored:  # garbage may have been collected since they were put
                self._blobs.keep(digest, files[path])
            base_id = bases.row_id(connection, base)
            version = publish.add(connection, manifest, base_id, stored)
            detail = {"digest": version.digest, "kind": version.kind, "base": base.weights}
            detail.update(origin or {})
            detail.update(self._keep_signature(connection, version, signing))
            events.log(connection, "version.publish", version.label, detail)
            self._accept(connection, line, follows)
            return versions.by_digest(connection, version.digest), True

    def lines(self) -> list[Line]:
        """Return all artifact lines, by name."""
        with session.read(self._engine) as connection:
            return versions.lines(connection)

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a line, newest first, whatever their state.

        Raises:
            ArtifactNotFoundError: there is no such line.
        """
        with session.read(self._engine) as connection:
            return versions.require_line(connection, name)

    def resolve(self, reference: Reference) -> Version:
        """Return the version that ``reference`` names; see ``store.versions`` for the rules.

        Raises:
            ArtifactNotFoundError: no such line, or no artifact of this digest.
            VersionNotFoundError: the line has no such version, or none that is active.
            RevokedError: the version is revoked.
            UsageError: the reference names another place than the registry.
        """
        with session.read(self._engine) as connection:
            return versions.resolve(connection, reference)

    def versions_for_base(self, weights: str) -> list[Version]:
        """Return what each line made from these weights resolves to, by name."""
        with session.read(self._engine) as connection:
            return versions.for_base(connection, weights)

    def bundle_files(self, version: Version) -> dict[str, bytes]:
        """Return every file of the version, read once and checked against its digest.

        Raises:
            CorruptStoreError: a file or its row is gone.
            DigestMismatchError: a file holds other bytes.
        """
        with session.read(self._engine) as connection:
            entries = versions.files_of(connection, version)
        return {
            path: self._blobs.get(digest, size=size, what=f"{version.label} {path}")
            for path, digest, size in entries
        }

    def collect_garbage(self, grace: dt.timedelta, *, dry_run: bool = False) -> garbage.Garbage:
        """Remove files that no row names and that are older than ``grace``; see ``garbage``."""
        return garbage.collect(self._engine, self._blobs, grace, dry_run=dry_run)
