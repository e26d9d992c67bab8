"""The line document: one spelling, rules that hold by themselves, and how the next one is made."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.refusals import refusal
from support.signed import FIRST, SECOND, digest_of, renewed, stated

from registry.artifact.line import MOST_DOCUMENTS, Line, LineEntry
from registry.digest import canonical_json
from registry.errors import (
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
    UsageError,
    VersionConflictError,
)


def manifest(version="1.0.0", **changes):
    facts = {
        "name": "lock", "kind": "safety-lock", "version": version, "label": f"lock@{version}",
        "base_weights": digest_of("base"), "digest": digest_of(str(version)),
    }  # fmt: skip
    return SimpleNamespace(**facts | changes)


def changed(line=SECOND, **members):
    return canonical_json(json.loads(line.to_bytes()) | members)


def refused(data, *said, kind=SchemaViolationError):
    return refusal(kind, lambda: Line.from_bytes(data), *said)


def test_a_line_is_read_as_it_was_written():
    for line in (FIRST, SECOND, stated(SECOND, "1.0.0", "revoked"), renewed(SECOND, 3)):
        again = Line.from_bytes(line.to_bytes())
        assert again.to_bytes() == line.to_bytes()
        assert again == replace(line, versions=again.versions)
        assert again.digest == line.digest


def test_each_document_names_those_before_it():
    third = stated(SECOND, "1.0.0", "yanked")
    assert (FIRST.sequence, SECOND.sequence, third.sequence) == (1, 2, 3)
    assert third.history == (FIRST.digest, SECOND.digest)
    assert third.versions["1.0.0"] == LineEntry(digest_of("1.0.0"), "yanked", "a reason")
    assert third.versions["2.0.0"] == SECOND.versions["2.0.0"]
    assert SECOND.versions["1.0.0"].state == "active"


def test_a_document_in_another_spelling_is_refused():
    document = json.loads(SECOND.to_bytes())
    for text in (json.dumps(document), json.dumps(document, indent=1), f" {changed().decode()}"):
        refused(text.encode(), "expected canonical JSON", kind=UnsafeFormatError)


def test_a_member_that_is_there_twice_is_refused():
    data = SECOND.to_bytes().replace(b'"sequence":2', b'"sequence":1,"sequence":2')
    refused(data, "'sequence' appears twice", kind=UnsafeFormatError)


def test_a_version_that_is_there_twice_is_refused():
    data = SECOND.to_bytes()
    start = data.index(b'"1.0.0":')
    entry = data[start : data.index(b"}", start) + 1]
    refused(data.replace(entry, entry + b"," + entry), "appears twice", kind=UnsafeFormatError)


def test_a_document_of_a_later_release_is_called_newer():
    refused(changed(schema="safelatch/line/v2"), "expected schema 'safelatch/line/v1'",
            kind=UnsupportedSchemaVersionError)  # fmt: skip


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"sequence": 3}, "$.history: expected 2 digests before document 3, got 1"),
        ({"sequence": 1}, "$.history: expected 0 digests before document 1, got 1"),
        ({"sequence": 0}, "$.sequence"),
        ({"sequence": -1}, "$.sequence"),
        ({"sequence": MOST_DOCUMENTS + 1}, "$.sequence"),
        ({"sequence": 2.5}, "$.sequence"),
        ({"sequence": True}, "$.sequence"),
        ({"history": []}, "$.history: expected 1 digests before document 2, got 0"),
        ({"history": ["blake3:x"]}, "$.history[0]"),
        ({"history": ["blake3:" + "0" * 64 + "\n"]}, "$.history[0]"),
        ({"name": "con"}, "$.name: expected the name of a line"),
        ({"name": "../lock"}, "$.name"),
        ({"name": "löck"}, "$.name"),
        ({"name": ""}, "$.name"),
        ({"kind": "Safety"}, "$.kind"),
        ({"created": "2030-02-30T00:00:00Z"}, "$.created: expected a moment of the calendar"),
        ({"expires": "2030-13-01T00:00:00Z"}, "$.expires: expected a moment of the calendar"),
        ({"expires": "2030-01-01T24:00:00Z"}, "$.expires: expected a moment of the calendar"),
        ({"expires": "2030-01-01T23:59:60Z"}, "$.expires: expected a moment of the calendar"),
        ({"expires": "0000-01-01T00:00:00Z"}, "$.expires: expected a moment of the calendar"),
        ({"expires": "2030-01-01T00:00:00+00:00"}, "$.expires"),
        ({"expires": "2030-01-01"}, "$.expires"),
        ({"expires": "2030-01-01T00:00:00z"}, "$.expires"),
        ({"expires": "２030-01-01T00:00:00Z"}, "$.expires"),
        ({"expires": ""}, "$.expires"),
        ({"expires": 0}, "$.expires"),
        ({"expires": "never"}, "$.expires"),
        ({"versions": {}}, "$.versions"),
        ({"versions": []}, "$.versions"),
        ({"base": {"name": "x"}}, "$.base"),
        ({"base": {"name": "a\u202eb", "weights": digest_of("base")}}, "can be printed"),
        ({"more": 1}, "$: Additional properties"),
    ],
    ids=str,
)  # fmt: skip
def test_a_document_with_this_member_is_refused(members, said):
    refused(changed(**members), said)


@pytest.mark.parametrize(
    ("version", "entry", "said"),
    [
        ("1.0.RC1", {}, "$.versions: expected 1.0rc1, got '1.0.RC1'"),
        ("1.0.0.", {}, "$.versions: expected a PEP 440 version, got '1.0.0.'"),
        ("v1", {}, "$.versions"),
        ("1", {"state": "gone"}, "$.versions['1'].state"),
        ("1", {"state": "revoked", "reason": None}, "expected a reason for which it is revoked"),
        ("1", {"reason": ""}, "$.versions['1'].reason"),
        ("1", {"reason": "x" * 401}, "$.versions['1'].reason"),
        ("1", {"reason": "\x1b[2J"}, "can be printed"),
        ("1", {"digest": "blake3:" + "0" * 63}, "$.versions['1'].digest"),
        ("1", {"digest": digest_of("1.0.0")}, "another manifest for each version"),
        ("1", {"more": 1}, "$.versions['1']"),
    ],
    ids=str,
)
def test_a_version_with_this_entry_is_refused(version, entry, said):
    versions = json.loads(SECOND.to_bytes())["versions"]
    versions[version] = {"digest": digest_of("1"), "state": "active", "reason": None} | entry
    refused(changed(versions=versions), said)


def test_every_violation_is_listed_together():
    data = changed(name="con", created="2030-02-30T00:00:00Z", history=[])
    assert len(refused(data, "line.json breaks 3 rule(s)").violations) == 3


def test_the_entry_of_a_manifest_is_of_that_very_one():
    assert SECOND.entry_of(manifest()) is SECOND.versions["1.0.0"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"name": "other"}, "expected line lock, as its line.json says, got other"),
        ({"kind": "esi-mask"}, "expected kind safety-lock, as its line.json says, got esi-mask"),
        ({"base_weights": digest_of("x")}, f"expected base {digest_of('base')}, as its line"),
        ({"digest": digest_of("x")}, f"expected manifest {digest_of('1.0.0')}, as its line.json"),
        ({"digest": digest_of("2.0.0")}, f"expected manifest {digest_of('1.0.0')}, as its line"),
        ({"version": "3.0.0"}, "expected manifest none of this version"),
        ({"version": "1.0"}, "expected manifest none of this version"),
        ({"version": None, "name": None, "digest": digest_of("x")}, "expected line lock"),
    ],
)
def test_a_manifest_that_is_not_of_the_line_is_refused(facts, said):
    refusal(VersionConflictError, lambda: SECOND.entry_of(manifest(**facts)), said)


def test_a_state_of_a_version_that_is_not_there_is_refused():
    refusal(VersionConflictError, lambda: stated(SECOND, "3", "yanked"),
            "expected a version out of 1.0.0, 2.0.0, got 3")  # fmt: skip


def test_a_revoked_version_stays_revoked():
    line = stated(SECOND, "1.0.0", "revoked", "it leaked")
    for state in ("active", "yanked"):
        refusal(VersionConflictError, lambda s=state: stated(line, "1.0.0", s),
                f"lock@1.0.0: expected it to stay revoked (it leaked), got {state}")  # fmt: skip
    assert stated(line, "1.0.0", "revoked", "twice").versions["1.0.0"].reason == "twice"


def test_a_yanked_version_may_be_given_back():
    line = stated(stated(SECOND, "1.0.0", "yanked"), "1.0.0", "active", None)
    assert line.versions["1.0.0"] == FIRST.versions["1.0.0"]


def test_a_line_of_4096_documents_ends_there():
    last = replace(FIRST, sequence=MOST_DOCUMENTS, history=(digest_of("x"),) * 4095)
    assert Line.from_bytes(last.to_bytes()).sequence == MOST_DOCUMENTS
    refusal(UsageError, lambda: renewed(last), "expected a line of at most 4096 documents")


@pytest.mark.timeout(60)
def test_a_line_of_4096_versions_is_read_and_one_more_is_refused():
    entries = {f"1.{n}": LineEntry(digest_of(str(n)), "yanked", "é" * 400) for n in range(4096)}
    full = replace(FIRST, versions=entries)
    assert len(Line.from_bytes(full.to_bytes()).versions) == 4096
    over = replace(FIRST, versions={**entries, "2": LineEntry(digest_of("more"))})
    refused(over.to_bytes(), "$.versions")


def test_a_document_over_four_mebibytes_is_not_parsed():
    refused(b"[" * ((4 << 20) + 1), "expected at most 4,194,304 bytes", kind=UnsafeFormatError)
