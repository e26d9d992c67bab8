"""The memory of lines where no registry remembers: one file a line and key, the highest wins."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

import pytest
from support.refusals import refusal
from support.signed import FIRST, SECOND, digest_of, key_of, renewed, stated

from registry.artifact.trust import VerifiedLine, signed_line
from registry.errors import (
    LineForkError,
    RollbackError,
    UnsafeFormatError,
    VersionConflictError,
)
from registry.workflows import line_memory
from registry.workflows.line_memory import accept, as_signed

ALICE, BOB = key_of("alice"), key_of("bob")


@pytest.fixture
def lines(tmp_path):
    return tmp_path / "lines"


def verified(line, *keys):
    keys = keys or (ALICE,)
    return VerifiedLine(line, signed_line(line, keys), tuple(key.key_id for key in keys))


def see(line, *keys, registry=None):
    accept(verified(line, *keys), registry)


def names(lines):
    return sorted(path.name for path in lines.iterdir())


def test_what_was_seen_is_written_once_and_an_older_one_is_refused(lines):
    see(SECOND)
    (path,) = lines.iterdir()
    base, key = FIRST.base.removeprefix("blake3:")[:16], ALICE.key_id.removeprefix("ed25519:")[:16]
    assert path.name == f"lock-{base}-{key}.0002.json"
    assert path.read_bytes() == signed_line(SECOND, [ALICE])
    before = path.stat().st_mtime_ns
    see(SECOND)
    assert path.stat().st_mtime_ns == before
    error = refusal(RollbackError, lambda: see(FIRST), "expected sequence 2 or later")
    assert error.hint.endswith(f"remove this user's note of it: rm {path}")
    assert names(lines) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_the_notes_are_the_users_alone(lines):
    see(FIRST)
    (path,) = lines.iterdir()
    assert stat.S_IMODE(lines.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_later_one_takes_the_place_of_the_one_before(lines):
    for line in (FIRST, SECOND, renewed(SECOND, 7)):
        see(line)
        assert [name[-10:] for name in names(lines)] == [f".{line.sequence:04d}.json"]


def test_a_fork_and_a_removal_are_refused_and_change_nothing(lines):
    see(SECOND)
    before = names(lines)
    fork = stated(FIRST, "1.0.0", "yanked")
    gone = replace(renewed(SECOND), versions={"2.0.0": SECOND.versions["2.0.0"]})
    refusal(LineForkError, lambda: see(fork), "two lines of one name")
    refusal(VersionConflictError, lambda: see(gone), "1.0.0: expected")
    assert names(lines) == before


def test_lines_of_other_names_bases_and_keys_have_notes_of_their_own(lines):
    see(renewed(SECOND, 9))
    see(FIRST, BOB)
    see(replace(FIRST, name="other"))
    see(replace(FIRST, base=digest_of("another base")))
    assert len(names(lines)) == 4
    refusal(RollbackError, lambda: see(FIRST))


def test_a_line_by_two_keys_is_noted_under_both_and_asked_of_both(lines):
    see(SECOND, ALICE, BOB)
    assert len(names(lines)) == 2
    for keys in ((ALICE,), (BOB,), (BOB, ALICE)):
        refusal(RollbackError, lambda k=keys: see(FIRST, *k))
    see(renewed(SECOND), BOB)
    refusal(RollbackError, lambda: see(SECOND, ALICE, BOB), "expected sequence 3")


def test_a_line_whose_name_goes_on_like_a_note_is_another_line(lines):
    see(FIRST)
    (path,) = lines.iterdir()
    see(replace(renewed(FIRST, 50), name=f"{path.name.partition('.')[0]}.x"))
    see(SECOND)
    assert {name[-10:] for name in names(lines)} == {".0002.json", ".0051.json"}


@pytest.mark.parametrize("end", [".0009.json.tmp", "-x.0009.json", ".9.json", ".00009.json", ""])
def test_other_files_in_the_folder_are_left_alone(lines, end):
    see(FIRST)
    (path,) = lines.iterdir()
    other = lines / f"{path.name.removesuffix('.0001.json')}{end}"
    other.write_text("not ours")
    see(SECOND)
    assert other.read_text() == "not ours"


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"null"])
def test_a_note_that_was_damaged_refuses_and_says_which_file_it_is(lines, data):
    see(SECOND)
    (path,) = lines.iterdir()
    path.write_bytes(data)
    for line in (FIRST, SECOND, renewed(SECOND)):
        error = refusal(UnsafeFormatError, lambda one=line: see(one))
        assert error.hint == (
            f"It is this user's own note of a line. Remove it only if you know why: rm {path}"
        )


def test_a_note_that_another_process_replaces_meanwhile_is_looked_for_again(lines, monkeypatch):
    see(FIRST)
    (old,) = lines.iterdir()
    real, later = line_memory.read_plain, renewed(SECOND, 3)

    def overtaken(path, **options):
        if path == old and old.exists():
            old.unlink()
            old.with_name(old.name.replace("0001", f"{later.sequence:04d}")).write_bytes(
                signed_line(later, [ALICE])
            )
        return real(path, **options)

    monkeypatch.setattr(line_memory, "read_plain", overtaken)
    refusal(RollbackError, lambda: see(SECOND), "expected sequence 5 or later")


def test_a_folder_that_cannot_be_written_warns_and_says_what_follows(lines, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(line_memory, "write_file", refuse)
    with pytest.warns(UserWarning, match=r"line 'lock', document 1, is verified, but cannot be re"):
        see(FIRST)


def test_a_registry_remembers_in_its_table_and_writes_no_file(lines, empty_registry):
    see(SECOND, registry=empty_registry)
    (head,) = empty_registry.line_heads()
    assert (head.sequence, head.digest, head.key_ids) == (2, SECOND.digest, (ALICE.key_id,))
    assert not lines.exists()
    refusal(RollbackError, lambda: see(FIRST, registry=empty_registry))
    events = len(empty_registry.events())
    see(SECOND, registry=empty_registry)
    assert len(empty_registry.events()) == events


def test_a_registry_learns_that_another_key_signed_the_same_document(empty_registry):
    see(SECOND, ALICE, registry=empty_registry)
    see(SECOND, BOB, registry=empty_registry)
    (head,) = empty_registry.line_heads()
    assert head.key_ids == tuple(sorted([ALICE.key_id, BOB.key_id]))
    empty_registry.revoke_key(ALICE.key_id, "retired")
    refusal(RollbackError, lambda: see(FIRST, BOB, registry=empty_registry), "sequence 2")


def test_a_signer_that_counts_in_one_call_alone_vouches_for_no_head(empty_registry):
    found = verified(SECOND, ALICE, BOB)
    for _ in range(2):
        accept(found, empty_registry, own=(ALICE.key_id,))
        assert empty_registry.line_heads()[0].key_ids == (ALICE.key_id,)


def test_what_a_file_remembers_is_asked_where_there_is_a_registry_too(lines, empty_registry):
    see(renewed(SECOND, 3))
    refusal(RollbackError, lambda: see(SECOND, registry=empty_registry), "expected sequence 5")
    assert empty_registry.line_heads() == []


def test_what_the_store_is_given_is_what_was_verified():
    line = stated(SECOND, "1.0.0", "yanked")
    signed = as_signed(verified(line, BOB, ALICE))
    assert (signed.name, signed.base, signed.sequence) == ("lock", FIRST.base, 3)
    assert (signed.digest, signed.document) == (line.digest, line.to_bytes())
    assert signed.key_ids == (BOB.key_id, ALICE.key_id)
    assert signed.envelope == signed_line(line, [BOB, ALICE])
