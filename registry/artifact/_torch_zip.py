"""The zip that ``torch.save`` writes, without tensors: a strict reader of its one pickle.

A zip can be read in more than one way: by its directory, by the headers in front of its members, or
by a second directory. Here all of them must say the same, and cover the file from its first to its
last byte; members are stored, not compressed, so that nothing grows when it is read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from registry.errors import UnsafeFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

PICKLE = "data.pkl"
MEMBERS = (PICKLE, "byteorder", "version", ".data/serialization_id")
"""What torch.save writes below one folder where there are no tensors."""
_NEWER = (".format_version", ".storage_alignment")  # and what newer releases add
_FIXED = {"byteorder": b"little", "version": b"3\n"}
_MOST_MEMBERS = len(MEMBERS) + len(_NEWER)
_SMALL_MEMBER = 64
_ALLOWED_FLAGS = 0x808  # sizes stand behind the data; names are UTF-8
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_WIDE_END = struct.Struct("<4sQ2H2L4Q")
_WIDE_LOCATOR = 20
_DESCRIPTOR = 24  # bytes behind a member that say its checksum and sizes again


class _Entry(NamedTuple):
    """A member as the directory describes it."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


class _Refusal(Exception):  # noqa: N818 -- never leaves this module
    """A broken rule: one sentence without its end."""


def pickle_in(data: bytes, *, what: str, hint: str) -> bytes:
    """Return ``data.pkl`` of the torch.save zip that ``data`` is.

    Args:
        data: The whole file.
        what: How to call it in an error.
        hint: What to do when it is refused.

    Raises:
        UnsafeFormatError: it is another file, or a zip that is read in more than one way.
    """
    try:
        return _pickle(dict(_members(data)))
    except _Refusal as refusal:
        raise UnsafeFormatError(
            f"{what}: {refusal}; nothing of it was executed.", hint=hint
        ) from None


def _pickle(members: dict[str, bytes]) -> bytes:
    root, *more = sorted({name.partition("/")[0] for name in members}) or [""]
    if more:
        raise _Refusal(f"expected one folder in the zip, got {1 + len(more)}")
    inside = {name.partition("/")[2]: content for name, content in members.items()}
    others = sorted(set(inside) - {*MEMBERS, *_NEWER})
    if others or root in {"", ".", ".."}:
        got = f"{root}/{others[0]}" if others else root
        raise _Refusal(f"expected {', '.join(MEMBERS)} in one folder of the zip, got {got!r:.120}")
    if PICKLE not in inside:
        raise _Refusal(f"expected {PICKLE} in the zip, got none")
    for name, content in inside.items():
        if name != PICKLE and len(content) > _SMALL_MEMBER:
            raise _Refusal(
                f"expected at most {_SMALL_MEMBER} bytes of {name}, got {len(content):,}"
            )
        if content != _FIXED.get(name, content):
            raise _Refusal(f"expected {_FIXED[name]!r} as {name}, got {content!r}")
    return inside[PICKLE]


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each member, in the order of the file."""
    start, end, count = _directory(data)
    seen: set[str] = set()
    taken = 0
    for entry in _entries(data, start, end, count):
        name = entry.name.decode("utf-8", "backslashreplace")
        label = f"{name!r:.120}"
        if entry.flags & ~_ALLOWED_FLAGS:
            raise _Refusal(f"expected members without encryption, got {label} with it")
        if entry.method != 0 or entry.packed != entry.size:
            raise _Refusal(f"expected members that are stored, got {label} compressed")
        if name in seen:
            raise _Refusal(f"expected each member of the zip once, got {label} twice")
        local = data[entry.offset : entry.offset + 30]
        gap = entry.offset - taken
        if not 0 <= gap <= (_DESCRIPTOR if seen else 0) or len(local) < 30:
            raise _Refusal(f"expected {label} behind the member before it, got it elsewhere")
        seen.add(name)
        signature, flags, method = struct.unpack_from("<4s2xHH", local)
        lengths = struct.unpack_from("<HH", local, 26)
        begin = entry.offset + 30 + sum(lengths)
        taken = begin + entry.size
        named = data[entry.offset + 30 : entry.offset + 30 + lengths[0]]
        if (signature, flags, method, named) != (b"PK\3\4", entry.flags, 0, entry.name):
            raise _Refusal(f"expected {label} where the zip's directory says, got another")
        content = data[begin:taken]
        if taken > start or crc32(content) != entry.crc:
            raise _Refusal(f"expected {label} whole, got other bytes")
        yield name, content
    if start - taken > _DESCRIPTOR:
        raise _Refusal("expected the zip's directory behind the last member, got it elsewhere")


def _directory(data: bytes) -> tuple[int, int, int]:
    """Return where the directory begins and ends, and how many members it names."""
    end = len(data) - _END.size
    if not data.startswith(b"PK\3\4") or data[max(end, 0) :][:4] != b"PK\5\6":
        raise _Refusal("expected a zip as torch.save writes it, got other bytes")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, end)
    if data[end - _WIDE_LOCATOR :][:4] == b"PK\6\7":  # torch writes the 64-bit form as well
        at = end = end - _WIDE_LOCATOR - _WIDE_END.size
        wide = _WIDE_END.unpack_from(data, at) if at > 0 else (b"",)
        located = struct.unpack_from("<4sLQL", data, at + _WIDE_END.size) if at > 0 else ()
        told = (wide[0], wide[1:2], wide[4:], located[1:])
        if told != (b"PK\6\6", (44,), (0, 0, count, count, size, start), (0, at, 1)):
            raise _Refusal("expected one directory in the zip, got two that differ")
    if (disk, first, here, comment) != (0, 0, count, 0) or start + size != end:
        raise _Refusal("expected the zip's directory at its end, got it elsewhere")
    if count > _MOST_MEMBERS:
        raise _Refusal(f"expected at most {_MOST_MEMBERS} members in the zip, got {count:,}")
    return start, end, count


def _entries(data: bytes, start: int, end: int, count: int) -> Iterator[_Entry]:
    at = start
    for _ in range(count):
        if at + _ENTRY.size > end or data[at : at + 4] != b"PK\1\2":
            raise _Refusal(f"expected {count} members in the zip's directory, got fewer")
        fields = _ENTRY.unpack_from(data, at)
        (flags, method), (crc, packed, size) = fields[3:5], fields[7:10]
        name = data[at + _ENTRY.size : at + _ENTRY.size + fields[10]]
        yield _Entry(name, flags, method, crc, packed, size, fields[-1])
        at += _ENTRY.size + sum(fields[10:13])
    if at != end:
        raise _Refusal("expected nothing behind the members in the zip's directory, got more")
