"""Where no registry can take the record of a load, a receipt says it; and proves nothing yet."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.store_permissions import needs_permissions, obeying_permissions

from registry import Registry, load_protected, moment
from registry.artifact.envelope import Envelope, read_envelope
from registry.artifact.schema import validate
from registry.artifact.signing import PrivateKey
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    DigestMismatchError,
    EvidenceError,
    NoProtectionError,
    NotFoundError,
    SchemaViolationError,
    SignatureError,
    StoreError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)
from registry.settings import Settings
from registry.store import session
from registry.workflows.audit import audit
from registry.workflows.identify import identify
from registry.workflows.receipts import (
    LIMIT,
    PAYLOAD_TYPE,
    load_statement,
    read_receipt,
    write_receipt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION_2 = "urn:safelatch:load-receipt:v2"


@pytest.fixture
def receipts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's receipts; not there yet."""
    folder = tmp_path / "state" / "receipts"
    monkeypatch.setenv("SAFELATCH_RECEIPTS", str(folder))
    return folder


@pytest.fixture
def busy(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another process writes to the default registry, longer than anybody waits."""
    monkeypatch.setattr(session, "PATIENCE_S", 0.05)
    holder = sqlite3.connect(str(Settings.load().sqlite_path), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.close()


@pytest.fixture
def read_only(registry: Registry, home: Path) -> Iterator[Path]:
    """The default registry, in a folder that cannot be written."""
    registry.close()
    home.chmod(0o555)
    yield home
    home.chmod(0o755)


def load_without_registry(world: Any) -> Any:
    return load_protected(world.tune, artifacts=[world.lock])


# What is written, and when


def test_a_load_without_a_registry_leaves_a_receipt(world, home, receipts):
    model = load_without_registry(world)
    shown = model.safelatch.to_dict()
    assert (shown["verified"], shown["recorded"]) == (True, False)
    (path,) = receipts.iterdir()
    assert shown["receipt"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    receipt = read_receipt(path)
    assert receipt.signed_by == ()
    validate(receipt.statement, "load_receipt.v1", what="receipt")
    (subject,) = receipt.statement["subject"]
    assert f"blake3:{subject['digest']['blake3']}" == model.safelatch.checkpoint
    predicate = receipt.statement["predicate"]
    assert predicate["unrecorded"] == f"no registry at sqlite:///{home / 'registry.db'}"
    assert predicate["model"]["locator"] == str(world.tune)
    (entry,) = predicate["applications"]
    (applied,) = model.safelatch.applied
    assert entry["manifest_digest"] == applied.digest == world.bundle.manifest.digest
    assert (entry["alpha"], entry["device"], entry["policy"]) == (1.0, "cpu", "enforce")
    assert (entry["applied_at"], entry["verified_at"]) == (applied.applied_at, applied.verified_at)
    assert entry["lineage"]["relation"] == "derived"
    assert entry["base"]["weights"] == world.bundle.manifest.base_weights
    assert predicate["tool"].keys() >= {"safelatch", "torch", "transformers"}


def test_a_load_with_a_registry_leaves_none(world, registry, receipts):
    shown = load_protected(world.tune).safelatch.to_dict()
    assert (shown["recorded"], shown["receipt"]) == (True, None)
    assert not receipts.exists()


def test_a_receipt_says_what_the_registry_would_have(world, registry, receipts, tmp_path):
    (row,) = registry.applications(load_protected(world.tune).safelatch.checkpoint)
    nowhere = str(tmp_path / "nowhere.db")
    model = load_protected(world.tune, artifacts=[world.lock], registry=nowhere)
    predicate = read_receipt(Path(model.safelatch.receipt)).statement["predicate"]
    assert predicate["unrecorded"] == f"no registry at sqlite:///{nowhere}"
    (entry,) = predicate["applications"]
    recorded = {
        "kind": row.kind, "alpha": row.alpha, "device": row.device, "policy": row.policy,
        "evidence": row.evidence,
    }  # fmt: skip
    assert {name: entry[name] for name in recorded} == recorded
    assert entry.keys() - {"artifact", "base", "lineage"} == {
        *recorded, "manifest_digest", "applied_at", "verified_at",
    }  # fmt: skip


def test_each_load_leaves_a_receipt_of_its_own(world, home, receipts, monkeypatch):
    monkeypatch.setattr(moment, "now", lambda: moment.parse_stamp("2030-01-01T00:00:00Z"))
    paths = {load_without_registry(world).safelatch.receipt for _ in range(2)}
    assert len(paths) == len(list(receipts.iterdir())) == 2
    assert all(Path(path).name.startswith("20300101T000000Z-") for path in paths)


@needs_permissions
def test_a_load_from_a_read_only_registry_leaves_a_receipt(world, read_only, receipts):
    before = sorted(read_only.rglob("*"))
    model = obeying_permissions(lambda: load_protected(world.tune))
    shown = model.safelatch
    assert (shown.verified, shown.recorded, shown.base) == (True, False, "planted-base")
    reason = read_receipt(Path(shown.receipt)).statement["predicate"]["unrecorded"]
    assert reason == f"sqlite:///{read_only / 'registry.db'} is read-only"
    assert sorted(read_only.rglob("*")) == before


@needs_permissions
def test_a_load_from_a_read_only_file_leaves_a_receipt(world, registry, home, receipts):
    registry.close()
    (home / "registry.db").chmod(0o444)
    shown = obeying_permissions(lambda: load_protected(world.tune)).safelatch
    assert (shown.verified, shown.recorded) == (True, False)
    assert read_receipt(Path(shown.receipt))


@needs_permissions
def test_a_registry_whose_last_writes_cannot_be_seen_is_not_loaded_from(
    world, registry, home, receipts
):
    with session.write(registry._engine) as connection:
        connection.exec_driver_sql("UPDATE versions SET state = 'revoked', state_reason = 'leaked'")
    left = (home / "registry.db-wal").read_bytes()  # the revocation is in here alone
    main = (home / "registry.db").read_bytes()
    registry.close()
    (home / "registry.db-wal").write_bytes(left)
    (home / "registry.db").write_bytes(main)
    home.chmod(0o555)
    try:
        with pytest.raises(StoreError, match=r"got unfinished writes in registry\.db-wal"):
            obeying_permissions(lambda: load_protected(world.tune))
    finally:
        home.chmod(0o755)
    with pytest.raises(NoProtectionError, match="expected an active artifact"):
        load_protected(world.tune)
    assert not receipts.exists()


@needs_permissions
def test_what_a_read_only_registry_has_revoked_is_refused_from_a_folder_too(
    world, registry, home, receipts, tmp_path
):
    version = registry.versions("planted-lock")[0]
    registry.set_state(version, "revoked", "it was leaked")
    folder = tmp_path / "kept"
    folder.mkdir()
    for name, data in registry.bundle_files(version).items():
        (folder / name).write_bytes(data)
    registry.close()
    home.chmod(0o555)
    try:
        with pytest.raises(EvidenceError, match="is revoked: it was leaked"):
            obeying_permissions(lambda: load_protected(world.tune, artifacts=[folder]))
    finally:
        home.chmod(0o755)


def test_a_busy_registry_does_not_cost_a_verified_model(world, busy, receipts, monkeypatch):
    write, attempts = session.write, []

    def counted(*arguments: Any, **options: Any) -> Any:
        attempts.append(arguments)
        return write(*arguments, **options)

    monkeypatch.setattr(session, "write", counted)
    with pytest.warns(UserWarning, match="is protected and verified, but no registry") as caught:
        model = load_protected(world.tune)
    shown = model.safelatch.to_dict()
    assert (shown["verified"], shown["recorded"]) == (True, False)
    reason = read_receipt(Path(shown["receipt"])).statement["predicate"]["unrecorded"]
    assert "within 0.05 s, another process held it longer (database is locked)" in reason
    assert str(caught[0].message).endswith(f"The receipt of this load is {shown['receipt']}")
    assert caught[0].filename == __file__
    assert len(attempts) == 1  # it is waited for once


def test_a_refused_load_says_why_it_was_refused_and_not_that_nobody_wrote_it_down(
    world, registry, busy, receipts, tmp_path
):
    with pytest.raises(NoProtectionError, match="expected a registered artifact"):
        load_protected(world.tune, artifacts=["planted-look"])
    assert not receipts.exists()


def test_a_load_that_opted_out_is_returned_from_a_busy_registry_too(world, busy, receipts):
    with pytest.warns(UserWarning, match="WITHOUT protection"):
        model = load_protected(world.tune, artifacts=["planted-look"], policy="warn")
    assert (model.safelatch.recorded, model.safelatch.receipt) == (False, None)
    assert not receipts.exists()


@needs_permissions
def test_a_load_that_is_written_down_nowhere_claims_nothing_and_warns(world, home, receipts):
    receipts.parent.mkdir()
    receipts.parent.chmod(0o555)

    def load() -> Any:
        with pytest.warns(UserWarning, match="no receipt could be written") as caught:
            model = load_without_registry(world)
        return model, str(caught[0].message)

    try:
        model, warning = obeying_permissions(load)
    finally:
        receipts.parent.chmod(0o755)
    shown = model.safelatch.to_dict()
    assert (shown["verified"], shown["recorded"], shown["receipt"]) == (True, False, None)
    assert warning == (
        f"{world.tune} is protected and verified, but no registry has it on record: no registry at "
        f"sqlite:///{home / 'registry.db'}; and no receipt could be written, got at {receipts}: "
        "Permission denied. Name a folder that can be written: export SAFELATCH_RECEIPTS=/path"
    )


def test_a_user_without_a_home_loads_all_the_same(world, home, monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SAFELATCH_RECEIPTS", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match="got at receipts: this user has no home folder"):
        model = load_without_registry(world)
    assert (model.safelatch.verified, model.safelatch.receipt) == (True, None)


def test_a_receipt_that_was_not_written_to_its_end_is_not_there(world, receipts, monkeypatch):
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert load_without_registry(world).safelatch.receipt is None
    assert list(receipts.glob("*")) == []


# What a receipt is worth


def test_an_unsigned_receipt_is_no_evidence_for_an_audit(world, registry, home, receipts):
    Registry.open().close()
    path = home / "registry.db"
    path.rename(home / "away.db")
    report = load_without_registry(world).safelatch
    assert read_receipt(Path(report.receipt)).statement["predicate"]["applications"]
    (home / "away.db").rename(path)
    (row,) = audit(registry, [str(world.tune)], settings=Settings.load())
    assert (row.state, row.is_protected) == ("available", False)
    assert (row.applied_at, row.verified_at) == (None, None)
    assert registry.applications(report.checkpoint) == []


def test_a_receipt_can_be_signed_later_without_writing_a_byte_anew(world, receipts):
    path = Path(load_without_registry(world).safelatch.receipt)
    before = read_receipt(path)
    assert before.signed_by == ()
    assert canonical_json(before.statement) == before.payload
    key = PrivateKey.generate()
    given = {"payload_type": PAYLOAD_TYPE, "what": "receipt", "limit": LIMIT, "hint": "none"}
    path.write_bytes(key.sign(read_envelope(path.read_bytes(), **given)).to_bytes())
    after = read_receipt(path)
    assert after.signed_by == (key.key_id,)
    assert after.payload == before.payload


def test_a_receipt_is_signed_by_the_key_of_the_environment(world, receipts, tmp_path, monkeypatch):
    key = PrivateKey.generate()
    (tmp_path / "host.key").write_bytes(key.to_pem("words"))
    monkeypatch.setenv("SAFELATCH_RECEIPT_KEY", str(tmp_path / "host.key"))
    monkeypatch.setenv("SAFELATCH_KEY_PASSPHRASE", "words")
    receipt = read_receipt(Path(load_without_registry(world).safelatch.receipt))
    assert receipt.signed_by == (key.key_id,)


def test_a_receipt_that_should_be_signed_and_cannot_be_is_not_left_unsigned(
    world, receipts, tmp_path, monkeypatch
):
    monkeypatch.setenv("SAFELATCH_RECEIPT_KEY", str(tmp_path / "gone.key"))
    with pytest.warns(UserWarning, match="no receipt could be written, expected a key at"):
        model = load_without_registry(world)
    assert model.safelatch.verified
    assert model.safelatch.receipt is None
    assert list(receipts.glob("*")) == []


def test_a_signature_of_other_bytes_is_refused(statement, tmp_path):
    path = write_receipt(tmp_path, statement)
    other = PrivateKey.generate().sign(Envelope(b"{}", PAYLOAD_TYPE)).signatures
    given = {"payload_type": PAYLOAD_TYPE, "what": "receipt", "limit": LIMIT, "hint": "none"}
    whole = read_envelope(path.read_bytes(), **given)
    path.write_bytes(replace(whole, signatures=other).to_bytes())
    with pytest.raises(SignatureError, match="expected a signature of these bytes by ed25519:"):
        read_receipt(path)


# Reading: refused unless it is exactly what it says


@pytest.fixture(scope="module")
def statement(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELATCH_RECEIPTS", str(tmp_path_factory.mktemp("receipts")))
        patch.setenv("SAFELATCH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SAFELATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = load_without_registry(world)
        return dict(read_receipt(Path(model.safelatch.receipt)).statement)


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Exchange the payload of a receipt, under the name it has."""
    envelope = json.loads(path.read_bytes())
    payload = change(base64.b64decode(envelope["payload"]))
    envelope["payload"] = base64.b64encode(payload).decode()
    path.write_bytes(canonical_json(envelope))
    return path


def test_a_changed_payload_is_not_what_the_file_was_named_after(statement, tmp_path):
    path = write_receipt(tmp_path, statement)
    rewritten(path, lambda payload: payload.replace(b'"alpha":1,', b'"alpha":9,'))
    with pytest.raises(DigestMismatchError, match=rf"expected the name .* got {path.name}"):
        read_receipt(path)


def test_a_receipt_under_another_name_is_refused(statement, tmp_path):
    path = write_receipt(tmp_path, statement)
    for name in ("receipt.json", f"20300101T000000Z{path.name[16:]}"):
        with pytest.raises(DigestMismatchError, match=f"expected the name {path.name}"):
            read_receipt(path.rename(tmp_path / name))
        (tmp_path / name).rename(path)
    assert read_receipt(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.replace(b",", b", "),
        lambda payload: payload + b"\n",
        lambda payload: payload.replace(b'"alpha":1,', b'"alpha":1.0,'),
        lambda payload: payload.replace(b'"alpha":1,', b'"alpha":1,"alpha":1,'),
        lambda payload: b"[" + payload + b"]",
        lambda payload: payload[:-1],
        lambda _: b"",
    ],
    ids=["blanks", "newline", "number", "twice", "list", "cut", "empty"],
)
def test_a_payload_in_another_form_is_refused(statement, tmp_path, change):
    with pytest.raises(UnsafeFormatError):
        read_receipt(rewritten(write_receipt(tmp_path, statement), change))


