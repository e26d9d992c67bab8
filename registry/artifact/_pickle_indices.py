"""Read a pickle of lists of indices by name, as bytes: no stack, no memo, nothing that could run.

    python -I -S _pickle_indices.py SECONDS < PICKLE > BLOCKS

A script by itself, as ``_pickle_child`` beside it, whose limits it sets first. What is read is what
every protocol from 2 to 5 writes of a dict from texts to lists of integers, and nothing else: an
opcode at any other place is refused by its name. A mebibyte of the file is held at a time, and an
index is never a Python object.

The answer is a row of blocks, each a kind (one byte), a number (four bytes, little-endian) and that
many things: bytes of a ``NAME``, which begins a list; the list's next integers, of 4 or 8 bytes and
with a sign; in the end nothing (``DONE``), or bytes of a text that says why there is no end.
"""

from __future__ import annotations

import pickletools
import runpy
import struct
import sys
from typing import BinaryIO

NAME, NARROW, WIDE, DONE, REFUSED, UNLIMITED = 1, 4, 8, 16, 17, 18
HEAD = struct.Struct("<BI")
MOST_NAMES = 1 << 18
MOST_NAME = 400
BLOCK_BYTES = 1 << 18
"""Bytes of integers that are told together, at most."""
PIECE = 1 << 20
BATCH = 1024
"""Integers of one form that are looked at together; Python writes 1000 between two marks."""

PROTO, STOP, FRAME, MARK = b"\x80", b".", b"\x95", b"("
EMPTY_DICT, SETITEM, SETITEMS = b"}", b"s", b"u"
EMPTY_LIST, APPEND, APPENDS = b"]", b"a", b"e"
MEMOIZE, BINPUT, LONG_BINPUT = b"\x94", b"q", b"r"
SHORT_TEXT, TEXT = b"\x8c", b"X"
LONG1 = b"\x8a"
SIZES = {b"K": 1, b"M": 2, b"J": 4}
"""Opcodes of integers of a fixed size, and that size; those of four bytes have a sign."""
PROTOCOLS = (2, 3, 4, 5)
NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}


class RefusedError(Exception):
    """The file is not what is read here; the text is one sentence without its end."""


