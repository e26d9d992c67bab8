"""The manifest: the one document that says what an artifact is.

- Its bytes are canonical JSON; the digest of these bytes is the artifact's identity.
- It covers everything else in the bundle by digest and size, so nothing can be exchanged.
- ``base`` says which weights it was made from and which config, tokenizer and chat template it
  was measured under. Names in it are declarations, digests are identity.
- ``body`` belongs to the kind; ``receipts`` say what was measured when it was made.
- A draft (fresh from ``extract``) has neither name nor version; ``publish`` gives both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.artifact.schema import require_schema, validate
from registry.digest import Digest, canonical_json, digest_bytes, parse_digest, parse_json
from registry.errors import REMAKE, UnsafeFormatError, UsageError
from registry.reference import require_name

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "safelatch/manifest/v1"
MANIFEST_LIMIT = 1 << 20
"""Most bytes of a manifest."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: its digest and its size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """The base model an artifact was made from.

    Attributes:
        name: What the publisher calls it; a declaration.
        weights: Weights digest, the key of the registry.
        config: Digest of the config fields that change the computation.
        tokenizer: Digest of the tokenizer, or ``None`` when there was none.
        chat_template: Digest of the chat template, or ``None`` when there was none.
    """

    name: str
    weights: Digest
    config: Digest
    tokenizer: Digest | None
    chat_template: Digest | None


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What the publisher requires of a fine-tune.

    Attributes:
        max_distance: Largest estimated ``||dW||_F / ||W||_F`` to the base (dimensionless).
        min_evidence: Lowest lineage level that is enough (0 to 4, see checkpoint.lineage).
    """

    max_distance: float = 0.25
    min_evidence: int = 3


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest. Make drafts with ``Manifest(...)``, parse with ``from_bytes``."""

    kind: str
    created: str
    base: BaseIdentity
    geometry: Mapping[str, Any]
    body: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    provenance: Mapping[str, Any]
    receipts: tuple[Mapping[str, Any], ...] = ()
    compatibility: Compatibility = field(default_factory=Compatibility)
    name: str | None = None
    version: str | None = None
    not_before: str | None = None
    expires: str | None = None
    license: str | None = None

    @property
    def base_weights(self) -> Digest:
        """Weights digest of the base: the key of the registry."""
        return self.base.weights

    @property
    def label(self) -> str:
        """``name@version``, or ``(draft)``."""
        return f"{self.name}@{self.version}" if self.name and self.version else "(draft)"

    @property
    def digest(self) -> Digest:
        """Identity of the artifact: digest of the manifest's canonical bytes."""
        return digest_bytes(self.to_bytes())

    def named(self, name: str, version: str) -> Manifest:
        """Return this manifest under a line and a version (PEP 440, normalised).

        Raises:
            ReferenceSyntaxError: ``name`` cannot name a line.
            UsageError: ``version`` is not a PEP 440 version.
        """
        from packaging.version import InvalidVersion, Version

        try:
            normal = str(Version(version))
        except InvalidVersion:
            raise UsageError(
                f"expected a PEP 440 version such as 1.0.0, got {version!r}.",
                hint="Versions: https://packaging.python.org/specifications/version-specifiers",
            ) from None
        return replace(self, name=require_name(name), version=normal)

    def to_dict(self) -> dict[str, Any]:
        """Return the document, ready for canonical JSON."""
        base = self.base
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "base": {
                "name": base.name,
                "weights": base.weights,
                "config": base.config,
                "tokenizer": base.tokenizer,
                "chat_template": base.chat_template,
            },
            "geometry": dict(self.geometry),
            "compatibility": {
                "max_distance": self.compatibility.max_distance,
                "min_evidence": self.compatibility.min_evidence,
            },
            "body": dict(self.body),
            "files": {
                name: {"digest": entry.digest, "size": entry.size}
                for name, entry in self.files.items()
            },
            "receipts": [dict(receipt) for receipt in self.receipts],
            "provenance": dict(self.provenance),
            "validity": {"not_before": self.not_before, "expires": self.expires},
            "license": self.license,
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is written and hashed."""
        return canonical_json(self.to_dict())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and check a manifest.

        Raises:
            UnsafeFormatError: not strict JSON, over 1 MiB, or not in canonical form.
            UnsupportedSchemaVersionError: of another version than this release reads.
            SchemaViolationError: with every violation.
        """
        document = parse_json(data, what="manifest.json", limit=MANIFEST_LIMIT)
        require_schema(document, SCHEMA, what="manifest.json")
        validate(document, "manifest.v1", what="manifest.json")
        manifest = cls._from_dict(document)
        try:
            canonical = manifest.to_bytes()
        except ValueError as error:  # a number or text that has no canonical form
            raise UnsafeFormatError(f"manifest.json: {error}.", hint=REMAKE) from error
        if canonical != data:
            raise UnsafeFormatError(
                "manifest.json: expected canonical JSON (RFC 8785), got another spelling of the "
                "same values, which would have another digest.",
                hint=f"Do not edit bundles by hand. {REMAKE}",
            )
        return manifest

    @classmethod
    def _from_dict(cls, document: dict[str, Any]) -> Manifest:
        base = document["base"]
        return cls(
            kind=document["kind"],
            name=document["name"],
            version=document["version"],
            created=document["created"],
            base=BaseIdentity(
                name=base["name"],
                weights=parse_digest(base["weights"]),
                config=parse_digest(base["config"]),
                tokenizer=_digest_or_none(base["tokenizer"]),
                chat_template=_digest_or_none(base["chat_template"]),
            ),
            geometry=MappingProxyType(document["geometry"]),
            compatibility=Compatibility(**document["compatibility"]),
            body=MappingProxyType(document["body"]),
            files=MappingProxyType(
                {
                    name: FileEntry(parse_digest(entry["digest"]), entry["size"])
                    for name, entry in document["files"].items()
                }
            ),
            receipts=tuple(MappingProxyType(receipt) for receipt in document["receipts"]),
            provenance=MappingProxyType(document["provenance"]),
            not_before=document["validity"]["not_before"],
            expires=document["validity"]["expires"],
            license=document["license"],
        )


def _digest_or_none(text: str | None) -> Digest | None:
    return None if text is None else parse_digest(text)
