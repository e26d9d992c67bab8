"""The bundle: a folder, or the same files in memory, that carries one artifact.

    manifest.json           canonical JSON; covers the two below
    tensors.safetensors     the kind's tensors
    base.safetensors        the record of the base: digests and sketch, so that lineage can be
                            judged on a machine that never had the base

- Each file is read once; the bytes that were hashed are the bytes that are parsed.
- Writing is atomic: a folder appears whole or not at all, and is never overwritten.
- This module owns the writing of safetensors; reading is ``registry.tensorfile``.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.artifact.manifest import MANIFEST_LIMIT, FileEntry, Manifest
from registry.digest import digest_bytes, require_digest
from registry.errors import (
    REMAKE,
    ArtifactNotFoundError,
    DigestMismatchError,
    HostError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
)
from registry.tensorfile import ARTIFACT_HEADER_LIMIT, header_length, parse_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

MANIFEST, TENSORS, BASE = "manifest.json", "tensors.safetensors", "base.safetensors"
FILE_LIMIT = 8 << 30
"""Most bytes of a bundle's file: a mask of a very large model fits."""

_NUMPY = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: the parsed manifest and the exact bytes of all its files."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the kind's tensors (bf16 as its 16 bits)."""
        return read_tensors(self.files[TENSORS], what=TENSORS)

    def base_tensors(self) -> dict[str, bytes]:
        """Return the payloads of the base record."""
        return read_payloads(self.files[BASE], what=BASE)

    def named(self, name: str, version: str) -> Bundle:
        """Return this bundle under a line and a version."""
        return self.with_manifest(self.manifest.named(name, version))

    def with_manifest(self, manifest: Manifest) -> Bundle:
        """Return these files under another manifest."""
        return Bundle(manifest, MappingProxyType({**self.files, MANIFEST: manifest.to_bytes()}))


def make_bundle(
    manifest: Manifest, tensors: Mapping[str, np.ndarray], base: Mapping[str, bytes]
) -> Bundle:
    """Return a bundle of ``manifest`` (whose ``files`` are filled in) and its tensors.

    Args:
        manifest: Everything but ``files``.
        tensors: The kind's tensors.
        base: Payloads of the base record (``BaseRecord.to_tensors()``).
    """
    files = {TENSORS: write_tensors(tensors), BASE: write_payloads(base)}
    entries = {name: FileEntry(digest_bytes(data), len(data)) for name, data in files.items()}
    complete = replace(manifest, files=MappingProxyType(entries))
    return check_files({MANIFEST: complete.to_bytes(), **files})


def check_files(files: Mapping[str, bytes], *, expected: str | None = None) -> Bundle:
    """Return the bundle these bytes are, after checking every digest.

    Args:
        files: File name to bytes; ``manifest.json`` and every file it names.
        expected: Digest that the manifest must have, when the caller knows it.

    Raises:
        DigestMismatchError: a file is not what the manifest, or the manifest not what
            ``expected``, says.
        SchemaViolationError, UnsafeFormatError, UnsupportedSchemaVersionError: bad manifest.
    """
    if MANIFEST not in files:
        raise UnsafeFormatError(
            f"expected {MANIFEST} in the bundle, found {sorted(files)}.", hint=REMAKE
        )
    if expected is not None:
        require_digest(files[MANIFEST], expected, what=MANIFEST, hint=REMAKE)
    manifest = Manifest.from_bytes(files[MANIFEST])
    missing = sorted({TENSORS, BASE, *manifest.files} - set(files))
    if missing or set(manifest.files) != {TENSORS, BASE}:
        raise SchemaViolationError(
            f"expected the files {TENSORS} and {BASE}.",
            [f"missing: {name}" for name in missing]
            + [f"named by the manifest: {name}" for name in sorted(manifest.files)],
            hint=REMAKE,
        )
    for name, entry in manifest.files.items():
        if len(files[name]) != entry.size:
            raise DigestMismatchError(
                f"{name}: expected {entry.size:,} bytes, got {len(files[name]):,}.", hint=REMAKE
            )
        require_digest(files[name], entry.digest, what=name, hint=REMAKE)
    kept = {name: files[name] for name in (MANIFEST, TENSORS, BASE)}
    return Bundle(manifest, MappingProxyType(kept))


