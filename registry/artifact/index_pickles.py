"""Pickles of lists of indices that others published, of any model's size: read while they come in.

``_pickle_indices`` reads them, alone in a process with limits, and holds a mebibyte of the file at
a time. What it answers is not trusted: every block is of a known kind and size, and whoever asked
checks every index again.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from registry.artifact.pickles import no_limits, reading
from registry.errors import SafelatchError, UnsafeFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from registry.artifact.foreign_file import ForeignFile

FILE_LIMIT = 4 << 30
"""Most bytes of a file: 1 % of 80 billion weights. What is made of it has twice that in memory."""
MOST_OF_ONE = 1 << 27
"""Most indices of one parameter: 1 % of one of 13 billion weights."""
LISTS_AGAIN = (
    "Get the file again, and compare its SHA-256. If you made it: write lists of plain integers, "
    "pickle.dump({name: rows.tolist()}, file)"
)
"""Hint of every error about the form of such a file."""

_CHILD = Path(__file__).with_name("_pickle_indices.py")
_SECONDS = 10
_BYTES_PER_SECOND = 2 << 20  # of computing, at least; a real file's are read 50 times as fast
_PATIENCE = 10  # seconds that may pass for one of computing, on a machine that has other work
_NAME, _DONE, _REFUSED, _UNLIMITED = 1, 16, 17, 18
_TEXT_LIMIT = 1 << 12
_BLOCK_LIMIT = 1 << 20
_MOST_NAMES = 1 << 18


def index_lists(file: ForeignFile) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each name and its indices, int32 or int64, in the file's order.

    What was yielded counts once the last one was: only then the file is known to be one.

    Raises:
        UnsafeFormatError: it is anything else, or larger than is read; nothing of it was run.
        HostError: it cannot be read, or no process with limits can be had here.
    """
    file.require_at_most(FILE_LIMIT)
    seconds = _SECONDS + file.size // _BYTES_PER_SECOND
    faults: list[BaseException] = []
    given: dict[str, Any] = {"stdin": subprocess.PIPE, "wall_s": float(_PATIENCE * seconds)}
    with reading(_CHILD, str(seconds), what=file.name, **given) as (child, stopped):
        feeder = threading.Thread(target=_feed, args=(file, child.stdin, faults), daemon=True)
        feeder.start()
        try:
            yield from _lists(_Answer(file.name, child.stdout))
        except UnsafeFormatError:
            _end(child, feeder)
            if faults:  # what came in is not the file
                raise faults[0] from None
            if stopped.is_set():
                raise _refused(
                    file.name, f"expected to be done in {given['wall_s']:g} s, got no answer"
                ) from None
            raise
        finally:
            _end(child, feeder)
    if faults:
        raise faults[0]


def _end(child: subprocess.Popen[bytes], feeder: threading.Thread) -> None:
    child.kill()
    feeder.join()


def _feed(file: ForeignFile, stdin: IO[bytes], faults: list[BaseException]) -> None:
    """Give the file to the reader; what goes wrong is kept for whoever waits for its answer."""
    try:
        with stdin:
            file.pass_on(stdin.write, limit=FILE_LIMIT)
    except BrokenPipeError:
        pass  # the reader has seen enough, and says why
    except (SafelatchError, MemoryError) as error:
        faults.append(error)


class _Answer:
    """The blocks that the reader writes."""

    def __init__(self, what: str, file: IO[bytes] | None) -> None:
        self.what, self._file = what, file

    def block(self) -> tuple[int, bytes]:
        """Return the kind of the next block, and its bytes."""
        head = self._take(5)
        kind, number = head[0], int.from_bytes(head[1:], "little")
        size = number * kind if kind in {4, 8} else number
        if size > (_BLOCK_LIMIT if kind in {4, 8} else _TEXT_LIMIT):
            raise self.another()
        return kind, self._take(size)

    def is_over(self) -> bool:
        """Return whether nothing follows."""
        return self._file is None or not self._file.read(1)

    def another(self) -> UnsafeFormatError:
        """Return the error about an answer that is none."""
        return _refused(self.what, "expected an answer about it, got another")

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if self._file else b""
        if len(data) != size:
            raise _refused(self.what, "expected a whole answer about it, its reader ended early")
        return data


def _lists(answer: _Answer) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    name, parts, count = None, [np.empty(0, "<i4")], 0
    names: set[str] = set()
    while True:
        kind, data = answer.block()
        if kind in {4, 8} and name is not None:
            parts.append(np.frombuffer(data, dtype=f"<i{kind}"))
            count += parts[-1].size
            if count > MOST_OF_ONE:
                raise _refused(
                    answer.what,
                    f"expected at most {MOST_OF_ONE:,} indices of {name!r:.120}, got more",
                )
            continue
        if kind == _UNLIMITED:
            raise no_limits(data.decode("utf-8", "backslashreplace")[:200])
        if kind == _REFUSED:
            raise _refused(answer.what, data.decode("utf-8", "backslashreplace")[:500])
        if name is not None:
            yield name, np.concatenate(parts)
        if kind == _DONE and not data and answer.is_over():
            return
        name, parts, count = _name(answer, kind, data, names), parts[:1], 0


def _name(answer: _Answer, kind: int, data: bytes, names: set[str]) -> str:
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError:
        raise answer.another() from None
    if kind != _NAME or name in names or len(names) >= _MOST_NAMES:
        raise answer.another()
    names.add(name)
    return name


def _refused(what: str, fact: str) -> UnsafeFormatError:
    return UnsafeFormatError(f"{what}: {fact}; nothing of it was executed.", hint=LISTS_AGAIN)
