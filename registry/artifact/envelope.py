"""DSSE envelopes: bytes that are signed, their type, and the signatures over both.

Format: DSSE 1.0 (https://github.com/secure-systems-lab/dsse), JSON with one base64 payload. Who may
sign what is for ``trust`` to say; here an envelope is only a value with a strict form.

- What is signed is not the payload alone but its type with it (PAE): a line can never be taken for
  a manifest.
- One base64 spelling per byte string, one signature per key, no further members: two readers can
  not see two envelopes in one file.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import canonical_json, parse_json
from registry.errors import UnsafeFormatError, UnsupportedSchemaVersionError
from registry.wording import INSTALL_NEWER

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEMBERS = {"payload", "payloadType", "signatures"}
MOST_SIGNATURES = 16
"""Most signatures of an envelope."""
_KEY_ID = re.compile(r"ed25519:[0-9a-f]{64}")
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature in an envelope; whether it is one of these bytes is not said here.

    Attributes:
        key_id: ``ed25519:`` and the 64 hex digits of the public key.
        value: 64 bytes.
    """

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """Bytes with a type, and the signatures over both.

    Attributes:
        payload: The bytes.
        payload_type: What they are.
        signatures: At most one of each key.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...] = ()

    @property
    def signed_bytes(self) -> bytes:
        """What a signature covers: DSSE's pre-authentication encoding of type and payload."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys that are named; a name alone proves nothing."""
        return tuple(signature.key_id for signature in self.signatures)

    def to_bytes(self) -> bytes:
        """Return the envelope as canonical JSON."""
        signatures = [
            {"keyid": one.key_id, "sig": _base64(one.value)} for one in self.signatures
        ]  # fmt: skip
        return canonical_json(
            {
                "payload": _base64(self.payload),
                "payloadType": self.payload_type,
                "signatures": signatures,
            }
        )


def is_key_id(text: str) -> bool:
    """Return whether ``text`` is ``ed25519:`` and 64 lower-case hex digits."""
    return _KEY_ID.fullmatch(text) is not None


def read_envelope(data: bytes, *, payload_type: str, what: str, limit: int, hint: str) -> Envelope:
    """Return the envelope that ``data`` is, its form checked; its signatures are not.

    Args:
        data: The file's bytes.
        payload_type: What the payload must be.
        what: How to call the file in an error.
        limit: Most bytes of the payload.
        hint: What to do about a file that is refused.

    Raises:
        UnsafeFormatError: it is no envelope of strict form, or longer than allowed.
        UnsupportedSchemaVersionError: the payload is of another type.
    """
    document = parse_json(data, what=what, limit=2 * limit, hint=hint)
    if not isinstance(document, dict) or set(document) != _MEMBERS:
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise UnsafeFormatError(
            f"{what}: expected an envelope of {sorted(_MEMBERS)}, got {got!r:.200}.", hint=hint
        )
    if document["payloadType"] != payload_type:
        raise UnsupportedSchemaVersionError(
            f"{what}: expected payloadType {payload_type!r}, got "
            f"{str(document['payloadType'])[:80]!r}.",
            hint=INSTALL_NEWER,
        )
    payload = _bytes_of(document["payload"])
    if payload is None:
        raise UnsafeFormatError(
            f"{what}: expected a payload in base64, got another text.", hint=hint
        )
    if len(payload) > limit:
        raise UnsafeFormatError(
            f"{what}: expected a payload of at most {limit:,} bytes, got {len(payload):,}.",
            hint=hint,
        )
    return Envelope(payload, payload_type, _signatures(document["signatures"], what, hint))


def _signatures(found: Any, what: str, hint: str) -> tuple[Signature, ...]:
    if not isinstance(found, list) or len(found) > MOST_SIGNATURES:
        got = f"{len(found)} of them" if isinstance(found, list) else repr(found)[:80]
        raise UnsafeFormatError(
            f"{what}: expected signatures as a list of at most {MOST_SIGNATURES}, got {got}.",
            hint=hint,
        )
    signatures = tuple(_signature(one, what, hint) for one in found)
    names = [one.key_id for one in signatures]
    if len(set(names)) != len(names):
        raise UnsafeFormatError(
            f"{what}: expected one signature of each key, got two of "
            f"{next(name for name in names if names.count(name) > 1)}.",
            hint=hint,
        )
    return signatures


def _signature(one: Any, what: str, hint: str) -> Signature:
    members: Mapping[str, Any] = one if isinstance(one, dict) else {}
    key_id, value = members.get("keyid"), _bytes_of(members.get("sig"))
    if (
        set(members) != {"keyid", "sig"}
        or not isinstance(key_id, str)
        or not is_key_id(key_id)
        or value is None
        or len(value) != _SIGNATURE_BYTES
    ):
        raise UnsafeFormatError(
            f"{what}: expected a signature of keyid ed25519:<64 hex digits> and {_SIGNATURE_BYTES} "
            f"bytes in base64, got {one!r:.120}.",
            hint=hint,
        )
    return Signature(key_id, value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes_of(text: Any) -> bytes | None:
    """Return the bytes whose one base64 spelling ``text`` is."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if _base64(data) == text else None
