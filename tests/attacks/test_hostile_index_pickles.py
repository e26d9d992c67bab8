"""Pickles that look like the authors' masks and want more: refused, and nothing of them is run.

Each is written into a file and imported as a user would. What reads them has no stack and no memo,
so most of what a pickle can do is an opcode at a place where there is none.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.refusals import everything_under, refusal

from registry.artifact import index_pickles
from registry.artifact.index_pickles import FILE_LIMIT
from registry.errors import SchemaViolationError, UnsafeFormatError
from registry.workflows.import_foreign import import_file

NAME = "model.layers.0.self_attn.q_proj.weight"
HEAD, END = b"\x80\x02", b"."
HONEST = pickle.dumps({NAME: [3, 1, 70_000], "x": [5]}, 2)
ROOM = 48 << 20
"""Most bytes that the process which reads the worst of them may hold."""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n(".encode() + text(argument) + b"tR"


def only(integers: bytes, name: str = NAME) -> bytes:
    """Return a pickle of one list, of these opcodes."""
    return HEAD + b"}" + text(name) + b"](" + integers + b"es" + END


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Return a function that imports bytes, and checks that they are refused and nothing ran."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))

    def check(data: bytes, *said: str, kind=UnsafeFormatError):
        path = tmp_path / "theirs.pkl"
        path.write_bytes(data)
        seen = everything_under(tmp_path)
        error = refusal(kind, lambda: import_file(path), *said)
        assert "nothing of it was executed." in error.message
        assert error.message.startswith("theirs.pkl: expected ")
        assert everything_under(tmp_path) == seen
        assert not canary.exists()

    return check


def test_index_file_that_all_of_these_are_made_from_is_read(tmp_path):
    for suffix in (".pkl", ".pickle", ".PKL"):
        path = tmp_path / f"honest{suffix}"
        path.write_bytes(HONEST)
        assert import_file(path).contents["selected"] == "4 weights"
    path.write_bytes(only(b"K\x03"))
    assert import_file(path).contents["selected"] == "1 weights"


def test_global_in_place_of_each_part(refused):
    code = call("posix", "system", "touch $CANARY")
    for data, place in (
        (HEAD + code + END, "a dict of lists of indices"),
        (HEAD + b"}(" + code, "the name of a parameter"),
        (HEAD + b"}" + text(NAME) + code, "a list of integers"),
        (only(b"K\x01" + code), "an integer"),
        (HONEST[:-1] + code + END, "the name of a parameter"),
    ):
        refused(data, f"expected {place}, got GLOBAL at byte {data.index(code):,}")


def test_command_in_an_index(refused):
    class Command:
        def __reduce__(self):
            return os.system, ("touch $CANARY",)

    for protocol in range(2, 6):
        refused(pickle.dumps({NAME: [1, Command()]}, protocol), "expected an integer, got")
    for protocol in range(2):
        refused(pickle.dumps({NAME: [1]}, protocol), "expected a pickle, got")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (1.5, "BINFLOAT"), (True, "NEWTRUE"), (None, "NONE"), ("1", "BINUNICODE"), ([1], "EMPTY_LIST"),
        ((), "EMPTY_TUPLE"), ({}, "EMPTY_DICT"), (1 << 3000, "LONG4"), (np.int64(1), "GLOBAL"),
    ],
)  # fmt: skip
def test_index_that_is_no_integer(refused, value, got):
    refused(pickle.dumps({NAME: [1, value, 2]}, 2), f"expected an integer, got {got} at byte")


def test_array_or_tensor_in_place_of_a_list(refused):
    for value in (np.arange(3), (1, 2), {1: 2}, 1):
        refused(pickle.dumps({NAME: value}, 2), "expected a list of integers, got")


def test_integer_of_thousands_of_digits(refused):
    refused(
        pickle.dumps({NAME: [1 << 300]}, 2), "expected an integer of at most 8 bytes, got one of 38"
    )
    refused(
        pickle.dumps({NAME: [-(1 << 63), (1 << 63) - 1]}, 2),
        "expected indices of at least 0, got 1 below -1 down to -9,223,372,036,854,775,808",
        kind=SchemaViolationError,
    )


def test_lists_in_lists_without_end(refused):
    refused(HEAD + b"]" * 1_000_000 + END, "expected a dict of lists of indices, got EMPTY_LIST")
    deep = HEAD + b"}" + text(NAME) + b"](" * 500_000 + END
    refused(deep, "expected an integer, got EMPTY_LIST at byte")
    refused(HEAD + b"}" + b"(" * 1_000_000, "expected the name of a parameter, got MARK at byte 4")


def test_list_that_is_named_again_and_again(refused):
    shared = [1, 2, 3]
    refused(pickle.dumps({NAME: shared, "x": shared}, 2), "expected a list of integers, got BINGET")
    refused(only(b"h\x00" * 1000), "expected an integer, got BINGET at byte")


def test_parameter_named_twice(refused):
    row = text(NAME) + b"]K\x01as"
    refused(HEAD + b"}" + row + row + END, f"names, each once, got {NAME!r} after 1")


def test_name_without_end(refused):
    refused(only(b"K\x01", "x" * 401), "expected a name of at most 400 bytes, got 401")
    long = HEAD + b"}X\xff\xff\xff\xff"
    refused(long + b"x" * 100, "expected a name of at most 400 bytes, got 4,294,967,295")
    refused(HEAD + b"}\x8c\x02\xff\xfe]K\x01as.", "expected a pickle of plain data, got Unicode")


def test_more_indices_of_one_parameter_than_are_read(refused, monkeypatch):
    monkeypatch.setattr(index_pickles, "MOST_OF_ONE", 99_999)
    refused(only(b"K\x01" * 100_000), f"expected at most 99,999 indices of {NAME!r}, got more")


def test_index_file_that_is_too_large(refused, tmp_path):
    path = tmp_path / "large.pkl"
    path.touch()
    os.truncate(path, FILE_LIMIT + 1)
    refusal(
        UnsafeFormatError, lambda: import_file(path), "large.pkl: expected at most 4,294,967,296"
    )


def test_index_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "theirs.pkl"
    path.write_bytes(HONEST)
    real = index_pickles.threading.Thread.start

    def meddled(thread):
        os.truncate(path, len(HONEST) - 1)
        real(thread)

    monkeypatch.setattr(index_pickles.threading.Thread, "start", meddled)
    refusal(
        UnsafeFormatError,
        lambda: import_file(path),
        f"theirs.pkl: expected {len(HONEST)} bytes as when it was opened, got {len(HONEST) - 1}.",
    )


def test_index_file_that_takes_its_reader_for_ever(refused, monkeypatch):
    """Here the limit is none at all; the reader is ended by the system and says nothing."""
    monkeypatch.setattr(index_pickles, "_SECONDS", 0)
    refused(only(b"K\x01M\x00\x01" * 300_000), "expected")


def test_index_file_that_is_cut_off_or_goes_on(refused):
    for length in (0, 1, 2, 3, 20, len(HONEST) // 2, len(HONEST) - 1):
        refused(HONEST[:length], "expected")
    refused(HONEST[:-3], "expected")
    size = len(HONEST)
    for more in (b"\x00", HONEST, HEAD + call("posix", "system", "touch $CANARY") + END):
        refused(
            HONEST + more,
            f"expected the pickle's end at byte {size + len(more):,}, got it at {size:,}",
        )
    refused(b"PK\3\4" + b"\0" * 40, "expected a pickle, got PERSID at byte 0")
    refused(HEAD + b"\xfe", "expected a dict of lists of indices, got byte 0xfe at byte 2")
    refused(b"\x80\x09" + HONEST[2:], "expected a pickle of protocol 2 to 5, got 9")


def test_one_byte_of_an_index_file_changed(refused, tmp_path):
    """Refused with one of our errors, or read as what Python's own reader finds: never a third."""
    path = tmp_path / "one.pkl"
    for position in range(2, len(HONEST)):
        data = HONEST[:position] + bytes([HONEST[position] ^ 0x04]) + HONEST[position + 1 :]
        path.write_bytes(data)
        try:
            made = import_file(path).tensors()
        except (UnsafeFormatError, SchemaViolationError):
            continue
        theirs = {name: sorted(rows) for name, rows in pickle.loads(data).items()}  # noqa: S301 -- ours
        names = json.loads(made["names"].tobytes())
        assert names == sorted(theirs)
        assert made["indices"].tolist() == [i for name in names for i in theirs[name]]


