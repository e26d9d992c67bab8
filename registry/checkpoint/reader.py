"""A checkpoint on disk: which files, which tensors, and their bytes.

Owns opening. Refuses everything that two readers could understand differently:

- a folder is ``model.safetensors``, or ``model.safetensors.index.json`` with its shards, or one
  other ``*.safetensors``; two of these at once are ambiguous;
- an index names plain files of its own folder, every tensor is in the shard it is said to be in,
  in no other, and no shard holds a tensor that the index does not name;
- pickles (``.bin``, ``.pt``) are never opened.

Bytes are read in pieces and never mapped: a file that is cut, or a disk that fails, while it is
mapped ends the process; while it is read it is an error. Pieces take about as long, and no more
memory than one of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from registry.checkpoint._layout import DOWNLOAD, contradictions, find_layout
from registry.checkpoint.architecture import model_names
from registry.digest import Digest, digest_json, parse_json
from registry.errors import CheckpointNotFoundError, EvidenceError, UnsafeFormatError
from registry.plainfile import SETTLE, expanded, open_plain, read_plain, unreadable
from registry.tensorfile import HEADER_LIMIT, Header, header_length, parse_header
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from types import TracebackType

    from typing_extensions import Self

PIECE = 2 << 20
"""Most bytes of a piece: large enough that what is done once a piece does not show."""
_LFS_POINTER = b"version https://git-lfs"
_CONFIG_LIMIT = 16 << 20
_COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor's bytes are: ``path[offset:offset + nbytes]``, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


class Checkpoint:
    """An open checkpoint; a context manager.

    Attributes:
        path: What was opened.
        folder: The folder with the config and the tokenizer.
        files: The safetensors files, sorted.
        tensors: Every tensor by the name that the whole model gives it, sorted.
        config: The parsed ``config.json``; empty for a single file without one beside it.
    """

    def __init__(self, path: Path) -> None:
        layout = find_layout(path)
        self.path = path
        self.folder = layout.folder
        self.files = layout.files
        self._files: dict[Path, FileIO] = {}
        self._sizes: dict[Path, int] = {}
        self._buffers: list[memoryview] = []
        self._seeking = Lock()
        self._watched = [
            *layout.watched,
            *(self.folder / name for name in _COMPANIONS),
            *sorted(self.folder.glob("additional_chat_templates/*.jinja")),
        ]
        try:
            self._stat_key = self._read_stat_key()  # before the first byte is read
            stored = self._read_headers(layout.files, layout.weight_map)
            self.config = self._read_config(required=not layout.is_single_file)
            names = model_names(stored, self.config.get("model_type"))
            self.tensors = {name: stored[old] for name, old in names.items()}
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a folder or a single ``.safetensors`` file.

        Raises:
            CheckpointNotFoundError: there is no safetensors checkpoint at ``path``.
            UnsafeFormatError: the files break a rule of this module or of the format.
        """
        try:
            return cls(expanded(path))
        except OSError as error:
            raise unreadable(Path(path), error, hint="Name a folder that can be read.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; nothing can be read afterwards."""
        while self._files:
            _, file = self._files.popitem()
            file.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape."""
        return {name: info.shape for name, info in self.tensors.items()}

    def pieces(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes of tensor ``name`` in order; a piece is valid until the next one.

        Args:
            name: The tensor.
            begin: First byte of it that is read.
            end: Byte behind the last one that is read; its end by default.

        Raises:
            KeyError: there is no such tensor.
            UnsafeFormatError: the file became shorter or longer since it was opened.
        """
        info = self.tensors[name]
        file = self._files.get(info.path)
        if file is None:
            raise RuntimeError("the checkpoint is closed")
        size = os.fstat(file.fileno()).st_size
        if size != self._sizes[info.path]:
            raise self._changed(info.path, size)
        try:
            buffer = self._buffers.pop()  # one a thread: fresh memory costs as much as the reading
        except IndexError:
            buffer = memoryview(bytearray(PIECE))
        stop = info.nbytes if end is None else end
        try:
            for start in range(begin, stop, PIECE):
                piece = buffer[: min(PIECE, stop - start)]
                self._read_into(piece, file, info, start)
                yield piece
        finally:
            self._buffers.append(buffer)

    def read(self, name: str) -> bytes:
        """Return all bytes of tensor ``name``; raises like ``pieces``."""
        return b"".join(bytes(piece) for piece in self.pieces(name))

    def stat_key(self) -> str:
        """Return the key under which results about these files may be kept.

        It covers the real path, size, times and inode of the weights, the index, the config, the
        tokenizer and the chat template, as they were before the first byte was read.
        """
        return self._stat_key

    def require_unchanged(self) -> None:
        """Raise ``EvidenceError`` if a file was written or replaced since the opening."""
        if self._read_stat_key() != self._stat_key:
            raise EvidenceError(
                f"{self.path}: expected the files to stay as they were, got a change meanwhile.",
                hint="Wait until nothing writes to them, then run this again.",
            )

    def _read_into(self, piece: memoryview, file: FileIO, info: TensorInfo, start: int) -> None:
        done = 0
        while done < len(piece):
            position = info.offset + start + done
            try:
                if hasattr(os, "preadv"):
                    count = os.preadv(file.fileno(), [piece[done:]], position)
                else:  # one place in the file for all threads
                    with self._seeking:
                        file.seek(position)
                        count = file.readinto(piece[done:])
            except OSError as error:
                raise unreadable(info.path, error, hint=DOWNLOAD) from error
            if not count:
                raise self._changed(info.path, os.fstat(file.fileno()).st_size)
            done += count

    def _changed(self, path: Path, size: int) -> UnsafeFormatError:
        return UnsafeFormatError(
            f"{path.name}: expected {self._sizes[path]:,} bytes as when it was opened, "
            f"got {size:,}.",
            hint=SETTLE,
        )

    def _read_stat_key(self) -> Digest:
        rows = []
        for path in self._watched:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(path, error, hint=DOWNLOAD) from error
            numbers = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            place = os.fsencode(os.path.realpath(path)).hex()  # names need not be text
            rows.append([place, *(str(number) for number in numbers)])
        return digest_json(sorted(rows))

    def _read_headers(
        self, files: tuple[Path, ...], weight_map: dict[str, str] | None
    ) -> dict[str, TensorInfo]:
        headers = self._open_all(files)
        findings = contradictions({path.name: header for path, header in headers}, weight_map)
        if findings:
            raise UnsafeFormatError(
                f"{self.path}: expected files that agree, got {len(findings)} contradictions:"
                f"{listed(findings)}",
                hint=DOWNLOAD,
            )
        tensors = {
            entry.name: TensorInfo(
                entry.name, entry.dtype, entry.shape, path, header.data_start + entry.begin,
                entry.nbytes,
            )
            for path, header in headers
            for entry in header.entries
        }  # fmt: skip
        return {name: tensors[name] for name in sorted(tensors)}

    def _open_all(self, files: tuple[Path, ...]) -> list[tuple[Path, Header]]:
        """Return each file's header; the errors of all files are one error."""
        headers, refused = [], []
        for path in files:
            try:
                headers.append((path, self._open(path)))
            except UnsafeFormatError as error:  # noqa: PERF203 -- one a file
                refused.append(error)
        if len(refused) > 1:
            messages = [error.message.replace("\n", "\n  ") for error in refused]
            raise UnsafeFormatError(
                f"{self.path}: expected safetensors files, got {len(refused)} of {len(files)} that "
                f"break the format:{listed(messages)}",
                hint=refused[0].hint,
            )
        if refused:
            raise refused[0]
        return headers

    def _open(self, path: Path) -> Header:
        file = open_plain(path, hint=DOWNLOAD)
        self._files[path] = file
        self._sizes[path] = size = os.fstat(file.fileno()).st_size
        given: dict[str, Any] = {"file_size": size, "what": path.name, "hint": DOWNLOAD}
        prefix = file.read(8)
        if _LFS_POINTER.startswith(prefix) and len(prefix) == 8:
            rest = file.read(len(_LFS_POINTER) - 8)
            if prefix + rest == _LFS_POINTER:
                raise UnsafeFormatError(
                    f"{path.name}: expected a safetensors file, got a git-lfs pointer, "
                    "not weights.",
                    hint="Get the weights, in the repository's folder: git lfs pull",
                )
        length = header_length(prefix, limit=HEADER_LIMIT, **given)
        return parse_header(file.read(length), **given)

    def _read_config(self, *, required: bool) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            data = read_plain(path, limit=_CONFIG_LIMIT, hint=DOWNLOAD)
        except FileNotFoundError:
            if not required:
                return {}
            raise CheckpointNotFoundError(
                f"expected config.json beside the weights in {self.folder}, found none.",
                hint=DOWNLOAD,
            ) from None
        config = parse_json(data, what="config.json", limit=_CONFIG_LIMIT, hint=DOWNLOAD)
        if not isinstance(config, dict):
            raise UnsafeFormatError("config.json: expected a JSON object.", hint=DOWNLOAD)
        return config
