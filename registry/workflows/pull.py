"""Pull: a version and its line out of a remote, vouched for, then into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import BaseModelMismatchError, StoreError
from registry.workflows.fetch import fetch_bundle
from registry.workflows.publish import receive
from registry.workflows.trust import require_vouched

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.store.values import Version


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Attributes:
        version: As the registry has it now.
        url: The remote.
        commit: Where its files were read, 40 hex digits.
        is_new: Whether it was not here before.
    """

    version: Version
    url: str
    commit: str
    is_new: bool


def pull(registry: Registry, reference: Reference, *, base: str | None = None) -> Pulled:
    """Put what ``reference`` names in a remote into ``registry``, with the newest line there.

    A key that is trusted here vouches for it before its large files are asked for. A line that was
    verified is remembered, also when it revokes the version; nothing else is written before
    everything was read and checked. The same again brings a newer line, if there is one.

    Args:
        registry: Where to.
        reference: A remote, and which version in it.
        base: Weights digest of the base it must be made for; any base by default.

    Raises:
        BaseModelMismatchError: it is made for another base than ``base``.
        StoreError: the registry cannot be written.
        RemoteError: the remote cannot be reached, or refuses.
        ArtifactNotFoundError, VersionNotFoundError: it is empty, or has no such version.
        EvidenceError: what it holds is not what was signed, or nobody trusted signed it.
        RevokedError: the version is revoked.
    """

    def approve(head: Bundle) -> None:
        made_for = head.manifest.base_weights
        if base not in {None, made_for}:
            raise BaseModelMismatchError(
                f"{head.manifest.label}: expected an artifact for the base {base}, got one for "
                f"{made_for}.",
                hint=f"Pull it, if it is wanted all the same: safelatch pull {reference}",
            )
        require_vouched(head, None, registry)

    if registry.is_read_only:
        raise StoreError(
            f"expected a registry that can be written at {registry.location}, it is read-only.",
            hint="Pull into another one: safelatch --db PATH init",
        )
    fetched = fetch_bundle(reference, approve=approve)
    origin = {"remote": fetched.url, "commit": fetched.commit}
    done = receive(registry, fetched.bundle, origin=origin)
    return Pulled(done.version, fetched.url, fetched.commit, done.is_new)
