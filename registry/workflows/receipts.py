"""Load receipts: what a load put onto a model, in a file, where no registry could take it.

- A receipt is an in-toto Statement in a DSSE envelope. Where ``SAFELATCH_RECEIPT_KEY`` names a
  private key, that key signs it; where none is, it can be signed later without writing a byte anew.
- The name of the file holds its time and the first digits of the payload's digest: a payload that
  was changed shows itself, as long as the name was not.
- It is written whole or not at all, and can be read by its owner alone.
- An unsigned receipt is no evidence: whoever can write the folder can write one. A signature says
  which key was at hand where the model was loaded. The audit reads neither.
"""

from __future__ import annotations

import os
import secrets
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.artifact.envelope import Envelope, read_envelope
from registry.artifact.schema import validate
from registry.artifact.signing import read_private_key, require_signatures
from registry.digest import Digest, canonical_json, digest_bytes, parse_json
from registry.errors import (
    DigestMismatchError,
    NotFoundError,
    SafelatchError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)
from registry.moment import stamp
from registry.plainfile import read_plain
from registry.settings import receipt_folder, receipt_key
from registry.wholefile import write_file
from registry.wording import INSTALL_NEWER
from registry.workflows.journal import application
from registry.workflows.make import tool_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.workflows.applied import Applied
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified
    from registry.workflows.journal import LoadJournal

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:safelatch:load-receipt:v1"
SCHEMA = "load_receipt.v1"
LIMIT = 1 << 24
"""Most bytes of a receipt's file."""

_FOLDER = "export SAFELATCH_RECEIPTS=/path"
_HINT = "Do not rely on it: load the model again, which writes another."


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose form was checked; who wrote it was not.

    Attributes:
        path: Its file.
        digest: Digest of the payload.
        payload: The bytes that a signature covers.
        statement: What they say.
        signed_by: Ids of the keys that signed it. Each signature was verified; whether such a key
            is to be believed is for the reader to say.
    """

    path: Path
    digest: Digest
    payload: bytes
    statement: Mapping[str, Any]
    signed_by: tuple[str, ...]


def leave(
    model: Identified,
    device: str,
    policy: str,
    done: Sequence[tuple[Bundle, CheckReport, Applied]],
    *,
    journal: LoadJournal,
) -> str | None:
    """Write the receipt of a load that ``journal`` did not take, and return its file.

    A load without a registry to write to is an ordinary one; that a registry did not take it, or
    that no receipt can be written either (``None``), is a warning: the model is protected all the
    same.
    """
    reason = journal.silence or ""
    statement = load_statement(model, device, policy, done, reason=reason)
    fact = f"{model.locator} is protected and verified, but no registry has it on record: {reason}"
    try:
        path = write_receipt(receipt_folder(), statement)
    except (OSError, SafelatchError) as error:
        if isinstance(error, OSError):
            where = f" at {error.filename}" if error.filename else ""
            cause = f"got{where}: {error.strerror}. Name a folder that can be written: " + _FOLDER
        else:  # the key that it should be signed with
            cause = error.message
        warnings.warn(f"{fact}; and no receipt could be written, {cause}", stacklevel=3)
        return None
    if journal.has_failed:
        warnings.warn(f"{fact}. The receipt of this load is {path}", stacklevel=3)
    return str(path)


def load_statement(
    model: Identified,
    device: str,
    policy: str,
    done: Sequence[tuple[Bundle, CheckReport, Applied]],
    *,
    reason: str,
) -> dict[str, Any]:
    """Return the statement about a load: what the registry would have written down.

    Args:
        model: What was loaded.
        device: Where it is.
        policy: The policy of the load.
        done: Each artifact with its verdict and its handle.
        reason: Why there is no record of it.
    """
    from registry.store.columns import plain_json

    applications = [
        {
            "artifact": bundle.manifest.label,
            "base": {"name": bundle.manifest.base.name, "weights": bundle.manifest.base_weights},
            "lineage": report.lineage.to_dict(),
            **application(model, device, policy, applied),
        }
        for bundle, report, applied in done
    ]
    statement: dict[str, Any] = plain_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": model.locator,
                    "digest": {"blake3": model.record.weights.removeprefix("blake3:")},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "id": secrets.token_hex(16),
                "created": stamp(),
                "model": {
                    "locator": model.locator,
                    "commit": model.commit,
                    "config": model.record.config_digest,
                },
                "applications": applications,
                "unrecorded": reason,
                "tool": tool_versions(),
            },
        }
    )
    return statement


def write_receipt(folder: Path, statement: Mapping[str, Any]) -> Path:
    """Write ``statement`` as a receipt into ``folder`` and return its file.

    Raises:
        OSError: the folder cannot be made or written.
        SafelatchError: a key is named that should sign it, and cannot be read.
    """
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE)
    key = receipt_key()
    if key is not None:
        words = os.environ.get("SAFELATCH_KEY_PASSPHRASE") or None
        envelope = read_private_key(key, words).sign(envelope)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _file_name(statement, digest_bytes(envelope.payload))
    write_file(path, envelope.to_bytes() + b"\n", mode=0o600)
    return path


def read_receipt(path: Path) -> Receipt:
    """Return the receipt at ``path``, its form and its name checked.

    Raises:
        NotFoundError: there is no such file.
        UnsafeFormatError: it is no envelope, or its payload is not in canonical form.
        UnsupportedSchemaVersionError: it holds a statement of another kind or version.
        SchemaViolationError: the statement does not follow its schema.
        DigestMismatchError: the payload is not the one the file was named after.
        SignatureError: a signature in it is not one of these bytes.
    """
    what = path.name
    try:
        data = read_plain(path, limit=LIMIT, hint=_HINT)
    except FileNotFoundError:
        raise NotFoundError(
            f"expected a receipt at {path}, found none.",
            hint="See where the load said it is: model.safelatch.to_dict()['receipt']",
        ) from None
    envelope = read_envelope(data, payload_type=PAYLOAD_TYPE, what=what, limit=LIMIT, hint=_HINT)
    payload = envelope.payload
    statement = parse_json(payload, what=f"{what} payload", limit=LIMIT, hint=_HINT)
    if not isinstance(statement, dict) or canonical_json(statement) != payload:
        raise UnsafeFormatError(
            f"{what}: expected a payload in canonical JSON, got another form.", hint=_HINT
        )
    _require_kind(what, "_type", STATEMENT_TYPE, statement)
    _require_kind(what, "predicateType", PREDICATE_TYPE, statement)
    validate(statement, SCHEMA, what=what, hint=_HINT)
    digest = digest_bytes(payload)
    expected = _file_name(statement, digest)
    if what != expected:
        raise DigestMismatchError(
            f"expected the name {expected} for what the receipt holds, got {what}.", hint=_HINT
        )
    require_signatures(envelope, what=what, hint=_HINT)
    return Receipt(path, digest, payload, statement, envelope.key_ids)


def _file_name(statement: Mapping[str, Any], digest: Digest) -> str:
    created = statement["predicate"]["created"].translate({ord("-"): None, ord(":"): None})
    return f"{created}-{digest.removeprefix('blake3:')[:16]}.json"


def _require_kind(what: str, member: str, expected: str, document: Mapping[str, Any]) -> None:
    got = document.get(member)
    if got != expected:
        raise UnsupportedSchemaVersionError(
            f"{what}: expected {member} {expected!r}, got {str(got)[:80]!r}.",
            hint=INSTALL_NEWER,
        )
