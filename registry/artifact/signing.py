"""Ed25519 keys and signatures over envelopes: the only module that imports cryptography.

- The id of a key is the public key itself, ``ed25519:<64 hex digits>``: nothing to look up, and
  nothing that two keys could share.
- Keys are kept as PEM (PKCS 8 and SubjectPublicKeyInfo), so that ``openssl`` reads them.
- A signature that is not one of these bytes is an error, not a signature less: nobody has a reason
  to carry it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.artifact.envelope import MOST_SIGNATURES, Envelope, Signature, is_key_id
from registry.errors import (
    ConfirmationRequiredError,
    NotFoundError,
    SignatureError,
    UnsafeFormatError,
    UsageError,
)
from registry.plainfile import read_plain

if TYPE_CHECKING:
    from pathlib import Path

KEY_LIMIT = 1 << 14
"""Most bytes of a key's file."""
_PREFIX = "ed25519:"
_MAKE = "Make a pair: safelatch key generate --out NAME"
_GET = "Name the file that its owner gave you, NAME.pub, or the key's id, ed25519:<64 hex digits>."


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """A private key in memory; its ``repr`` shows the public one alone."""

    _key: Any

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a new key from the system's random numbers."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    def __repr__(self) -> str:
        return f"PrivateKey({self.key_id})"

    @property
    def key_id(self) -> str:
        """The public key."""
        raw: bytes = self._key.public_key().public_bytes_raw()
        return _PREFIX + raw.hex()

    def sign(self, envelope: Envelope) -> Envelope:
        """Return ``envelope`` with this key's signature, in place of an older one of it.

        Of more than an envelope may have, the oldest goes.
        """
        own = Signature(self.key_id, self._key.sign(envelope.signed_bytes))
        others = tuple(one for one in envelope.signatures if one.key_id != own.key_id)
        return replace(envelope, signatures=(*others, own)[-MOST_SIGNATURES:])

    def to_pem(self, passphrase: str | None = None) -> bytes:
        """Return the key as PEM (PKCS 8), encrypted when a passphrase is given."""
        from cryptography.hazmat.primitives import serialization as form

        encryption: Any = form.NoEncryption()
        if passphrase is not None:
            encryption = form.BestAvailableEncryption(passphrase.encode())
        pem = self._key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption)
        return bytes(pem)


def read_private_key(path: Path, passphrase: str | None = None) -> PrivateKey:
    """Return the private key at ``path``.

    Raises:
        NotFoundError: there is no such file.
        ConfirmationRequiredError: it is encrypted, and the passphrase is missing or another one.
        UnsafeFormatError: it is no private Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PUBLIC KEY" in data:
        raise UsageError(
            f"expected a private key at {path}, got a public one.",
            hint=f"Name the private one: --key {path.with_suffix('.key')}",
        )
    is_locked = b"ENCRYPTED" in data
    try:
        given = passphrase.encode() if passphrase is not None and is_locked else None
        key = load_pem_private_key(data, given)
    except TypeError as error:  # how cryptography says that there is no passphrase
        raise _locked(path, "none") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _locked(path, "another one") if is_locked else _no_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return PrivateKey(key)


def is_encrypted(path: Path) -> bool:
    """Return whether the key at ``path`` asks for a passphrase."""
    return b"ENCRYPTED" in _read(path)


def read_public_key(path: Path) -> str:
    """Return the id of the public key at ``path``.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is a private key, which nobody else should have.
        UnsafeFormatError: it is no public Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path, _GET)
    if b"PRIVATE KEY" in data:
        raise UsageError(
            f"expected a public key at {path}, got a private one, which only its owner may have.",
            hint=f"Name the public one: {path.with_suffix('.pub')}",
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return _PREFIX + key.public_bytes_raw().hex()


def public_pem(key_id: str) -> bytes:
    """Return the public key ``key_id`` as PEM (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives import serialization as form

    public = _public(key_id)
    return bytes(public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))


def require_signatures(envelope: Envelope, *, what: str, hint: str) -> None:
    """Check every signature of ``envelope``.

    Raises:
        SignatureError: one is not a signature of these bytes by the key it names.
    """
    wrong = [one.key_id for one in envelope.signatures if not _is_by(one, envelope.signed_bytes)]
    if wrong:
        raise SignatureError(
            f"{what}: expected a signature of these bytes by {wrong[0]}, got one of other bytes or "
            "of another key.",
            hint=hint,
        )


def _is_by(signature: Signature, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        _public(signature.key_id).verify(signature.value, data)
    except (InvalidSignature, ValueError):  # ValueError: no point of the curve
        return False
    return True


def require_key_id(text: str) -> str:
    """Return ``text`` if it is the id of a key.

    Raises:
        UsageError: it is not ``ed25519:`` and 64 lower-case hex digits.
    """
    if not is_key_id(text):
        raise UsageError(
            f"expected a key as ed25519:<64 hex digits>, got {text[:120]!r}.",
            hint="List those that are trusted: safelatch key list",
        )
    return text


def _public(key_id: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id.removeprefix(_PREFIX)))


def _read(path: Path, hint: str = _MAKE) -> bytes:
    try:
        return read_plain(path, limit=KEY_LIMIT, hint=hint)
    except FileNotFoundError:
        raise NotFoundError(f"expected a key at {path}, found none.", hint=hint) from None


def _locked(path: Path, got: str) -> ConfirmationRequiredError:
    return ConfirmationRequiredError(
        f"expected the passphrase of {path}, got {got}.",
        hint="Give it: export SAFELATCH_KEY_PASSPHRASE=..., or type it when asked.",
    )


def _no_key(path: Path, kind: str) -> UnsafeFormatError:
    return UnsafeFormatError(
        f"expected a {kind} Ed25519 key in PEM at {path}, got something else.",
        hint=_MAKE if kind == "private" else _GET,
    )
