"""Files that others wrote, opened so that nothing but a file of a known size is ever read.

- A device gives bytes without end, a pipe waits for a writer, and what was asked about by its path
  may be something else when it is opened: a file is opened once, without waiting, and must then be
  a regular one.
- Its size is judged before its first byte is read, and it must have as many as it said.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from registry.errors import HostError, UnsafeFormatError

SETTLE = "Wait until the file is completely written, then run this again."
"""Hint of every error about a file that changed while it was read."""

REACH = "Allow reading it and see whether its disk fails, then run this again."
"""Hint of every error about a file that is there and cannot be read."""

_SOMETHING_ELSE = (
    None, errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ENODEV,
    errno.ENAMETOOLONG,
)  # fmt: skip


def is_out_of_reach(error: OSError) -> bool:
    """Return whether the system cannot read what is there: a right is missing, a disk fails.

    Then the file may be as good as ever. That something else is there, or nothing, is about it.
    """
    return error.errno not in _SOMETHING_ELSE


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` with ``~`` as the home it means; where it means nobody's, as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def open_plain(path: Path, *, hint: str, follow_links: bool = True) -> io.FileIO:
    """Return the regular file at ``path``, open for unbuffered reading.

    Args:
        path: What to open.
        hint: What to do when it is no such file.
        follow_links: Whether ``path`` may be a symbolic link to the file.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        UnsafeFormatError: there is something else.
        HostError: it cannot be read.
    """
    names = ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC", *(() if follow_links else ("O_NOFOLLOW",)))
    flags = sum(getattr(os, name, 0) for name in names)
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error
    except ValueError as error:
        raise UnsafeFormatError(f"{path}: expected a path without NUL.", hint=hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeFormatError(f"{path}: expected a regular file, got another kind.", hint=hint)
    return io.FileIO(descriptor)


def read_plain(path: Path, *, limit: int, hint: str, follow_links: bool = True) -> bytes:
    """Return the bytes of the regular file at ``path``, of which there may be ``limit``.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        UnsafeFormatError: see ``open_plain``; it is larger; or its size changed meanwhile.
        HostError: it cannot be read, or there is not enough memory for it.
    """
    with io.BufferedReader(open_plain(path, hint=hint, follow_links=follow_links)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UnsafeFormatError(
                f"{path.name}: expected at most {limit:,} bytes, got {size:,}.", hint=hint
            )
        try:
            data = file.read(size + 1)
        except OSError as error:
            raise unreadable(path, error, hint=hint) from error
        except MemoryError as error:
            raise HostError(
                f"{path}: expected memory for {size:,} bytes, got none.",
                hint="Close other programs, or run this on a machine with more memory.",
            ) from error
    if len(data) != size:
        got = "more" if len(data) > size else f"{len(data):,}"
        raise UnsafeFormatError(
            f"{path.name}: expected {size:,} bytes as when it was opened, got {got}.", hint=SETTLE
        )
    return data


def unreadable(path: Path, error: OSError, *, hint: str) -> UnsafeFormatError | HostError:
    """Return the error about a file that the system does not let us read."""
    cause = error.strerror or type(error).__name__
    fact = f"{str(path)[:300]}: expected a readable file, got: {cause}."
    if is_out_of_reach(error):
        return HostError(fact, hint=REACH)
    return UnsafeFormatError(fact, hint=hint)