class Bytes:
    """The bytes of a pickle, a piece of them at a time, and how far they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.data = b""
        self.at = 0
        self.passed = 0
        """Bytes in front of ``data``."""

    @property
    def place(self) -> int:
        """Where the next byte is in the file."""
        return self.passed + self.at

    def have(self, size: int) -> None:
        """Hold ``size`` bytes that are not read yet, or all that there are."""
        while len(self.data) - self.at < size and (more := self.file.read(PIECE)):
            self.passed += self.at
            self.data, self.at = self.data[self.at :] + more, 0

    def next(self) -> bytes:
        """Return the next opcode, without going past it; frames are passed over."""
        self.have(1)
        while self.data[self.at : self.at + 1] == FRAME:
            self.skip(9)
            self.have(1)
        return self.data[self.at : self.at + 1]

    def skip(self, size: int) -> None:
        """Go past ``size`` bytes that must be there."""
        self.have(size)
        self.at += size
        if self.at > len(self.data):
            raise RefusedError(
                f"expected a whole pickle, got its end at byte {self.passed + len(self.data):,} of "
                f"{self.place:,}"
            )

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        self.skip(size)
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        """Return a number of ``size`` bytes, without a sign."""
        return int.from_bytes(self.take(size), "little")

    def took(self, opcode: bytes) -> bool:
        """Go past ``opcode`` if it is the next, and return whether it was."""
        found = self.next() == opcode
        self.at += found
        return found

    def need(self, opcode: bytes, what: str) -> None:
        """Go past ``opcode``, which must be the next."""
        if not self.took(opcode):
            raise self.other(what)

    def other(self, what: str) -> RefusedError:
        """Return that the next opcode is not ``what``."""
        found = self.next()
        shown = f"byte 0x{found.hex()}" if found else "the end"
        got = NAMES.get(found.decode("latin1"), shown)
        return RefusedError(f"expected {what}, got {got} at byte {self.place:,}")

    def pass_memo(self) -> None:
        """Go past the memo place of what was written; none is ever asked for."""
        if self.took(BINPUT):
            self.skip(1)
        elif self.took(LONG_BINPUT):
            self.skip(4)
        else:
            self.took(MEMOIZE)

    def need_end(self) -> None:
        """Raise unless nothing follows."""
        end = self.place
        self.at = len(self.data)
        while more := self.file.read(PIECE):
            self.passed += len(more)
        if self.place != end:
            raise RefusedError(
                f"expected the pickle's end at byte {self.place:,}, got it at {end:,}"
            )


class Told:
    """The answer, of which a block is kept until it is full."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.kept, self.kind = file, bytearray(), NARROW

    def integers(self, kind: int, data: bytes) -> None:
        """Tell integers of ``kind`` bytes each, little-endian and with a sign."""
        if kind != self.kind or len(self.kept) >= BLOCK_BYTES:
            self.flush()
            self.kind = kind
        self.kept += data

    def flush(self) -> None:
        """Write the block that is kept."""
        if self.kept:
            self.file.write(HEAD.pack(self.kind, len(self.kept) // self.kind) + self.kept)
            self.kept.clear()

    def text(self, kind: int, data: bytes) -> None:
        """Tell a block of bytes."""
        self.flush()
        self.file.write(HEAD.pack(kind, len(data)) + data)


def index_lists(read: Bytes, told: Told) -> None:
    """Tell each name and its indices, in the file's order.

    Raises:
        RefusedError: it is anything else.
    """
    read.need(PROTO, "a pickle")
    protocol = read.number(1)
    if protocol not in PROTOCOLS:
        raise RefusedError(f"expected a pickle of protocol 2 to 5, got {protocol}")
    read.need(EMPTY_DICT, "a dict of lists of indices")
    read.pass_memo()
    found: set[str] = set()
    while not read.took(STOP):
        many = read.took(MARK)
        while True:
            name = text(read)
            if name in found or len(found) >= MOST_NAMES:
                raise RefusedError(
                    f"expected at most {MOST_NAMES:,} names, each once, got {name!r:.120} "
                    f"after {len(found):,}"
                )
            found.add(name)
            told.text(NAME, name.encode())
            integers(read, told)
            if not many or read.next() == SETITEMS:
                break
        read.need(SETITEMS if many else SETITEM, "the end of the dict's items")
    read.need_end()


def text(read: Bytes) -> str:
    """Return the name that comes next."""
    if read.took(SHORT_TEXT):
        size = read.number(1)
    else:
        read.need(TEXT, "the name of a parameter")
        size = read.number(4)
    if size > MOST_NAME:
        raise RefusedError(f"expected a name of at most {MOST_NAME} bytes, got {size:,}")
    name = read.take(size).decode("utf-8")
    read.pass_memo()
    return name


def integers(read: Bytes, told: Told) -> None:
    """Tell the list of integers that comes next."""
    read.need(EMPTY_LIST, "a list of integers")
    read.pass_memo()
    while (opcode := read.next()) == MARK or opcode in SIZES or opcode == LONG1:
        many = read.took(MARK)
        while True:
            run(read, told, BATCH if many else 1)
            if not many or read.next() == APPENDS:
                break
        read.need(APPENDS if many else APPEND, "the end of a list's integers")


def run(read: Bytes, told: Told, most: int) -> None:
    """Tell the integers that come next in one form, at most ``most``."""
    opcode = read.next()
    if opcode == LONG1:
        read.skip(1)
        size = read.number(1)
        if size > WIDE:
            raise RefusedError(f"expected an integer of at most 8 bytes, got one of {size}")
        number = int.from_bytes(read.take(size), "little", signed=True)
        told.integers(WIDE, number.to_bytes(WIDE, "little", signed=True))
        return
    if opcode not in SIZES:
        raise read.other("an integer")
    step = SIZES[opcode] + 1
    read.have(most * step)
    codes = read.data[read.at : read.at + most * step : step]
    count = len(codes) - len(codes.lstrip(opcode))
    part = read.take(count * step)
    plain = bytearray(NARROW * count)
    for place in range(1, step):
        plain[place - 1 :: NARROW] = part[place::step]
    told.integers(NARROW, bytes(plain))


def main() -> int:
    """Answer about what comes in, and return the exit status."""
    told = Told(sys.stdout.buffer)
    try:
        limit = runpy.run_path(__file__.replace("_indices", "_child"))["limit"]
        limit(int(sys.argv[1]))
    except (ImportError, AttributeError, OSError, ValueError) as error:
        told.text(UNLIMITED, f"{type(error).__name__}: {error}".encode())
        return 1
    try:
        index_lists(Bytes(sys.stdin.buffer), told)
    except RefusedError as error:
        told.text(REFUSED, str(error).encode("utf-8", "backslashreplace"))
    except UnicodeDecodeError as error:
        fact = f"{type(error).__name__}: {error!s:.200}"
        told.text(REFUSED, f"expected a pickle of plain data, got {fact}".encode())
    else:
        told.text(DONE, b"")
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
