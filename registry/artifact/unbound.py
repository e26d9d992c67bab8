"""An unbound import: what a foreign file says, without the base that it belongs to.

    unbound.json            canonical JSON; says where the file came from, covers the one below
    tensors.safetensors     the kind's tensors

It can be looked at and bound to a base, and nothing else: it is a document of its own and never a
manifest, so nothing that loads or publishes artifacts can take it for one.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact.manifest import unprintable
from registry.artifact.schema import require_schema, validate
from registry.artifact.tensors import read_tensors, write_tensors
from registry.digest import (
    Digest,
    canonical_json,
    digest_bytes,
    parse_digest,
    parse_json,
    require_digest,
)
from registry.errors import (
    ArtifactNotFoundError,
    HostError,
    SchemaViolationError,
    UnboundArtifactError,
    UnsafeFormatError,
)
from registry.plainfile import read_plain
from registry.wholefile import write_folder
from registry.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

SCHEMA = "safelatch/unbound/v1"
UNBOUND, TENSORS = "unbound.json", "tensors.safetensors"
DOCUMENT_LIMIT = 1 << 20
"""Most bytes of ``unbound.json``."""
TENSORS_LIMIT = 8 << 30
"""Most bytes of the tensors: files that are imported have at most 4 GiB, of two-byte numbers."""
IMPORT_AGAIN = "Import the file again: safelatch import FILE --out DIR"
"""Hint of every error about a folder that cannot be used."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file that was imported.

    Attributes:
        name: Its name, as text that can be printed; a declaration.
        sha256: 64 hex digits: what publishers print.
        digest: BLAKE3 digest of the same bytes.
        size: Bytes.
        format: What was read.
    """

    name: str
    sha256: str
    digest: Digest
    size: int
    format: str

    @classmethod
    def of(cls, data: bytes, *, name: str, format: str) -> Source:  # noqa: A002 -- the field
        """Return what the file of these bytes is."""
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(printable(name)[:200], sha256, digest_bytes(data), len(data), format)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unbound:
    """A checked import without a base: the document and the exact bytes of the tensors.

    Attributes:
        kind: Kind of artifact.
        created: When it was imported, by the clock of whoever did.
        source: The file.
        contents: What the kind says of it.
        tool: Versions of what imported it.
        payload: Bytes of ``tensors.safetensors``.
    """

    kind: str
    created: str
    source: Source
    contents: Mapping[str, Any]
    tool: Mapping[str, str]
    payload: bytes

    @property
    def digest(self) -> Digest:
        """Digest of the canonical bytes of ``unbound.json``."""
        return digest_bytes(self.to_bytes())

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the kind's tensors."""
        return read_tensors(self.payload, what=TENSORS)

    def to_dict(self) -> dict[str, Any]:
        """Return the document, ready for canonical JSON."""
        entry = {"digest": digest_bytes(self.payload), "size": len(self.payload)}
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "created": self.created,
            "source": self.source.to_dict(),
            "contents": dict(self.contents),
            "files": {TENSORS: entry},
            "tool": dict(self.tool),
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is written and hashed."""
        return canonical_json(self.to_dict())


def make_unbound(
    kind: str,
    source: Source,
    contents: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    tool: Mapping[str, str],
) -> Unbound:
    """Return an import without a base, made now."""
    return Unbound(kind, moment.stamp(), source, contents, tool, write_tensors(tensors))


def write_unbound(unbound: Unbound, folder: Path) -> Path:
    """Write ``unbound`` as a new folder, atomically.

    Raises:
        HostError: the disk refuses, or ``folder`` is there and not empty.
    """
    try:
        write_folder(folder, {UNBOUND: unbound.to_bytes(), TENSORS: unbound.payload})
    except OSError as error:
        raise HostError(
            f"expected a new folder to write at {folder}, got: {error.strerror}.",
            hint="Make room and allow writing there, or choose another place: --out DIR",
        ) from error
    return folder


def is_unbound(folder: Path) -> bool:
    """Return whether ``folder`` is an import without a base, by the names in it."""
    return (folder / UNBOUND).is_file() and not (folder / "manifest.json").exists()


def read_unbound(folder: Path) -> Unbound:
    """Read an import without a base; other files in ``folder`` are never read.

    Raises:
        ArtifactNotFoundError: there is none.
        EvidenceError: it is not what it says.
    """
    given: dict[str, Any] = {"hint": IMPORT_AGAIN, "follow_links": False}
    try:
        document = _checked(read_plain(folder / UNBOUND, limit=DOCUMENT_LIMIT, **given))
        payload = read_plain(folder / TENSORS, limit=TENSORS_LIMIT, **given)
    except FileNotFoundError:
        raise ArtifactNotFoundError(
            f"expected an import (a folder with {UNBOUND} and {TENSORS}) at {folder}, found none.",
            hint=IMPORT_AGAIN,
        ) from None
    entry = document["files"][TENSORS]
    require_digest(payload, entry["digest"], what=TENSORS, hint=IMPORT_AGAIN)
    source = {**document["source"], "digest": parse_digest(document["source"]["digest"])}
    contents, tool = (MappingProxyType(document[name]) for name in ("contents", "tool"))
    return Unbound(document["kind"], document["created"], Source(**source), contents, tool, payload)


def _checked(data: bytes) -> dict[str, Any]:
    """Return the document that ``data`` is, after its schema and its one spelling."""
    document: dict[str, Any] = parse_json(
        data, what=UNBOUND, limit=DOCUMENT_LIMIT, hint=IMPORT_AGAIN
    )
    require_schema(document, SCHEMA, what=UNBOUND)
    validate(document, "unbound.v1", what=UNBOUND, hint=IMPORT_AGAIN)
    findings = unprintable(document)
    if not moment.is_stamp(document["created"]):
        findings.append(f"$.created: expected a moment, got {document['created']!r}")
    if findings:
        raise SchemaViolationError(
            f"{UNBOUND} breaks {len(findings)} rule(s).", findings, hint=IMPORT_AGAIN
        )
    try:
        same = canonical_json(document) == data
    except ValueError as error:  # a number or text that has no canonical form
        raise UnsafeFormatError(f"{UNBOUND}: {error}.", hint=IMPORT_AGAIN) from error
    if not same:
        raise UnsafeFormatError(
            f"{UNBOUND}: expected canonical JSON (RFC 8785), got another spelling of the same "
            "values, which would have another digest.",
            hint=f"Do not edit it by hand. {IMPORT_AGAIN}",
        )
    return document


def require_bound(folder: Path) -> None:
    """Raise ``UnboundArtifactError`` if ``folder`` is an import without a base."""
    if is_unbound(folder):
        raise UnboundArtifactError(
            f"expected a bundle with its base at {folder}, got an import that is bound to none: it "
            "can be looked at alone.",
            hint="Bind it to the base it was made from: "
            f"safelatch import {shlex.quote(str(folder))} --base BASE --out DIR",
        )
