"""Whose word counts for a bundle: the keys of the call, those of the registry, and nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.locks import bundle_of, edited, make_lock, read_record
from support.refusals import refusal
from support.signed import key_of, line_of, pem_of, published, renewed, signed, stated, trusted
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import BASE
from registry.errors import (
    KeyScopeError,
    NotFoundError,
    RevokedError,
    RollbackError,
    UnsafeFormatError,
    UnsignedError,
    UntrustedKeyError,
    UsageError,
    VersionConflictError,
)
from registry.workflows.trust import (
    Trust,
    base_names,
    key_id_of,
    names_of,
    require_vouched,
    trust_of,
    vouch,
)
from registry.workflows.trust_report import trust_status, with_trust

ALICE, BOB, MALLORY = key_of("alice"), key_of("bob"), key_of("mallory")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_checkpoint(tmp_path_factory.mktemp("base"), llama_config()))


@pytest.fixture(scope="module")
def bundle(record):
    return bundle_of(record, make_lock(), name="lock", version="1.0.0")


def of(registry):
    return trust_of(None, registry)


# Which keys


def test_without_keys_given_those_of_the_registry_count_revoked_ones_too(empty_registry):
    assert trust_of(None, None) == Trust()
    assert of(empty_registry) == Trust()
    empty_registry.trust_key(ALICE.key_id, namespaces=["acme/*"])
    empty_registry.revoke_key(BOB.key_id, "stolen")
    found = of(empty_registry)
    assert [key.key_id for key in found.keys] == [ALICE.key_id, BOB.key_id]
    assert not found.is_given


def test_keys_are_given_as_files_or_ids_one_or_several(tmp_path, bundle):
    path = pem_of(ALICE, tmp_path)
    for given in (path, str(path), ALICE.key_id, [path], (ALICE.key_id, str(path))):
        found = trust_of(given, None)
        assert found == Trust((trusted(ALICE),), is_given=True)
    both = trust_of([ALICE.key_id, BOB.key_id], None)
    assert [key.key_id for key in both.keys] == [ALICE.key_id, BOB.key_id]


def test_given_keys_count_alone_and_for_everything(empty_registry):
    empty_registry.trust_key(ALICE.key_id, namespaces=["acme/*"])
    empty_registry.trust_key(BOB.key_id, namespaces=["acme/*"])
    assert trust_of(BOB.key_id, empty_registry) == Trust((trusted(BOB),), is_given=True)


def test_a_given_key_that_the_registry_revoked_stays_revoked(empty_registry):
    empty_registry.revoke_key(ALICE.key_id, "stolen")
    (key,) = trust_of(ALICE.key_id, empty_registry).keys
    assert key.revoked_reason == "stolen"


def test_what_names_no_key_is_refused(tmp_path):
    refusal(UsageError, lambda: trust_of([], None), "at least one public key in trust, got none")
    refusal(NotFoundError, lambda: trust_of(tmp_path / "none.pub", None), "expected a key at")
    refusal(UsageError, lambda: key_id_of("ed25519:" + "A" * 64), "expected a key as ed25519:")
    refusal(NotFoundError, lambda: trust_of("~nobody-at-all/x.pub", None), "expected a key at ~nob")
    refusal(UnsafeFormatError, lambda: trust_of("", None))
    refusal(UnsafeFormatError, lambda: trust_of("a\0b", None))
    (tmp_path / "x.pub").write_text("hello")
    refusal(UnsafeFormatError, lambda: trust_of([tmp_path / "x.pub"], None), "a public Ed25519 key")


# What the base is called


def register(registry, record, bundle, name="mine", *hub):
    aliases = [("path", "/where/it/was/measured")]
    aliases += [("hub", f"{repo}@{'0' * 40}") for repo in hub]
    return registry.add_base(name, record, bundle.files[BASE], aliases)


def test_the_names_of_a_base_are_the_registrys_where_it_has_it(record, bundle, empty_registry):
    weights = record.weights
    assert names_of(bundle, None) == ("tiny-base", weights)
    assert names_of(bundle, empty_registry) == ("tiny-base", weights)
    base = register(empty_registry, record, bundle)
    assert (base_names(base), names_of(bundle, empty_registry)) == (("mine",), ("mine", weights))


def test_a_base_that_only_came_with_a_bundle_is_called_what_its_publisher_calls_it(
    record, bundle, empty_registry
):
    """Nobody here measured it: otherwise who ships a lock for somebody's weights first names them."""
    empty_registry.add_base("evil/base", record, bundle.files[BASE])
    assert names_of(bundle, empty_registry) == ("tiny-base", record.weights)
    empty_registry.add_base("mine", record, bundle.files[BASE], [("path", "/x"), ("name", "mine")])
    assert names_of(bundle, empty_registry) == ("mine", record.weights)


