"""Whose signature counts, and what each refusal is called."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from support.locks import bundle_of, make_lock, read_record
from support.refusals import refusal
from support.signed import (
    FIRST,
    digest_of,
    key_of,
    line_envelope,
    line_of,
    manifest_envelope,
    signed,
    trusted,
)
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.envelope import Envelope
from registry.artifact.line import LineEntry
from registry.artifact.trust import (
    require_signer,
    signed_line,
    signed_manifest,
    verify_line,
    verify_manifest,
)
from registry.errors import (
    KeyScopeError,
    LineExpiredError,
    SchemaViolationError,
    SignatureError,
    UnsignedError,
    UnsupportedSchemaVersionError,
    UntrustedKeyError,
)

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
NAMES = ("acme/base", digest_of("base"))
ALICE, BOB, MALLORY = key_of("alice"), key_of("bob"), key_of("mallory")
ENVELOPE = Envelope(b"x", "t/x")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    record = read_record(write_checkpoint(tmp_path_factory.mktemp("trust"), llama_config()))
    return bundle_of(record, make_lock(), name="lock", version="1.0.0")


def signers(envelope, *keys, names=NAMES, now=NOW):
    return require_signer(envelope, keys, names, what="x.json", now=now)


def refused(kind, call, *said):
    return refusal(kind, call, *said)


# Which key counts


def test_the_keys_that_count_are_named_in_the_order_of_the_envelope():
    envelope = MALLORY.sign(ALICE.sign(BOB.sign(ENVELOPE)))
    found = signers(envelope, trusted(ALICE), trusted(BOB))
    assert found == (BOB.key_id, ALICE.key_id)


def test_nobodys_signature_is_asked_for():
    refused(UnsignedError, lambda: signers(ENVELOPE, trusted(ALICE)),
            "x.json: expected a signature, got none.")  # fmt: skip


def test_an_unknown_key_is_named():
    refused(UntrustedKeyError, lambda: signers(MALLORY.sign(ENVELOPE), trusted(ALICE)),
            "expected a signature by a trusted key", f"{MALLORY.key_id}: not trusted here")  # fmt: skip
    refused(UntrustedKeyError, lambda: signers(MALLORY.sign(ENVELOPE)), MALLORY.key_id)


def test_a_revoked_key_is_named_with_the_reason():
    key = trusted(ALICE, revoked_at=NOW, revoked_reason="stolen")
    refused(UntrustedKeyError, lambda: signers(ALICE.sign(ENVELOPE), key),
            f"{ALICE.key_id}: revoked (stolen)")  # fmt: skip


def test_a_revoked_key_is_refused_at_every_moment_also_before_it_was_revoked():
    key = trusted(ALICE, revoked_at=NOW, revoked_reason="stolen")
    for now in (NOW - 1000 * HOUR, NOW, NOW + HOUR):
        refused(UntrustedKeyError, lambda n=now: signers(ALICE.sign(ENVELOPE), key, now=n))


def test_a_key_counts_from_the_first_moment_of_its_validity_to_the_last_before_its_end():
    key = trusted(ALICE, not_before=NOW, not_after=NOW + HOUR)
    envelope = ALICE.sign(ENVELOPE)
    second = timedelta(seconds=1)
    for now in (NOW, NOW + second, NOW + HOUR - second):
        assert signers(envelope, key, now=now) == (ALICE.key_id,)
    refused(UntrustedKeyError, lambda: signers(envelope, key, now=NOW - second),
            "valid from 2030-01-01T00:00:00Z on, it is 2029-12-31T23:59:59Z")  # fmt: skip
    refused(UntrustedKeyError, lambda: signers(envelope, key, now=NOW + HOUR),
            "valid until 2030-01-01T01:00:00Z, it is 2030-01-01T01:00:00Z")  # fmt: skip


@pytest.mark.parametrize("namespace", ["evil/*", "acme/other", "acme-evil/*", digest_of("other")])
def test_a_key_outside_its_namespaces_is_told_what_it_may(namespace):
    refused(KeyScopeError, lambda: signers(ALICE.sign(ENVELOPE), trusted(ALICE, namespace)),
            f"expected a key that may speak for acme/base or {digest_of('base')}",
            f"{ALICE.key_id} speaks for {namespace}")  # fmt: skip


@pytest.mark.parametrize("namespace", ["*", "acme/*", "acme/base", digest_of("base")])
def test_a_key_inside_its_namespaces_counts(namespace):
    assert signers(ALICE.sign(ENVELOPE), trusted(ALICE, namespace)) == (ALICE.key_id,)


def test_a_key_that_may_speak_for_nothing_does_not():
    key = replace(trusted(ALICE), namespaces=())
    refused(KeyScopeError, lambda: signers(ALICE.sign(ENVELOPE), key))


def test_a_wrong_signature_beside_a_trusted_one_refuses_the_whole():
    envelope = ALICE.sign(ENVELOPE)
    other = MALLORY.sign(Envelope(b"y", "t/x")).signatures
    mixed = replace(envelope, signatures=(*envelope.signatures, *other))
    refused(SignatureError, lambda: signers(mixed, trusted(ALICE)), MALLORY.key_id)


def test_a_trusted_key_counts_beside_an_untrusted_and_a_revoked_one():
    envelope = ALICE.sign(BOB.sign(MALLORY.sign(ENVELOPE)))
    gone = trusted(BOB, revoked_at=NOW, revoked_reason="old")
    assert signers(envelope, trusted(ALICE), gone) == (ALICE.key_id,)


# Of a bundle


def lines(bundle, *keys, now=NOW):
    names = ("acme/base", bundle.manifest.base_weights)
    return verify_line(bundle.line, keys, names, label=bundle.manifest.label, now=now)


def manifests(bundle, *keys):
    names = ("acme/base", bundle.manifest.base_weights)
    return verify_manifest(bundle, keys, names, now=NOW)


def test_a_signed_bundle_is_verified(bundle):
    whole = signed(bundle, ALICE, BOB)
    found = lines(whole, trusted(BOB))
    assert found.line == replace(line_of(bundle), versions=found.line.versions)
    assert (found.signers, found.envelope) == ((BOB.key_id,), whole.line)
    assert manifests(whole, trusted(BOB)) == (BOB.key_id,)


def test_an_envelope_that_is_not_there_is_told_by_its_name(bundle):
    whole = signed(bundle, ALICE)
    refused(UnsignedError, lambda: lines(replace(whole, line=None), trusted(ALICE)),
            "expected lock@1.0.0 line.json, found none.")  # fmt: skip
    refused(UnsignedError, lambda: manifests(replace(whole, signature=None), trusted(ALICE)),
            "expected lock@1.0.0 signature.json, found none.")  # fmt: skip


def test_the_two_envelopes_in_each_others_place_are_refused(bundle):
    whole = signed(bundle, ALICE)
    swapped = replace(whole, signature=whole.line, line=whole.signature)
    for call in (lines, manifests):
        refused(UnsupportedSchemaVersionError, lambda c=call: c(swapped, trusted(ALICE)),
                "expected payloadType 'application/vnd.safelatch.")  # fmt: skip


def test_a_manifest_signed_as_a_line_is_no_line(bundle):
    whole = signed(bundle, ALICE)
    confused = line_envelope(whole.files["manifest.json"], ALICE)
    refused(UnsupportedSchemaVersionError,
            lambda: lines(replace(whole, line=confused), trusted(ALICE)),
            "line.json: expected schema 'safelatch/line/v1', got 'safelatch/manifest/v1'")  # fmt: skip


def test_a_line_signed_as_a_manifest_is_no_manifest(bundle):
    whole = signed(bundle, ALICE)
    payload = line_of(bundle).to_bytes()
    confused = ALICE.sign(replace(manifest_envelope(bundle), payload=payload)).to_bytes()
    refused(SignatureError, lambda: manifests(replace(whole, signature=confused), trusted(ALICE)),
            f"expected a signature of {bundle.manifest.digest}, got one of another manifest")  # fmt: skip


def test_the_signature_of_another_manifest_is_refused(bundle):
    other = signed(bundle.named("lock", "2.0.0"), ALICE)
    mixed = replace(signed(bundle, ALICE), signature=other.signature)
    refused(SignatureError, lambda: manifests(mixed, trusted(ALICE)), "of another manifest")


def test_a_line_past_its_end_is_refused(bundle):
    whole = signed(bundle, ALICE, line=line_of(bundle, expires="2030-01-01T00:00:00Z"))
    assert lines(whole, trusted(ALICE), now=NOW - HOUR).signers
    refused(LineExpiredError, lambda: lines(whole, trusted(ALICE)),
            "expected a time before 2030-01-01T00:00:00Z, when it expires")  # fmt: skip


def test_a_line_by_nobody_trusted_is_not_even_parsed(bundle):
    whole = replace(signed(bundle, ALICE), line=line_envelope(b"no JSON", MALLORY))
    refused(UntrustedKeyError, lambda: lines(whole, trusted(ALICE)), MALLORY.key_id)


# Signing


def test_signing_again_adds_to_who_signed_before(bundle):
    first = replace(bundle, signature=signed_manifest(bundle, [ALICE]))
    both = replace(bundle, signature=signed_manifest(first, [BOB]))
    assert manifests(both, trusted(ALICE), trusted(BOB)) == (ALICE.key_id, BOB.key_id)


@pytest.mark.parametrize("reason", ["x" * 401, "", "\x1b[2J", "line\nline", "\u202e"])
def test_a_line_that_nobody_could_read_is_not_signed(reason):
    """Otherwise one long reason would make every version of the line unusable, for good."""
    entries = {"1.0.0": LineEntry(digest_of("1"), "yanked", reason)}
    refused(SchemaViolationError, lambda: signed_line(replace(FIRST, versions=entries), [ALICE]))
