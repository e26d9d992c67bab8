"""The bundle: a folder, or the same files in memory, that carries one artifact.

    manifest.json           canonical JSON; covers the two below
    tensors.safetensors     the kind's tensors
    base.safetensors        the record of the base: digests and sketch, so that lineage can be
                            judged on a machine that never had the base
    signature.json          optional: a DSSE envelope over manifest.json
    line.json               optional: a DSSE envelope over the line document

- Each file is read once; the bytes that were hashed are the bytes that are parsed.
- Writing is atomic: a folder appears whole or not at all, and is never overwritten.
- The envelopes are carried as they are: who signed them, and whether that counts, is for ``trust``.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.artifact.line import LINE_LIMIT
from registry.artifact.manifest import MANIFEST_LIMIT, FileEntry, Manifest
from registry.artifact.tensors import read_payloads, read_tensors, write_payloads, write_tensors
from registry.artifact.unbound import require_bound
from registry.digest import digest_bytes, require_digest
from registry.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    HostError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
)
from registry.plainfile import read_plain
from registry.wholefile import INCOMING, write_file, write_folder
from registry.wording import REMAKE, listed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

MANIFEST, TENSORS, BASE = "manifest.json", "tensors.safetensors", "base.safetensors"
SIGNATURE, LINE = "signature.json", "line.json"
FILE_LIMIT = 8 << 30
"""Most bytes of a bundle's file: a mask of a very large model fits."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: the parsed manifest and the exact bytes of the files that it covers.

    Attributes:
        manifest: The parsed manifest.
        files: File name to bytes: the manifest and what it covers.
        signature: Bytes of ``signature.json``, unchecked; ``None`` when nobody signed it.
        line: Bytes of ``line.json``, unchecked.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    signature: bytes | None = None
    line: bytes | None = None

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
        """Return these files under another manifest, which nobody has signed."""
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
        files: File name to bytes; ``manifest.json``, every file it names, and the envelopes if any.
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
    manifest = _check_manifest(files[MANIFEST], expected)
    missing = sorted({TENSORS, BASE} - set(files))
    if missing:
        raise SchemaViolationError(
            f"expected the files {TENSORS} and {BASE}.",
            [f"missing: {name}" for name in missing],
            hint=REMAKE,
        )
    wrong = _other_sizes(manifest, {name: len(data) for name, data in files.items()})
    for name, entry in manifest.files.items():
        if len(files[name]) == entry.size and (got := digest_bytes(files[name])) != entry.digest:
            wrong.append(f"{name}: expected {entry.digest}, got {got} ({entry.size:,} bytes)")
    _require_same_files(wrong)
    kept = {name: files[name] for name in (MANIFEST, TENSORS, BASE)}
    return Bundle(manifest, MappingProxyType(kept), files.get(SIGNATURE), files.get(LINE))


def _check_manifest(data: bytes, expected: str | None) -> Manifest:
    """Return the manifest, which names exactly the two files of a bundle."""
    if expected is not None:
        require_digest(data, expected, what=MANIFEST, hint=REMAKE)
    manifest = Manifest.from_bytes(data)
    if set(manifest.files) != {TENSORS, BASE}:
        raise SchemaViolationError(
            f"expected the files {TENSORS} and {BASE}.",
            [f"named by the manifest: {name}" for name in sorted(manifest.files)],
            hint=REMAKE,
        )
    return manifest


