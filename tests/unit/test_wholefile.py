from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from registry import wholefile
from registry.wholefile import INCOMING, make_folder, sync_folder, write_file, write_folder

DAY_S = 24 * 3600


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def order(tmp_path, monkeypatch):
    """What is synced and renamed, in order; hidden names without their digits."""
    done = []

    def shown(path):
        place = str(Path(path).relative_to(tmp_path))
        return "/".join(
            INCOMING if part.startswith(INCOMING) else part for part in place.split("/")
        )

    def noting(name, real):
        def call(*args):
            places = [
                shown(Path(f"/proc/self/fd/{arg}").readlink() if isinstance(arg, int) else arg)
                for arg in args
            ]
            done.append(f"{name} {' '.join(places)}")
            return real(*args)

        return call

    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    return done


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
def test_bytes_are_on_the_disk_before_they_have_a_name_and_the_name_after(tmp_path, order):
    write_file(tmp_path / "x", b"hello")
    assert order == [f"fsync {INCOMING}", f"replace {INCOMING} x", "fsync ."]
    assert (tmp_path / "x").read_bytes() == b"hello"
    assert names(tmp_path) == ["x"]


@needs_proc
def test_a_folder_is_on_the_disk_before_it_has_a_name_and_the_name_after(tmp_path, order):
    write_folder(tmp_path / "new", {"a": b"1", "b": b"2"})
    assert order == [
        f"fsync {INCOMING}/a", f"fsync {INCOMING}/b", f"fsync {INCOMING}",
        f"rename {INCOMING} new", "fsync .",
    ]  # fmt: skip
    assert names(tmp_path) == ["new", "new/a", "new/b"]


def test_a_file_is_written_in_pieces_and_a_name_may_be_below_another(tmp_path):
    pieces = (bytes([65 + number]) * 3 for number in range(3))
    write_folder(tmp_path / "new", {"a": pieces, "b/c": [memoryview(b"xyz")], "b/d": b"2"})
    assert names(tmp_path / "new") == ["a", "b", "b/c", "b/d"]
    assert (tmp_path / "new" / "a").read_bytes() == b"AAABBBCCC"


def test_a_piece_that_cannot_be_made_leaves_nothing(tmp_path):
    def pieces():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "new", {"a": b"1", "b/c": pieces()})
    assert names(tmp_path) == []


@needs_proc
def test_the_folders_below_are_on_the_disk_before_the_name(tmp_path, order):
    write_folder(tmp_path / "new", {"b/c": b"1"})
    assert order[-4:] == [
        f"fsync {INCOMING}", f"fsync {INCOMING}/b", f"rename {INCOMING} new", "fsync .",
    ]  # fmt: skip


@needs_proc
def test_the_names_of_new_folders_are_on_the_disk_too(tmp_path, order):
    make_folder(tmp_path / "a/b")
    assert order == ["fsync .", "fsync a"]
    make_folder(tmp_path / "a/b")
    assert len(order) == 2


def test_what_is_there_is_replaced_and_its_mode_can_be_chosen(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    write_file(tmp_path / "x", b"new", mode=0o444)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o444


def test_an_empty_folder_is_filled_and_a_full_one_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", {"a": b"1"})
    assert names(tmp_path) == ["empty", "empty/a"]
    with pytest.raises(OSError, match=r"not empty|exists"):
        write_folder(tmp_path / "empty", {"b": b"2"})
    assert names(tmp_path) == ["empty", "empty/a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_is_ended_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, call, error
):
    (tmp_path / "x").write_bytes(b"old")

    def refuse(*_args):
        raise error

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(type(error)):
        write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_an_empty_folder_is_still_there_when_it_could_not_be_filled(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()

    def refuse(*_args):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="I/O error"):
        write_folder(tmp_path / "empty", {"a": b"1"})
    assert names(tmp_path) == ["empty"]


def left(folder, name, *, days, is_file=False):
    """Leave what a killed process might have left, and return it."""
    path = folder / name
    if is_file:
        path.write_bytes(b"half a fi")
    else:
        path.mkdir()
        (path / "a").write_bytes(b"half a fi")
    os.utime(path, (0, time.time() - days * DAY_S))
    return path


@pytest.mark.parametrize("is_file", [True, False])
def test_what_killed_processes_left_goes_after_a_day(tmp_path, is_file):
    old = left(tmp_path, f"{INCOMING}{'a' * 16}", days=1.1, is_file=is_file)
    young = left(tmp_path, f"{INCOMING}{'b' * 16}", days=0.9, is_file=is_file)
    write_file(tmp_path / "x", b"x")
    assert (old.exists(), young.exists()) == (False, True)


def test_a_folder_is_written_where_killed_processes_left_theirs(tmp_path):
    old = left(tmp_path, f"{INCOMING}{'a' * 16}", days=2)
    write_folder(tmp_path / "new", {"a": b"1"})
    assert not old.exists()


@pytest.mark.parametrize("name", [".incoming-mail", f"{INCOMING}{'A' * 16}", ".hidden", "folder"])
def test_what_others_call_their_own_is_never_removed(tmp_path, name):
    kept = left(tmp_path, name, days=400)
    write_file(tmp_path / "x", b"x")
    assert (kept / "a").exists()


def test_a_link_that_looks_like_a_leftover_is_removed_and_not_followed(tmp_path):
    mine = left(tmp_path, "mine", days=400)
    link = tmp_path / f"{INCOMING}{'a' * 16}"
    link.symlink_to(mine)
    os.utime(link, (0, 0), follow_symlinks=False)
    write_file(tmp_path / "x", b"x")
    assert not link.is_symlink()
    assert (mine / "a").exists()


def test_a_link_where_it_will_be_written_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    monkeypatch.setattr(wholefile.secrets, "token_hex", lambda _: "0" * 16)
    (tmp_path / f"{INCOMING}{'0' * 16}").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "x", b"x")
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_no_disk_that_fails(
    tmp_path, monkeypatch, number, is_told
):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if is_told:
        with pytest.raises(OSError, match=os.strerror(number)):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
