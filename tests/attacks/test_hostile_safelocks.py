"""Files that look like official ``.safelock`` ones and want more: refused, and nothing of them is run.

Each is written into a file and imported as a user would. A canary file and variable would show that
something ran; the memory and the time of the process that read it are bounded.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.refusals import everything_under, refusal
from support.safelocks import NAME, a_lock, pickle_of, safelock, saved, stored_zip, vectors

from registry.errors import SchemaViolationError, UnsafeFormatError
from registry.workflows.import_foreign import import_file

LOCK = pickle_of(a_lock())
HEAD, END = b"\x80\x02", b"."
ROOM = 256 << 20
"""Most bytes that the process which reads the worst of them may hold."""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(module: str, name: str, *arguments: str) -> bytes:
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR"


def encoded(data: str) -> bytes:
    return b"c_codecs\nencode\n" + text(data) + text("latin1") + b"\x86R"


def encoded_again(times: int) -> bytes:
    """Return a megabyte of text, which becomes bytes ``times`` times."""
    begin = (
        HEAD + b"c_codecs\nencode\nq\x00" + text("x" * (1 << 20)) + text("latin1") + b"\x86q\x01"
    )
    return begin + b"](" + b"h\x00h\x01R" * times + b"e"


RECONSTRUCTED = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + encoded("b") + b"\x87R"
)
HALF = b"cnumpy\ndtype\n" + text("f2") + b"\x89\x88\x87R(K\x03" + text("<") + (
    b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
)  # fmt: skip


def state_of(shape: bytes, data: str) -> bytes:
    return b"(K\x01" + shape + HALF + b"\x89" + encoded(data) + b"tb"


def filled(shape: bytes, data: str) -> bytes:
    return RECONSTRUCTED + state_of(shape, data)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Return a function that imports bytes, and checks that they are refused and nothing ran."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))

    def check(data: bytes, *said: str, kind=UnsafeFormatError):
        path = tmp_path / "theirs.safelock"
        path.write_bytes(data)
        seen, variables = everything_under(tmp_path), dict(os.environ)
        error = refusal(kind, lambda: import_file(path), *said)
        assert "nothing of it was executed." in error.message
        assert error.message.startswith("theirs.safelock: expected ")
        assert everything_under(tmp_path) == seen
        assert not canary.exists()
        assert dict(os.environ) == variables
        return error

    return check


def test_the_file_that_all_of_these_are_made_from_is_read(tmp_path):
    path = tmp_path / "honest.safelock"
    for data in (safelock(a_lock()), stored_zip(LOCK)):
        path.write_bytes(data)
        assert import_file(path).contents["head_count"] == 2


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"), ("os", "system"), ("builtins", "eval"), ("__builtin__", "eval"),
        ("builtins", "getattr"), ("subprocess", "Popen"), ("numpy", "load"), ("copyreg", "_reconstructor"),
        ("_codecs", "decode"), ("codecs", "encode"), ("torch._utils", "_rebuild_tensor_v2"),
        ("numpy.core.multiarray", "ndarray.tofile"), ("numpy.core", "multiarray.scalar"),
        ("numpy.core.multiarray scalar", "x"), ("registry.workflows.load", "load_protected"),
    ],
)  # fmt: skip
def test_sixth_global(refused, module, name):
    code = call(module, name, "touch $CANARY")
    said = f"expected the globals of NumPy arrays, got {f'{module} {name}'!r}"
    refused(stored_zip(HEAD + code + END), said)
    refused(stored_zip(LOCK[:-1] + b"0" + code + END), "expected opcodes of plain data, got POP")


def test_object_that_reduces_to_a_command(refused):
    class Command:
        def __reduce__(self):
            return os.system, ("touch $CANARY",)

    for protocol in range(6):
        refused(stored_zip(pickle.dumps({NAME.format(0): [Command()]}, protocol)), "expected")


def test_global_that_the_stack_puts_together(refused):
    code = text("posix") + text("system") + b"\x93" + text("touch $CANARY") + b"\x85R"
    refused(stored_zip(HEAD + code + END), "expected opcodes of plain data, got STACK_GLOBAL")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"(S'touch $CANARY'\niposix\nsystem\n", "STRING"), (b"(iposix\nsystem\n", "INST"),
        (b"(cnumpy\nndarray\no", "OBJ"), (b"cnumpy\ndtype\n)\x81", "EMPTY_TUPLE"),
        (b"\x82\x01", "EXT1"), (b"\x83\x01\x00", "EXT2"), (b"\x84\x01\x00\x00\x00", "EXT4"),
        (b"Pid\n", "PERSID"), (text("id") + b"Q", "BINPERSID"), (b"I1\n", "INT"), (b"L1L\n", "LONG"),
        (b"F1\n", "FLOAT"), (b"p0\n", "PUT"), (b"g0\n", "GET"), (b"]2", "DUP"), (b"](1", "POP_MARK"),
        (b"\x95" + struct.pack("<Q", 1 << 62), "FRAME"), (b"\x8d" + struct.pack("<Q", 1 << 62), "whole"),
        (b"\x8b" + struct.pack("<I", 1 << 31), "whole"), (b"\x97", "NEXT_BUFFER"), (b"\xff", "whole"),
    ],
)  # fmt: skip
def test_opcode_that_plain_data_does_not_need(refused, code, name):
    refused(stored_zip(HEAD + code + END), name)


def test_persistent_id(refused):
    refused(stored_zip(LOCK[:2] + text("storage") + b"Q" + LOCK[2:]),
            "expected opcodes of plain data, got BINPERSID at byte")  # fmt: skip


def test_memo_index_of_two_thousand_million(refused):
    bomb = HEAD + b"]r" + struct.pack("<I", 0x7FFFFFFF) + END
    refused(stored_zip(bomb), "expected memo index 0, got 2,147,483,647")
    refused(stored_zip(HEAD + b"]q\x00j" + struct.pack("<I", 0xFFFFFFFF) + b"a" + END),
            "expected a memo index below 1, got 4,294,967,295")  # fmt: skip


def doubling(times: int) -> bytes:
    """Return lists in lists, each twice in the next: few bytes that say 2 ** times things."""
    code = HEAD + b"]q\x00"
    for number in range(times):
        code += (
            b"](" + b"h" + bytes([number]) + b"h" + bytes([number]) + b"eq" + bytes([number + 1])
        )
    return code


def test_memo_bomb(refused):
    lists = doubling(60)
    refused(stored_zip(lists + END), "expected a dict of 1 to 1000 layers, got a list of 2")
    inside = HEAD + b"}" + text(NAME.format(0)) + b"](]q\x00"
    for number in range(60):
        inside += b"](h" + bytes([number]) + b"h" + bytes([number]) + b"eq" + bytes([number + 1])
    refused(stored_zip(inside + b"es" + END), "expected (head, direction, sigma), got a list of 0")


def test_array_that_is_named_again_and_again(refused):
    """One megabyte, in 4,096 heads: four gigabytes of answer."""
    rows = [(np.int64(1), np.zeros(1 << 19, np.float16), np.float16(1))] * 4096
    refused(
        stored_zip(pickle_of({NAME.format(0): rows})), "expected at most 16,777,216 bytes of arrays"
    )
    many = {NAME.format(layer): rows[:1] for layer in range(20)}
    refused(stored_zip(pickle_of(many)), "expected at most 16,777,216 bytes of arrays, got more")


def test_text_that_is_encoded_again_and_again(refused):
    """A megabyte of text that becomes bytes a thousand times: the limit of memory ends it."""
    refused(stored_zip(encoded_again(1000) + END), "expected to need less than 268,435,456 bytes")


def test_shape_of_more_than_its_bytes(refused):
    for claimed, said in ((2**31 - 1, "expected 4,294,967,294 bytes of f2 [2147483647], got 32"),
                          (17, "expected 34 bytes of f2 [17], got 32"),
                          (-1, "expected a shape, got (-1,)")):  # fmt: skip
        other = LOCK.replace(b"(K\x01K\x10\x85", b"(K\x01J" + struct.pack("<i", claimed) + b"\x85")
        assert other != LOCK
        refused(stored_zip(other), said)
    empty = filled(b"K\x00J\xff\xff\xff\x7f\x86", "")
    refused(stored_zip(HEAD + empty + END), "expected a dict of 1 to 1000 layers, got a Array")
    deep = filled(b"(" + b"K\x01" * 9 + b"t", "ab")
    refused(stored_zip(HEAD + deep + END), "expected a shape, got (1, 1, 1, 1, 1, 1, 1, 1, 1)")


def test_oversized_array(refused):
    value = {NAME.format(0): [(np.int64(1), vectors(1, 8192)[0], np.float16(1))]}
    refused(safelock(value), "at most 4096 directions of 1 to 4096 values, got 1 of 8192",
            kind=SchemaViolationError)  # fmt: skip
    rows = [(np.int64(number), vectors(1, 2)[0], np.float16(1)) for number in range(5000)]
    refused(
        safelock({NAME.format(0): rows}),
        "expected lists of 4096 heads at most, got a list of 5,000",
    )


def test_head_named_twice(refused):
    value = a_lock(((3, 5), (3, 5), (2, 1)))
    refused(safelock(value), "head 3:5 appears 2 times", kind=SchemaViolationError)


def test_direction_that_is_not_finite(refused):
    for bad in (np.nan, np.inf):
        direction = vectors(1, 16)[0]
        direction[7] = bad
        value = {NAME.format(4): [(np.int64(2), direction, np.float16(1))]}
        refused(safelock(value), "head 4:2: expected a direction of finite values, got NaN or infinity",
                kind=SchemaViolationError)  # fmt: skip


def test_state_that_changes_what_stands_in_for_numpy(refused):
    """BUILD sets attributes of whatever has no __setstate__ of its own: ours all have one."""
    state = b"N}" + text("run") + b"Ns\x86b"
    for name in (b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"):
        refused(stored_zip(HEAD + name + state + END), "the state of an array, got one of a global")
    for thing in (b"]", b"}", text("x"), b"K\x01", b"N"):
        refused(stored_zip(HEAD + thing + state + END), "expected a pickle of plain data, got")


def test_array_that_is_filled_twice_or_never(refused):
    once = filled(b"K\x01\x85", "ab")
    twice = once + state_of(b"K\x01\x85", "cd")
    refused(stored_zip(HEAD + twice + END), "expected an array that is filled once")
    never = b"}" + text(NAME.format(0)) + b"](" + RECONSTRUCTED * 3 + b"tas"
    refused(stored_zip(HEAD + never + END), "expected an array with values, got an empty one")
    refused(stored_zip(HEAD + RECONSTRUCTED.replace(b"K\x00\x85", b"K\x05\x85") + END),
            "expected an empty numpy.ndarray to fill, got another start")  # fmt: skip
    refused(stored_zip(HEAD + b"cnumpy\nndarray\nK\x05\x85R" + END),
            "expected numpy.ndarray as an argument alone, got a call")  # fmt: skip


def test_dtype_that_is_none_of_numbers(refused):
    for name in ("O", "O8", "V8", "U1", "f2,f2", "x" * 500):
        other = LOCK.replace(text("f2"), text(name))
        refused(stored_zip(other), "expected a dtype out of f2, f4, f8, i2, i4, i8, got")
    refused(
        stored_zip(LOCK.replace(text("<"), text(">"))), "expected a little-endian dtype, got state"
    )


def test_encoding_other_than_latin1(refused):
    for name in ("utf-7", "punycode", "zlib_codec", "idna", "rot13", "latin-1"):
        other = LOCK.replace(text("latin1"), text(name))
        refused(stored_zip(other), f"expected bytes as latin1, got {name!r}")


def test_two_pickles_in_one(refused):
    refused(stored_zip(LOCK + HEAD + call("posix", "system", "touch $CANARY") + END),
            "expected the pickle's end at byte")  # fmt: skip


def test_bytes_behind_the_pickle(refused):
    refused(
        stored_zip(LOCK + b"\x00"), f"expected the pickle's end at byte {len(LOCK) + 1:,}, got it"
    )


def test_pickle_that_is_cut_off(refused):
    for length in (0, 1, 2, 50, len(LOCK) // 2, len(LOCK) - 1):
        refused(stored_zip(LOCK[:length]), "expected")


def test_nesting_that_ends_the_reader(refused):
    """A tuple in 900,000 tuples, hashed as a key, needs more stack than there is."""
    deep = HEAD + b"}N" + b"\x85" * 900_000 + b"Ns" + END
    refused(stored_zip(deep), "expected")


def test_more_opcodes_than_a_lock_has(refused):
    refused(
        stored_zip(HEAD + b"]" * 1_000_001 + END), "expected opcodes of plain data, got EMPTY_LIST"
    )
    refused(stored_zip(HEAD + b"N" * (15 << 20) + END), "expected opcodes of plain data, got NONE")


def test_raw_pickle_without_a_zip(refused):
    for data in (
        LOCK,
        b"",
        b"PK",
        b"PK\3\4" + b"\0" * 40,
        HEAD + call("posix", "system", "id") + END,
    ):
        refused(data, "expected a zip as torch.save writes it, got other bytes")


# The container


def test_zip_bomb(refused):
    bomb = stored_zip(b"\x00" * (1 << 28), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    refused(bomb, "expected members that are stored, got 'Tiny_Model/data.pkl' compressed")


@pytest.mark.parametrize(
    "name",
    ["../data.pkl", "/etc/passwd", "Tiny_Model/../../x", "Tiny_Model\\x", "C:/x", "Tiny_Model/",
     "Tiny_Model/data/0", "Tiny_Model/code/x.py", "Other/version", "Tiny_Model/constants.pkl"],
)  # fmt: skip
def test_zip_with_other_names_than_those_of_a_lock(refused, name):
    refused(stored_zip(LOCK, more={name: b"x"}), "expected")


def test_zip_whose_only_folder_is_a_traversal(refused):
    for root in ("..", ".", ""):
        refused(stored_zip(LOCK, root=root), "in one folder of the zip, got")


def test_member_that_is_encrypted(refused):
    data = bytearray(stored_zip(LOCK))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    refused(bytes(data), "expected members without encryption, got 'Tiny_Model/data.pkl' with it")


def test_two_pickles_of_one_name(refused):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("Tiny_Model/data.pkl", LOCK)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("Tiny_Model/data.pkl", HEAD + call("posix", "system", "id") + END)
    refused(
        buffer.getvalue(), "expected each member of the zip once, got 'Tiny_Model/data.pkl' twice"
    )


def test_zip_that_two_readers_understand_differently(refused):
    data = stored_zip(LOCK)
    directory = data.index(b"PK\1\2")
    name = directory + 46
    cases = {
        b"prefix" + data: "expected a zip as torch.save writes it, got other bytes",
        data + b"more": "expected a zip as torch.save writes it, got other bytes",
        data[:-2] + b"\4\0note": "expected a zip as torch.save writes it, got other bytes",
        data[:name] + b"X" + data[name + 1 :]: "where the zip's directory says, got another",
        stored_zip(LOCK, more={"Other/x": b""}): "expected one folder in the zip, got 2",
        data[:30] + b"X" + data[31:]: "where the zip's directory says, got another",
        data[:60] + b"X" + data[61:]: "expected 'Tiny_Model/data.pkl' whole, got other bytes",
        data[:directory] + b"hidden" + data[directory:]: "expected the zip's directory at its end",
        stored_zip(b"", more={f"{n}": b"" for n in range(1000)}): "expected at most 6 members in the zip",
        stored_zip(LOCK, more={"Tiny_Model/byteorder": b"big"}): "expected b'little' as byteorder, got b'big'",
        stored_zip(LOCK, more={"Tiny_Model/version": b"4\n"}): "as version, got b'4",
        stored_zip(LOCK, more={"Tiny_Model/.data/serialization_id": b"1" * 65}): "at most 64 bytes of",
    }  # fmt: skip
    for bad, said in cases.items():
        refused(bad, said)
    wide = saved(a_lock())
    for offset in (24, 32, 40, 48, 64):  # of both counts, the size, the place, and the locator
        at = wide.index(b"PK\6\6") + offset
        other = wide[:at] + bytes([wide[at] ^ 1]) + wide[at + 1 :]
        refused(other, "expected one directory in the zip, got two that differ")


def test_one_byte_changed_anywhere(refused, tmp_path):
    """Refused with one of our errors, or read as the same lock: never another, never another error."""
    honest = safelock(a_lock())
    path = tmp_path / "one.safelock"
    path.write_bytes(honest)
    same = import_file(path).payload
    random = np.random.default_rng(0)
    for position in random.choice(len(honest), 60, replace=False):
        path.write_bytes(
            honest[:position] + bytes([honest[position] ^ 0x40]) + honest[position + 1 :]
        )
        try:
            made = import_file(path)
        except (UnsafeFormatError, SchemaViolationError):
            continue
        assert made.payload == same


WORST = {
    "doubling": lambda: doubling(250),
    "lists": lambda: HEAD + b"]" * 999_000,
    "dicts": lambda: HEAD + b"(" + b"}" * 999_000 + b"t",
    "encodings": lambda: encoded_again(100_000),
    "texts": lambda: HEAD + b"]" + (text("é" * 100) + b"a") * 75_000,
    "one text": lambda: HEAD + text("é" * (7 << 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_memory_of_the_reader_is_bounded(name, tmp_path):
    """Measured by the system, in a process that has no other child."""
    path = tmp_path / "theirs.pkl"
    path.write_bytes(WORST[name]() + END)
    code = """
import json, pathlib, resource, sys
from registry.artifact.pickles import unpickle
from registry.errors import UnsafeFormatError
try:
    unpickle(pathlib.Path(sys.argv[1]).read_bytes(), "safelock", what="x")
except UnsafeFormatError as error:
    told = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([error.message, told.ru_maxrss, told.ru_utime]))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          check=True, cwd=root)  # fmt: skip
    message, kilobytes, seconds = json.loads(done.stdout)
    assert "nothing of it was executed." in message
    room = kilobytes if sys.platform == "darwin" else kilobytes * 1024
    assert room < ROOM
    assert seconds < 11
