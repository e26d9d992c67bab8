"""What somebody does to the event log who may write the database's file, and what shows it.

The triggers are dropped first: the owner of a file can. Without a head that was kept elsewhere, a chain
shows every change but those that leave it whole; each of those is said so here.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import safelatch
from support.store_builders import let_events_change

from registry.artifact.signing import PrivateKey, public_pem
from registry.digest import canonical_json, digest_json
from registry.settings import Settings
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 6
HEAD_AT = 5  # one event came after it
COLUMNS = ("sequence", "at", "actor", "action", "subject", "detail", "previous_digest", "digest")


class Log:
    """A registry with six events, and the signed head of its fifth, kept elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.key, self.public = folder / "auditor.key", folder / "auditor.pub"
        signer = PrivateKey.generate()
        self.key_id = signer.key_id
        self.key.write_bytes(signer.to_pem())
        self.public.write_bytes(public_pem(signer.key_id))
        self.head = folder / "head.json"
        assert safelatch("init").status == 0
        self.database = Settings.load().sqlite_path or Path()
        self.more(HEAD_AT)
        made = safelatch("log", "head", "--key", self.key, "--out", self.head)
        assert made.status == 0, made
        self.more(COUNT - HEAD_AT)
        self.digests = [row["digest"] for row in self.rows()]

    def more(self, count: int) -> None:
        with Registry.open(str(self.database)) as registry:
            for number in range(count):
                registry.append_event("test.step", f"subject {number}", {"number": number})

    def rows(self) -> list[dict[str, Any]]:
        with sqlite3.connect(self.database) as connection:
            found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM events")  # noqa: S608
            return [dict(zip(COLUMNS, row, strict=True)) for row in found]

    def write(self, *statements: str) -> None:
        """Change the file as its owner can."""
        with sqlite3.connect(self.database) as connection:
            let_events_change(connection)
            for statement in statements:
                assert connection.execute(statement).rowcount > 0, statement
        connection.close()

    def write_anew(self, rows: list[dict[str, Any]]) -> None:
        """Put these events in place of all, each link made anew: the chain is whole again."""
        previous = "blake3:" + "0" * 64
        for number, row in enumerate(rows, 1):
            row |= {"sequence": number, "previous_digest": previous}
            fields = {name: row[name] for name in COLUMNS[:5]}
            fields |= {"detail": json.loads(row["detail"]), "previous": previous}
            previous = row["digest"] = digest_json(fields)
        marks = ", ".join("?" * len(COLUMNS))
        with sqlite3.connect(self.database) as connection:
            let_events_change(connection)
            connection.execute("DELETE FROM events")
            values = [tuple(row[name] for name in COLUMNS) for row in rows]
            connection.executemany(f"INSERT INTO events VALUES ({marks})", values)  # noqa: S608
        connection.close()

    def findings(self, *arguments: object) -> list[str]:
        """Return what ``log verify`` finds, its exit status checked."""
        outcome = safelatch("log", "verify", *arguments, "--format", "json")
        document = outcome.document
        assert outcome.status == (3 if document["findings"] else 0), outcome
        assert document["verdict"] == ("broken" if document["findings"] else "whole")
        return list(document["findings"])

    def with_head(self) -> list[str]:
        return self.findings("--head", self.head, "--trust", self.public)

    @property
    def expected(self) -> str:
        return f"head: expected event {HEAD_AT} with digest {self.digests[HEAD_AT - 1]}"


@pytest.fixture
def log(tmp_path: Path, home: Path) -> Log:
    assert not home.exists()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return Log(folder)


def test_log_that_nobody_touched_and_one_that_went_on(log: Log) -> None:
    assert log.findings() == log.with_head() == []
    log.more(3)
    assert log.with_head() == []
    shown = safelatch("log", "verify", "--head", log.head, "--trust", log.key_id)
    assert shown.status == 0
    assert shown.out.startswith("whole  9 events  blake3:")
    assert shown.out.endswith(f"  head of event {HEAD_AT} found\n")


