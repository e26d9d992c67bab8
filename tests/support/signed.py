"""Keys that are the same in every run, signed bundles, and registries that trust their keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.locks import edited, fine_tuned, packaged_planted

from registry.artifact import line as line_document
from registry.artifact import manifest as manifest_document
from registry.artifact.bundle import MANIFEST, write_bundle
from registry.artifact.envelope import Envelope
from registry.artifact.line import Line, LineEntry, first_line
from registry.artifact.signing import PrivateKey, public_pem
from registry.artifact.trust import TrustedKey, signed_line, signed_manifest
from registry.digest import digest_bytes
from registry.reference import Reference
from registry.settings import Settings
from registry.workflows.find import stored_bundle
from registry.workflows.identify import identify
from registry.workflows.make import extract
from registry.workflows.publish import publish
from registry.workflows.sign import Signer

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.digest import Digest
    from registry.store.catalog import Registry

CREATED = "2026-11-21T00:00:00Z"
OPTIONS = {"heads": 4, "answer_tokens": 5, "folds": 3, "repeats": 1}


def key_of(tag: str) -> PrivateKey:
    """Return the key that belongs to ``tag``."""
    secret = bytes.fromhex(digest_bytes(tag.encode()).removeprefix("blake3:"))
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(secret))


def digest_of(tag: str) -> Digest:
    """Return a digest that belongs to ``tag``."""
    return digest_bytes(tag.encode())


def trusted(key: PrivateKey, *namespaces: str, **facts: Any) -> TrustedKey:
    """Return ``key`` as one that is trusted for ``namespaces``, or for everything."""
    return TrustedKey(key.key_id, namespaces or ("*",), **facts)


def pem_of(key: PrivateKey, folder: Path) -> Path:
    """Write the public key into ``folder`` and return its file."""
    path = folder / f"{key.key_id[8:16]}.pub"
    path.write_bytes(public_pem(key.key_id))
    return path


def line_of(*bundles: Bundle, expires: str | None = None) -> Line:
    """Return the line document of these versions, one document for each."""
    first, *others = (bundle.manifest for bundle in bundles)
    line = first_line(first, created=CREATED, expires=expires)
    for manifest in others:
        assert manifest.version
        line = line.with_version(
            manifest.version, manifest.digest, created=CREATED, expires=expires
        )
    return line


def stated(line: Line, version: str, state: Any, reason: str | None = "a reason") -> Line:
    """Return the next document, in which ``version`` has this state."""
    return line.with_state(version, state, reason, created=CREATED, expires=line.expires)


def renewed(line: Line, times: int = 1, *, expires: str | None = None) -> Line:
    """Return the document that many renewals later."""
    for _ in range(times):
        line = line.renewed(created=CREATED, expires=expires)
    return line


def signed(bundle: Bundle, *keys: PrivateKey, line: Line | None = None) -> Bundle:
    """Return ``bundle``, which has a name, signed by ``keys``; its line is a first one by default."""
    return replace(
        bundle,
        signature=signed_manifest(bundle, keys),
        line=signed_line(line or line_of(bundle), keys),
    )


FIRST = Line(
    name="lock", kind="safety-lock", base_name="acme/base", base=digest_of("base"), sequence=1,
    created=CREATED, expires=None, history=(), versions={"1.0.0": LineEntry(digest_of("1.0.0"))},
)  # fmt: skip
"""A line of no real versions."""
SECOND = FIRST.with_version("2.0.0", digest_of("2.0.0"), created=CREATED, expires=None)


def manifest_envelope(bundle: Bundle) -> Envelope:
    """Return the envelope over the manifest of ``bundle``, which nobody has signed."""
    return Envelope(bundle.files[MANIFEST], manifest_document.PAYLOAD_TYPE)


def line_envelope(payload: bytes, *keys: PrivateKey) -> bytes:
    """Return an envelope of a line with any payload at all, signed by ``keys``."""
    envelope = Envelope(payload, line_document.PAYLOAD_TYPE)
    for key in keys:
        envelope = key.sign(envelope)
    return envelope.to_bytes()


@dataclass(frozen=True)
class Site:
    """Folders that no test changes: acme's base, a fine-tune of it, and a draft for the base."""

    base: Path
    tune: Path
    draft: Bundle
    planted: Any

    def bundle(self, version: str = "1.0.0", *, name: str = "lock", **body: Any) -> Bundle:
        """Return the draft under a name, with these fields of its body changed."""
        return (edited(self.draft, **body) if body else self.draft).named(name, version)


def make_site(root: Path) -> Site:
    """Make the models and the draft under ``root``."""
    planted = packaged_planted()
    base = planted.save(root / "base")
    tune = replace(planted, model=fine_tuned(planted.model)).save(root / "tune")
    settings = Settings(db_url="sqlite:///none", blobs=root, cache=root / "cache")
    draft = extract(
        "safety-lock", identify(base, settings=settings), planted.model, planted.tokenizer,
        base_name="acme/base", seed=0, options=OPTIONS,
    )  # fmt: skip
    return Site(base, tune, edited(draft, alpha=1.0, alpha_range=(0.0, 1.5)), planted)


def published(
    registry: Registry, draft: Bundle, folder: Path, version: str, *keys: PrivateKey
) -> Bundle:
    """Publish ``draft`` as ``lock@version``, signed by ``keys``, and return what is kept."""
    if not folder.exists():
        write_bundle(draft, folder)
    publish(registry, folder, name="lock", version=version, signer=Signer(keys))
    return kept(registry, version)


def kept(registry: Registry, version: str) -> Bundle:
    """Return ``lock@version`` with the envelopes that the registry keeps now."""
    return stored_bundle(registry, Reference.parse(f"lock@{version}"))[0]
