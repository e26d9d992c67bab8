from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from registry import plainfile
from registry.errors import HostError, UnsafeFormatError
from registry.plainfile import open_plain, read_plain


def read(path, limit=10, **options):
    return read_plain(path, limit=limit, hint="get it again", **options)


def test_a_file_of_at_most_the_limit_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read(tmp_path / "x") == b"0123456789"
    with pytest.raises(UnsafeFormatError, match="x: expected at most 9 bytes, got 10"):
        read(tmp_path / "x", limit=9)
    (tmp_path / "x").write_bytes(b"")
    assert read(tmp_path / "x", limit=0) == b""


def test_nothing_there_is_left_to_the_caller(tmp_path):
    for function in (read, lambda path: open_plain(path, hint="h")):
        with pytest.raises(FileNotFoundError):
            function(tmp_path / "x")


def test_a_link_is_followed_unless_it_may_not_be(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to("x")
    assert read(tmp_path / "link") == b"x"
    with pytest.raises(UnsafeFormatError, match="expected a readable file") as caught:
        read(tmp_path / "link", follow_links=False)
    assert caught.value.hint == "get it again"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_file_with_more_bytes_than_its_size_is_refused():
    with pytest.raises(
        UnsafeFormatError, match=r"expected 0 bytes as when it was opened, got more"
    ):
        read(Path("/proc/self/status"))


def test_a_file_that_does_not_fit_into_memory_is_about_the_machine(tmp_path, monkeypatch):
    class Full(io.BufferedReader):
        def read(self, size=-1):
            raise MemoryError

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(plainfile.io, "BufferedReader", Full)
    with pytest.raises(HostError, match="expected memory for 1 bytes"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, HostError),
        (errno.EACCES, HostError),
        (errno.EMFILE, HostError),
        (errno.ELOOP, UnsafeFormatError),
        (errno.ENXIO, UnsafeFormatError),
    ],
)
@pytest.mark.parametrize("call", ["open", "read"])
def test_a_file_that_cannot_be_read_says_nothing_about_its_content(
    tmp_path, monkeypatch, number, kind, call
):
    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    (tmp_path / "x").write_bytes(b"x")
    if call == "open":
        monkeypatch.setattr(os, "open", fail)
    else:
        failing = type("Failing", (io.BufferedReader,), {"read": fail})
        monkeypatch.setattr(plainfile.io, "BufferedReader", failing)
    with pytest.raises(
        kind, match=f"expected a readable file, got: {os.strerror(number)}"
    ) as caught:
        read(tmp_path / "x")
    assert (caught.value.hint == "get it again") == (kind is UnsafeFormatError)