def test_a_receipt_of_another_kind_or_version_is_called_so(statement, tmp_path):
    for changes in ({"predicateType": VERSION_2}, {"_type": "https://in-toto.io/Statement/v2"}):
        path = write_receipt(tmp_path, {**statement, **changes})
        (value,) = changes.values()
        with pytest.raises(UnsupportedSchemaVersionError, match=f"got '{value}'") as caught:
            read_receipt(path)
        assert "in a checkout: git pull, then pip install ." in str(caught.value.hint)


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("$", lambda s: {**s, "extra": 1}),
        ("$", lambda s: without(s, "subject")),
        ("$.subject", lambda s: {**s, "subject": []}),
        ("$.subject[0].digest.blake3", lambda s: {**s, "subject": [{"name": "x", "digest": {"blake3": "A" * 64}}]}),
        ("$.predicate", lambda s: {**s, "predicate": without(s["predicate"], "unrecorded")}),
        ("$.predicate", lambda s: {**s, "predicate": {**s["predicate"], "recorded": True}}),
        ("$.predicate.applications", lambda s: {**s, "predicate": {**s["predicate"], "applications": []}}),
        ("$.predicate.tool", lambda s: {**s, "predicate": {**s["predicate"], "tool": {}}}),
    ],
)  # fmt: skip
def test_a_statement_that_does_not_follow_its_schema_is_refused(statement, tmp_path, where, change):
    path = write_receipt(tmp_path, change(statement))
    with pytest.raises(SchemaViolationError) as caught:
        read_receipt(path)
    assert caught.value.violations[0].startswith(f"{where}: ")
    assert caught.value.hint == "Do not rely on it: load the model again, which writes another."


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda e: {**e, "extra": 1}, UnsafeFormatError),
        (lambda e: without(e, "signatures"), UnsafeFormatError),
        (lambda e: [e], UnsafeFormatError),
        (lambda e: {**e, "signatures": {}}, UnsafeFormatError),
        (lambda e: {**e, "signatures": ["x"]}, UnsafeFormatError),
        (lambda e: {**e, "payload": e["payload"] + "\n"}, UnsafeFormatError),
        (lambda e: {**e, "payload": e["payload"][:-1]}, UnsafeFormatError),
        (lambda e: {**e, "payload": None}, UnsafeFormatError),
        (lambda e: {**e, "payload": "ü"}, UnsafeFormatError),
        (lambda e: {**e, "payloadType": "text/plain"}, UnsupportedSchemaVersionError),
    ],
)
def test_an_envelope_in_another_form_is_refused(statement, tmp_path, change, error):
    path = write_receipt(tmp_path, statement)
    path.write_bytes(json.dumps(change(json.loads(path.read_bytes()))).encode())
    with pytest.raises(error):
        read_receipt(path)