def read_bundle(folder: Path, *, expected: str | None = None) -> Bundle:
    """Read a bundle folder; other files in it are left alone and never read.

    Raises:
        ArtifactNotFoundError: there is no bundle at ``folder``.
        EvidenceError: see ``check_files``.
    """
    if not (folder / MANIFEST).exists():
        raise ArtifactNotFoundError(
            f"expected a bundle (a folder with {MANIFEST}) at {folder}, found none.",
            hint="Make one: safelatch extract safety-lock BASE --out DIR",
        )
    files = {MANIFEST: _read_once(folder / MANIFEST, MANIFEST_LIMIT)}
    for name in (TENSORS, BASE):
        files[name] = _read_once(folder / name, FILE_LIMIT)
    return check_files(files, expected=expected)


def _read_once(path: Path, limit: int) -> bytes:
    names = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")  # no link, no waiting for a pipe, no newlines
    flags = sum(getattr(os, name, 0) for name in names)
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UnsafeFormatError(f"expected a plain file at {path}.", hint=REMAKE)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(min(found.st_size, limit) + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UnsafeFormatError(
            f"expected {path.name} in the bundle {path.parent}, found none.", hint=REMAKE
        ) from None
    except OSError as error:
        raise UnsafeFormatError(
            f"expected a plain file at {path}, got: {error.strerror}.", hint=REMAKE
        ) from error
    if len(data) > limit:
        raise UnsafeFormatError(
            f"{path.name}: expected at most {limit:,} bytes, got more.", hint=REMAKE
        )
    return data


def require_new_folder(folder: Path) -> None:
    """Check, before long work, that ``write_bundle`` can use ``folder``.

    Raises:
        UsageError: it exists already and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"expected a new folder for the bundle, {folder} exists and is not empty.",
            hint=f"Choose another place, or remove it first: rm -r {folder}",
        )


def write_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write ``bundle`` as a new folder, atomically.

    Raises:
        UsageError: ``folder`` exists already and is not empty.
        HostError: the disk refuses.
    """
    require_new_folder(folder)
    try:
        _write_staged(bundle, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def replace_manifest(bundle: Bundle, folder: Path) -> Path:
    """Put the manifest of ``bundle`` in place of the one at ``folder``, atomically.

    Raises:
        UsageError: the tensors at ``folder`` are not those of ``bundle``.
        HostError: the disk refuses.
    """
    there = read_bundle(folder)
    if there.manifest.files != bundle.manifest.files:
        raise UsageError(f"expected the same tensors at {folder}, found others.", hint=REMAKE)
    try:
        staging = Path(tempfile.mkdtemp(prefix=".", dir=folder))  # nobody can have put a link there
        try:
            _write_synced(staging / MANIFEST, bundle.files[MANIFEST])
            (staging / MANIFEST).replace(folder / MANIFEST)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(folder: Path, error: OSError) -> HostError:
    return HostError(
        f"expected a place where a bundle can be written at {folder}, got: {error.strerror}.",
        hint="Make room and allow writing there, or choose another place: --out DIR",
    )


def _write_staged(bundle: Bundle, folder: Path) -> None:
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=parent))
    try:
        for name, data in bundle.files.items():
            _write_synced(staging / name, data)
        staging.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return ``tensors`` as safetensors bytes; the same values give the same bytes."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}))


def read_tensors(data: bytes, *, what: str) -> dict[str, Any]:
    """Parse an artifact's safetensors bytes strictly (header of at most 1 MiB).

    Raises:
        UnsafeFormatError: the bytes break the format, or hold a dtype artifacts do not use.
    """
    import numpy as np

    length = header_length(data[:8], what=what, limit=ARTIFACT_HEADER_LIMIT)
    header = parse_header(
        data[8 : 8 + length], file_size=len(data), what=what, limit=ARTIFACT_HEADER_LIMIT
    )
    unknown = sorted({entry.dtype for entry in header.entries} - set(_NUMPY))
    if unknown:
        raise UnsafeFormatError(
            f"{what}: expected dtypes {sorted(_NUMPY)}, got {unknown}.", hint=REMAKE
        )
    body = memoryview(data)[header.data_start :]
    return {
        entry.name: np.frombuffer(body[entry.begin : entry.end], dtype=_NUMPY[entry.dtype]).reshape(
            entry.shape
        )
        for entry in header.entries
    }


def write_payloads(payloads: Mapping[str, bytes]) -> bytes:
    """Return named byte strings as a safetensors file of U8 vectors."""
    import numpy as np

    return write_tensors({k: np.frombuffer(v, dtype=np.uint8) for k, v in payloads.items()})


def read_payloads(data: bytes, *, what: str) -> dict[str, bytes]:
    """Return the byte strings that ``write_payloads`` wrote; raises like ``read_tensors``."""
    return {name: array.tobytes() for name, array in read_tensors(data, what=what).items()}
