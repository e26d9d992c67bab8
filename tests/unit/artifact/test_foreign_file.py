"""A file of somebody else is read once, and what was hashed is what was read."""

from __future__ import annotations

import hashlib

import pytest
from support.refusals import refusal

from registry.artifact.foreign_file import FILE_LIMIT, opened
from registry.digest import digest_bytes
from registry.errors import ArtifactNotFoundError, UnsafeFormatError


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (2 << 20) + 5])
def test_a_file_is_what_was_read_of_it(tmp_path, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path = tmp_path / "their\x1b.pkl"
    path.write_bytes(data)
    with opened(path) as file:
        assert file.whole() == data
        source = file.source("bytes")
    assert source.name == r"their\x1b.pkl"
    assert (source.size, source.format) == (size, "bytes")
    assert source.sha256 == hashlib.sha256(data).hexdigest()
    assert source.digest == digest_bytes(data)


def test_a_file_that_was_not_read_is_told_nothing_of(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with opened(tmp_path / "x") as file, pytest.raises(RuntimeError):
        file.source("bytes")


def test_a_file_that_is_not_there_is_told(tmp_path):
    refusal(
        ArtifactNotFoundError,
        lambda: opened(tmp_path / "x.safelock").__enter__(),
        f"expected a file to import at {tmp_path}/x.safelock, found none.",
    )


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.safelock"
    with path.open("wb") as file:
        file.truncate(FILE_LIMIT + 1)
    with opened(path) as file:
        refusal(
            UnsafeFormatError,
            file.whole,
            "x.safelock: expected at most 16,777,216 bytes, got 16,777,217.",
        )


@pytest.mark.parametrize(("size", "got"), [(9, "9"), (11, "more"), (3 << 20, "more")])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, size, got):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"0123456789")
    with opened(path) as file:
        with path.open("r+b") as theirs:
            theirs.truncate(size)
        said = f"x.pkl: expected 10 bytes as when it was opened, got {got}."
        refusal(UnsafeFormatError, file.whole, said)
        with pytest.raises(RuntimeError):
            file.source("bytes")
