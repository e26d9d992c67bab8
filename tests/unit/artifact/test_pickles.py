"""Pickles of others are read as data in a process with limits, and what it answers is not trusted."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.refusals import refusal
from support.safelocks import NAME, a_lock, pickle_of, safelock, saved, stored_zip

from registry.artifact import pickles
from registry.artifact.pickles import unpickle, unpickle_zip
from registry.errors import HostError, UnsafeFormatError

CHILD = Path(pickles.__file__).with_name("_pickle_child.py")


def told(value):
    return {"dtype": value.dtype.str[1:], "shape": list(value.shape), "hex": value.tobytes().hex()}


@pytest.mark.parametrize("old", [True, False])
def test_the_answer_holds_every_value_bit_by_bit(old):
    value = a_lock()
    answer = unpickle(pickle_of(value, old=old), "safelock", what="x")
    assert answer == [
        [name, [[told(item) for item in row] for row in rows]] for name, rows in value.items()
    ]


def test_the_zip_of_torch_save_and_the_one_of_the_official_files_say_the_same():
    value = a_lock()
    new, old = (
        unpickle_zip(data, "safelock", what="x") for data in (saved(value), safelock(value))
    )
    assert new == old


def test_numbers_and_texts_beside_arrays_are_no_lock():
    data = pickle_of({NAME.format(0): [(3, 0.5, "x")]})
    refusal(
        UnsafeFormatError,
        lambda: unpickle(data, "safelock", what="x"),
        "x: expected opcodes of plain data, got BINFLOAT at byte",
        "nothing of it was executed.",
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "expected a dict of 1 to 1000 layers, got a list of 0"),
        ({}, "expected a dict of 1 to 1000 layers, got a dict of 0"),
        ({1: []}, "expected the name of a layer, got a int"),
        ({"x": {}}, "expected lists of 4096 heads at most, got a dict of 0"),
        ({"x": [(np.int64(1), np.float16(1))]}, "expected (head, direction, sigma), got a tuple of 2"),
        ({"x": [[np.int64(1)] * 3]}, "expected (head, direction, sigma), got a list of 3"),
        ({"x": [(np.int64(1), np.uint8(1), None)]}, "expected a dtype out of"),
        ({"x": [(np.int64(1), np.zeros((2, 2), "f2", order="F"), None)]}, "a row-major array"),
        ({"x": [(np.int64(1), np.zeros(2, ">f2"), None)]}, "expected a little-endian dtype"),
    ],
)  # fmt: skip
def test_other_shapes_than_those_of_a_safelock_are_refused(value, said):
    refusal(UnsafeFormatError, lambda: unpickle(pickle_of(value), "safelock", what="x"), said)


def test_the_limits_are_those_that_are_told_and_no_file_can_be_written(tmp_path):
    code = f"""
import errno, json, resource, runpy
child = runpy.run_path({str(CHILD)!r})
child["limit"]()
print(json.dumps([resource.getrlimit(getattr(resource, "RLIMIT_" + name))
                  for name in ("AS", "CPU", "FSIZE", "CORE", "NOFILE")]))
with open({str(tmp_path / "canary")!r}, "wb", buffering=0) as file:
    try:
        file.write(b"x")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True,
                          check=True)  # fmt: skip
    limits, *rest = done.stdout.splitlines()
    assert json.loads(limits) == [[most, most] for most in (256 << 20, 10, 0, 0, 16)]
    assert rest == ["EFBIG"]
    assert (tmp_path / "canary").read_bytes() == b""


def test_each_of_two_walls_refuses_a_global_alone():
    """Looking through comes first; the unpickler itself finds nothing else either."""
    child = runpy.run_path(str(CHILD))
    command = b"\x80\x02cos\nsystem\n(X\x05\x00\x00\x00falsetR."
    with pytest.raises(child["RefusedError"], match="got 'os system'"):
        child["look_through"](command)
    with pytest.raises(child["RefusedError"], match=r"got os\.system"):
        child["Unpickler"](io.BytesIO(command)).load()
    with pytest.raises(child["RefusedError"], match="expected no persistent ids, got 'id'"):
        child["Unpickler"](io.BytesIO(b"Pid\n.")).load()


def test_the_child_is_a_script_by_itself():
    code = f"import runpy, sys; runpy.run_path({str(CHILD)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True,
                          check=True, cwd="/")  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"registry", "numpy", "site", "torch", "subprocess", "socket", "ctypes"}


def child_that(monkeypatch, tmp_path, code):
    path = tmp_path / "child.py"
    path.write_text(code)
    monkeypatch.setattr(pickles, "_CHILD", path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "expected an answer about it, its reader ended with status 0"),
        ("import os; os.abort()", "its reader ended with status -6"),
        ("raise SystemExit(7)", "its reader ended with status 7"),
        ("print('[]')", "expected an answer about it, got another"),
        ("print('{\"value\": 1, \"value\": 2}')", "appears twice"),
        ("print('{\"value\": 1}'); raise SystemExit(1)", "expected an answer about it, got another"),
        ("print('{\"value\": NaN}')", "not strict JSON"),
        ("print('{\"refused\": \"\\\\u001b[2J\\\\n  hint\"}')", r"x: \x1b[2J"),
        ("while True: print('x' * 65536)", "expected at most 67,108,864 bytes"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(monkeypatch, tmp_path, code, said):
    child_that(monkeypatch, tmp_path, code)
    refusal(UnsafeFormatError, lambda: unpickle(b"", "safelock", what="x"), said)


def runs(pid):
    """Return whether a process runs; one that nobody has asked about yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are read in /proc")
def test_a_child_that_does_not_end_is_ended_with_what_it_started(monkeypatch, tmp_path):
    note = tmp_path / "pid"
    child_that(
        monkeypatch,
        tmp_path,
        f"import os\nif os.fork() == 0: open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        "while True: pass",
    )
    monkeypatch.setattr(pickles, "WALL_S", 1.0)
    refusal(
        UnsafeFormatError,
        lambda: unpickle(b"", "safelock", what="x"),
        "x: expected to be done in 1 s, got no answer; nothing of it was executed.",
    )
    deadline = time.monotonic() + 10
    while runs(int(note.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(int(note.read_text()))


def test_the_child_gets_nothing_of_our_environment_and_stands_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    child_that(
        monkeypatch, tmp_path,
        "import json, os, sys\n"
        "print(json.dumps({'value': [dict(os.environ), os.getcwd(), sys.flags.isolated]}))",
    )  # fmt: skip
    seen, place, isolated = unpickle(b"", "safelock", what="x")
    assert "HF_TOKEN" not in seen
    assert (place, isolated) == ("/", 1)


def test_a_system_without_limits_reads_nothing(monkeypatch, tmp_path):
    child_that(
        monkeypatch, tmp_path, 'print(\'{"unlimited": "ValueError: no"}\'); raise SystemExit(4)'
    )
    said = "expected a system that limits the memory of a process, got"
    refusal(HostError, lambda: unpickle(b"", "safelock", what="x"), f"{said} ValueError: no.")
    monkeypatch.setattr(os, "name", "nt")
    refusal(HostError, lambda: unpickle(b"", "safelock", what="x"), said)


def test_members_that_newer_releases_of_torch_add_are_left_alone():
    more = {"Tiny_Model/.format_version": b"1", "Tiny_Model/.storage_alignment": b"64"}
    assert unpickle_zip(stored_zip(pickle_of(a_lock()), more=more), "safelock", what="x")
