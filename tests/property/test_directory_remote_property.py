"""The directory remote against a list of dicts, and against what anybody may write into it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.digest import canonical_json, digest_bytes
from registry.errors import RemoteError, RemoteMovedError, SafelatchError, UsageError
from registry.remote._commit import Commit, Entry, commit_id, is_part, path_findings
from registry.remote.directory import MARKER, DirectoryRemote

PATHS = ("README.md", "line.json", "versions/1.0/a.json", "versions/1.0/b", "versions/2.0/a.json")
files = st.dictionaries(st.sampled_from(PATHS), st.binary(max_size=20), max_size=3)
steps = st.lists(
    st.tuples(files, st.sampled_from(["newest", "older", "none", "unknown"])), max_size=6
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def contents(remote, revision=None):
    there = remote.snapshot(revision)
    return {path: remote.read(there, path, limit=100) for path in there.files}


@settings(max_examples=25, deadline=None)
@given(steps)
def test_any_row_of_commits_reads_as_the_dicts_they_are(changes):
    with tempfile.TemporaryDirectory() as folder:
        remote = DirectoryRemote(Path(folder) / "remote")
        names, states = [], []
        for change, parent in changes:
            named = {
                "newest": names[-1] if names else None, "older": names[0] if names else "0" * 40,
                "none": None, "unknown": "f" * 40,
            }[parent]  # fmt: skip
            if named == (names[-1] if names else None):
                names.append(remote.commit(change, parent=named, message="m"))
                states.append({**(states[-1] if states else {}), **change})
                remote.tag(f"v{len(names)}", names[-1])
            else:
                with pytest.raises(RemoteMovedError):
                    remote.commit(change, parent=named, message="m")
        assert len(set(names)) == len(names)
        newest = remote.snapshot()
        assert (newest and newest.commit) == (names[-1] if names else None)
        for number, (name, state) in enumerate(zip(names, states, strict=True), 1):
            assert contents(remote, name) == contents(remote, f"v{number}") == state


@given(st.lists(st.text(max_size=12) | st.sampled_from(["a/b", "A/b", "a/..", "a\\b", "a\0"])))
def test_paths_without_a_finding_stay_in_a_folder_and_are_different_files_anywhere(paths):
    if path_findings(paths):
        return
    for path in paths:
        assert not PurePosixPath(path).is_absolute()
        assert ".." not in path
        assert not set(path) & set('\\\0\n:*?"<>| ')
        assert str(PurePosixPath(path)) == path
    assert len({path.casefold() for path in paths}) == len(set(paths))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shared") / "remote"
    DirectoryRemote(made).commit({"a": b"1"}, parent=None, message="m")
    return made


@settings(deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[vV]?[0-9.]{1,4}(rc1|RC1)?", fullmatch=True))
def test_what_can_be_a_tag_is_found_and_the_rest_is_refused(folder, name):
    remote = DirectoryRemote(folder)
    first = remote.snapshot().commit
    if is_part(name):
        remote.tag(name, first)
        assert remote.snapshot(name).commit == first
    else:
        with pytest.raises(UsageError):
            remote.tag(name, first)
        with pytest.raises(RemoteError):
            remote.snapshot(name)
    assert list(folder.parent.iterdir()) == [folder]


@given(st.dictionaries(st.sampled_from(PATHS), st.integers(0, 2**53 - 1)), st.integers(1, 10**8))
def test_a_commit_reads_as_it_was_written(sizes, number):
    entries = {path: Entry(digest_bytes(path.encode()), size) for path, size in sizes.items()}
    made = Commit(number, None if number == 1 else "0" * 40, entries, "m", "2030-01-01T00:00:00Z")
    assert Commit.from_bytes(made.to_bytes(), what="it") == made
    assert commit_id(made.to_bytes()) == made.name


documents = st.fixed_dictionaries(
    {
        "schema": st.just("safelatch/remote-commit/v1"), "number": st.just(1) | json_values,
        "parent": json_values, "files": json_values, "message": json_values,
        "created": st.just("2030-01-01T00:00:00Z") | json_values,
    }
)  # fmt: skip


@settings(deadline=None)
@given(st.binary(max_size=60) | (json_values | documents).map(canonical_json))
def test_whatever_stands_in_place_of_a_commit_is_one_or_refused(folder, data):
    """Its name says that it was made so: the worst case."""
    other = folder.with_name(commit_id(data)) / "remote"
    (other / "history/00000001").mkdir(parents=True)
    (other / "commits").mkdir()
    (other / MARKER).write_bytes((folder / MARKER).read_bytes())
    (other / "history/00000001/claim.json").write_bytes(data)
    under_name = canonical_json({"digest": digest_bytes(data), "number": 1})
    (other / "commits" / commit_id(data)).write_bytes(under_name)
    remote = DirectoryRemote(other)
    try:
        found = remote.snapshot()
    except RemoteError:
        return
    finally:
        shutil.rmtree(other.parent)
    assert not path_findings(found.files)
    assert found.commit == commit_id(data)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_changed_byte_anywhere_is_never_read_as_something_else(data):
    with tempfile.TemporaryDirectory() as place:
        remote = DirectoryRemote(place)
        first = remote.commit({"a": b"1", "b/c": b"22"}, parent=None, message="m")
        remote.tag("v1", first)
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        file = data.draw(st.sampled_from(files))
        file.chmod(0o600)
        old = file.read_bytes()
        at = data.draw(st.integers(0, len(old) - 1))
        new = old[:at] + bytes([data.draw(st.integers(0, 255))]) + old[at + 1 :]
        file.write_bytes(new)
        assert {read_or_refused(remote, revision) for revision in (None, first, "v1")} <= {
            "as it was", "refused"
        }  # fmt: skip


def read_or_refused(remote, revision):
    try:
        found = contents(remote, revision)
    except SafelatchError:
        return "refused"
    return "as it was" if found == {"a": b"1", "b/c": b"22"} else found
