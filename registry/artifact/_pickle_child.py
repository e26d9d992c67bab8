"""Read a pickle that somebody else wrote, as data alone, in a process with limits.

    python -I -S _pickle_child.py LAYOUT < PICKLE > ANSWER

A script by itself: the standard library, nothing of this package, no numpy. ``pickles`` runs it.

- Limits of memory, time, files and processes are set before a byte is read; where the system has
  none, nothing is read.
- A pickle is a program: before it runs, each of its opcodes must be one of those that write plain
  data, and each global one of five. None of the five is the real one: what stands in for numpy here
  keeps bytes and a shape, and runs nothing.
- The answer is one line of JSON: ``{"value": ...}``, ``{"refused": "expected ..., got ..."}`` or
  ``{"unlimited": ...}``. An array is ``{"dtype", "shape", "hex"}``, little-endian and row-major.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_BYTES = 16 << 20
MEMORY_BYTES = 256 << 20
CPU_SECONDS = 10
OPEN_FILES = 16
MOST_OPCODES = 1_000_000
MOST_DIMENSIONS = 8
MOST_LAYERS = 1000
MOST_HEADS = 4096
MOST_NAME = 200
REFUSED, UNLIMITED = 3, 4

OPCODES = frozenset({
    "PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND",
    "APPENDS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET",
})  # fmt: skip
"""What protocol 2 writes of dicts, lists, tuples, texts, small numbers and NumPy arrays."""
PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
MEMO = PUTS + GETS
ITEM_BYTES = {"f2": 2, "f4": 4, "f8": 8, "i2": 2, "i4": 4, "i8": 8}
"""Dtypes and the size of an element; all are little-endian."""


class RefusedError(Exception):
    """The file is not what is read here; the text is one sentence without its end."""


def limit(cpu_seconds: int = CPU_SECONDS) -> None:
    """Set what this process may use, for good.

    Raises:
        ImportError, OSError, ValueError: the system cannot.
    """
    import resource

    bounds = {
        "RLIMIT_AS": MEMORY_BYTES, "RLIMIT_CPU": cpu_seconds, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": 0,
    }  # fmt: skip
    for name, most in bounds.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))


def look_through(data: bytes) -> None:
    """Refuse a pickle with an opcode, a global or a memo index that plain data does not need."""
    puts = number = position = 0
    name = ""
    try:
        for number, (opcode, argument, where) in enumerate(pickletools.genops(data)):
            position, name = where or 0, opcode.name
            if name not in OPCODES or number >= MOST_OPCODES:
                raise RefusedError(f"expected opcodes of plain data, got {name} at byte {position}")
            if (name == "PROTO") != (number == 0) or (number == 0 and argument != 2):
                raise RefusedError(f"expected a pickle of protocol 2, got {name} {argument!r:.40}")
            if name == "GLOBAL" and argument not in GLOBALS:
                raise RefusedError(f"expected the globals of NumPy arrays, got {argument!r:.120}")
            if name in MEMO:
                puts = memo_after(name, int(argument or 0), puts)
    except ValueError as error:
        raise RefusedError(f"expected a whole pickle, got {error!s:.200}") from None
    if name != "STOP" or position + 1 != len(data):
        raise RefusedError(
            f"expected the pickle's end at byte {len(data):,}, got it at {position + 1:,}"
        )


def memo_after(name: str, index: int, puts: int) -> int:
    """Return how many memo places are taken after this opcode, which takes the next or gets one."""
    if name in PUTS and index != puts:
        raise RefusedError(f"expected memo index {puts}, got {index:,}")
    if name in GETS and index >= puts:
        raise RefusedError(f"expected a memo index below {puts}, got {index:,}")
    return puts + (name in PUTS)


class Global:
    """A global that a pickle names: ours, and nothing can be set on it."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any] | None) -> None:
        self.run = run

    def __call__(self, *arguments: Any) -> Any:
        if self.run is None:
            raise RefusedError("expected numpy.ndarray as an argument alone, got a call")
        return self.run(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("expected the state of an array, got one of a global")


class Dtype:
    """``numpy.dtype``: a name, and its byte order once it is set."""

    __slots__ = ("name", "whole")

    def __init__(self, name: Any, align: Any, copy: Any) -> None:
        if type(name) is not str or name not in ITEM_BYTES or (align, copy) != (False, True):
            raise RefusedError(f"expected a dtype out of {', '.join(ITEM_BYTES)}, got {name!r:.80}")
        self.name, self.whole = name, False

    def __setstate__(self, state: Any) -> None:
        if self.whole or state != (3, "<", None, None, None, -1, -1, 0):
            raise RefusedError(f"expected a little-endian dtype, got state {state!r:.80}")
        self.whole = True


class Array:
    """A NumPy array or scalar: bytes, dtype and shape, which agree."""

    __slots__ = ("data", "dtype", "shape")

    def __init__(self) -> None:
        self.data: bytes | None = None

    def fill(self, dtype: Any, shape: Any, data: Any) -> None:
        """Set everything, once."""
        if self.data is not None or type(dtype) is not Dtype or not dtype.whole:
            raise RefusedError("expected an array that is filled once, with a whole dtype")
        sizes = shape if type(shape) is tuple else (None,)
        if len(sizes) > MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in sizes):
            raise RefusedError(f"expected a shape, got {shape!r:.80}")
        size = math.prod(sizes) * ITEM_BYTES[dtype.name]
        if type(data) is not bytes or len(data) != size:
            got = len(data) if type(data) is bytes else type(data).__name__
            raise RefusedError(f"expected {size:,} bytes of {dtype.name} {list(sizes)}, got {got}")
        self.dtype, self.shape, self.data = dtype.name, sizes, data

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or state[0] != 1 or state[3] is not False:
            raise RefusedError(f"expected the state of a row-major array, got {state!r:.80}")
        self.fill(state[2], state[1], state[4])


