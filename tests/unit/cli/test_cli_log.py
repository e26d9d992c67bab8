"""``safelatch log head`` and what ``log verify`` takes; what it finds is in tests/attacks."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.store_builders import let_events_change

from registry.artifact.signing import PrivateKey, public_pem, read_private_key
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database(home: Path) -> Path:
    assert safelatch("init").status == 0
    return home / "registry.db"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "auditor.key"
    made = PrivateKey.generate()
    path.write_bytes(made.to_pem())
    path.with_suffix(".pub").write_bytes(public_pem(made.key_id))
    return path


@pytest.fixture
def log(database: Path) -> Path:
    with Registry.open(str(database)) as registry:
        for number in range(3):
            registry.append_event("test.event", "subject", {"number": number})
    return database


def test_the_head_that_is_exported_is_the_last_event(log: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "head.json"
    exported = safelatch("log", "head", "--key", key, "--out", out)
    with Registry.open(str(log)) as registry:
        last = registry.events()[-1]
        assert registry.log_head().digest == last.digest
    assert (exported.status, exported.out) == (0, f"signed  3 events  {last.digest}  {out}\n")
    assert "keep" in exported.err
    verified = safelatch(
        "log", "verify", "--head", out, "--trust", key.with_suffix(".pub"), "--format", "json"
    ).document
    assert (verified["head"]["sequence"], verified["head"]["digest"]) == (3, last.digest)
    assert safelatch("log", "verify", "--format", "json").document["head"] is None


def test_a_head_that_was_kept_is_never_overwritten(log: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "head.json"
    assert safelatch("log", "head", "--key", key, "--out", out).status == 0
    before = out.read_bytes()
    with Registry.open(str(log)) as registry:
        registry.append_event("test.event", "subject", {})
    (tmp_path / "link.json").symlink_to(out)
    for taken in (out, tmp_path / "link.json"):
        again = safelatch("log", "head", "--key", key, "--out", taken)
        assert (again.status, again.out, again.err) == (
            2, "",
            (f"error [usage]: expected a name that is free, got {taken}: a head that was kept must "
            "not be lost.\nhint: Name another file: safelatch log head --key KEY --out HEAD\n"),
        )  # fmt: skip
    assert out.read_bytes() == before
    assert safelatch("log", "head", "--key", key, "--out", tmp_path / "second.json").status == 0


def test_a_key_that_is_revoked_here_signs_no_head(log: Path, key: Path, tmp_path: Path) -> None:
    key_id = read_private_key(key).key_id
    with Registry.open(str(log)) as registry:
        registry.revoke_key(key_id, "stolen")
    out = tmp_path / "head.json"
    refused = safelatch("log", "head", "--key", key, "--out", out)
    assert (refused.status, refused.out, refused.err) == (
        3, "",
        ("error [untrusted-key]: the head of the log: expected a key that is not revoked here, got "
        f"{key_id}: revoked (stolen).\n"
        "hint: Sign it with another key: safelatch log head --key KEY --out HEAD\n"),
    )  # fmt: skip
    assert not out.exists()


def test_a_head_is_trusted_by_a_key_of_the_registry_without_naming_it(
    log: Path, key: Path, tmp_path: Path
) -> None:
    out = tmp_path / "head.json"
    made = safelatch("log", "head", "--key", key, "--out", out, "--format", "json").document
    assert safelatch("log", "verify", "--head", out).status == 3
    with Registry.open(str(log)) as registry:
        registry.trust_key(made["keys"][0], namespaces=["acme/*"])
    verified = safelatch("log", "verify", "--head", out, "--format", "json")
    assert (verified.status, verified.document["head"]["keys"]) == (0, made["keys"])


@pytest.mark.usefixtures("log")
def test_an_encrypted_key_asks_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "locked.key", tmp_path / "head.json"
    path.write_bytes(PrivateKey.generate().to_pem("correct horse"))
    for given in ("", "another"):
        monkeypatch.setenv("SAFELATCH_KEY_PASSPHRASE", given)
        refused = safelatch("log", "head", "--key", path, "--out", out)
        assert (refused.status, out.exists()) == (2, False)
        assert "[confirmation-required]" in refused.err
    monkeypatch.setenv("SAFELATCH_KEY_PASSPHRASE", "correct horse")
    assert safelatch("log", "head", "--key", path, "--out", out).status == 0
    assert json.loads(out.read_bytes())["signatures"]


def test_the_head_of_a_broken_chain_is_not_signed(log: Path, key: Path, tmp_path: Path) -> None:
    with sqlite3.connect(log) as connection:
        let_events_change(connection)
        connection.execute("UPDATE events SET actor = 'someone' WHERE sequence = 2")
    connection.close()
    out = tmp_path / "head.json"
    refused = safelatch("log", "head", "--key", key, "--out", out)
    assert (refused.status, refused.out, out.exists()) == (3, "", False)
    assert "expected a whole chain of events, got 1 findings:\n  event 2: expected" in refused.err


@pytest.mark.usefixtures("database")
def test_a_log_without_events_has_no_head(key: Path, tmp_path: Path) -> None:
    out = tmp_path / "head.json"
    refused = safelatch("log", "head", "--key", key, "--out", out)
    assert (refused.status, out.exists()) == (1, False)
    assert "expected an event, found none" in refused.err


@pytest.mark.usefixtures("log")
def test_the_key_is_not_overwritten_by_the_head(key: Path) -> None:
    before = key.read_bytes()
    refused = safelatch("log", "head", "--key", key, "--out", key)
    assert refused.status == 2
    assert f"expected a name that is free, got {key}: " in refused.err
    assert key.read_bytes() == before


@pytest.mark.usefixtures("log")
def test_a_head_that_is_not_there_and_a_key_without_a_head(key: Path, tmp_path: Path) -> None:
    missing = safelatch("log", "verify", "--head", tmp_path / "none.json")
    assert (missing.status, "safelatch log head" in missing.err) == (1, True)
    lonely = safelatch("log", "verify", "--trust", key.with_suffix(".pub"))
    assert (lonely.status, "expected a head with --trust" in lonely.err) == (2, True)