def test_a_payload_that_is_spelt_in_two_ways_is_refused(statement, tmp_path):
    """Bits of the last letter that stand for nothing could differ unseen."""
    for filling in ("", " ", "  "):
        predicate = {**statement["predicate"], "unrecorded": f"a test{filling}"}
        path = write_receipt(tmp_path, {**statement, "predicate": predicate})
        envelope = json.loads(path.read_bytes())
        if envelope["payload"].endswith("=="):
            break
    last = envelope["payload"][-3]
    other = envelope["payload"][:-3] + chr(ord(last) + 1) + "=="
    assert base64.b64decode(other, validate=True) == base64.b64decode(envelope["payload"])
    path.write_bytes(canonical_json({**envelope, "payload": other}))
    with pytest.raises(UnsafeFormatError, match="expected a payload in base64"):
        read_receipt(path)


def test_what_is_no_file_is_no_receipt(tmp_path):
    with pytest.raises(NotFoundError, match="expected a receipt at"):
        read_receipt(tmp_path / "nothing.json")
    with pytest.raises(UnsafeFormatError, match="expected a regular file"):
        read_receipt(tmp_path)


def test_a_name_that_no_document_holds_is_escaped(world, home, tmp_path):
    model = replace(identify(world.tune, settings=Settings.load()), locator="m\udc80\x00")
    statement = load_statement(model, "cpu", "enforce", [], reason="a test")
    assert statement["subject"][0]["name"] == "m\\udc80\\x00"
    assert digest_bytes(canonical_json(statement))
