"""The commit of a directory remote: which files there are, and what it was made from.

- A commit is canonical JSON and named by the first 40 hex digits of the BLAKE3 of its bytes.
- Paths are ASCII parts between slashes: nothing in them leaves a folder, and no two of them are
  one file where letters have no case.
- Whoever can write to the folder can write commits: what is read is held to the same rules.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.digest import Digest, canonical_json, digest_bytes, is_digest, parse_json
from registry.errors import RemoteError, UnsafeFormatError
from registry.moment import is_stamp
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

COMMIT_LIMIT = 4 << 20
"""Most bytes of a commit: room for twenty thousand files, and memory for whatever it parses to."""
COPY_AGAIN = "Get the folder again from who keeps it, or name another remote."
"""Hint of every error about a folder that does not hold what it says."""

_SCHEMA = "safelatch/remote-commit/v1"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}")
_LONGEST_PATH = 1024
_LONGEST_MESSAGE = 1024
_LARGEST = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit.

    Attributes:
        digest: Of its bytes.
        size: Their number.
    """

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Commit:
    """All files at one moment.

    Attributes:
        number: Its place in the history, from 1.
        parent: The commit it was made from; ``None`` for the first.
        files: Every file by its path.
        message: What was done, one line.
        created: When, see ``moment``.
    """

    number: int
    parent: str | None
    files: Mapping[str, Entry]
    message: str
    created: str

    @property
    def name(self) -> str:
        """The 40 hex digits that name it."""
        return commit_id(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of this commit."""
        return canonical_json(
            {
                "schema": _SCHEMA,
                "number": self.number,
                "parent": self.parent,
                "files": {
                    path: {"digest": entry.digest, "size": entry.size}
                    for path, entry in self.files.items()
                },
                "message": self.message,
                "created": self.created,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str) -> Commit:
        """Return the commit that ``data`` is.

        Raises:
            RemoteError: it is none, or breaks a rule of this module; every finding is named.
        """
        try:
            document = parse_json(data, what=what, limit=COMMIT_LIMIT)
        except UnsafeFormatError as error:
            raise RemoteError(error.message, hint=COPY_AGAIN) from error
        found = _findings(document)
        if found:
            raise RemoteError(
                f"{what}: expected a commit of a directory remote, got another document:"
                f"{listed(found)}",
                hint=COPY_AGAIN,
            )
        files = {
            path: Entry(entry["digest"], entry["size"]) for path, entry in document["files"].items()
        }
        return cls(
            document["number"],
            document["parent"],
            MappingProxyType(files),
            document["message"],
            document["created"],
        )


def commit_id(data: bytes) -> str:
    """Return the 40 hex digits that name the commit with these bytes."""
    return digest_bytes(data).removeprefix("blake3:")[:40]


def is_commit_id(text: str) -> bool:
    """Return whether ``text`` has the form of a commit's name."""
    return _COMMIT.fullmatch(text) is not None


def is_part(text: str) -> bool:
    """Return whether ``text`` can be one part of a path, or a tag."""
    return _PART.fullmatch(text) is not None and ".." not in text


def is_message(text: Any) -> bool:
    """Return whether ``text`` is one line that can be shown."""
    return isinstance(text, str) and len(text) <= _LONGEST_MESSAGE and text.isprintable()


def path_findings(paths: Iterable[str]) -> list[str]:
    """Return a line for everything that is wrong with ``paths``, sorted."""
    found, alike = [], defaultdict(set)
    for path in paths:
        parts = path.split("/")
        if len(path) > _LONGEST_PATH or not all(map(is_part, parts)):
            found.append(f"{path[:160]!r}: expected names of A-Z a-z 0-9 . _ + ! - between /")
            continue
        for length in range(1, len(parts) + 1):  # a folder has one spelling too
            kind = "file" if length == len(parts) else "folder"
            whole = "/".join(parts[:length])
            alike[whole.lower()].add((whole, kind))
    for spellings in alike.values():
        if len(spellings) > 1:
            shown = ", ".join(f"{whole!r} ({kind})" for whole, kind in sorted(spellings))
            found.append(f"expected one name where letters have no case, got {shown}")
    return sorted(found)


def _findings(document: Any) -> list[str]:
    """Return a line for everything that keeps ``document`` from being a commit, sorted."""
    rules: dict[str, Callable[[Any], bool]] = {
        "schema": lambda value: value == _SCHEMA,
        "number": lambda value: type(value) is int and 0 < value <= _LARGEST,
        "parent": lambda value: value is None or (type(value) is str and is_commit_id(value)),
        "files": lambda value: type(value) is dict,
        "message": is_message,
        "created": lambda value: type(value) is str and is_stamp(value),
    }
    if type(document) is not dict or document.keys() != rules.keys():
        return [f"expected an object with the members {', '.join(sorted(rules))}"]
    found = [
        f"{name}: got {str(document[name])[:80]!r}"
        for name, holds in rules.items()
        if not holds(document[name])
    ]
    if type(document["files"]) is dict:
        found += [
            f"{path[:160]!r}: expected a digest and a size, got {str(entry)[:120]}"
            for path, entry in document["files"].items()
            if not _is_entry(entry)
        ]
        found += path_findings(document["files"])
    return sorted(found)


def _is_entry(entry: Any) -> bool:
    return (
        type(entry) is dict
        and entry.keys() == {"digest", "size"}
        and type(entry["digest"]) is str
        and is_digest(entry["digest"])
        and type(entry["size"]) is int
        and 0 <= entry["size"] <= _LARGEST
    )
