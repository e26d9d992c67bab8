"""A plain directory as a remote: on this disk, a network drive or a stick; nothing runs there.

    safelatch-remote.json               what this folder is; the first file that is written
    objects/<2 hex>/<62 hex>            the bytes of a file, by their BLAKE3; once, read-only
    history/<8 digits>/claim.json       the commits; the highest number is the newest
    commits/<40 hex>                    digest and number of a commit, by its name
    tags/<40 hex>/claim.json            tag and commit, by the BLAKE3 of the tag

- A commit writes its objects, then its number under its name, and then claims the number after its
  parent's. Others see nothing but the claim.
- That needs no lock, which a kill leaves behind and a network drive may not know, and no file that
  is replaced, which two can do at once. A claim is a folder that is moved to its place with the
  commit in it (``_shared_folder``). A file made with ``O_EXCL`` would be taken before it is filled:
  a kill in between takes the number from everybody. Hard links would do, and a stick has none.
- A kill leaves objects, names and hidden files that no commit knows, and blocks nobody.
- All names in it are lower-case ASCII and no device of Windows; a tag is not a file name.
- A folder that is neither empty nor marked is not written to.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from registry.digest import canonical_json, digest_bytes, require_digest
from registry.errors import RemoteError, RemoteMovedError, UnsafeFormatError, UsageError
from registry.moment import stamp
from registry.reference import Reference
from registry.remote._commit import (
    COPY_AGAIN,
    Commit,
    Entry,
    is_commit_id,
    is_message,
    is_part,
    path_findings,
)
from registry.remote._history import History, read_members
from registry.remote._shared_folder import CLAIMED, SharedFolder
from registry.remote.contract import RemoteFile, Snapshot
from registry.wholefile import INCOMING
from registry.wording import INSTALL_NEWER, listed

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

MARKER = "safelatch-remote.json"
"""The file that says that a folder is a remote."""

_SCHEMA = "safelatch/remote/v1"


class DirectoryRemote:
    """One line of artifacts in a plain directory; see ``contract.Remote``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name the directory; nothing is read, and it need not be there.

        Raises:
            ReferenceSyntaxError: ``folder`` is no path.
        """
        reference = Reference.of_folder(folder)
        self._url = str(reference)
        self._folder = SharedFolder(Path(reference.location))
        self._history = History(self._folder)

    @property
    def url(self) -> str:
        """The reference that names it, ``file:///DIR``."""
        return self._url

    def snapshot(self, revision: str | None = None) -> Snapshot | None:
        """Return the files at a tag or commit, the newest by default; ``None`` while it is empty.

        Raises:
            UsageError: the folder holds something else.
            RemoteError: it cannot be read, has no such revision, or holds what no writer left.
        """
        is_there = self._is_there()
        if revision is None:
            newest = self._history.newest() if is_there else None
            return None if newest is None else _snapshot(*newest)
        name = self._tagged(revision) if is_there else revision
        return _snapshot(name, self._named(name, asked=revision))

    def read(self, snapshot: Snapshot, path: str, *, limit: int) -> bytes:
        """Return the bytes of a file, which have the digest that the commit states.

        Raises:
            KeyError: there is no such file in ``snapshot``.
            UnsafeFormatError: it is longer than ``limit``; not one byte of it was read.
            DigestMismatchError: it holds other bytes.
            RemoteError: it is not there, is of another kind, longer, or cannot be read.
        """
        size = snapshot.files[path].size
        if size > limit:
            raise UnsafeFormatError(
                f"{path}: expected at most {limit:,} bytes, got {size:,}.", hint=COPY_AGAIN
            )
        entry = self._named(snapshot.commit).files[path]
        place = _object(entry.digest)
        data = self._folder.read(*place, limit=min(entry.size, limit))
        if data is None:
            raise RemoteError(
                f"{path}: expected its bytes at {self._folder.at(*place)}, found none.",
                hint=COPY_AGAIN,
            )
        require_digest(data, entry.digest, what=path, hint=COPY_AGAIN)
        return data

    def commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Add or replace ``files`` in one step and return the new commit.

        The folder is made if need be. The same change of the same parent in the same second is the
        same commit, whoever makes it.

        Args:
            files: Path to bytes; other files stay.
            parent: The commit this was made from; ``None`` where there was nothing.
            message: What was done, one line.

        Raises:
            UsageError: a path or the message breaks a rule, or the folder holds something else.
            RemoteMovedError: ``parent`` is not the newest commit; nothing was changed.
            RemoteError: the folder cannot be read or written, or holds what no writer left.
        """
        is_there = self._is_there()
        newest = self._history.newest() if is_there else None
        self._require_newest(parent, None if newest is None else newest[0])
        entries = {} if newest is None else dict(newest[1].files)
        for path, data in files.items():
            entries[path] = Entry(digest_bytes(data), len(data))
        _require_rules(entries, message)
        number = 1 if newest is None else newest[1].number + 1
        made = Commit(number, parent, MappingProxyType(entries), message, stamp())
        self._history.require_room(made)
        if not is_there:
            self._folder.keep(MARKER, data=canonical_json({"schema": _SCHEMA}))
        for path, data in files.items():
            self._folder.keep(*_object(entries[path].digest), data=data)
        name = self._history.append(made)
        if name != made.name:
            self._require_newest(parent, name)
        return name

    def tag(self, name: str, commit: str) -> None:
        """Let ``name`` be a revision for ``commit``; one that is there already stays.

        Raises:
            UsageError: ``name`` cannot be a tag, or the folder holds something else.
            RemoteError: there is no such commit; or see ``commit``.
        """
        if not is_part(name) or is_commit_id(name):
            raise UsageError(
                "expected a tag of 1 to 128 characters A-Z a-z 0-9 . _ + ! - that is no commit, "
                f"got {name[:160]!r}.",
                hint="Use a version, for example: 1.0.0",
            )
        self._is_there()
        self._named(commit)
        self._folder.claim(*_tag(name), data=canonical_json({"tag": name, "commit": commit}))

    def _is_there(self) -> bool:
        """Return whether the folder is a remote; not when there is none, or nothing in it.

        Raises:
            UsageError: it is something else.
            RemoteError: it cannot be read, or is of a later format.
        """
        marker = read_members(self._folder, MARKER)
        if not marker:
            names = [name for name in self._folder.names() if not name.startswith(INCOMING)]
            marker = read_members(self._folder, MARKER)  # it may have been begun just now
            if not marker and names:
                raise UsageError(
                    f"expected a remote (a folder with {MARKER}) or an empty folder at "
                    f"{self._folder.root}, got {', '.join(names[:3])}.",
                    hint=f"Name a new folder: {self._url}/NAME",
                )
        if marker and marker.get("schema") != _SCHEMA:
            raise RemoteError(
                f"{self._folder.at(MARKER)}: expected the format {_SCHEMA}, got "
                f"{str(marker.get('schema'))[:80]!r}.",
                hint=INSTALL_NEWER,
            )
        return bool(marker)

    def _tagged(self, revision: str) -> str:
        """Return the commit that a tag names; ``revision`` itself where it is none."""
        if not is_part(revision) or is_commit_id(revision):
            return revision
        document = read_members(self._folder, *_tag(revision), CLAIMED)
        commit = document.get("commit")
        return commit if document.get("tag") == revision and type(commit) is str else revision

    def _named(self, name: str, *, asked: str | None = None) -> Commit:
        """Return the commit of this name, which somebody may have ``asked`` for as a tag."""
        found = self._history.named(name)
        if found is None:
            raise RemoteError(
                f"expected a tag or a commit of {self._url}, got {(asked or name)[:160]!r}, "
                "which is not there.",
                hint="Leave the revision out for the newest, or name one that is there.",
            )
        return found

    def _require_newest(self, parent: str | None, newest: str | None) -> None:
        if parent != newest:
            raise RemoteMovedError(
                f"{self._url}: expected {_shown(parent)} to be the newest, got {_shown(newest)}; "
                "nothing was changed.",
                hint="Look at what is there now, then run the same again.",
            )


def _require_rules(entries: Mapping[str, Entry], message: str) -> None:
    if not is_message(message):
        raise UsageError(
            f"expected a message of one line, got {message[:80]!r}.", hint="Write a short line."
        )
    if found := path_findings(entries):
        raise UsageError(
            f"expected paths that fit any file system, got others:{listed(found)}",
            hint="Rename the files, for example: versions/1.0.0/manifest.json",
        )


def _snapshot(name: str, commit: Commit) -> Snapshot:
    files = {path: RemoteFile(entry.size) for path, entry in commit.files.items()}
    return Snapshot(name, MappingProxyType(files))


def _object(digest: str) -> tuple[str, str, str]:
    value = digest.removeprefix("blake3:")
    return "objects", value[:2], value[2:]


def _tag(name: str) -> tuple[str, str]:
    return "tags", digest_bytes(name.encode()).removeprefix("blake3:")[:40]


def _shown(commit: str | None) -> str:
    return "no commit" if commit is None else f"commit {commit}"
