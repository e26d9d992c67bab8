"""Read a pickle of lists of indices by name, as bytes: no stack, no memo, nothing that could run.

``_pickle_child`` runs this beside itself, in its process with limits. What is read is what every
protocol from 2 to 5 writes of a dict from texts to lists of integers, and nothing else: an opcode
at any other place is refused by its name. An index costs the bytes that it is written in, never a
Python object that stays.
"""

from __future__ import annotations

import pickletools
import sys
from array import array
from typing import Any

MOST_NAMES = 1 << 18
MOST_NAME = 400
MOST_INDICES = 3_500_000
BATCH = 512
"""Integers of one form that are looked at together."""

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


class Bytes:
    """The bytes of a pickle, and how far they are read."""

    def __init__(self, data: bytes, refused: type[Exception]) -> None:
        self.data, self.at, self.refused = data, 0, refused

    def next(self) -> bytes:
        """Return the next opcode, without going past it; frames are passed over."""
        while self.data[self.at : self.at + 1] == FRAME:
            self.skip(9)
        return self.data[self.at : self.at + 1]

    def skip(self, size: int) -> None:
        """Go past ``size`` bytes that must be there."""
        self.at += size
        if self.at > len(self.data):
            raise self.refused(
                f"expected a whole pickle, got its end at byte {len(self.data):,} of {self.at:,}"
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

    def other(self, what: str) -> Exception:
        """Return that the next opcode is not ``what``."""
        found = self.next()
        shown = f"byte 0x{found.hex()}" if found else "the end"
        got = NAMES.get(found.decode("latin1"), shown)
        return self.refused(f"expected {what}, got {got} at byte {self.at:,}")

    def pass_memo(self) -> None:
        """Go past the memo place of what was written; none is ever asked for."""
        if self.took(BINPUT):
            self.skip(1)
        elif self.took(LONG_BINPUT):
            self.skip(4)
        else:
            self.took(MEMOIZE)


def index_lists(data: bytes, refused: type[Exception]) -> list[Any]:
    """Return each name, the bytes of an index and the indices in hex, in the file's order.

    Raises:
        refused: it is anything else; the text is one sentence without its end.
    """
    read = Bytes(data, refused)
    read.need(PROTO, "a pickle")
    protocol = read.number(1)
    if protocol not in PROTOCOLS:
        raise refused(f"expected a pickle of protocol 2 to 5, got {protocol}")
    read.need(EMPTY_DICT, "a dict of lists of indices")
    read.pass_memo()
    found: dict[str, tuple[int, str]] = {}
    total = 0
    while not read.took(STOP):
        many = read.took(MARK)
        while True:
            name = text(read)
            if name in found or len(found) >= MOST_NAMES:
                raise refused(
                    f"expected at most {MOST_NAMES:,} names, each once, got {name!r:.120} "
                    f"after {len(found):,}"
                )
            indices = integers(read, total)
            total += len(indices)
            found[name] = packed(indices)
            if not many or read.next() == SETITEMS:
                break
        read.need(SETITEMS if many else SETITEM, "the end of the dict's items")
    if read.at != len(data):
        raise refused(f"expected the pickle's end at byte {len(data):,}, got it at {read.at:,}")
    return [[name, size, digits] for name, (size, digits) in found.items()]


def text(read: Bytes) -> str:
    """Return the name that comes next."""
    if read.took(SHORT_TEXT):
        size = read.number(1)
    else:
        read.need(TEXT, "the name of a parameter")
        size = read.number(4)
    if size > MOST_NAME:
        raise read.refused(f"expected a name of at most {MOST_NAME} bytes, got {size:,}")
    name = read.take(size).decode("utf-8")
    read.pass_memo()
    return name


def integers(read: Bytes, before: int) -> array[int]:
    """Return the list of integers that comes next, when ``before`` of them were read."""
    read.need(EMPTY_LIST, "a list of integers")
    read.pass_memo()
    found: array[int] = array("q")
    while (opcode := read.next()) == MARK or opcode in SIZES or opcode == LONG1:
        many = read.took(MARK)
        while True:
            run(read, found, BATCH if many else 1)
            if before + len(found) > MOST_INDICES:
                raise read.refused(f"expected at most {MOST_INDICES:,} indices, got more")
            if not many or read.next() == APPENDS:
                break
        read.need(APPENDS if many else APPEND, "the end of a list's integers")
    return found


def run(read: Bytes, found: array[int], most: int) -> None:
    """Read the integers that come next in one form, at most ``most``."""
    opcode = read.next()
    if opcode == LONG1:
        read.skip(1)
        size = read.number(1)
        if size > 8:
            raise read.refused(f"expected an integer of at most 8 bytes, got one of {size}")
        found.append(int.from_bytes(read.take(size), "little", signed=True))
        return
    if opcode not in SIZES:
        raise read.other("an integer")
    step = SIZES[opcode] + 1
    codes = read.data[read.at : read.at + most * step : step]
    count = len(codes) - len(codes.lstrip(opcode))
    part = read.take(count * step)
    plain = bytearray(4 * count)
    for place in range(1, step):
        plain[place - 1 :: 4] = part[place::step]
    numbers = array("i", bytes(plain))
    if sys.byteorder == "big":
        numbers.byteswap()
    found.extend(iter(numbers))


def packed(indices: array[int]) -> tuple[int, str]:
    """Return the bytes of an index, 4 or 8, and all of them in hex, little-endian."""
    try:
        narrow = array("i", iter(indices))
    except OverflowError:
        narrow = indices
    if sys.byteorder == "big":
        narrow = array(narrow.typecode, iter(narrow))
        narrow.byteswap()
    return narrow.itemsize, narrow.tobytes().hex()