def test_the_repositories_a_base_came_from_are_its_names_and_its_name_is_none(
    record, bundle, empty_registry
):
    base = register(empty_registry, record, bundle, "mine", "b/two", "a/one")
    assert base_names(base) == ("a/one", "b/two")
    assert names_of(bundle, empty_registry) == ("a/one", "b/two", record.weights)


def test_what_a_bundle_calls_its_base_never_widens_a_key(record, bundle, empty_registry):
    register(empty_registry, record, bundle, "mine", "acme/base")
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base", "mine"])
    refusal(KeyScopeError, lambda: vouch(signed(bundle, ALICE), of(empty_registry), empty_registry),
            f"may speak for acme/base or {record.weights}")  # fmt: skip


# Vouching


def test_nobody_is_asked_where_nobody_is_trusted_and_nobody_signed(bundle, empty_registry):
    assert vouch(bundle, Trust(), None) is None
    assert vouch(bundle, of(empty_registry), empty_registry) is None


def test_an_unsigned_bundle_is_refused_where_keys_are_given_or_speak_for_its_base(
    record, bundle, empty_registry
):
    refusal(UnsignedError, lambda: vouch(bundle, trust_of(ALICE.key_id, None), None),
            "lock@1.0.0: expected a signature by a trusted key, as keys are trusted for tiny-base or")  # fmt: skip
    register(empty_registry, record, bundle, "tiny-base")
    empty_registry.trust_key(ALICE.key_id, namespaces=["acme/*"])
    assert vouch(bundle, of(empty_registry), empty_registry) is None
    empty_registry.trust_key(BOB.key_id, namespaces=["tiny-base"])
    refusal(UnsignedError, lambda: vouch(bundle, of(empty_registry), empty_registry))


def test_an_unsigned_bundle_of_a_base_that_nobody_measured_is_refused_where_any_key_is_trusted(
    bundle, empty_registry
):
    """Its name is the word of whoever took the signature away."""
    empty_registry.trust_key(ALICE.key_id, namespaces=["acme/*"])
    refusal(UnsignedError, lambda: vouch(bundle, of(empty_registry), empty_registry))


def test_a_base_whose_only_key_was_revoked_still_asks_for_a_signature(bundle, empty_registry):
    """Otherwise revoking a stolen key would let everybody in."""
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base"])
    empty_registry.revoke_key(ALICE.key_id, "stolen")
    refusal(UnsignedError, lambda: vouch(bundle, of(empty_registry), empty_registry))


def test_what_is_vouched_for_says_who_signed_and_what_the_line_says(bundle):
    line = stated(line_of(bundle, bundle.named("lock", "2.0.0")), "1.0.0", "yanked", "weak")
    said = vouch(signed(bundle, BOB, ALICE, line=line), trust_of(ALICE.key_id, None), None)
    assert (said.signers, said.is_yanked, said.reason) == ((ALICE.key_id,), True, "weak")
    assert said.line.digest == line.digest


def test_the_manifest_and_its_line_may_be_signed_by_different_trusted_keys(bundle):
    mixed = replace(signed(bundle, ALICE), line=signed(bundle, BOB).line)
    said = vouch(mixed, trust_of([ALICE.key_id, BOB.key_id], None), None)
    assert said.signers == (ALICE.key_id,)
    refusal(UntrustedKeyError, lambda: vouch(mixed, trust_of(ALICE.key_id, None), None), BOB.key_id)


def test_a_line_by_one_trusted_key_is_not_wound_back_by_an_older_one_by_another(bundle):
    """After a rotation, where no registry remembers: the old key's last line is genuine too."""
    first = line_of(bundle)
    revoked = stated(renewed(first), "1.0.0", "revoked", "leaked")
    both = trust_of([ALICE.key_id, BOB.key_id], None)
    assert vouch(signed(bundle, ALICE), both, None)
    refusal(RevokedError, lambda: vouch(signed(bundle, BOB, line=revoked), both, None))
    refusal(RollbackError, lambda: vouch(signed(bundle, ALICE), both, None), "sequence 3")
    refusal(RevokedError, lambda: vouch(signed(bundle, BOB, line=revoked), both, None))


def test_a_revocation_is_remembered_although_its_bundle_is_refused(bundle, empty_registry):
    empty_registry.trust_key(ALICE.key_id, namespaces=["*"])
    revoked = signed(bundle, ALICE, line=stated(line_of(bundle), "1.0.0", "revoked", "leaked"))
    refusal(RevokedError, lambda: vouch(revoked, of(empty_registry), empty_registry), "leaked")
    assert empty_registry.line_heads()[0].sequence == 2


