"""Signatures, signed lines, and the states of versions: what the registry keeps of what was signed.

Nothing is verified here but digests: whoever hands over a ``SignedLine`` has verified it. A line,
its head and the states it gives change in one transaction, together with their events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from registry.digest import digest_bytes, require_digest
from registry.errors import UsageError, VersionConflictError
from registry.store import blobs, events, heads, publish, session, versions
from registry.store._order import order_key
from registry.store.keyring import Keyring
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Engine

    from registry.digest import Digest
    from registry.store.values import LineHead, SignedLine, State, Version

_UNEXPLAINED = "the signed line gives no reason"


class Signing(NamedTuple):
    """What a version is signed with; see ``TrustRecords.sign_version``."""

    signature: bytes | None
    key_id: str | None
    line: SignedLine | None
    follows: Digest | None


class TrustRecords(Keyring):
    """Who is trusted, and what signed lines said last."""

    def __init__(self, engine: Engine, store: blobs.BlobStore) -> None:
        super().__init__(engine)
        self._blobs = store

    # Lines

    def line_heads(self) -> list[LineHead]:
        """Return the newest signed document seen of each line, by name and base."""
        with session.read(self._engine) as connection:
            return heads.everything(connection)

    def line_head(self, name: str, base: str) -> LineHead | None:
        """Return the newest signed document seen of the line; ``None`` when there is none.

        Args:
            name: Name of the line, published here or not.
            base: Weights digest of its base.
        """
        with session.read(self._engine) as connection:
            return heads.find(connection, name, base)

    def remember_line(self, line: SignedLine, *, follows: Digest | None) -> bool:
        """Make ``line`` the newest document seen of its line; return whether it was not already.

        Where it was, its keys that are new vouch for it from now on, if that can be written. The
        envelope in force stays.

        Args:
            line: The document, verified.
            follows: Digest of the head that it was found to follow; ``None`` for a first one.

        Raises:
            VersionConflictError: the head is another one by now.
        """
        head = self.line_head(line.name, line.base)
        if head is not None and head.digest == line.digest:
            # Nearly every load ends here, without a write.
            has_more = not set(line.key_ids) <= set(head.key_ids)
            if has_more and not session.is_read_only(self._engine):
                with session.write(self._engine) as connection:
                    heads.swap(connection, line, line.digest)
            return False
        self._put(line, published_only=True)
        with session.write(self._engine) as connection:
            return self._accept(connection, line, follows)

    def apply_states(
        self,
        name: str,
        states: Mapping[str, tuple[State, str | None]],
        *,
        line: SignedLine,
        follows: Digest | None,
    ) -> list[Version]:
        """Accept a line from elsewhere, and give its states to the versions published here.

        Args:
            name: Name of the line.
            states: State and reason by version. A version that is not published here is left out;
                one that is revoked here stays so.
            line: The document that says so, verified.
            follows: Digest of the head that it was found to follow; ``None`` for a first one.

        Returns:
            The versions whose state changed, newest first.

        Raises:
            VersionConflictError: the head is another one by now, or the line is of something else.
        """
        require_own(name, line.base, line)
        wanted = {order_key(version): state for version, state in states.items()}
        self._put(line, published_only=True)
        changed = []
        with session.write(self._engine) as connection:
            self._accept(connection, line, follows)
            for version in versions.of_line(connection, name):
                state, reason = wanted.get(order_key(version.version), (version.state, None))
                if version.base_weights != line.base or version.state in {state, "revoked"}:
                    continue
                if state == "revoked" and not reason:
                    reason = _UNEXPLAINED
                self._state(connection, version, state, reason)
                changed.append(versions.by_digest(connection, version.digest))
        return changed

    def line_bytes(self, name: str) -> bytes | None:
        """Return the signed envelope now in force of a published line, if it has one.

        Raises:
            CorruptStoreError: the file is gone.
            DigestMismatchError: the file holds other bytes.
        """
        with session.read(self._engine) as connection:
            found = heads.in_force(connection, name)
        if found is None:
            return None
        return self._blobs.get(found[0], size=found[1], what=f"signed line of {name}")

    # Versions

    def set_state(
        self,
        version: Version,
        state: State,
        reason: str | None = None,
        *,
        line: SignedLine | None = None,
        follows: Digest | None = None,
    ) -> Version:
        """Yank, restore or revoke a version; return it as it is now. No change, no event.

        Args:
            version: The version.
            state: What it becomes.
            reason: Why.
            line: The signed document that says so; accepted in the same transaction.
            follows: Digest of the head that ``line`` was found to follow.

        Raises:
            VersionConflictError: it is revoked, which is final; or the head is another one by now.
            UsageError: a revocation without a reason.
        """
        if state == "revoked" and not reason:
            raise UsageError(
                f"expected a reason to revoke {version.label}, got none.",
                hint="Say why: set_state(version, 'revoked', reason)",
            )
        require_own(version.name, version.base_weights, line)
        self._put(line)
        with session.write(self._engine) as connection:
            self._state(connection, version, state, reason)
            self._accept(connection, line, follows)
            return versions.by_digest(connection, version.digest)

    def sign_version(
        self,
        version: Version,
        signature: bytes,
        key_id: str,
        line: SignedLine | None = None,
        follows: Digest | None = None,
    ) -> Version:
        """Keep the signature of a published version, and the line that names it.

        Args:
            version: The version.
            signature: The envelope of its manifest, verified; in place of an older one.
            key_id: The trusted key that signed it.
            line: The signed document of its line; accepted in the same transaction.
            follows: Digest of the head that ``line`` was found to follow.

        Raises:
            VersionConflictError: the head is another one by now, or the line is of something else.
        """
        require_own(version.name, version.base_weights, line)
        self._put(line, signature)
        with session.write(self._engine) as connection:
            signing = Signing(signature, key_id, line, follows)
            return self._sign(connection, version, signing)

    def signature_bytes(self, version: Version) -> bytes | None:
        """Return the signed envelope of the version's manifest, if it was signed.

        Raises:
            CorruptStoreError: the file is gone.
            DigestMismatchError: the file holds other bytes.
        """
        with session.read(self._engine) as connection:
            found = versions.signature_of(connection, version)
        if found is None:
            return None
        return self._blobs.get(found[0], size=found[1], what=f"signature of {version.label}")

    # Inside the writing transaction, and before it

    def _put(
        self,
        line: SignedLine | None,
        signature: bytes | None = None,
        *,
        published_only: bool = False,
    ) -> None:
        """Store the envelopes that a row is going to name."""
        session.require_writable(self._engine)
        if signature is not None:
            self._blobs.put(signature)
        if line is None:
            return
        require_digest(line.document, line.digest, what=f"line of {line.name}", hint=REMAKE)
        with session.read(self._engine) as connection:
            is_named = not published_only or heads.is_published(connection, line)
        if is_named:
            self._blobs.put(line.envelope)

    def _sign(self, connection: Connection, version: Version, signing: Signing) -> Version:
        signed = self._keep_signature(connection, version, signing)
        if signed:
            detail = {"digest": version.digest, **signed}
            events.log(connection, "version.sign", version.label, detail)
        self._accept(connection, signing.line, signing.follows)
        return versions.by_digest(connection, version.digest)

    def _keep_signature(
        self, connection: Connection, version: Version, signing: Signing
    ) -> dict[str, str]:
        """Return what is new about the version's signature, for an event."""
        signature, key_id, *_ = signing
        if signature is None or key_id is None:
            return {}
        digest = self._keep(connection, signature)
        is_new = publish.sign(connection, version, digest, key_id)
        return {"signature": digest, "key_id": key_id} if is_new else {}

    def _accept(
        self, connection: Connection, line: SignedLine | None, follows: Digest | None
    ) -> bool:
        if line is None:
            return False
        is_new = heads.swap(connection, line, follows)
        if heads.is_published(connection, line):
            heads.put_in_force(connection, line, self._keep(connection, line.envelope))
        return is_new

    def _keep(self, connection: Connection, data: bytes) -> Digest:
        digest = digest_bytes(data)
        self._blobs.keep(digest, data)  # garbage may have been collected since it was put
        blobs.remember(connection, digest, len(data))
        return digest

    @staticmethod
    def _state(connection: Connection, version: Version, state: State, reason: str | None) -> None:
        if publish.set_state(connection, version, state, reason):
            detail = {"digest": version.digest, "reason": reason}
            events.log(connection, publish.EVENTS[state], version.label, detail)


def require_own(name: str | None, base: str, line: SignedLine | None) -> None:
    """Raise ``VersionConflictError`` unless ``line``, where there is one, is of this line."""
    if line is not None and (line.name, line.base) != (name, base):
        raise VersionConflictError(
            f"expected the signed line of {name!r} on {base}, got that of {line.name!r} on "
            f"{line.base}.",
            hint="Sign the line of this artifact: safelatch sign NAME --key KEY",
        )
