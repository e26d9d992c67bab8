"""Whose signature counts: trusted keys, what they may speak for, and what they said of a bundle.

- A signed bundle carries two envelopes: one over its manifest, one over the line document. Each
  needs a signature by a key that is trusted now, is not revoked, and may speak for the base.
- Validity is judged by the verifier's clock. The time that a document gives itself is the signer's
  word, which a thief can write too.
- The line is verified for itself first, so that it can be remembered even where it says that the
  version at hand is revoked.
- A signature says who published, never that it helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry import moment
from registry.artifact import line as line_document
from registry.artifact import manifest as manifest_document
from registry.artifact.bundle import LINE, MANIFEST, SIGNATURE
from registry.artifact.envelope import Envelope, read_envelope
from registry.artifact.line import FETCH, LINE_LIMIT, Line
from registry.artifact.manifest import MANIFEST_LIMIT
from registry.artifact.scope import covers
from registry.artifact.signing import PrivateKey, require_signatures
from registry.artifact.succession import require_fresh
from registry.errors import KeyScopeError, SignatureError, UnsignedError, UntrustedKeyError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from registry.artifact.bundle import Bundle

_HOW = (
    "Trust its publisher's key, once you know that it is theirs: safelatch key trust FILE "
    "--for NAMESPACE; or for one call: load_protected(..., trust='FILE')"
)


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that somebody here decided to trust, or to refuse.

    Attributes:
        key_id: The public key.
        namespaces: What it may speak for (``scope``).
        label: Whose it is, as they were told.
        not_before: First moment it counts; ``None``: always did.
        not_after: First moment it counts no longer; ``None``: never.
        trusted_at: When it was decided.
        revoked_at: When it was revoked; ``None`` while it is not.
        revoked_reason: Why.
    """

    key_id: str
    namespaces: tuple[str, ...]
    label: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    trusted_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None

    def refusal(self, now: datetime) -> str | None:
        """Return why the key does not count at ``now``; ``None`` when it does."""
        if self.revoked_at is not None:
            return f"revoked ({self.revoked_reason})"
        if self.not_before is not None and now < self.not_before:
            return f"valid from {moment.stamp(self.not_before)} on, it is {moment.stamp(now)}"
        if self.not_after is not None and now >= self.not_after:
            return f"valid until {moment.stamp(self.not_after)}, it is {moment.stamp(now)}"
        return None

    def speaks_for(self, names: Sequence[str]) -> bool:
        """Return whether one of ``names`` lies in its namespaces."""
        return any(covers(pattern, names) for pattern in self.namespaces)


@dataclass(frozen=True, slots=True)
class VerifiedLine:
    """A line document that a trusted key signed.

    Attributes:
        line: The document.
        envelope: The signed bytes, as they came.
        signers: Ids of the keys that count.
    """

    line: Line
    envelope: bytes
    signers: tuple[str, ...]


def verify_line(
    envelope: bytes | None,
    keys: Sequence[TrustedKey],
    names: Sequence[str],
    *,
    label: str,
    now: datetime,
) -> VerifiedLine:
    """Return the line document in ``envelope``, signed by a key that counts and not expired.

    Args:
        envelope: Bytes of ``line.json``, or ``None``.
        keys: Those that were decided about.
        names: What the base is called here (``scope``).
        label: How to call the bundle in an error.
        now: The verifier's time, aware.

    Raises:
        UnsignedError, SignatureError, UntrustedKeyError, KeyScopeError: see ``require_signer``.
        LineExpiredError: it is past its expiry.
        UnsafeFormatError, SchemaViolationError, UnsupportedSchemaVersionError: it is malformed.
    """
    what = f"{label} {LINE}"
    opened = _open(envelope, line_document.PAYLOAD_TYPE, LINE_LIMIT, what)
    signers = require_signer(opened, keys, names, what=what, now=now)
    line = Line.from_bytes(opened.payload)
    require_fresh(line, now)
    return VerifiedLine(line, envelope or b"", signers)