def scalar(dtype: Any, data: Any) -> Array:
    """Stand for ``numpy.core.multiarray.scalar``."""
    made = Array()
    made.fill(dtype, (), data)
    return made


def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """Stand for ``numpy.core.multiarray._reconstruct``: an array that is still to be filled."""
    if kind is not GLOBALS["numpy ndarray"] or shape != (0,) or code != b"b":
        raise RefusedError("expected an empty numpy.ndarray to fill, got another start")
    return Array()


def encode(text: Any, encoding: Any) -> bytes:
    """Stand for ``_codecs.encode``, by which protocol 2 writes bytes: latin1 alone."""
    if type(text) is not str or encoding != "latin1":
        raise RefusedError(f"expected bytes as latin1, got {encoding!r:.80}")
    return text.encode("latin1")


GLOBALS = {
    "numpy ndarray": Global(None),
    "numpy dtype": Global(Dtype),
    "_codecs encode": Global(encode),
} | {
    f"numpy.{core}.multiarray {name}": Global(run)
    for core in ("core", "_core")  # before and since NumPy 2
    for name, run in (("scalar", scalar), ("_reconstruct", reconstruct))
}


class Unpickler(pickle.Unpickler):
    """An unpickler that finds our stand-ins and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = GLOBALS.get(f"{module} {name}")
        if found is None:
            raise RefusedError(f"expected the globals of NumPy arrays, got {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError(f"expected no persistent ids, got {pid!r:.80}")


def unpickle(data: bytes) -> Any:
    """Return what the pickle ``data`` says, of texts, numbers, dicts, lists, tuples and arrays."""
    look_through(data)
    return Unpickler(io.BytesIO(data)).load()


def safelock(data: bytes) -> Any:
    """Return the layers of a .safelock: each its name and its list of (head, direction, sigma)."""
    value = unpickle(data)
    if type(value) is not dict or not 0 < len(value) <= MOST_LAYERS:
        raise RefusedError(f"expected a dict of 1 to {MOST_LAYERS} layers, got {shown(value)}")
    layers = []
    heads = room = 0
    for name, rows in value.items():
        if type(name) is not str or len(name) > MOST_NAME:
            raise RefusedError(f"expected the name of a layer, got {shown(name)}")
        if type(rows) is not list or (heads := heads + len(rows)) > MOST_HEADS:
            raise RefusedError(f"expected lists of {MOST_HEADS} heads at most, got {shown(rows)}")
        for row in rows:
            if type(row) is not tuple or len(row) != 3 or {*map(type, row)} != {Array}:
                raise RefusedError(f"expected (head, direction, sigma), got {shown(row)}")
            room += sum(len(array.data or b"") for array in row)
            if room > FILE_BYTES:  # one array, named again and again
                raise RefusedError(f"expected at most {FILE_BYTES:,} bytes of arrays, got more")
        layers.append([name, [[plain(array) for array in row] for row in rows]])
    return layers


def plain(array: Array) -> dict[str, Any]:
    """Return the JSON form of an array.

    Raises:
        RefusedError: it was begun and never filled.
    """
    if array.data is None:
        raise RefusedError("expected an array with values, got an empty one")
    return {"dtype": array.dtype, "shape": array.shape, "hex": array.data.hex()}


def shown(value: Any) -> str:
    """Return what ``value`` is, without looking into it."""
    size = f" of {len(value):,}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{size}"


FAULTS = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError,
          ImportError, ArithmeticError, RecursionError)  # fmt: skip
"""What an unpickler raises about bytes that are no pickle."""
LAYOUTS: dict[str, Callable[[bytes], Any]] = {"safelock": safelock}


def main() -> int:
    """Answer about what comes in, and return the exit status."""
    try:
        limit()
    except (ImportError, AttributeError, OSError, ValueError) as error:
        print(json.dumps({"unlimited": f"{type(error).__name__}: {error}"}))  # noqa: T201
        return UNLIMITED
    try:
        answer = json.dumps({"value": LAYOUTS[sys.argv[1]](received())})
    except RefusedError as error:
        answer = json.dumps({"refused": str(error)})
    except MemoryError:
        answer = json.dumps({"refused": f"expected to need less than {MEMORY_BYTES:,} bytes"})
    except FAULTS as error:
        fact = f"{type(error).__name__}: {error!s:.200}"
        answer = json.dumps({"refused": f"expected a pickle of plain data, got {fact}"})
    print(answer)  # noqa: T201
    return 0 if answer.startswith('{"value"') else REFUSED


def received() -> bytes:
    """Return what comes in, as far as it may be read."""
    data = sys.stdin.buffer.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise RefusedError(f"expected at most {FILE_BYTES:,} bytes, got more")
    return data


if __name__ == "__main__":
    sys.exit(main())