def test_event_edited(log: Log) -> None:
    log.write("UPDATE events SET actor = 'somebody else' WHERE sequence = 3")
    (finding,) = log.findings()
    assert finding.startswith("event 3: expected digest ")
    assert log.with_head() == [finding]


def test_event_deleted_in_the_middle(log: Log) -> None:
    log.write("DELETE FROM events WHERE sequence = 3")
    without = log.findings()
    assert without[0] == "event 4: expected event 3; 3 to 3 are missing"
    assert log.with_head() == without


def test_events_reordered(log: Log) -> None:
    log.write(
        "UPDATE events SET sequence = 99 WHERE sequence = 2",
        "UPDATE events SET sequence = 2 WHERE sequence = 3",
        "UPDATE events SET sequence = 3 WHERE sequence = 99",
    )
    touched = {finding.partition(":")[0] for finding in log.findings()}
    assert touched == {"event 2", "event 3", "event 4"}


def test_event_inserted(log: Log) -> None:
    log.write(
        "UPDATE events SET sequence = 7 WHERE sequence = 6",
        "UPDATE events SET sequence = 6 WHERE sequence = 5",
        "INSERT INTO events SELECT 5, at, actor, action, subject, detail, previous_digest, "
        "'blake3:' || replace(hex(zeroblob(32)), '0', 'a') FROM events WHERE sequence = 4",
    )
    assert {finding.partition(":")[0] for finding in log.findings()} == {
        "event 5", "event 6", "event 7",
    }  # fmt: skip
    assert log.with_head()[-1].startswith(f"{log.expected}, got blake3:aaa")


def test_end_of_the_log_cut_off(log: Log) -> None:
    log.write("DELETE FROM events WHERE sequence >= 4")
    assert log.findings() == []  # a chain without its end is whole: no head, no finding
    assert log.with_head() == [f"{log.expected}, the log ends at event 3: its end was cut off"]


def test_end_of_the_log_cut_off_behind_the_head(log: Log) -> None:
    log.write("DELETE FROM events WHERE sequence = 6")
    assert log.with_head() == []  # a head says nothing of what came after it: export one often


def test_whole_log_removed(log: Log) -> None:
    log.write("DELETE FROM events")
    assert log.findings() == []
    assert log.with_head() == [f"{log.expected}, the log ends at event 0: its end was cut off"]


def test_event_of_the_head_alone_removed(log: Log) -> None:
    log.write("DELETE FROM events WHERE sequence = 5")
    assert log.with_head()[-1] == f"{log.expected}, found none"


@pytest.mark.parametrize("first", [1, 3, HEAD_AT])
def test_log_written_anew_from_some_event_on(log: Log, first: int) -> None:
    rows = log.rows()
    rows[first - 1]["actor"] = "somebody else"
    log.write_anew(rows)
    assert log.rows()[HEAD_AT - 1]["digest"] != log.digests[HEAD_AT - 1]
    assert log.findings() == []  # self-consistent: no head, no finding
    got = log.rows()[HEAD_AT - 1]["digest"]
    assert log.with_head() == [f"{log.expected}, got {got}: rewritten from there or from before on"]


def test_log_written_anew_without_one_of_its_events(log: Log) -> None:
    rows = log.rows()
    log.write_anew([*rows[:2], *rows[3:]])
    assert log.findings() == []
    (finding,) = log.with_head()
    assert finding.endswith("rewritten from there or from before on")


def test_log_written_anew_behind_the_head(log: Log) -> None:
    rows = log.rows()
    rows[HEAD_AT]["actor"] = "somebody else"
    log.write_anew(rows)
    assert log.with_head() == []  # as for what is cut off there


def test_head_of_another_registry(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry.open(str(log.database)) as registry:
        mine = registry.log_head().registry
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "another"))
    (tmp_path / "other").mkdir()
    other = Log(tmp_path / "other")
    with Registry.open(str(other.database)) as registry:
        theirs = registry.log_head().registry
    assert other.with_head() == []
    shutil.copy(log.head, other.head)
    found = other.findings("--head", other.head, "--trust", log.public)
    assert found == [f"head: expected one of registry {theirs}, got that of {mine}"]


