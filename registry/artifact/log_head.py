"""The head of an event log, signed: what shows later that the log was cut off or written anew.

A chain of events shows every change but those that somebody makes who writes all of its end anew.
Its head, kept where the owner of the database cannot write, shows those: it names one event by
number and digest, which the log must contain for ever.

- A head speaks of one registry, by its id. It says nothing of what came after it.
- Who may sign is for the caller to say. A head has no expiry: what it says stays true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact.envelope import Envelope, read_envelope
from registry.artifact.schema import require_schema
from registry.artifact.signing import require_signatures
from registry.digest import Digest, canonical_json, is_digest, parse_digest, parse_json
from registry.errors import (
    SchemaViolationError,
    UnsafeFormatError,
    UnsignedError,
    UntrustedKeyError,
)
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from registry.artifact.signing import PrivateKey

SCHEMA = "safelatch/log-head/v1"
PAYLOAD_TYPE = "application/vnd.safelatch.log-head.v1+json"
HEAD_LIMIT = 4096
"""Most bytes of the document."""
FILE_LIMIT = 4 * HEAD_LIMIT
"""Most bytes of the signed file."""
ANOTHER = "Take the head as it was exported: safelatch log verify --head HEAD"
"""Hint of every error about a head that cannot be used."""

_ID = re.compile(r"[0-9a-f]{32}")
_MEMBERS = ("created", "digest", "registry", "schema", "sequence")
_LARGEST = 2**53 - 1


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest event of a log, at some time.

    Attributes:
        registry: Id of the registry.
        sequence: Number of the event.
        digest: Its digest.
        created: When this was written, by the clock of whoever did.
    """

    registry: str
    sequence: int
    digest: Digest
    created: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is signed."""
        return canonical_json({"schema": SCHEMA, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Return the facts by name."""
        return {
            "registry": self.registry,
            "sequence": self.sequence,
            "digest": self.digest,
            "created": self.created,
        }

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str) -> LogHead:
        """Parse and check the document; ``what`` is how to call it in an error.

        Raises:
            UnsafeFormatError: not strict JSON, over the limit, or not in canonical form.
            UnsupportedSchemaVersionError: of another version than this release reads.
            SchemaViolationError: with every violation.
        """
        document = parse_json(data, what=what, limit=HEAD_LIMIT, hint=ANOTHER)
        require_schema(document, SCHEMA, what=what)
        findings = list(_findings(document))
        if findings:
            raise SchemaViolationError(
                f"{what} breaks {len(findings)} rule(s).", findings, hint=ANOTHER
            )
        head = cls(
            registry=document["registry"],
            sequence=document["sequence"],
            digest=parse_digest(document["digest"]),
            created=document["created"],
        )
        if head.to_bytes() != data:
            raise UnsafeFormatError(
                f"{what}: expected canonical JSON (RFC 8785), got another spelling of the same "
                "values.",
                hint=ANOTHER,
            )
        return head


def sign_head(head: LogHead, key: PrivateKey) -> bytes:
    """Return the head as a signed envelope: the bytes of its file."""
    return key.sign(Envelope(head.to_bytes(), PAYLOAD_TYPE)).to_bytes()


def read_head(
    data: bytes, trusted: Collection[str], *, what: str
) -> tuple[LogHead, tuple[str, ...]]:
    """Return the head in a signed envelope, and the trusted keys that signed it.

    Args:
        data: The file's bytes.
        trusted: Ids of the keys that count.
        what: How to call the file in an error.

    Raises:
        UnsignedError: it has no signature.
        SignatureError: one of its signatures is not one of these bytes.
        UntrustedKeyError: none of its keys counts.
        UnsafeFormatError, UnsupportedSchemaVersionError, SchemaViolationError: it is malformed.
    """
    opened = read_envelope(
        data, payload_type=PAYLOAD_TYPE, what=what, limit=HEAD_LIMIT, hint=ANOTHER
    )
    if not opened.signatures:
        raise UnsignedError(f"{what}: expected a signature, found none.", hint=ANOTHER)
    require_signatures(opened, what=what, hint=ANOTHER)
    signers = tuple(key for key in opened.key_ids if key in trusted)
    if not signers:
        raise UntrustedKeyError(
            f"{what}: expected a signature by one of {len(trusted)} keys, got those of:"
            f"{listed(opened.key_ids)}",
            hint="Name the public key that you know signs it: safelatch log verify --head HEAD "
            "--trust PUB",
        )
    return LogHead.from_bytes(opened.payload, what=what), signers


def _findings(document: dict[str, Any]) -> Iterator[str]:
    if sorted(document) != list(_MEMBERS):
        yield f"$: expected {list(_MEMBERS)}, got {sorted(document)!r:.200}"
    registry, sequence = document.get("registry"), document.get("sequence")
    digest, created = document.get("digest"), document.get("created")
    if not isinstance(registry, str) or not _ID.fullmatch(registry):
        yield f"$.registry: expected 32 hex digits, got {registry!r:.80}"
    if type(sequence) is not int or not 1 <= sequence <= _LARGEST:
        yield f"$.sequence: expected an integer from 1 on, got {sequence!r:.80}"
    if not isinstance(digest, str) or not is_digest(digest):
        yield f"$.digest: expected blake3:<64 hex digits>, got {digest!r:.80}"
    if not isinstance(created, str) or not moment.is_stamp(created):
        yield f"$.created: expected a moment such as 2030-01-31T00:00:00Z, got {created!r:.80}"
