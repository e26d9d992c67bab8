"""The manifest: the one document that says what an artifact is.

- Its bytes are canonical JSON; the digest of these bytes is the artifact's identity.
- It covers everything else in the bundle by digest and size, so nothing can be exchanged.
- ``base`` says which weights it was made from and which config, tokenizer and chat template it
  was measured under. Names in it are declarations, digests are identity.
- ``body`` belongs to the kind; ``receipts`` say what was measured when it was made.
- A draft (fresh from ``extract``) has neither name nor version; ``publish`` gives both.
- Every text in it can be printed as it is: no control characters, nothing that turns a line around.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact.schema import require_schema, validate
from registry.digest import Digest, canonical_json, digest_bytes, parse_digest, parse_json
from registry.errors import SchemaViolationError, UnsafeFormatError, UsageError
from registry.reference import is_name, require_name
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA = "safelatch/manifest/v1"
PAYLOAD_TYPE = "application/vnd.safelatch.manifest.v1+json"
"""What a signed manifest is, inside its envelope."""
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
        normal = normal_version(version)
        if normal is None:
            raise UsageError(
                f"expected a PEP 440 version such as 1.0.0, got {version!r:.80}.",
                hint="Versions: https://packaging.python.org/specifications/version-specifiers",
            )
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
        document = parse_json(data, what="manifest.json", limit=MANIFEST_LIMIT, hint=REMAKE)
        require_schema(document, SCHEMA, what="manifest.json")
        validate(document, "manifest.v1", what="manifest.json")
        findings = [
            *_label_findings(document),
            *_moment_findings(document),
            *unprintable(document),
        ]
        if findings:
            raise SchemaViolationError(
                f"manifest.json breaks {len(findings)} rule(s).", findings, hint=REMAKE
            )
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


def normal_version(text: str) -> str | None:
    """Return the PEP 440 version that ``text`` is in its one spelling, ``None`` if it is none."""
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(text))
    except InvalidVersion:
        return None


def _label_findings(document: dict[str, Any]) -> Iterator[str]:
    name, version = document["name"], document["version"]
    if name is not None and not is_name(name):
        yield f"$.name: expected the name of a line, got {name!r:.120}"
    if version is not None and version != (normal := normal_version(version)):
        expected = "a PEP 440 version" if normal is None else f"the version {normal}"
        yield f"$.version: expected {expected}, got {version!r:.80}"
    if (name is None) != (version is None):
        yield f"$: expected name and version together, got {name!r} and {version!r}"


def _moment_findings(document: dict[str, Any]) -> Iterator[str]:
    validity = document["validity"]
    begin, end = validity["not_before"], validity["expires"]
    stamps = {"created": document["created"], "validity.not_before": begin, "validity.expires": end}
    for path, stamp in stamps.items():
        if stamp is not None and not moment.is_stamp(stamp):
            yield f"$.{path}: expected a moment of the calendar, got {stamp!r}"
    if begin is not None and end is not None and begin >= end:
        yield f"$.validity: expected not_before earlier than expires, got {begin} and {end}"


def unprintable(document: Any) -> list[str]:
    """Return a line for each text that would not be printed as it is, the first 100."""
    found: list[str] = []
    todo = [("$", document)]
    while todo and len(found) < 100:
        path, value = todo.pop()
        if isinstance(value, dict):
            names = (name for name in value if not name.isprintable())
            found += [f"{path}: the member {name!r:.80} cannot be printed" for name in names]
            todo += [(f"{path}.{name}"[:120], item) for name, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{path}[{index}]"[:120], item) for index, item in enumerate(value)]
        elif isinstance(value, str) and not value.isprintable():
            found.append(f"{path}: expected text that can be printed, got {value!r:.80}")
    return sorted(found)
