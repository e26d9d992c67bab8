"""A checkpoint on disk: which files, which tensors, and their bytes.

Owns opening. Refuses everything that two readers could understand differently:

- a folder is ``model.safetensors``, or ``model.safetensors.index.json`` with its shards, or one
  other ``*.safetensors``; two of these at once are ambiguous;
- an index names plain files of its own folder, every tensor is in the shard it is said to be in,
  in no other, and no shard holds a tensor that the index does not name;
- pickles (``.bin``, ``.pt``) are never opened.

Bytes are mapped, not read: a view costs nothing until it is used, and outlives ``close``.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.checkpoint._layout import find_layout
from registry.digest import Digest, digest_json, parse_json
from registry.errors import CheckpointNotFoundError, EvidenceError, UnsafeFormatError, listed
from registry.tensorfile import HEADER_LIMIT, Header, header_length, parse_header

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

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
        tensors: Every tensor by name, sorted.
        config: The parsed ``config.json``; empty for a single file without one beside it.
    """

    def __init__(self, path: Path) -> None:
        layout = find_layout(path)
        self.path = path
        self.folder = layout.folder
        self._maps: dict[Path, mmap.mmap] = {}
        self._sizes: dict[Path, int] = {}
        self._watched = [*layout.watched, *(self.folder / name for name in _COMPANIONS)]
        try:
            self._stat_key = self._read_stat_key()  # before the first byte is read
            self.tensors = self._read_headers(layout.files, layout.weight_map)
            self.config = self._read_config(required=not layout.is_single_file)
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
        return cls(Path(path).expanduser())

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
        """Give the maps up; one that a view still uses goes with its last view."""
        while self._maps:
            _, mapped = self._maps.popitem()
            try:
                mapped.close()
            except BufferError:
                continue

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape."""
        return {name: info.shape for name, info in self.tensors.items()}

    def view(self, name: str) -> memoryview:
        """Return the bytes of tensor ``name``, mapped read-only.

        Raises:
            KeyError: there is no such tensor.
            UnsafeFormatError: the file became shorter or longer since it was opened.
        """
        info = self.tensors[name]
        mapped = self._maps.get(info.path)
        if mapped is None:
            raise RuntimeError("the checkpoint is closed")
        size = mapped.size()
        if size != self._sizes[info.path]:
            raise UnsafeFormatError(
                f"{info.path.name}: expected {self._sizes[info.path]:,} bytes as when it was "
                f"opened, got {size:,}.",
                hint="Wait until the file is completely written, then run this again.",
            )
        return memoryview(mapped)[info.offset : info.offset + info.nbytes]

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

    def _read_stat_key(self) -> Digest:
        rows = []
        for path in self._watched:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            numbers = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            rows.append([os.path.realpath(path), *(str(number) for number in numbers)])
        return digest_json(sorted(rows))

    def _read_headers(
        self, files: tuple[Path, ...], weight_map: dict[str, str] | None
    ) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        findings: list[str] = []
        for path in files:
            header = self._map(path)
            for entry in header.entries:
                name = entry.name
                if name in tensors:
                    findings.append(f"{name!r:.120}: in {tensors[name].path.name} and {path.name}")
                elif weight_map is not None and weight_map.get(name) != path.name:
                    said = weight_map.get(name, "no file")
                    findings.append(f"{name!r:.120}: the index says {said}, it is in {path.name}")
                tensors[name] = TensorInfo(
                    name, entry.dtype, entry.shape, path, header.data_start + entry.begin,
                    entry.nbytes,
                )  # fmt: skip
        absent = sorted(set(weight_map or ()) - set(tensors))
        findings += [f"{name!r:.120}: in the index, in no file" for name in absent]
        if findings:
            raise UnsafeFormatError(
                f"{self.path}: expected files that agree, got {len(findings)} contradictions:"
                f"{listed(findings)}",
                hint="Get the weights again: hf download NS/NAME --local-dir DIR",
            )
        return {name: tensors[name] for name in sorted(tensors)}

    def _map(self, path: Path) -> Header:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UnsafeFormatError(f"{path.name}: expected a regular file.")
            length = header_length(file.read(8), what=path.name, limit=HEADER_LIMIT)
            if 8 + length > found.st_size:
                raise UnsafeFormatError(
                    f"{path.name}: expected a header of {length:,} bytes, the file has "
                    f"{found.st_size:,}."
                )
            text = file.read(length)
            mapped = mmap.mmap(file.fileno(), found.st_size, access=mmap.ACCESS_READ)
        self._maps[path] = mapped
        self._sizes[path] = found.st_size
        return parse_header(text, file_size=found.st_size, what=path.name)

    def _read_config(self, *, required: bool) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if not required:
                return {}
            raise CheckpointNotFoundError(
                f"expected config.json beside the weights in {self.folder}, found none.",
                hint="Download the whole repository: hf download NS/NAME --local-dir DIR",
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        config = parse_json(data, what="config.json", limit=_CONFIG_LIMIT)
        if not isinstance(config, dict):
            raise UnsafeFormatError("config.json: expected a JSON object.")
        return config


def _unreadable(path: Path, error: OSError) -> UnsafeFormatError:
    return UnsafeFormatError(f"{path}: expected a readable file, got: {error.strerror}.")