def verify_manifest(
    bundle: Bundle, keys: Sequence[TrustedKey], names: Sequence[str], *, now: datetime
) -> tuple[str, ...]:
    """Return the ids of the keys that count and that signed the manifest of ``bundle``.

    Raises:
        UnsignedError, SignatureError, UntrustedKeyError, KeyScopeError: see ``require_signer``.
        UnsafeFormatError, UnsupportedSchemaVersionError: the envelope is malformed.
    """
    what = f"{bundle.manifest.label} {SIGNATURE}"
    opened = _open(bundle.signature, manifest_document.PAYLOAD_TYPE, MANIFEST_LIMIT, what)
    if opened.payload != bundle.files[MANIFEST]:
        raise SignatureError(
            f"{what}: expected a signature of {bundle.manifest.digest}, got one of another "
            "manifest.",
            hint=FETCH,
        )
    return require_signer(opened, keys, names, what=what, now=now)


def require_signer(
    envelope: Envelope,
    keys: Sequence[TrustedKey],
    names: Sequence[str],
    *,
    what: str,
    now: datetime,
) -> tuple[str, ...]:
    """Return the ids of the keys that signed ``envelope`` and count for ``names``.

    Raises:
        UnsignedError: it has no signature.
        SignatureError: one of its signatures is not one of these bytes.
        UntrustedKeyError: none of its keys is trusted now.
        KeyScopeError: one is, but may not speak for this base.
    """
    if not envelope.signatures:
        raise UnsignedError(f"{what}: expected a signature, got none.", hint=FETCH)
    require_signatures(envelope, what=what, hint=FETCH)
    known = {key.key_id: key for key in keys}
    refused, elsewhere, counting = [], [], []
    for key_id in envelope.key_ids:
        key = known.get(key_id)
        reason = "not trusted here" if key is None else key.refusal(now)
        if key is None or reason is not None:
            refused.append(f"{key_id}: {reason}")
        elif key.speaks_for(names):
            counting.append(key_id)
        else:
            elsewhere.append(f"{key_id} speaks for {', '.join(key.namespaces)}")
    if counting:
        return tuple(counting)
    if elsewhere:
        raise KeyScopeError(
            f"{what}: expected a key that may speak for {' or '.join(names)}, got one that may not:"
            f"{listed(elsewhere)}",
            hint="If it may: safelatch key trust FILE --for NAMESPACE",
        )
    raise UntrustedKeyError(
        f"{what}: expected a signature by a trusted key, got:{listed(refused)}", hint=_HOW
    )


def signed_manifest(bundle: Bundle, keys: Sequence[PrivateKey]) -> bytes:
    """Return the envelope over the manifest of ``bundle``, signed by ``keys`` too."""
    what = f"{bundle.manifest.label} {SIGNATURE}"
    envelope = Envelope(bundle.files[MANIFEST], manifest_document.PAYLOAD_TYPE)
    if bundle.signature is not None:
        envelope = _open(bundle.signature, manifest_document.PAYLOAD_TYPE, MANIFEST_LIMIT, what)
    for key in keys:
        envelope = key.sign(envelope)
    return envelope.to_bytes()


def signed_line(line: Line, keys: Sequence[PrivateKey]) -> bytes:
    """Return the envelope over ``line``, signed by ``keys``.

    Raises:
        SchemaViolationError, UnsafeFormatError: nobody could read it, so it is not signed.
    """
    document = line.to_bytes()
    Line.from_bytes(document)
    envelope = Envelope(document, line_document.PAYLOAD_TYPE)
    for key in keys:
        envelope = key.sign(envelope)
    return envelope.to_bytes()


def _open(data: bytes | None, payload_type: str, limit: int, what: str) -> Envelope:
    if data is None:
        raise UnsignedError(f"expected {what}, found none.", hint=FETCH)
    return read_envelope(data, payload_type=payload_type, what=what, limit=limit, hint=FETCH)
