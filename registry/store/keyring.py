"""The keys that are trusted: the part of the registry that says who may sign what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifact.signing import require_key_id
from registry.errors import UsageError
from registry.store import events, heads, keys, session
from registry.store.journal import Journal

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from registry.artifact.trust import TrustedKey
    from registry.store.values import LineHead


class Keyring(Journal):
    """Who is trusted here, and who is not any more."""

    def trusted_keys(self) -> list[TrustedKey]:
        """Return all keys, revoked ones too, in the order in which they were trusted."""
        with session.read(self._engine) as connection:
            return keys.everything(connection)

    def trust_key(
        self,
        key_id: str,
        *,
        label: str | None = None,
        namespaces: Iterable[str],
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> TrustedKey:
        """Trust a key with these facts, in place of older ones. No change, no event.

        Args:
            key_id: ``ed25519:<64 hex digits>``.
            label: What to call it here.
            namespaces: What it may speak for, see ``artifact.scope``.
            not_before: Start of its validity, with a time zone.
            not_after: End of its validity, with a time zone.

        Raises:
            VersionConflictError: it is revoked, which is final.
            UsageError: the key or a namespace is none, or the validity ends before it begins.
        """
        require_key_id(key_id)
        wanted = keys.facts(label, namespaces, not_before, not_after)
        with session.write(self._engine) as connection:
            changed = keys.trust(connection, key_id, wanted)
            key = keys.require(connection, key_id)
            if changed:
                moments = {"not_before": not_before, "not_after": not_after}
                detail: dict[str, Any] = {"label": key.label, "namespaces": list(key.namespaces)}
                detail.update({name: at and at.isoformat() for name, at in moments.items()})
                events.log(connection, "key.trust", key_id, detail)
            return key

    def revoke_key(self, key_id: str, reason: str) -> TrustedKey:
        """Revoke a key for good, known or not, and forget the line heads that it alone vouched for.

        They could be of a thief who signed the highest sequence there is: what follows is judged
        as the first document of its line. No change, no event.

        Raises:
            NotFoundError: the text is no key.
            UsageError: there is no reason.
        """
        if not reason.strip():
            raise UsageError(
                f"expected a reason to revoke {key_id[:120]}, got none.",
                hint="Say why: safelatch key revoke KEY --reason TEXT",
            )
        with session.write(self._engine) as connection:
            if keys.revoke(connection, key_id, reason):
                gone, kept = heads.forget(connection, key_id)
                detail = {
                    "reason": reason,
                    "forgotten": [_named(head) for head in gone],
                    "kept": [_named(head) for head in kept],
                }
                events.log(connection, "key.revoke", key_id, detail)
            return keys.require(connection, key_id)


def _named(head: LineHead) -> dict[str, Any]:
    return {
        "name": head.name,
        "base": head.base,
        "sequence": head.sequence,
        "digest": head.digest,
    }
