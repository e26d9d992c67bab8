"""The newest line document of each line that was seen here, so that no older one is accepted again.

- What a key of the registry signed is remembered in the registry. What a key signed that only came
  with the call is remembered in the user's state folder (``SAFELATCH_LINES``), and so is everything
  where there is no registry that can be written.
- In the folder each key has a memory of its own: whom one call trusts must not be able to lock out,
  or to wind back, what another one's publisher says under the same name.
- A file is named after its line, its key and its sequence: of two processes that remember at once,
  none lowers what the other one saw.
- Remembering comes after verifying, never before.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.artifact import line as line_document
from registry.artifact.envelope import read_envelope
from registry.artifact.line import LINE_LIMIT, Line
from registry.artifact.succession import require_follows
from registry.digest import Digest
from registry.errors import LineForkError, RollbackError
from registry.plainfile import read_plain
from registry.settings import line_folder
from registry.store.values import SignedLine
from registry.wholefile import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.artifact.trust import VerifiedLine
    from registry.store.catalog import Registry
    from registry.store.values import State


def accept(
    found: VerifiedLine,
    registry: Registry | None,
    *,
    own: Sequence[str] | None = None,
    trusted: Sequence[str] = (),
) -> None:
    """Check that ``found`` follows what was seen here, then remember it and the states it gives.

    Args:
        found: A verified line.
        registry: Where to remember it; ``None`` for the user's folder.
        own: Those of its signers that count in ``registry``, and vouch for it there; by default
            all.
        trusted: Every key that counts in this call. What one of them signed is not wound back by
            what another one had signed before.

    Raises:
        RollbackError, LineForkError, VersionConflictError: see ``require_follows``.
    """
    line = found.line
    head = None if registry is None else registry.line_head(line.name, line.base)
    if head is not None:
        require_follows(line, Line.from_bytes(head.document))
    noted = {key: _noted(line, key) for key in (*found.signers, *trusted)}
    for note in filter(None, noted.values()):
        _require_follows_note(line, *note)
    if registry is not None and not registry.is_read_only:
        signed = as_signed(found if own is None else replace(found, signers=tuple(own)))
        if head is not None and head.digest == line.digest:
            registry.remember_line(signed, follows=head.digest)  # another key may vouch for it
        else:
            follows = None if head is None else head.digest
            states = states_of(line, registry)
            registry.apply_states(line.name, states, line=signed, follows=follows)
        return
    for key in found.signers:
        newest = noted[key]
        if newest is None:
            _note(found, key, None)
        elif newest[1].sequence < line.sequence:
            _note(found, key, newest[0])


def states_of(line: Line, registry: Registry) -> dict[str, tuple[State, str | None]]:
    """Return state and reason of each version of ``line`` that is published in ``registry``.

    Another artifact of the same name and version is none of the line's business.
    """
    is_here = any(known.name == line.name for known in registry.lines())
    published = registry.versions(line.name) if is_here else []
    return {
        one.version: (entry.state, entry.reason)
        for one in published
        if (entry := line.versions.get(one.version)) is not None and entry.digest == one.digest
    }


def as_signed(found: VerifiedLine) -> SignedLine:
    """Return ``found`` as the store keeps it."""
    line = found.line
    return SignedLine(
        name=line.name,
        base=Digest(line.base),
        sequence=line.sequence,
        digest=line.digest,
        key_ids=found.signers,
        document=line.to_bytes(),
        envelope=found.envelope,
    )


def _noted(line: Line, key: str) -> tuple[Path, Line] | None:
    """Return the document of the highest sequence of ``line`` that was seen under ``key``."""
    while files := _files(line, key):
        newest = max(files)
        with suppress(FileNotFoundError):  # another process has noted a later one: look again
            return newest, _read(newest)
    return None


def _files(line: Line, key: str) -> list[Path]:
    """Return the notes of this very line; the name of another one may begin with its name."""
    own = re.compile(rf"{re.escape(_stem(line, key))}\.[0-9]{{4}}\.json")
    try:
        return [path for path in line_folder().iterdir() if own.fullmatch(path.name)]
    except OSError:  # there is none, or nobody may look at it: then nothing was noted there
        return []


def _require_follows_note(line: Line, path: Path, seen: Line) -> None:
    try:
        require_follows(line, seen)
    except (RollbackError, LineForkError) as error:
        raise type(error)(
            error.message,
            hint=f"{error.hint} If the one that was seen is not its publisher's, remove this "
            f"user's note of it: rm {path}",
        ) from None


def _stem(line: Line, key: str) -> str:
    base, signer = line.base.removeprefix("blake3:"), key.removeprefix("ed25519:")
    return f"{line.name}-{base[:16]}-{signer[:16]}"


def _read(path: Path) -> Line:
    hint = f"It is this user's own note of a line. Remove it only if you know why: rm {path}"
    data = read_plain(path, limit=3 * LINE_LIMIT, hint=hint, follow_links=False)
    kind = line_document.PAYLOAD_TYPE
    envelope = read_envelope(data, payload_type=kind, what=path.name, limit=LINE_LIMIT, hint=hint)
    return Line.from_bytes(envelope.payload)


def _note(found: VerifiedLine, key: str, older: Path | None) -> None:
    line = found.line
    try:
        folder = line_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{_stem(line, key)}.{line.sequence:04d}.json"
        write_file(path, found.envelope, mode=0o600)
        if older is not None:
            older.unlink(missing_ok=True)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        warnings.warn(
            f"line {line.name!r}, document {line.sequence}, is verified, but cannot be remembered, "
            f"got{where}: {error.strerror}: an older one would be accepted later. Name a folder "
            "that can be written: export SAFELATCH_LINES=/path",
            stacklevel=2,
        )
