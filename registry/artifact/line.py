"""The line document: what a line of artifacts is now. Signed, it is a bundle's ``line.json``.

- It alone says which versions there are and which are yanked or revoked.
- Each change makes the next document. ``history`` holds the digest of every one before, so that a
  later one can be compared with one that was seen without those between (see ``succession``).
- No clock and no key here. Who may sign is for ``trust``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from registry import moment
from registry.artifact.manifest import normal_version, unprintable
from registry.artifact.schema import require_schema, validate
from registry.digest import Digest, canonical_json, digest_bytes, parse_digest, parse_json
from registry.errors import (
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
    VersionConflictError,
)
from registry.reference import is_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.artifact.manifest import Manifest

SCHEMA = "safelatch/line/v1"
PAYLOAD_TYPE = "application/vnd.safelatch.line.v1+json"
LINE_LIMIT = 4 << 20
"""Most bytes of a line document."""
MOST_DOCUMENTS = 4096
FETCH = "Get the newest bundle from its publisher, with its line.json."
"""Hint of every error about a line document that cannot be accepted."""

LineState = Literal["active", "yanked", "revoked"]


@dataclass(frozen=True, slots=True)
class LineEntry:
    """A version of a line: its manifest's digest, its state, and why it is not active."""

    digest: Digest
    state: LineState = "active"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line document.

    Attributes:
        name: The line.
        kind: Kind of every version.
        base_name: What the publisher calls the base; a declaration.
        base: Weights digest of the base of every version.
        sequence: Number of the document, from 1.
        created: When it was made, by the publisher's clock.
        expires: When it stops being accepted; ``None``: never.
        history: Digests of the documents before this one, oldest first.
        versions: Version to entry.
    """

    name: str
    kind: str
    base_name: str
    base: Digest
    sequence: int
    created: str
    expires: str | None
    history: tuple[Digest, ...]
    versions: Mapping[str, LineEntry]

    @property
    def digest(self) -> Digest:
        """Digest of the canonical bytes."""
        return digest_bytes(self.to_bytes())

    @property
    def newest_active(self) -> str | None:
        """The version that the line's name alone means; a pre-release only for want of others."""
        from packaging.version import Version

        active = [name for name, entry in self.versions.items() if entry.state == "active"]
        final = [name for name in active if not Version(name).is_prerelease]
        return max(final or active, key=Version, default=None)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is signed."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "name": self.name,
                "kind": self.kind,
                "base": {"name": self.base_name, "weights": self.base},
                "sequence": self.sequence,
                "created": self.created,
                "expires": self.expires,
                "history": list(self.history),
                "versions": {
                    version: {"digest": entry.digest, "state": entry.state, "reason": entry.reason}
                    for version, entry in self.versions.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Line:
        """Parse and check a line document.

        Raises:
            UnsafeFormatError: not strict JSON, over the limit, or not in canonical form.
            UnsupportedSchemaVersionError: of another version than this release reads.
            SchemaViolationError: with every violation.
        """
        document = parse_json(data, what="line.json", limit=LINE_LIMIT, hint=FETCH)
        require_schema(document, SCHEMA, what="line.json")
        validate(document, "line.v1", what="line.json", hint=FETCH)
        findings = [*_findings(document), *unprintable(document)]
        if findings:
            raise SchemaViolationError(
                f"line.json breaks {len(findings)} rule(s).", findings, hint=FETCH
            )
        line = cls(
            name=document["name"],
            kind=document["kind"],
            base_name=document["base"]["name"],
            base=parse_digest(document["base"]["weights"]),
            sequence=document["sequence"],
            created=document["created"],
            expires=document["expires"],
            history=tuple(parse_digest(digest) for digest in document["history"]),
            versions=MappingProxyType(
                {
                    version: LineEntry(parse_digest(e["digest"]), e["state"], e["reason"])
                    for version, e in document["versions"].items()
                }
            ),
        )
        if line.to_bytes() != data:
            raise UnsafeFormatError(
                "line.json: expected canonical JSON (RFC 8785), got another spelling of the same "
                "values, which would have another digest.",
                hint=FETCH,
            )
        return line

    def entry_of(self, manifest: Manifest) -> LineEntry:
        """Return the entry of the very artifact that ``manifest`` is.

        Raises:
            VersionConflictError: mix-and-match: the line is of something else, or has no such
                version, or another artifact under it.
        """
        entry = self.versions.get(manifest.version or "")
        facts = (
            ("line", self.name, manifest.name),
            ("kind", self.kind, manifest.kind),
            ("base", self.base, manifest.base_weights),
            ("manifest", "none of this version" if entry is None else entry.digest,
             manifest.digest),
        )  # fmt: skip
        for what, expected, got in facts:
            if expected != got:
                raise VersionConflictError(
                    f"{manifest.label}: expected {what} {expected}, as its line.json says, "
                    f"got {got}.",
                    hint=FETCH,
                )
        return self.versions[manifest.version or ""]

    def with_version(
        self, version: str, digest: Digest, *, created: str, expires: str | None
    ) -> Line:
        """Return the next document, in which ``version`` is there and active."""
        return self._next({**self.versions, version: LineEntry(digest)}, created, expires)

    def with_state(
        self,
        version: str,
        state: LineState,
        reason: str | None,
        *,
        created: str,
        expires: str | None,
    ) -> Line:
        """Return the next document, in which ``version`` has this state.

        Raises:
            VersionConflictError: the line has no such version, or it is revoked, which is final.
        """
        present = self.versions.get(version)
        if present is None:
            raise VersionConflictError(
                f"expected a version out of {', '.join(sorted(self.versions))}, got {version}.",
                hint=f"List them: safelatch show {self.name}",
            )
        if present.state == "revoked" and state != "revoked":
            raise VersionConflictError(
                f"{self.name}@{version}: expected it to stay revoked ({present.reason}), got "
                f"{state}.",
                hint="Publish a newer version.",
            )
        changed = {**self.versions, version: replace(present, state=state, reason=reason)}
        return self._next(changed, created, expires)

    def renewed(
        self, *, created: str, expires: str | None, only: Mapping[str, Digest] | None = None
    ) -> Line:
        """Return the next document with the same versions, or only those of these digests."""
        kept = {
            version: entry
            for version, entry in self.versions.items()
            if only is None or only.get(version) == entry.digest
        }
        return self._next(kept, created, expires)

    def _next(self, versions: Mapping[str, LineEntry], created: str, expires: str | None) -> Line:
        if self.sequence >= MOST_DOCUMENTS:
            raise UsageError(
                f"expected a line of at most {MOST_DOCUMENTS} documents, got {self.name} with "
                f"{self.sequence}.",
                hint="Begin a line of another name: safelatch publish DIR --name NAME --version V",
            )
        return replace(
            self,
            sequence=self.sequence + 1,
            created=created,
            expires=expires,
            history=(*self.history, self.digest),
            versions=MappingProxyType(dict(versions)),
        )


def first_line(manifest: Manifest, *, created: str, expires: str | None) -> Line:
    """Return the first document of a line, with this one version."""
    return Line(
        name=manifest.name or "",
        kind=manifest.kind,
        base_name=manifest.base.name,
        base=manifest.base_weights,
        sequence=1,
        created=created,
        expires=expires,
        history=(),
        versions=MappingProxyType({manifest.version or "": LineEntry(manifest.digest)}),
    )


def _findings(document: dict[str, Any]) -> Iterator[str]:
    if not is_name(document["name"]):
        yield f"$.name: expected the name of a line, got {document['name']!r:.120}"
    for member in ("created", "expires"):
        stamp = document[member]
        if stamp is not None and not moment.is_stamp(stamp):
            yield f"$.{member}: expected a moment of the calendar, got {stamp!r}"
    if len(document["history"]) != document["sequence"] - 1:
        yield (
            f"$.history: expected {document['sequence'] - 1} digests before document "
            f"{document['sequence']}, got {len(document['history'])}"
        )
    digests = [entry["digest"] for entry in document["versions"].values()]
    if len(set(digests)) != len(digests):
        yield "$.versions: expected another manifest for each version, got one twice"
    for version, entry in document["versions"].items():
        if version != (normal := normal_version(version)):
            yield f"$.versions: expected {normal or 'a PEP 440 version'}, got {version!r:.80}"
        if entry["state"] == "revoked" and entry["reason"] is None:
            yield f"$.versions.{version}: expected a reason for which it is revoked, got none"
