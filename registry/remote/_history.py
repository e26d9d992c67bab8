"""The commits of a directory remote, one after the other; see ``directory`` for their places.

- A number is claimed once: that is the compare-and-swap. While the number after the parent's is
  free, the parent is the newest.
- A commit is believed when what stands under its name has its digest and number: what was damaged,
  or never came to its claim, is not found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry.digest import canonical_json, digest_bytes, parse_json
from registry.errors import RemoteError, UnsafeFormatError
from registry.remote._commit import COMMIT_LIMIT, COPY_AGAIN, Commit, commit_id, is_commit_id
from registry.remote._shared_folder import CLAIMED

if TYPE_CHECKING:
    from registry.remote._shared_folder import SharedFolder

MOST_COMMITS = 10**8 - 1
SMALL = 4096
"""Most bytes of a file that is no commit and no object."""

_FOLDER, _NAMES = "history", "commits"
_NUMBER = re.compile(r"[0-9]{8}")


class History:
    """The commits in one folder; all methods raise ``RemoteError`` about what they find there."""

    def __init__(self, folder: SharedFolder) -> None:
        self._folder = folder

    def newest(self) -> tuple[str, Commit] | None:
        """Return the name and the commit with the highest number; ``None`` while there is none."""
        for name in reversed(self._folder.names(_FOLDER)):
            found = self._numbered(int(name)) if _NUMBER.fullmatch(name) else None
            if found is not None:  # otherwise its folder is still being copied here
                return found
        return None

    def named(self, name: str) -> Commit | None:
        """Return the commit of this name; ``None`` when there is none, or it lost its race."""
        if not is_commit_id(name):
            return None
        number = read_members(self._folder, _NAMES, name).get("number")
        if type(number) is not int or not 0 < number <= MOST_COMMITS:
            return None
        found = self._numbered(number)
        return found[1] if found is not None and found[0] == name else None

    def require_room(self, commit: Commit) -> None:
        """Raise ``RemoteError`` unless a reader will take ``commit``."""
        length = len(commit.to_bytes())
        if length > COMMIT_LIMIT or commit.number > MOST_COMMITS:
            raise RemoteError(
                f"{self._folder.root}: expected at most {COMMIT_LIMIT:,} bytes about all files "
                f"and {MOST_COMMITS:,} commits, got {length:,} and {commit.number:,}.",
                hint="Begin another remote in a new folder.",
            )

    def append(self, commit: Commit) -> str:
        """Claim the number of ``commit`` for it; return the name of the commit that has it."""
        document = commit.to_bytes()
        name, under_name = commit_id(document), _under_name(commit.number, document)
        if self._folder.read(_NAMES, name, limit=SMALL) not in {None, under_name}:
            raise RemoteError(
                f"{self._folder.at(_NAMES, name)}: expected one commit of this name, got a second.",
                hint="Run the same again: a second later the commit has another name.",
            )
        self._folder.keep(_NAMES, name, data=under_name)
        self._folder.claim(*_place(commit.number), data=document)
        found = self._numbered(commit.number)
        if found is None:
            raise RemoteError(
                f"expected the commit just made at {self._folder.at(*_place(commit.number))}, "
                "found none.",
                hint="See whether the drive is there and works, then run the same again.",
            )
        return found[0]

    def _numbered(self, number: int) -> tuple[str, Commit] | None:
        place = (*_place(number), CLAIMED)
        data = self._folder.read(*place, limit=COMMIT_LIMIT)
        if data is None:
            return None
        commit, name = Commit.from_bytes(data, what=self._folder.at(*place)), commit_id(data)
        made = self._folder.read(_NAMES, name, limit=SMALL)
        if commit.number != number or made != _under_name(number, data):
            raise RemoteError(
                f"{self._folder.at(*place)}: expected commit {number} as it was made, got {name}, "
                f"of which there is no record in {_NAMES}.",
                hint=COPY_AGAIN,
            )
        return name, commit


def read_members(folder: SharedFolder, *parts: str) -> dict[str, object]:
    """Return the members of the small JSON object at ``parts``; none where there is no file.

    Raises:
        RemoteError: it cannot be read, or is no JSON object.
    """
    data = folder.read(*parts, limit=SMALL)
    if data is None:
        return {}
    try:
        document = parse_json(data, what=folder.at(*parts), limit=SMALL)
    except UnsafeFormatError as error:
        raise RemoteError(error.message, hint=COPY_AGAIN) from error
    if type(document) is not dict:
        raise RemoteError(
            f"{folder.at(*parts)}: expected a JSON object, got another value.", hint=COPY_AGAIN
        )
    return document


def _place(number: int) -> tuple[str, str]:
    return _FOLDER, f"{number:08d}"


def _under_name(number: int, document: bytes) -> bytes:
    """Return what stands under the name of the commit with these bytes."""
    return canonical_json({"digest": digest_bytes(document), "number": number})
