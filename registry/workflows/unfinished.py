"""What a long search has measured so far, in a file beside its result, until the result is there.

- The file says which run it is of: base, kind, options, data, seed, dtype, versions. A run that is
  any different does not go on from it.
- It is written whole after every measurement: a killed run loses the one it was in.
- Arrays have a file of their own beside it, which it names with its digest. New ones are written
  before the old ones are taken away, where there is room for both.
- A run that ends takes it away. A run that ends with nothing found leaves it: it is the evidence.
"""

from __future__ import annotations

import glob
import re
import secrets
import shutil
from math import prod
from typing import TYPE_CHECKING, Any

from registry.digest import canonical_json, digest_json, digest_pieces, parse_json
from registry.errors import DigestMismatchError, HostError, UsageError
from registry.plainfile import read_plain
from registry.wholefile import make_folder, write_file
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

SCHEMA = "safelatch/unfinished/v1"
_LIMIT = 64 << 20
_SPARE = 64 << 20  # bytes that are left free beside arrays: for the result
_ARRAYS = re.compile("-[0-9a-f]{16}")
_ROOM = "Make room there, or name another place with --out."


class Unkept:
    """Notes that nobody keeps."""

    def recall(self, key: str) -> Any | None:  # noqa: ARG002 -- the contract's parameter
        """Return ``None``: nothing was kept."""
        return None

    def keep(self, key: str, value: Any) -> None:
        """Do nothing."""

    def recall_tensors(self, key: str) -> None:  # noqa: ARG002 -- the contract's parameter
        """Return ``None``: nothing was kept."""
        return

    def keep_tensors(self, key: str, value: Any, tensors: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


class Unfinished:
    """The notes of one run, in one file that is there while the run is not finished."""

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        """Take up what an interrupted run of the same kind left beside ``out``.

        Args:
            out: Where the result will be.
            run: What the run is of, JSON values.

        Raises:
            UsageError: what is there is of another run.
            DigestMismatchError: what is there was edited.
            UnsafeFormatError, HostError: what is there cannot be read.
        """
        self.path = out.absolute().with_name(f"{out.name}.unfinished")
        self._run = dict(run)
        self._notes: dict[str, Any] = {}
        self.taken_up = 0
        if self.path.exists():
            self._notes = self._read()
            self.taken_up = len(self._notes)

    def recall(self, key: str) -> Any | None:
        """Return what was kept under ``key``."""
        return self._notes.get(key)

    def keep(self, key: str, value: Any) -> None:
        """Keep ``value`` on the disk.

        Raises:
            HostError: the file cannot be written.
        """
        self._notes[key] = value
        document = {"schema": SCHEMA, "run": self._run, "notes": self._notes}
        document["digest"] = digest_json(self._notes)
        try:
            write_file(self.path, canonical_json(document))
        except OSError as error:
            raise self._unwritten(error) from error

    def recall_tensors(self, key: str) -> tuple[Any, dict[str, np.ndarray]] | None:
        """Return what was kept under ``key``; the arrays are read from the disk when looked at.

        Raises:
            DigestMismatchError: they are not what was kept.
        """
        import numpy as np

        held = self._notes.get(key)
        if held is None:
            return None
        path = self.path.with_name(f"{self.path.name}{held['file']}")
        size = sum(np.dtype(d).itemsize * prod(shape) for _, d, shape in held["arrays"])
        raw = np.zeros(0, dtype=np.uint8)
        if path.is_file() and path.stat().st_size == size and size:
            raw = np.memmap(path, dtype=np.uint8, mode="c")
        if (got := digest_pieces([raw.data])) != held["digest"]:
            raise DigestMismatchError(
                f"{path.name}: expected measurements of {held['digest']}, got {got}.",
                hint=self._repair(),
            )
        found, begin = {}, 0
        for name, dtype, shape in held["arrays"]:
            end = begin + np.dtype(dtype).itemsize * prod(shape)
            found[name] = raw[begin:end].view(dtype).reshape(shape)
            begin = end
        return held["value"], found

    def keep_tensors(self, key: str, value: Any, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep arrays on the disk, in place of those that were kept under ``key``.

        Raises:
            HostError: there is no room for both, or the file cannot be written.
        """
        import numpy as np

        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        size = sum(array.nbytes for array in arrays.values())
        suffix = f"-{secrets.token_hex(8)}"
        path = self.path.with_name(f"{self.path.name}{suffix}")
        try:
            make_folder(path.parent)
            if (free := shutil.disk_usage(path.parent).free) < size + _SPARE:
                raise HostError(
                    f"{path.parent}: expected room for {size:,} bytes of measurements and "
                    f"{_SPARE:,} to spare, got {free:,}.",
                    hint=_ROOM,
                )
            write_file(path, (_bytes_of(array) for array in arrays.values()))
        except OSError as error:
            raise self._unwritten(error) from error
        held = {
            "value": value,
            "file": suffix,
            "digest": digest_pieces(_bytes_of(array) for array in arrays.values()),
            "arrays": [[n, array.dtype.str, list(array.shape)] for n, array in arrays.items()],
        }
        self.keep(key, held)
        self._remove_arrays()

    def finish(self) -> None:
        """Take the files away: the result is there."""
        self.path.unlink(missing_ok=True)
        self._notes.clear()
        self._remove_arrays()

    def _remove_arrays(self) -> None:
        """Remove the files of arrays that no note names."""
        named = {note.get("file") for note in self._notes.values() if isinstance(note, dict)}
        for path in self.path.parent.glob(f"{glob.escape(self.path.name)}-*"):
            suffix = path.name.removeprefix(self.path.name)
            if suffix not in named and _ARRAYS.fullmatch(suffix):
                path.unlink(missing_ok=True)

    def _unwritten(self, error: OSError) -> HostError:
        return HostError(
            f"{self.path}: expected to write down what was measured, {error.strerror}.", hint=_ROOM
        )

    def _repair(self) -> str:
        return f"Remove it to begin anew: {self.path}; or name another place with --out."

    def _read(self) -> dict[str, Any]:
        repair = self._repair()
        data = read_plain(self.path, limit=_LIMIT, hint=repair)
        document = parse_json(data, what=self.path.name, limit=_LIMIT, hint=repair)
        held = document if isinstance(document, dict) else {}
        run, notes = held.get("run"), held.get("notes")
        if held.get("schema") != SCHEMA or not isinstance(run, dict) or not isinstance(notes, dict):
            raise UsageError(
                f"{self.path.name}: expected the notes of an unfinished run, got something else.",
                hint=repair,
            )
        if held.get("digest") != (got := digest_json(notes)):
            raise DigestMismatchError(
                f"{self.path.name}: expected notes of digest {held.get('digest')!r:.120}, got "
                f"{got}: somebody edited them.",
                hint=repair,
            )
        if canonical_json(run) != canonical_json(self._run):
            names = sorted({*run, *self._run})
            differing = [
                f"{name}: expected {self._run.get(name)!r:.120}, got {run.get(name)!r:.120}"
                for name in names
                if run.get(name) != self._run.get(name)
            ]
            raise UsageError(
                f"{self.path.name}: expected the notes of this run, got those of another one:"
                f"{listed(differing)}",
                hint=repair,
            )
        return notes


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array; nothing is copied."""
    return array.reshape(-1).view("u1").data
