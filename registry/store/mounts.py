"""Whether a folder lies on a network drive, where SQLite's WAL is not safe.

WAL needs memory that every process with the database open shares; the machines of a network drive
share none, and a database written from two of them is damaged without a word. Linux names the file
system of every mount; elsewhere nothing is known and nothing is said.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_NETWORK = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "orangefs", "pvfs2", "smb3", "smbfs",
    "fuse.ceph", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs",
))  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")
_warned: set[Path] = set()


def network_filesystem(folder: Path, mountinfo: str) -> str | None:
    """Return the type of the network file system that ``folder`` is on, ``None`` if on no such.

    Args:
        folder: An absolute path without symbolic links.
        mountinfo: The text of Linux's ``/proc/self/mountinfo``.
    """
    deepest, found = -1, None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.partition(" ")[0]
        if len(fields) < 6 or not kind:
            continue
        point = Path(_ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[4]))
        # Of two mounts at one place the later one covers the earlier.
        if folder.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, found = len(point.parts), kind
    return found if found in _NETWORK else None


def warn_of_network(folder: Path) -> None:
    """Warn, once for each folder, if a SQLite registry in ``folder`` is on a network drive."""
    try:
        real = folder.resolve()
        kind = network_filesystem(real, _TABLE.read_text("utf-8", "surrogateescape"))
    except OSError:
        return  # no such table here: nothing is known
    if kind is not None and real not in _warned:
        _warned.add(real)
        warnings.warn(
            f"{folder} is on a network drive ({kind}), where SQLite's WAL is not safe: if two "
            "machines write to the registry, it can be damaged. Keep it on a local disk: safelatch "
            "--db /local/registry.db init; or on a server: safelatch --db "
            "postgresql://HOST/DATABASE db upgrade",
            stacklevel=2,
        )
