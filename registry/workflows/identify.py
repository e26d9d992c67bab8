"""Which weights are these? From a path or Hub id to a measured record, with a cache.

The cache is keyed by (real path, size, times, inode) of every file that matters; it holds the same
base record that travels in bundles, and is checked like one when it is read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifact.bundle import read_payloads, write_payloads
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.errors import CompatibilityError, EvidenceError
from registry.reference import is_repo_id
from registry.remote.hub import fetch_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.settings import Settings


@dataclass(frozen=True, slots=True)
class Identified:
    """A checkpoint whose bytes were read.

    Attributes:
        path: Local file or folder.
        locator: How the user named it; a locator, never identity.
        commit: 40-hex commit when it came from the Hub.
        record: What was measured.
        key: Cache key of the files as they were read.
    """

    path: Path
    locator: str
    commit: str | None
    record: BaseRecord
    key: str


def locate(model: str | os.PathLike[str], revision: str | None = None) -> tuple[Path, str | None]:
    """Return the local folder of ``model`` and its Hub commit, if it came from there.

    A path that exists wins over a Hub id of the same spelling.
    """
    path = Path(model).expanduser()
    if not path.exists() and is_repo_id(str(model)):
        return fetch_model(str(model), revision)
    return path, None


def identify(
    model: str | os.PathLike[str],
    *,
    settings: Settings,
    revision: str | None = None,
    use_cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Identified:
    """Return what ``model`` is, reading every byte of it or the cached reading of these files.

    Args:
        model: Folder, ``.safetensors`` file, or Hub id.
        settings: For the cache folder.
        revision: Hub revision.
        use_cache: Accept an earlier reading of the same, unchanged files.
        progress: Called with (bytes done, all).

    Raises:
        CheckpointNotFoundError, UnsafeFormatError, GeometryError, UnsupportedArchitectureError,
        HubError: see the rooms that raise them.
    """
    path, commit = locate(model, revision)
    with Checkpoint.open(path) as checkpoint:
        key = checkpoint.stat_key()
        cached = settings.cache / "records" / f"{key.removeprefix('blake3:')}.safetensors"
        record = _read(cached, key) if use_cache else None
        if record is None:
            record = fingerprint(checkpoint, progress=progress)
            checkpoint.require_unchanged()
            _write(cached, key, record)
    return Identified(path, str(model), commit, record, key)


def _read(path: Path, key: str) -> BaseRecord | None:
    """Return the record kept under ``key``; the entry says itself which files it is of."""
    try:
        payloads = read_payloads(path.read_bytes(), what=path.name)
        if payloads.pop("key", b"") != key.encode():
            return None
        return BaseRecord.from_tensors(payloads)
    except (OSError, EvidenceError, CompatibilityError):
        return None  # a broken cache entry is no entry: the bytes are read again


def _write(path: Path, key: str, record: BaseRecord) -> None:
    """Keep the record; a cache that cannot be written is slower, not wrong."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(write_payloads({**record.to_tensors(), "key": key.encode()}))
        part.replace(path)