WORST = {
    "many": lambda: only(b"J\x00\x00\x01\x00" * 12_000_000),
    "forms that change": lambda: only(b"K\x01M\x00\x01" * 1_700_000),
    "wide integers": lambda: only(b"\x8a\x05\x00\x00\x00\x00\x01" * 2_390_000),
    "frames": lambda: HEAD + b"\x95" * 9 * 1_800_000,
    "lists": lambda: HEAD + b"}(" + b"".join(text(f"{n}") + b"]K\x01a" for n in range(262_000)) + b"u",
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_memory_of_the_index_reader_is_bounded(name, tmp_path):
    """Measured by the system, in a process that has no other child; read or refused."""
    path = tmp_path / "theirs.pkl"
    path.write_bytes(WORST[name]())
    code = """
import json, pathlib, resource, sys
from registry.artifact.foreign_file import opened
from registry.artifact.index_pickles import index_lists
from registry.errors import UnsafeFormatError
try:
    with opened(pathlib.Path(sys.argv[1])) as file:
        for _ in index_lists(file):
            pass
    said = "read"
except UnsafeFormatError as error:
    said = error.message
told = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([said, told.ru_maxrss, told.ru_utime]))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          check=True, cwd=root)  # fmt: skip
    said, kilobytes, seconds = json.loads(done.stdout)
    assert said == "read" or "nothing of it was executed." in said
    assert (kilobytes if sys.platform == "darwin" else kilobytes * 1024) < ROOM
    assert seconds < 20