def test_a_line_by_nobody_trusted_is_not_remembered(bundle, empty_registry, tmp_path):
    empty_registry.trust_key(ALICE.key_id, namespaces=["*"])
    attack = signed(bundle, MALLORY, line=renewed(line_of(bundle), 9))
    refusal(UntrustedKeyError, lambda: vouch(attack, of(empty_registry), empty_registry))
    assert empty_registry.line_heads() == []
    assert not (tmp_path / "lines").exists()


def test_a_line_of_another_base_is_refused_before_it_is_remembered(bundle, empty_registry):
    """The keys were asked about the base of the manifest, not about that of the line."""
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base"])
    line = replace(line_of(bundle), base="blake3:" + "0" * 64)
    attack = signed(bundle, ALICE, line=line)
    refusal(VersionConflictError, lambda: vouch(attack, of(empty_registry), empty_registry),
            "expected base blake3:000")  # fmt: skip
    assert empty_registry.line_heads() == []


def test_a_line_by_a_key_of_the_call_alone_is_remembered_in_the_users_folder(
    bundle, empty_registry, tmp_path
):
    empty_registry.trust_key(ALICE.key_id, namespaces=["elsewhere/*"])
    empty_registry.trust_key(BOB.key_id, namespaces=["tiny-base"])
    for key, count in ((MALLORY, 1), (ALICE, 2), (BOB, 2)):
        given = trust_of(key.key_id, empty_registry)
        assert vouch(signed(bundle, key), given, empty_registry)
        assert len(list((tmp_path / "lines").iterdir())) == count
        assert len(empty_registry.line_heads()) == (1 if key is BOB else 0)


def test_a_signer_whom_one_call_alone_trusts_vouches_for_no_head(bundle, empty_registry):
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base"])
    given = trust_of([MALLORY.key_id, ALICE.key_id], empty_registry)
    assert vouch(signed(bundle, MALLORY, ALICE), given, empty_registry)
    assert empty_registry.line_heads()[0].key_ids == (ALICE.key_id,)


def test_a_line_changes_no_state_of_another_artifact_of_the_same_name(
    bundle, empty_registry, tmp_path
):
    published(empty_registry, replace_alpha(bundle, 1.0), tmp_path / "draft", "1.0.0")
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base"])
    theirs = bundle.named("lock", "2.0.0")
    line = stated(line_of(bundle, theirs), "1.0.0", "revoked")
    assert vouch(signed(theirs, ALICE, line=line), of(empty_registry), empty_registry)
    assert empty_registry.versions("lock")[0].state == "active"


def replace_alpha(bundle, alpha):
    """Return a draft of another content than ``bundle``."""
    manifest = replace(bundle.manifest, name=None, version=None)
    return edited(bundle.with_manifest(manifest), alpha=alpha)


def test_no_registry_at_all_is_no_reason_not_to_ask(bundle, tmp_path):
    whole = signed(bundle, ALICE)
    nowhere = str(tmp_path / "nowhere.db")
    assert require_vouched(whole, ALICE.key_id, nowhere).signers == (ALICE.key_id,)
    assert require_vouched(bundle, None, nowhere) is None
    refusal(UntrustedKeyError, lambda: require_vouched(whole, None, nowhere))


# What is said about it where nothing is loaded


def test_the_status_of_a_bundle_is_vouched_unsigned_or_refused(bundle, empty_registry):
    assert trust_status(bundle, empty_registry).state == "unsigned"
    empty_registry.trust_key(ALICE.key_id, namespaces=["*"])
    status = trust_status(bundle, empty_registry)
    assert (status.state, status.refusal.code) == ("refused", "unsigned")
    line = stated(line_of(bundle, expires="2999-01-01T00:00:00Z"), "1.0.0", "yanked", "weak")
    status = trust_status(signed(bundle, ALICE, line=line), empty_registry)
    assert status.to_dict() == {
        "state": "vouched", "signed_by": [ALICE.key_id], "sequence": 2,
        "expires": "2999-01-01T00:00:00Z", "reason": None,
    }  # fmt: skip
    assert status.yanked == "weak"


def test_a_refusal_comes_first_among_the_findings_of_a_check(world, empty_registry):
    from registry.settings import Settings
    from registry.workflows.check import check
    from registry.workflows.identify import identify

    report = check(world.bundle, identify(world.tune, settings=Settings.load()).record)
    assert report.verdict == "compatible"
    empty_registry.trust_key(ALICE.key_id, namespaces=["planted-base"])
    shown = with_trust(report, trust_status(world.bundle, empty_registry))
    assert (shown.verdict, shown.findings[0].code) == ("refused", "unsigned")