def _other_sizes(manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    """Return a line for each of these files that is not as long as the manifest says."""
    return [
        f"{name}: expected {entry.size:,} bytes, got {sizes[name]:,}"
        for name, entry in sorted(manifest.files.items())
        if name in sizes and sizes[name] != entry.size
    ]


def _require_same_files(wrong: list[str]) -> None:
    if wrong:
        raise DigestMismatchError(
            f"expected the files that the manifest names, got others:{listed(sorted(wrong))}",
            hint=REMAKE,
        )


def read_bundle(folder: Path, *, expected: str | None = None) -> Bundle:
    """Read a bundle folder; other files in it are left alone and never read.

    The manifest comes first, and no file of another size than it says is read.

    Raises:
        ArtifactNotFoundError, UnboundArtifactError: there is none, or one without its base.
        EvidenceError: see ``check_files``.
    """
    given: dict[str, Any] = {"hint": REMAKE, "follow_links": False}
    try:
        data = read_plain(folder / MANIFEST, limit=MANIFEST_LIMIT, **given)
    except FileNotFoundError:
        require_bound(folder)
        is_model = (folder / "config.json").is_file()
        raise ArtifactNotFoundError(
            f"expected a bundle (a folder with {MANIFEST}) at {folder}, "
            f"{'got a model' if is_model else 'found none'}.",
            hint=f"Name the artifact first: safelatch check NAME@VERSION {folder}"
            if is_model
            else "Make one: safelatch extract safety-lock BASE --out DIR",
        ) from None
    manifest = _check_manifest(data, expected)
    paths = {name: folder / name for name in (TENSORS, BASE)}
    plain = {name: path for name, path in paths.items() if path.is_file() and not path.is_symlink()}
    sizes = {name: path.stat().st_size for name, path in plain.items()}
    wrong = _other_sizes(manifest, sizes)
    files, refused = {MANIFEST: data}, []
    for name, path in paths.items():
        size = manifest.files[name].size
        if sizes.get(name, size) != size:
            continue
        try:
            files[name] = read_plain(path, limit=min(size, FILE_LIMIT), **given)
        except FileNotFoundError:
            refused.append(f"{name}: missing")
        except UnsafeFormatError as error:
            refused.append(error.message)
    if refused:
        raise UnsafeFormatError(
            f"expected the files that the manifest names in the bundle {folder}, got others:"
            f"{listed(sorted([*wrong, *refused]))}",
            hint=REMAKE,
        )
    _require_same_files(wrong)
    for name, limit in ((SIGNATURE, 3 * MANIFEST_LIMIT), (LINE, 3 * LINE_LIMIT)):
        with suppress(FileNotFoundError):
            files[name] = read_plain(folder / name, limit=limit, **given)
    return check_files(files)


def require_new_folder(folder: Path) -> None:
    """Check, before long work, that ``write_bundle`` can use ``folder``.

    Nothing is left behind: folders that are made for the trial are taken away.

    Raises:
        UsageError: it exists already and is not an empty folder.
        HostError: what is there cannot be looked at, or nothing can be written beside it.
    """
    _require_free(folder)
    try:
        _try_parent(folder.absolute().parent)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _try_parent(parent: Path) -> None:
    """Make a folder in ``parent``, and those above it that are not there; remove them all."""
    absent = [path for path in (parent, *parent.parents) if not path.is_dir()]
    made: list[Path] = []
    try:
        for path in (*reversed(absent), parent / f"{INCOMING}{secrets.token_hex(8)}"):
            path.mkdir()
            made.append(path)
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else has put something there meanwhile
                path.rmdir()


def _require_free(folder: Path) -> None:
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise _unwritable(folder, error) from error
    if is_taken:
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
    _require_free(folder)
    try:
        write_folder(folder, {**bundle.files, **envelopes(bundle)})
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def envelopes(bundle: Bundle) -> dict[str, bytes]:
    """Return the envelopes of ``bundle`` by file name, those that it has."""
    found = {SIGNATURE: bundle.signature, LINE: bundle.line}
    return {name: data for name, data in found.items() if data is not None}


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
        write_file(folder / MANIFEST, bundle.files[MANIFEST])
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(folder: Path, error: OSError) -> HostError:
    return HostError(
        f"expected a place where a bundle can be written at {folder}, got: {error.strerror}.",
        hint="Make room and allow writing there, or choose another place: --out DIR",
    )