def test_head_signed_by_a_key_that_nobody_trusts(log: Log, tmp_path: Path) -> None:
    mallory = PrivateKey.generate()
    path = tmp_path / "mallory.key"
    path.write_bytes(mallory.to_pem())
    log.write("DELETE FROM events WHERE sequence >= 4")
    log.head.unlink()  # Mallory can write there
    safelatch("log", "head", "--key", path, "--out", log.head)
    for trust in (("--trust", log.public), ()):
        refused = safelatch("log", "verify", "--head", log.head, *trust)
        assert (refused.status, refused.out) == (3, "")
        assert "[untrusted-key]" in refused.err
        assert mallory.key_id in refused.err


def test_head_of_a_key_that_was_revoked(log: Log) -> None:
    with Registry.open(str(log.database)) as registry:
        registry.trust_key(log.key_id, namespaces=["*"])
        assert log.findings("--head", log.head) == []
        registry.revoke_key(log.key_id, "stolen")
    for trust in (("--trust", log.public), ()):
        refused = safelatch("log", "verify", "--head", log.head, *trust)
        assert refused.status == 3
        assert "[untrusted-key]" in refused.err


def test_head_whose_signature_was_taken_away(log: Log) -> None:
    envelope = json.loads(log.head.read_bytes()) | {"signatures": []}
    log.head.write_bytes(canonical_json(envelope))
    refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
    assert (refused.status, "[unsigned]" in refused.err) == (3, True)


def test_head_with_a_flipped_byte(log: Log) -> None:
    whole = log.head.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        log.head.write_bytes(changed)
        refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
        assert (refused.status, refused.out) == (3, ""), at
        assert "[unexpected]" not in refused.err


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d | {"sequence": 0}, "schema-violation"),
        (lambda d: d | {"sequence": True}, "schema-violation"),
        (lambda d: d | {"sequence": 5.5}, "schema-violation"),
        (lambda d: d | {"registry": "x"}, "schema-violation"),
        (lambda d: d | {"digest": None}, "schema-violation"),
        (lambda d: d | {"created": "yesterday"}, "schema-violation"),
        (lambda d: d | {"more": 1}, "schema-violation"),
        (lambda d: {"schema": d["schema"]}, "schema-violation"),
        (lambda d: d | {"schema": "safelatch/log-head/v2"}, "unsupported-schema-version"),
        (lambda d: [d], "unsupported-schema-version"),
    ],
)
def test_signed_head_that_says_what_none_can_say(
    log: Log, change: Callable[[dict[str, Any]], Any], code: str
) -> None:
    _sign_again(log, canonical_json(change(_payload(log))))
    refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
    assert (refused.status, refused.out) == (3, "")
    assert f"[{code}]" in refused.err


def test_signed_head_in_another_spelling(log: Log) -> None:
    _sign_again(log, json.dumps(_payload(log)).encode())
    refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
    assert refused.status == 3
    assert "canonical JSON" in refused.err


def test_signed_document_of_another_type_in_place_of_a_head(log: Log) -> None:
    _sign_again(log, canonical_json(_payload(log)), "application/vnd.safelatch.line.v1+json")
    refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
    assert refused.status == 3
    assert "expected payloadType 'application/vnd.safelatch.log-head.v1+json'" in refused.err


def test_head_of_a_terabyte(log: Log) -> None:
    with log.head.open("wb") as file:
        file.truncate(1 << 40)
    refused = safelatch("log", "verify", "--head", log.head, "--trust", log.public)
    assert refused.status == 3
    assert "expected at most 16,384 bytes" in refused.err


def _payload(log: Log) -> dict[str, Any]:
    document = json.loads(base64.b64decode(json.loads(log.head.read_bytes())["payload"]))
    assert isinstance(document, dict)
    return document


def _sign_again(
    log: Log, payload: bytes, kind: str = "application/vnd.safelatch.log-head.v1+json"
) -> None:
    from registry.artifact.envelope import Envelope
    from registry.artifact.signing import read_private_key

    log.head.write_bytes(read_private_key(log.key).sign(Envelope(payload, kind)).to_bytes())
