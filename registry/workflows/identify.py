"""Which weights are these? From a path or Hub id to a measured record, with a cache.

The cache is keyed by (real path, size, times, inode) of every file that matters; it holds the same
base record that travels in bundles, with a digest of its own, and is checked like one when it is
read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.artifact.tensors import read_payloads, write_payloads
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.digest import digest_bytes, digest_json
from registry.errors import CompatibilityError, EvidenceError
from registry.plainfile import expanded
from registry.reference import is_repo_id
from registry.remote.hub_download import fetch_model
from registry.wholefile import write_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

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
    path = expanded(model)
    if is_repo_id(str(model)) and not path.exists():
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
        if payloads.pop("seal", b"") != _seal(key, payloads):
            return None
        return BaseRecord.from_tensors(payloads)
    except (OSError, EvidenceError, CompatibilityError):
        return None  # a broken cache entry is no entry: the bytes are read again


def _write(path: Path, key: str, record: BaseRecord) -> None:
    """Keep the record; a cache that cannot be written is slower, not wrong."""
    payloads = record.to_tensors()
    with suppress(OSError):
        write_file(path, write_payloads({**payloads, "seal": _seal(key, payloads)}))


def _seal(key: str, payloads: Mapping[str, bytes]) -> bytes:
    """Return what binds a record to its files and to every byte of itself, the samples too."""
    digests = {name: digest_bytes(data) for name, data in payloads.items()}
    return digest_json({"key": key, "payloads": digests}).encode()
