"""A plain directory as a remote: changed whole or not at all, and nothing in it is believed."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest
from support.directory_workers import commit_and_tag, commit_once, commit_until_killed, processes
from support.refusals import everything_under, refusal
from support.store_permissions import needs_permissions, obeying_permissions

from registry import moment
from registry.digest import canonical_json, digest_bytes, parse_json
from registry.errors import (
    DigestMismatchError,
    ReferenceSyntaxError,
    RemoteError,
    RemoteMovedError,
    UnsafeFormatError,
    UsageError,
)
from registry.reference import Reference
from registry.remote._commit import Commit, commit_id
from registry.remote.contract import Remote, RemoteFile, Snapshot, version_path
from registry.remote.directory import MARKER, DirectoryRemote

FIRST = {"line.json": b"{}", "versions/1.0/manifest.json": b"one"}
PROCESSES = 32
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


@pytest.fixture
def remote(tmp_path: Path) -> DirectoryRemote:
    return DirectoryRemote(tmp_path / "remote")


@pytest.fixture
def first(remote: DirectoryRemote) -> str:
    return remote.commit(FIRST, parent=None, message="1.0")


@pytest.fixture
def folder(remote: DirectoryRemote, first: str) -> Path:
    assert first
    return Path(Reference.parse(remote.url).location)


def contents(remote: Remote, revision: str | None = None) -> dict[str, bytes]:
    found = remote.snapshot(revision)
    return {path: remote.read(found, path, limit=1 << 20) for path in found.files}


def claims(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "history").iterdir())


def tampered(folder: Path, *, signed: bool = True, **changes: object) -> None:
    """Put another commit in place of the first, as somebody does who may write to the folder."""
    place = folder / "history/00000001/claim.json"
    document = {**parse_json(place.read_bytes(), what="", limit=1 << 20), **changes}
    data = canonical_json({key: value for key, value in document.items() if value is not ...})
    place.write_bytes(data)
    if signed:
        under_name = canonical_json({"digest": digest_bytes(data), "number": 1})
        (folder / "commits" / commit_id(data)).write_bytes(under_name)


def listed(path: str) -> dict[str, object]:
    return {path: {"digest": digest_bytes(b"one"), "size": 3}}


# What it is for


def test_what_is_committed_is_read_by_commit_by_tag_and_as_the_newest(remote):
    assert remote.snapshot() is None
    first = remote.commit(FIRST, parent=None, message="1.0")
    remote.tag("v1.0", first)
    second = remote.commit(
        {"line.json": b'{"n":2}', "README.md": b""}, parent=first, message="another"
    )
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert remote.snapshot().commit == second != first
    assert remote.snapshot().files == {
        "README.md": RemoteFile(0), "line.json": RemoteFile(7),
        "versions/1.0/manifest.json": RemoteFile(3),
    }  # fmt: skip
    assert contents(remote) == {**FIRST, "line.json": b'{"n":2}', "README.md": b""}
    assert contents(remote, first) == contents(remote, "v1.0") == FIRST
    assert remote.snapshot("v1.0").commit == first


def test_it_is_a_remote_by_the_contract(remote):
    typed: Remote = remote
    made = typed.commit({version_path("1!2.0+cu12", "x.json"): b"x"}, parent=None, message="m")
    assert typed.snapshot(made).files == {"versions/1!2.0+cu12/x.json": RemoteFile(1)}


@pytest.mark.parametrize("name", ["plain", "with blank", "ünï", "a%20#b?", "-x"])
def test_its_url_leads_back_to_it(tmp_path, name):
    made = DirectoryRemote(tmp_path / name)
    made.commit(FIRST, parent=None, message="m")
    assert Reference.parse(made.url).location == (tmp_path / name).as_posix()
    assert contents(DirectoryRemote(Reference.parse(made.url).location)) == FIRST


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_the_name_of_the_folder_need_not_be_text(tmp_path):
    made = DirectoryRemote(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    made.commit(FIRST, parent=None, message="m")
    assert made.url.endswith("/%FF")
    assert contents(made) == FIRST


def test_a_folder_of_no_path_is_refused():
    refusal(ReferenceSyntaxError, lambda: DirectoryRemote("a\0b"))


def test_looking_writes_nothing_and_the_first_commit_makes_the_folder(tmp_path, remote):
    assert remote.snapshot() is None
    refusal(RemoteError, lambda: remote.snapshot("v1"), "'v1', which is not there")
    refusal(RemoteError, lambda: remote.tag("v1", "0" * 40), "which is not there")
    assert not list(tmp_path.iterdir())
    remote.commit(FIRST, parent=None, message="m")
    before = everything_under(tmp_path)
    contents(remote)
    assert everything_under(tmp_path) == before


def test_the_folder_has_just_these_files(remote, folder, first):
    remote.tag("v1", first)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    objects = {digest_bytes(data).removeprefix("blake3:") for data in FIRST.values()}
    tag = digest_bytes(b"v1").removeprefix("blake3:")[:40]
    assert names == {
        MARKER, "history/00000001/claim.json", f"commits/{first}", f"tags/{tag}/claim.json",
        *(f"objects/{value[:2]}/{value[2:]}" for value in objects),
    }  # fmt: skip
    assert (folder / MARKER).read_bytes() == b'{"schema":"safelatch/remote/v1"}'


def test_the_format_is_what_it_was(remote, monkeypatch):
    """Whoever changes this changes the format: old folders must stay readable."""
    monkeypatch.setattr(moment, "now", lambda: dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc))
    made = remote.commit({"line.json": b"{}"}, parent=None, message="1.0")
    folder = Path(Reference.parse(remote.url).location)
    assert (folder / "history/00000001/claim.json").read_bytes() == (
        b'{"created":"2030-01-01T00:00:00Z","files":{"line.json":{"digest":'
        b'"blake3:' + digest_bytes(b"{}").removeprefix("blake3:").encode() + b'","size":2}},'
        b'"message":"1.0","number":1,"parent":null,"schema":"safelatch/remote-commit/v1"}'
    )
    assert made == "38641ebc56aae77f430c73b15eb3c8f51e2956c9"


def test_every_name_in_it_fits_any_file_system(remote, folder, first):
    remote.tag("CON", first)
    remote.tag("con.", first)
    remote.commit({"versions/AUX/NUL.json": b"x"}, parent=first, message="m")
    for path in folder.rglob("*"):
        assert re.fullmatch(r"[a-z0-9-]+(\.json)?", path.name), path
    assert remote.snapshot("CON").commit == remote.snapshot("con.").commit == first


def test_objects_are_read_only_and_are_written_once(folder, remote, first):
    objects = [path for path in (folder / "objects").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o222 == 0 for path in objects)
    before = everything_under(folder / "objects")
    remote.commit(FIRST, parent=first, message="the same files")
    after = everything_under(folder / "objects")
    assert {path: after[path] for path in map(str, objects)} == {
        path: before[path] for path in map(str, objects)
    }


def test_a_tag_that_is_there_stays_and_case_tells_tags_apart(remote, first):
    second = remote.commit({"x": b"2"}, parent=first, message="m")
    remote.tag("v1", first)
    remote.tag("v1", second)
    remote.tag("V1", second)
    assert remote.snapshot("v1").commit == first
    assert remote.snapshot("V1").commit == second


def test_the_history_is_there_for_whoever_looks(folder, remote, first):
    second = remote.commit({"x": b"2"}, parent=first, message="of two")
    data = (folder / "history/00000002/claim.json").read_bytes()
    found = Commit.from_bytes(data, what="it")
    assert (found.name, found.parent, found.message) == (second, first, "of two")
    assert moment.is_stamp(found.created)


# Compare and swap


@pytest.mark.parametrize("parent", ["0" * 40, None])
def test_a_change_of_what_is_no_longer_the_newest_is_refused(folder, remote, first, parent):
    before = everything_under(folder)
    shown = "no commit" if parent is None else f"commit {parent}"
    error = refusal(
        RemoteMovedError,
        lambda: remote.commit({"x": b"2"}, parent=parent, message="m"),
        f"expected {shown} to be the newest, got commit {first}; nothing was changed.",
    )
    assert error.hint == "Look at what is there now, then run the same again."
    assert everything_under(folder) == before


def test_a_change_of_a_commit_where_there_is_none_is_refused(tmp_path, remote):
    refusal(
        RemoteMovedError,
        lambda: remote.commit(FIRST, parent="0" * 40, message="m"),
        f"expected commit {'0' * 40} to be the newest, got no commit",
    )
    assert not list(tmp_path.iterdir())


def test_of_two_that_look_at_once_the_second_is_refused_and_tells_both(
    folder, remote, first, monkeypatch
):
    """The other comes between the look and the claim."""
    other = DirectoryRemote(folder)
    keep, done = remote._folder.keep, []

    def keep_late(*parts, data):
        if parts[0] == "commits" and not done:
            done.append(other.commit({"x": b"theirs"}, parent=first, message="theirs"))
        keep(*parts, data=data)

    monkeypatch.setattr(remote._folder, "keep", keep_late)
    with pytest.raises(RemoteMovedError) as caught:
        remote.commit({"x": b"ours"}, parent=first, message="ours")
    assert f"expected commit {first} to be the newest, got commit {done[0]}" in str(caught.value)
    assert contents(remote)["x"] == b"theirs"
    assert claims(folder) == ["00000001", "00000002"]


@pytest.mark.parametrize("name", ["rename", "replace"])
def test_what_was_done_and_whose_answer_was_lost_is_done(remote, first, monkeypatch, name):
    """A network drive did it, the answer got lost, and doing it again is refused."""
    move = getattr(Path, name)

    def move_and_say_no(self, target):
        move(self, target)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, name, move_and_say_no)
    made = remote.commit({"x": b"2"}, parent=first, message="m")
    remote.tag("v2", made)
    monkeypatch.undo()
    assert contents(remote) == contents(remote, "v2") == {**FIRST, "x": b"2"}


def test_a_commit_that_lost_its_race_has_no_name(folder, remote, first):
    lost = commit_id(b"lost")
    (folder / "commits" / lost).write_bytes(
        canonical_json({"digest": digest_bytes(b"lost"), "number": 1})
    )
    assert remote.snapshot(first)
    refusal(RemoteError, lambda: remote.snapshot(lost), "which is not there")
    refusal(RemoteError, lambda: remote.tag("v1", lost), "which is not there")


def test_two_commits_of_one_name_are_refused(folder, remote, first, monkeypatch):
    monkeypatch.setattr(moment, "now", lambda: dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc))
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    name = DirectoryRemote(copy).commit({"x": b"2"}, parent=first, message="m")
    (folder / "commits" / name).write_bytes(b"{}")
    refusal(
        RemoteError,
        lambda: remote.commit({"x": b"2"}, parent=first, message="m"),
        "expected one commit of this name, got a second",
    )
    assert remote.snapshot().commit == first


@pytest.mark.timeout(180)
def test_of_thirty_two_processes_with_one_parent_exactly_one_wins(tmp_path):
    remote = DirectoryRemote(tmp_path / "remote")
    with processes(PROCESSES) as run:
        parent = None
        for count in (1, 2, 3):
            ends = run(commit_once, tmp_path / "remote", parent, count)
            won = [said for end, said in ends if end == "won"]
            assert len(won) == 1
            assert remote.snapshot().commit == won[0]
            assert len(remote.snapshot().files) == 1 + count
            for end, said in ends:
                if end == "moved":
                    assert (parent or "no commit") in said
                    assert won[0] in said
            parent = won[0]


@pytest.mark.timeout(180)
def test_thirty_two_processes_that_try_again_all_land_exactly_once(tmp_path):
    with processes(PROCESSES) as run:
        made = run(commit_and_tag, tmp_path / "remote")
    remote = DirectoryRemote(tmp_path / "remote")
    assert len(set(made)) == PROCESSES
    assert claims(tmp_path / "remote") == [f"{n:08d}" for n in range(1, PROCESSES + 1)]
    assert contents(remote) == {
        f"versions/{worker}.0/x.json": str(worker).encode() for worker in range(PROCESSES)
    }
    for worker, commit in enumerate(made):
        assert remote.snapshot(f"{worker}.0").commit == commit
    assert remote.snapshot("the-first").commit in made


@pytest.mark.timeout(180)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children of its own")
def test_who_is_killed_blocks_nobody_and_leaves_nothing_half(tmp_path):
    with processes(PROCESSES) as run:
        made = [commit for commit in run(commit_until_killed, tmp_path / "remote") if commit]
    remote = DirectoryRemote(tmp_path / "remote")
    parents, commit = [], remote.snapshot().commit
    while commit is not None:
        parents.append(commit)
        assert contents(remote, commit)
        commit = remote._history.named(commit).parent
    assert set(made) <= set(parents)
    assert len(parents) == len(set(parents))
    there = contents(remote)
    assert {f"versions/{worker}.0/x.json" for worker in range(1, PROCESSES, 2)} <= there.keys()


# Folders that are something else


def test_a_folder_that_holds_something_else_is_refused_and_never_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "history/00000001").mkdir(parents=True)
    remote, before = DirectoryRemote(tmp_path), everything_under(tmp_path)
    for call in (
        remote.snapshot,
        lambda: remote.snapshot("v1"),
        lambda: remote.commit(FIRST, parent=None, message="m"),
        lambda: remote.tag("v1", "0" * 40),
    ):
        error = refusal(
            UsageError, call,
            f"expected a remote (a folder with {MARKER}) or an empty folder at {tmp_path}, "
            "got history, thesis.txt.",
        )  # fmt: skip
        assert error.hint == f"Name a new folder: {remote.url}/NAME"
    assert everything_under(tmp_path) == before


def test_an_empty_folder_is_an_empty_remote(tmp_path):
    assert DirectoryRemote(tmp_path).snapshot() is None
    DirectoryRemote(tmp_path).commit(FIRST, parent=None, message="m")
    assert contents(DirectoryRemote(tmp_path)) == FIRST


def test_what_a_first_commit_left_that_was_killed_is_an_empty_remote(tmp_path):
    (tmp_path / ".incoming-0123456789abcdef").write_bytes(b"{")
    assert DirectoryRemote(tmp_path).snapshot() is None
    (tmp_path / MARKER).write_bytes(b'{"schema":"safelatch/remote/v1"}')
    assert DirectoryRemote(tmp_path).snapshot() is None
    DirectoryRemote(tmp_path).commit(FIRST, parent=None, message="m")
    assert contents(DirectoryRemote(tmp_path)) == FIRST


def test_a_remote_that_another_process_begins_just_now_is_one(remote, monkeypatch):
    """Its marker comes after it was looked for, and before the folder is listed."""
    other = DirectoryRemote(Reference.parse(remote.url).location)
    names = remote._folder.names

    def names_late(*parts):
        if not parts:
            other.commit(FIRST, parent=None, message="m")
        return names(*parts)

    monkeypatch.setattr(remote._folder, "names", names_late)
    assert contents(remote) == FIRST


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    error = refusal(RemoteError, DirectoryRemote(tmp_path / "file").snapshot, "Not a directory")
    assert error.hint == "Name a folder that is a remote, or a new one."


def test_a_later_format_is_refused(folder, remote, first):
    (folder / MARKER).chmod(0o600)
    (folder / MARKER).write_bytes(b'{"schema":"safelatch/remote/v2"}')
    before = everything_under(folder)
    for call in (remote.snapshot, lambda: remote.commit({"x": b""}, parent=first, message="m")):
        refusal(
            RemoteError, call,
            "expected the format safelatch/remote/v1, got 'safelatch/remote/v2'",
        )  # fmt: skip
    assert everything_under(folder) == before


def test_what_a_system_leaves_in_every_folder_does_not_disturb(folder, remote, first):
    for name in (".DS_Store", "Thumbs.db", "00000001 (conflicted copy)", "00000002~"):
        (folder / "history" / name).write_bytes(b"x")
        (folder / name).write_bytes(b"x")
    assert remote.commit({"x": b""}, parent=first, message="m") == remote.snapshot().commit


# Names


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../x", "a/../x", "/etc/passwd", "a//b", "a/", "/a", "a\\b", "a/..\\b",
        "C:/x", "a\0", "a\n", "a b", ".git/config", "a/.hidden", "ünï", "a..b", "x" * 129,
        "/".join(["x" * 100] * 11), "~root", "-rf", "a\u202eb",
    ],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused_on_both_sides(folder, remote, first, path):
    before = everything_under(folder)
    refusal(
        UsageError,
        lambda: remote.commit({path: b"one"}, parent=first, message="m"),
        "expected paths that fit any file system, got others:",
    )
    assert everything_under(folder) == before
    tampered(folder, files=listed(path))
    refusal(
        RemoteError, remote.snapshot,
        "expected a commit of a directory remote, got another document:",
        "expected names of A-Z a-z 0-9 . _ + ! - between /",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("a/x", "a/X"), ("README.md", "readme.md"), ("A/x", "a/y"), ("a", "a/b"), ("A", "a/b"),
    ],
)  # fmt: skip
def test_paths_that_are_one_file_somewhere_are_refused_on_both_sides(folder, remote, one, two):
    before, newest = everything_under(folder), remote.snapshot().commit
    refusal(
        UsageError,
        lambda: remote.commit({one: b"1", two: b"2"}, parent=newest, message="m"),
        "expected one name where letters have no case, got",
    )
    assert everything_under(folder) == before
    tampered(folder, files={**listed(one), **listed(two)})
    refusal(RemoteError, remote.snapshot, "expected one name where letters have no case, got")


def test_a_path_that_differs_in_case_from_one_that_is_there_is_refused(remote, first):
    refusal(
        UsageError,
        lambda: remote.commit({"LINE.json": b""}, parent=first, message="m"),
        "got 'LINE.json' (file), 'line.json' (file)",
    )


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a\\b", "a\0b", ".x", "a b", "ü", "0" * 40, "x" * 129, "a\n"]
)
def test_what_cannot_be_a_tag_is_refused_and_never_looked_up(folder, remote, first, name):
    before = everything_under(folder)
    refusal(UsageError, lambda: remote.tag(name, first), "expected a tag of 1 to 128 characters")
    refusal(RemoteError, lambda: remote.snapshot(name), "which is not there")
    assert everything_under(folder) == before


@pytest.mark.parametrize("name", ["v2", "main", "0" * 40, "F" * 40, "0" * 39, "line.json"])
def test_an_unknown_revision_is_refused(remote, first, name):
    assert first
    error = refusal(
        RemoteError, lambda: remote.snapshot(name),
        f"expected a tag or a commit of {remote.url}, got '{name}', which is not there.",
    )  # fmt: skip
    assert error.hint == "Leave the revision out for the newest, or name one that is there."


@pytest.mark.parametrize("message", ["two\nlines", "\x1b[2J", "x" * 1025, "\ud800"])
def test_a_message_that_is_not_one_line_is_refused(remote, tmp_path, message):
    refusal(
        UsageError, lambda: remote.commit(FIRST, parent=None, message=message),
        "expected a message of one line, got",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


# Commits that somebody else wrote


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "safelatch/remote-commit/v2"}, {"schema": ...}, {"more": 1},
        {"number": True}, {"number": "1"}, {"number": 0}, {"number": 1.5}, {"number": -1},
        {"parent": "x"}, {"parent": 1}, {"parent": "../../etc"},
        {"files": []}, {"files": {"a": 1}}, {"files": {"a": {"digest": "x", "size": 1}}},
        {"files": {"a": {"digest": digest_bytes(b""), "size": -1}}},
        {"files": {"a": {"digest": digest_bytes(b""), "size": True}}},
        {"files": {"a": {"digest": digest_bytes(b""), "size": 1.5}}},
        {"files": {"a": {"digest": digest_bytes(b"") + "/../x", "size": 1}}},
        {"files": {"a": {"digest": digest_bytes(b""), "size": 1, "path": "/etc/passwd"}}},
        {"message": None}, {"message": "two\nlines"}, {"created": "yesterday"}, {"created": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_commit_of_another_form_is_refused(folder, remote, changes):
    tampered(folder, **changes)
    refusal(
        RemoteError, remote.snapshot,
        "expected a commit of a directory remote, got another document:",
    )  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b"\xff", b"[" * 100_000, b"1e999"]
)
def test_a_commit_that_is_no_document_is_refused(folder, remote, data):
    (folder / "history/00000001/claim.json").write_bytes(data)
    refusal(RemoteError, remote.snapshot)


def test_every_finding_about_a_commit_is_told(folder, remote):
    tampered(folder, created="x", message=7, files={"..": {}, "a": None})
    error = refusal(RemoteError, remote.snapshot, "'..'", "'a'", "message: got '7'")
    assert error.message.count("\n") == 5


def test_a_commit_that_was_changed_on_the_disk_is_refused(folder, remote, first):
    tampered(folder, signed=False, message="damaged")
    for call in (remote.snapshot, lambda: remote.snapshot(first)):
        refusal(RemoteError, call, "expected commit 1 as it was made, got")


def test_a_commit_in_the_place_of_another_is_refused(folder, remote, first):
    shutil.copytree(folder / "history/00000001", folder / "history/00000005")
    refusal(RemoteError, remote.snapshot, f"expected commit 5 as it was made, got {first}")


def test_a_commit_that_says_another_number_is_refused(folder, remote):
    tampered(folder, number=5)
    refusal(RemoteError, remote.snapshot, "expected commit 1 as it was made, got")


def test_a_commit_that_is_still_being_copied_is_not_there_yet(folder, remote, first):
    (folder / "history/00000002").mkdir()
    assert remote.snapshot().commit == first
    made = remote.commit({"x": b""}, parent=first, message="m")
    assert remote.snapshot().commit == made
    assert claims(folder) == ["00000001", "00000002"]


def test_the_last_number_is_refused_before_anything_is_written(folder, remote, first):
    document = parse_json(
        (folder / "history/00000001/claim.json").read_bytes(), what="", limit=1 << 20
    )
    data = canonical_json({**document, "number": 99_999_999})
    (folder / "history/99999999").mkdir()
    (folder / "history/99999999/claim.json").write_bytes(data)
    (folder / "commits" / commit_id(data)).write_bytes(
        canonical_json({"digest": digest_bytes(data), "number": 99_999_999})
    )
    before = everything_under(folder)
    refusal(
        RemoteError,
        lambda: remote.commit({"x": b""}, parent=commit_id(data), message="m"),
        "99,999,999 commits, got", "100,000,000",
    )  # fmt: skip
    assert everything_under(folder) == before


def test_more_files_than_a_commit_holds_are_refused_before_anything_is_written(remote, tmp_path):
    folder = "/".join(["x" * 120] * 8)
    many = {f"{folder}/{number:06d}": b"" for number in range(4_000)}
    refusal(
        RemoteError, lambda: remote.commit(many, parent=None, message="m"),
        "expected at most 4,194,304 bytes about all files",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_tag_that_leads_elsewhere_is_refused(folder, remote, first):
    remote.tag("v1", first)
    [claim] = (folder / "tags").rglob("claim.json")
    for document in (
        {"tag": "v2", "commit": first}, {"tag": "v1", "commit": "../../x"}, {"tag": "v1"},
        {"tag": "v1", "commit": 1}, {"tag": "v1", "commit": "0" * 40},
    ):  # fmt: skip
        claim.write_bytes(canonical_json(document))
        refusal(RemoteError, lambda: remote.snapshot("v1"), "'v1', which is not there")
    claim.write_bytes(b"[]")
    refusal(RemoteError, lambda: remote.snapshot("v1"), "expected a JSON object")


@pytest.mark.parametrize("number", [True, "1", 0, -1, 2, 10**12, None, [1]])
def test_a_number_under_a_name_that_leads_nowhere_is_no_commit(folder, remote, first, number):
    (folder / "commits" / first).chmod(0o600)
    (folder / "commits" / first).write_bytes(canonical_json({"number": number}))
    refusal(RemoteError, lambda: remote.snapshot(first), "which is not there")


# Reading


def the_object(folder: Path, data: bytes = b"one") -> Path:
    value = digest_bytes(data).removeprefix("blake3:")
    path = folder / "objects" / value[:2] / value[2:]
    path.chmod(0o600)
    return path


def test_a_file_that_is_not_there_is_a_key_error(remote, first):
    assert first
    with pytest.raises(KeyError):
        remote.read(remote.snapshot(), "other.json", limit=10)


def test_a_file_that_only_the_snapshot_names_is_a_key_error(remote, first):
    claimed = Snapshot(first, MappingProxyType({"other": RemoteFile(1)}))
    with pytest.raises(KeyError):
        remote.read(claimed, "other", limit=10)


def test_a_snapshot_of_another_remote_is_refused(remote, first):
    assert first
    for commit in ("0" * 40, "../../x"):
        there = Snapshot(commit, MappingProxyType({"line.json": RemoteFile(2)}))
        refusal(RemoteError, lambda there=there: remote.read(there, "line.json", limit=10))


def test_a_file_over_the_limit_is_refused_before_it_is_opened(folder, remote):
    the_object(folder).unlink()
    path = "versions/1.0/manifest.json"
    refusal(
        UnsafeFormatError, lambda: remote.read(remote.snapshot(), path, limit=2),
        f"{path}: expected at most 2 bytes, got 3.",
    )  # fmt: skip


def test_a_changed_file_is_refused(folder, remote):
    path = "versions/1.0/manifest.json"
    for data in (b"two", b"on", b""):
        the_object(folder).write_bytes(data)
        refusal(
            DigestMismatchError, lambda: remote.read(remote.snapshot(), path, limit=9),
            f"{path}: expected {digest_bytes(b'one')}, got {digest_bytes(data)}",
        )  # fmt: skip


def test_a_snapshot_that_states_less_than_the_commit_does_not_lift_the_limit(remote, first):
    path = "versions/1.0/manifest.json"
    there = Snapshot(first, MappingProxyType({path: RemoteFile(1)}))
    refusal(
        RemoteError, lambda: remote.read(there, path, limit=2), "expected at most 2 bytes, got 3."
    )


def test_a_file_that_grew_is_refused_and_not_read(folder, remote):
    with the_object(folder).open("wb") as stream:
        stream.truncate(1 << 40)
    refusal(
        RemoteError,
        lambda: remote.read(remote.snapshot(), "versions/1.0/manifest.json", limit=9),
        "expected at most 3 bytes, got 1,099,511,627,776.",
    )


def test_a_file_that_is_gone_is_told_and_put_back_by_the_next_commit(folder, remote, first):
    the_object(folder).unlink()
    refusal(
        RemoteError,
        lambda: remote.read(remote.snapshot(), "versions/1.0/manifest.json", limit=9),
        "expected its bytes at", "found none",
    )  # fmt: skip
    remote.commit(FIRST, parent=first, message="again")
    assert contents(remote, first) == FIRST


@pytest.mark.skipif(os.name == "nt", reason="a read-only file is not replaced there")
def test_a_damaged_file_is_put_right_by_the_next_commit(folder, remote, first):
    the_object(folder).write_bytes(b"two")
    remote.commit(FIRST, parent=first, message="again")
    assert contents(remote, first) == FIRST


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(folder, remote, first):
    place = the_object(folder)
    place.unlink()
    os.mkfifo(place)
    read = lambda: remote.read(remote.snapshot(), "versions/1.0/manifest.json", limit=9)  # noqa: E731
    refusal(RemoteError, read, "expected a regular file")
    assert first


# Links


@needs_links
@pytest.mark.parametrize(
    "place",
    [
        MARKER, "history", "history/00000001", "history/00000001/claim.json", "commits",
        "commits/{first}", "objects", "objects/{ab}", "objects/{ab}/{rest}",
    ],
)  # fmt: skip
def test_a_link_in_the_folder_is_refused_and_not_written_through(folder, remote, first, place):
    value = digest_bytes(b"one").removeprefix("blake3:")
    link = folder / place.format(first=first, ab=value[:2], rest=value[2:])
    outside = folder.with_name("outside")
    link.rename(outside)
    link.symlink_to(outside)
    before = everything_under(folder.parent)

    def use() -> None:
        remote.read(remote.snapshot(), "versions/1.0/manifest.json", limit=9)
        remote.snapshot(first)

    refusal(RemoteError, use, f"{link}: expected no link in a remote, got one.")
    refusal(
        RemoteError,
        lambda: remote.commit(FIRST, parent=first, message="m") and use(),
        f"{link}: expected no link in a remote, got one.",
    )
    if outside.is_dir():
        assert {k: v for k, v in everything_under(folder.parent).items() if k in before} == before


@needs_links
def test_a_link_that_leads_nowhere_is_refused_and_not_filled(folder, remote, first):
    (folder / "history/00000002").symlink_to(folder.with_name("elsewhere"))
    (folder / "tags").symlink_to(folder.with_name("elsewhere"))
    refusal(RemoteError, remote.snapshot, "expected no link in a remote, got one.")
    refusal(RemoteError, lambda: remote.tag("v1", first), "expected no link in a remote, got one.")
    assert not folder.with_name("elsewhere").exists()


@needs_links
def test_a_folder_that_is_reached_through_a_link_is_the_folder(folder, remote, first):
    folder.with_name("link").symlink_to(folder)
    other = DirectoryRemote(folder.with_name("link"))
    assert other.url == remote.url
    assert other.snapshot().commit == first


# The place


@needs_permissions
def test_a_folder_that_may_only_be_read_is_read_and_says_so_when_written(folder, remote, first):
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        assert obeying_permissions(lambda: contents(remote)) == FIRST
        before = everything_under(folder)
        error = refusal(
            RemoteError,
            lambda: obeying_permissions(
                lambda: remote.commit({"x": b"2"}, parent=first, message="m")
            ),
            "expected to write", "got: Permission denied.",
        )  # fmt: skip
        assert error.hint == "Allow writing there, or name another folder."
        refusal(RemoteError, lambda: obeying_permissions(lambda: remote.tag("v1", first)))
        assert everything_under(folder) == before
    finally:
        for path in folders:
            path.chmod(0o755)


@needs_permissions
def test_a_folder_that_may_not_be_read_says_so(folder, remote):
    folder.chmod(0)
    try:
        error = refusal(
            RemoteError, lambda: obeying_permissions(remote.snapshot), "got: Permission denied."
        )
        assert error.hint == "Allow reading there, or name another folder."
    finally:
        folder.chmod(0o755)


@needs_permissions
def test_an_object_that_may_not_be_read_says_so(folder, remote):
    the_object(folder).chmod(0)
    refusal(
        RemoteError,
        lambda: obeying_permissions(
            lambda: remote.read(remote.snapshot(), "versions/1.0/manifest.json", limit=9)
        ),
        "expected a readable file, got: Permission denied.",
    )


def test_a_file_system_without_permissions_does_not_disturb(remote, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    remote.commit(FIRST, parent=None, message="m")
    assert contents(remote) == FIRST


def test_a_file_system_without_hard_links_does_not_disturb(remote, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    remote.tag("v1", remote.commit(FIRST, parent=None, message="m"))
    assert contents(remote, "v1") == FIRST
