"""Signing what the registry publishes: one line for all versions, and never less signed than before."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.locks import bundle_of, edited, make_lock, read_record
from support.refusals import refusal
from support.signed import kept, key_of, line_of, published, renewed, signed
from support.tiny_models import llama_config, write_checkpoint

from registry import moment
from registry.artifact.bundle import LINE, SIGNATURE, read_bundle, write_bundle
from registry.artifact.trust import VerifiedLine, signed_line
from registry.errors import (
    ArtifactNotFoundError,
    ConfirmationRequiredError,
    KeyScopeError,
    RollbackError,
    UntrustedKeyError,
    UsageError,
    VersionConflictError,
)
from registry.workflows.line_memory import accept
from registry.workflows.publish import publish
from registry.workflows.sign import NOBODY, Signer, change_state, line_in_force, sign_again
from registry.workflows.trust import trust_of, vouch

ALICE, BOB = key_of("alice"), key_of("bob")
BY_ALICE = Signer([ALICE])


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    record = read_record(write_checkpoint(tmp_path_factory.mktemp("base"), llama_config()))
    return bundle_of(record, make_lock())


@pytest.fixture
def registry(empty_registry):
    empty_registry.trust_key(ALICE.key_id, namespaces=["tiny-base"])
    return empty_registry


@pytest.fixture
def put(registry, draft, tmp_path):
    def call(version, *keys, alpha=2.0):
        bundle = edited(draft, alpha=alpha, alpha_range=(0.0, 4.0))
        return published(registry, bundle, tmp_path / f"{version}-{alpha}", version, *keys)

    return call


def version_of(registry, version):
    return next(one for one in registry.versions("lock") if one.version == version)


def actions(registry):
    return [event.action for event in registry.events()]


def vouched(registry, version):
    return vouch(kept(registry, version), trust_of(None, registry), registry)


# Publishing


def test_a_version_is_published_with_its_signature_and_its_line(registry, put):
    bundle = put("1.0.0", ALICE)
    said = vouched(registry, "1.0.0")
    assert said.signers == (ALICE.key_id,)
    assert said.line.sequence == 1
    assert list(said.line.versions) == ["1.0.0"]
    assert version_of(registry, "1.0.0").key_id == ALICE.key_id
    assert registry.lines()[0].sequence == 1
    assert bundle.signature is not None
    assert actions(registry)[-2:] == ["version.publish", "line.accept"]


def test_the_next_version_makes_the_next_document(registry, put):
    put("1.0.0", ALICE)
    first = line_in_force(registry, "lock")
    put("2.0.0", ALICE)
    second = line_in_force(registry, "lock")
    assert (second.sequence, second.history) == (2, (first.digest,))
    assert list(second.versions) == ["1.0.0", "2.0.0"]
    assert vouched(registry, "1.0.0").line == vouched(registry, "2.0.0").line


def test_the_same_version_again_is_no_news(registry, put):
    put("1.0.0", ALICE)
    count = len(registry.events())
    put("1.0.0", ALICE)
    assert line_in_force(registry, "lock").sequence == 1
    assert len(registry.events()) == count


def test_other_content_under_a_signed_version_is_refused(registry, put):
    put("1.0.0", ALICE)
    refusal(VersionConflictError, lambda: put("1.0.0", ALICE, alpha=3.0), "lock@1.0.0: expected")
    assert line_in_force(registry, "lock").sequence == 1


def test_a_key_signs_only_what_it_is_trusted_for_here(registry, put):
    refusal(UntrustedKeyError, lambda: put("1.0.0", BOB), f"what {BOB.key_id} would sign",
            "not trusted here")  # fmt: skip
    registry.trust_key(BOB.key_id, namespaces=["elsewhere/*"])
    refusal(KeyScopeError, lambda: put("1.0.1", BOB), "may speak for tiny-base")
    refusal(KeyScopeError, lambda: put("1.0.2", ALICE, BOB), "may speak for tiny-base")
    assert registry.lines() == []


def test_a_revoked_key_signs_nothing_any_more(registry, put):
    registry.revoke_key(ALICE.key_id, "stolen")
    refusal(UntrustedKeyError, lambda: put("1.0.0", ALICE), "revoked (stolen)")


def test_a_line_that_was_signed_once_takes_nothing_unsigned(registry, put):
    put("1.0.0", ALICE)
    refusal(ConfirmationRequiredError, lambda: put("2.0.0"),
            "expected a key that signs for line 'lock', which is signed (document 1), got none.")  # fmt: skip
    assert [one.version for one in registry.versions("lock")] == ["1.0.0"]


def test_versions_that_were_published_unsigned_are_in_the_first_line(registry, put):
    put("1.0.0")
    change_state(registry, version_of(registry, "1.0.0"), "yanked", "weak", NOBODY)
    put("2.0.0", ALICE)
    line = line_in_force(registry, "lock")
    assert line.sequence == 1
    assert {name: one.state for name, one in line.versions.items()} == {
        "1.0.0": "yanked", "2.0.0": "active",
    }  # fmt: skip


def test_a_line_that_was_seen_further_on_is_not_begun_again(registry, put, draft):
    """A registry that was restored, or a second one: it would fork the line."""
    named = edited(draft, alpha=2.0, alpha_range=(0.0, 4.0)).named("lock", "1.0.0")
    line = renewed(line_of(named), 4)
    accept(VerifiedLine(line, signed_line(line, [ALICE]), (ALICE.key_id,)), registry)
    refusal(RollbackError, lambda: put("1.0.0", ALICE), "expected sequence 5 or later")
    assert registry.lines() == []


# Lifetime


def lifetime(line):
    return moment.parse_stamp(line.expires) - moment.parse_stamp(line.created)


def test_a_line_lives_as_long_as_it_is_told_or_as_the_one_before(registry, put):
    put("1.0.0", ALICE)
    assert line_in_force(registry, "lock").expires is None
    sign_again(registry, "lock", Signer([ALICE], timedelta(days=30)))
    second = timedelta(seconds=1)
    assert abs(lifetime(line_in_force(registry, "lock")) - timedelta(days=30)) <= second
    put("2.0.0", ALICE)
    assert abs(lifetime(line_in_force(registry, "lock")) - timedelta(days=30)) <= second


# States


@pytest.mark.parametrize("state", ["yanked", "revoked"])
def test_a_state_changes_in_the_line_and_in_the_registry_together(registry, put, state):
    put("1.0.0", ALICE)
    put("2.0.0", ALICE)
    changed = change_state(registry, version_of(registry, "1.0.0"), state, "why", BY_ALICE)
    line = line_in_force(registry, "lock")
    assert (changed.state, changed.state_reason) == (state, "why")
    assert (line.sequence, line.versions["1.0.0"].state) == (3, state)
    assert registry.line_heads()[0].digest == line.digest


def test_the_same_state_again_is_no_news_and_needs_no_key(registry, put):
    put("1.0.0", ALICE)
    change_state(registry, version_of(registry, "1.0.0"), "yanked", "why", BY_ALICE)
    count = len(registry.events())
    change_state(registry, version_of(registry, "1.0.0"), "yanked", "why", NOBODY)
    assert len(registry.events()) == count


def test_a_state_of_a_signed_line_needs_a_key(registry, put):
    put("1.0.0", ALICE)
    for state in ("yanked", "revoked"):
        refusal(ConfirmationRequiredError, lambda s=state: change_state(
            registry, version_of(registry, "1.0.0"), s, "why", NOBODY
        ), "expected a key that signs for line 'lock'")  # fmt: skip
    refusal(UntrustedKeyError, lambda: change_state(
        registry, version_of(registry, "1.0.0"), "yanked", "why", Signer([BOB])
    ))  # fmt: skip
    assert version_of(registry, "1.0.0").state == "active"


def test_a_revoked_version_stays_revoked(registry, put):
    put("1.0.0", ALICE)
    change_state(registry, version_of(registry, "1.0.0"), "revoked", "why", BY_ALICE)
    refusal(VersionConflictError, lambda: change_state(
        registry, version_of(registry, "1.0.0"), "active", None, BY_ALICE
    ), "expected it to stay revoked")  # fmt: skip
    assert line_in_force(registry, "lock").sequence == 2


@pytest.mark.parametrize("reason", ["", " ", "x" * 401, "two\nlines", "\x1b[2J"])
def test_a_reason_that_no_line_can_hold_is_refused_before_anything_changes(registry, put, reason):
    put("1.0.0", ALICE)
    refusal(UsageError, lambda: change_state(
        registry, version_of(registry, "1.0.0"), "yanked", reason, BY_ALICE
    ), "expected a reason of 1 to 400 characters")  # fmt: skip
    assert line_in_force(registry, "lock").sequence == 1


# Signing again


def test_an_unsigned_line_is_signed_with_all_its_versions(registry, put):
    put("1.0.0")
    put("2.0.0")
    assert line_in_force(registry, "lock") is None
    done = sign_again(registry, "lock", BY_ALICE)
    assert [one.label for one in done] == ["lock@2.0.0", "lock@1.0.0"]
    assert {one.key_id for one in done} == {ALICE.key_id}
    for version in ("1.0.0", "2.0.0"):
        assert vouched(registry, version).line.sequence == 1


def test_signing_again_renews_the_line_and_keeps_who_signed_the_manifests(registry, put):
    put("1.0.0", ALICE)
    registry.trust_key(BOB.key_id, namespaces=["*"])
    sign_again(registry, "lock", Signer([BOB]))
    said = vouched(registry, "1.0.0")
    assert (said.line.sequence, said.signers) == (2, (ALICE.key_id, BOB.key_id))
    document = json.loads(kept(registry, "1.0.0").line)
    assert [one["keyid"] for one in document["signatures"]] == [BOB.key_id]


def test_what_is_not_there_or_not_ones_own_is_not_signed(registry, put):
    refusal(ArtifactNotFoundError, lambda: sign_again(registry, "lock", BY_ALICE))
    put("1.0.0", ALICE)
    refusal(UntrustedKeyError, lambda: sign_again(registry, "lock", Signer([BOB])))
    refusal(ConfirmationRequiredError, lambda: sign_again(registry, "lock", NOBODY),
            "expected a key that signs for line 'lock', got none.")  # fmt: skip
    assert line_in_force(registry, "lock").sequence == 1


# Brought along


def test_a_bundle_that_its_publisher_signed_keeps_its_signatures(registry, draft, tmp_path):
    bundle = signed(edited(draft, alpha=1.0).named("lock", "1.0.0"), ALICE)
    folder = write_bundle(bundle, tmp_path / "signed")
    done = publish(registry, folder, name="lock", version="1.0.0")
    assert done.version.key_id == ALICE.key_id
    again = kept(registry, "1.0.0")
    assert (again.signature, again.line) == (bundle.signature, bundle.line)
    saved = read_bundle(write_bundle(again, tmp_path / "saved"))
    assert {path.name for path in (tmp_path / "saved").iterdir()} >= {SIGNATURE, LINE}
    assert saved == read_bundle(folder)


def test_a_bundle_signed_by_somebody_else_is_not_published(registry, draft, tmp_path):
    folder = write_bundle(signed(draft.named("lock", "1.0.0"), BOB), tmp_path / "signed")
    refusal(UntrustedKeyError, lambda: publish(registry, folder, name="lock", version="1.0.0"))
    assert (registry.lines(), registry.bases()) == ([], [])
