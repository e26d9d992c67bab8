from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from registry.digest import digest_bytes
from registry.errors import CorruptStoreError, DigestMismatchError, StoreError
from registry.store.blobs import BlobStore, User

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_bytes_come_back_from_a_file_named_by_their_digest(store: BlobStore) -> None:
    digest = store.put(b"hello")
    value = digest.removeprefix("blake3:")
    assert store.path(digest) == store.folder / value[:2] / value
    assert store.get(digest, size=5, what="x") == b"hello"
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o444


def test_putting_again_leaves_the_file_alone(store: BlobStore) -> None:
    digest = store.put(b"hello")
    before = store.path(digest).stat()
    assert store.put(b"hello") == digest
    assert store.path(digest).stat().st_ino == before.st_ino


def test_a_changed_file_is_refused_and_put_back_by_putting_again(store: BlobStore) -> None:
    digest = store.put(b"hello")
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"hellO")
    with pytest.raises(DigestMismatchError, match=f"expected {digest}") as caught:
        store.get(digest, size=5, what="lock@1 tensors")
    assert "safelatch extract" in str(caught.value.hint)
    store.put(b"hello")
    assert store.get(digest, size=5, what="x") == b"hello"


@pytest.mark.parametrize("data", [b"hell", b"hello!", b"", b"hello" * 1000])
def test_a_file_of_another_size_is_refused(store: BlobStore, data: bytes) -> None:
    digest = store.put(b"hello")
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(data)
    with pytest.raises(DigestMismatchError):
        store.get(digest, size=5, what="x")


def test_a_grown_file_is_not_read_whole(store: BlobStore) -> None:
    digest = store.put(b"hello")
    store.path(digest).chmod(0o644)
    with store.path(digest).open("r+b") as stream:
        stream.truncate(1 << 40)  # a sparse terabyte
    with pytest.raises(DigestMismatchError, match=r"\(6 bytes\)"):
        store.get(digest, size=5, what="x")


def test_a_missing_file_says_how_to_get_it_again(store: BlobStore) -> None:
    digest = digest_bytes(b"never put")
    with pytest.raises(CorruptStoreError, match="found none") as caught:
        store.get(digest, size=9, what="x")
    assert "safelatch publish" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["../../etc/passwd", "blake3:../x", "blake3:" + "A" * 64, ""])
def test_only_a_digest_becomes_a_path(store: BlobStore, text: str) -> None:
    with pytest.raises(DigestMismatchError, match="expected blake3:"):
        store.get(text, size=1, what="x")


@pytest.mark.parametrize("call", ["chmod", "fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full disk", "interrupt"],
)
def test_a_write_that_is_ended_leaves_no_file(
    store: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: BaseException,
    told: type[BaseException],
) -> None:
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, call, end)
    with pytest.raises(told) as caught:
        store.put(b"hello")
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    if told is StoreError:
        assert "No space left on device" in str(caught.value)
        assert "Make room" in str(caught.value)


def test_the_name_of_what_is_there_is_made_to_last(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"hello")  # by a process that was killed before it synced the folder, say
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.put(b"hello")
    assert len(synced) == 1


def test_a_folder_whose_disk_fails_is_no_folder_that_may_not_be_written(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store.put(b"hello")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        store.put(b"hello")


def test_without_room_for_its_note_a_registry_takes_no_files_of_others(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.put(b"hello")
    second = BlobStore(store.folder, User("2" * 32, "../second.db"))
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(StoreError, match="No space left on device"):
        second.put(b"hello")  # its file is there; a collector would not know whose it is


def test_a_reader_never_sees_half_a_file(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.path(digest_bytes(b"hello"))
    seen: list[bool] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(path.exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    store.put(b"hello")
    # Both new folders and the file are durable before it has its name, the name after.
    assert seen == [False, False, False, True]


def test_a_path_that_cannot_be_a_folder_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(StoreError, match="expected to write"):
        BlobStore(tmp_path / "blobs").put(b"hello")
    with pytest.raises(StoreError, match="expected to read"):
        BlobStore(tmp_path / "blobs").get(digest_bytes(b"hello"), size=5, what="x")
