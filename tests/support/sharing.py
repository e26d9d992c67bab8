"""Publishers, readers and the two kinds of places between them; in one process or in several."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.signed import key_of, pem_of

from registry.artifact.bundle import write_bundle
from registry.reference import Reference
from registry.remote.directory import DirectoryRemote
from registry.store.catalog import Registry
from registry.workflows.publish import publish
from registry.workflows.remotes import open_remote
from registry.workflows.sign import Signer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.hub import Hub
    from support.signed import Site

    from registry.remote.contract import Remote, Snapshot

KEY, NEXT, MALLORY = key_of("publisher"), key_of("next"), key_of("mallory")
REPO = "alice/lock"


def publisher_at(folder: Path, *keys: Any) -> Registry:
    """Make a registry in ``folder`` that trusts these keys for acme, the publisher's by default."""
    registry = Registry.create(str(folder / "registry.db"))
    for key in keys or (KEY,):
        registry.trust_key(key.key_id, namespaces=["acme/*"])
    return registry


def put(
    registry: Registry, site: Site, folder: Path, version: str, *keys: Any, **body: Any
) -> None:
    """Publish the site's draft as ``lock@version``, signed by the publisher unless keys are given."""
    draft = folder / f"draft-{version}-{len(list(folder.glob('draft-*')))}"
    write_bundle(site.bundle(version, **body), draft)
    signer = Signer(keys or (KEY,))
    publish(registry, draft, name="lock", version=version, signer=signer)


@dataclass(frozen=True)
class Place:
    """A remote of a test: a repository on the hub, or a folder."""

    reference: Reference
    hub: Hub | None
    folder: Path | None

    @property
    def remote(self) -> Remote:
        return open_remote(self.reference)

    def at(self, version: str) -> Reference:
        """Return the reference to a version in it."""
        return Reference.parse(f"{self.reference}#lock@{version}")

    def now(self) -> Snapshot:
        found = self.remote.snapshot()
        assert found is not None
        return found

    def read(self, path: str) -> bytes:
        return self.remote.read(self.now(), path, limit=1 << 30)

    def commits(self) -> int:
        """Return how many changes there were."""
        if self.hub is not None:
            return len(self.hub.history(REPO))
        assert self.folder is not None
        return len(list((self.folder / "history").glob("[0-9]*")))

    def attack(self, files: Mapping[str, bytes | None]) -> str:
        """Let whoever may write there put other bytes in place of files; ``None`` removes one."""
        if self.hub is None:
            given = {path: data for path, data in files.items() if data is not None}
            parent = self.remote.snapshot()
            return DirectoryRemote(self.folder or "").commit(
                given, parent=None if parent is None else parent.commit, message="attack"
            )
        there = {}
        if REPO in self.hub.repos:
            there = {name: blob.data for name, blob in self.hub.history(REPO)[0].files.items()}
        changed = {**there, **files}
        return self.hub.add(REPO, {k: v for k, v in changed.items() if v is not None})


def copied(registry_folder: Path, to: Path) -> Registry:
    """Return a registry that is a copy of another one, as a backup is."""
    shutil.copytree(registry_folder, to)
    return Registry.open(str(to / "registry.db"))


def holdings(registry: Registry, blobs: Path) -> dict[str, Any]:
    """Return what a registry holds: bases, versions in their states, files."""
    lines = [line.name for line in registry.lines()]
    versions = [one for name in lines for one in registry.versions(name)]
    return {
        "bases": [(base.name, base.weights) for base in registry.bases()],
        "versions": [(one.label, one.digest, one.state, one.key_id) for one in versions],
        "files": sorted(str(path) for path in blobs.rglob("*") if path.is_file()),
    }


__all__ = [
    "KEY", "MALLORY", "NEXT", "REPO", "Place", "copied", "holdings", "pem_of", "publisher_at", "put",
]  # fmt: skip
