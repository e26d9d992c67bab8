"""Attacks on what is signed, each refused by ``load_protected`` with an error of its own.

Each row of the threat table about artifacts, keys and versions has its tests under its name; what
is attacked without signatures is in ``test_hostile_*``. The attacker has the bundle's folder, the
network and, where it is said, a key; not the user's machine.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from support.locks import read_record
from support.refusals import refusal
from support.signed import (
    kept,
    key_of,
    line_envelope,
    line_of,
    make_site,
    pem_of,
    published,
    renewed,
    signed,
    stated,
    trusted,
)
from support.tiny_models import llama_config, write_checkpoint
from transformers import AutoModelForCausalLM

from registry import Registry, load_protected, moment, protect
from registry.artifact.bundle import LINE, SIGNATURE, TENSORS, make_bundle, write_bundle
from registry.artifact.trust import VerifiedLine, signed_line
from registry.digest import digest_bytes
from registry.errors import (
    BaseModelMismatchError,
    ConfirmationRequiredError,
    CorruptStoreError,
    DigestMismatchError,
    KeyScopeError,
    LineExpiredError,
    LineForkError,
    NegatedDirectionsError,
    NonFiniteTensorError,
    RevokedError,
    RollbackError,
    SafelatchError,
    SchemaViolationError,
    SignatureError,
    StrengthRangeError,
    UnsafeFormatError,
    UnsignedError,
    UntrustedKeyError,
    UsageError,
    VerificationError,
    VersionConflictError,
)
from registry.kinds import parse_body
from registry.settings import Settings
from registry.store import session
from registry.workflows import load as load_workflow
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.line_memory import accept
from registry.workflows.publish import publish, receive
from registry.workflows.sign import Signer, change_state, line_in_force, sign_again
from registry.workflows.trust import Trust, trust_of, vouch

KEY, NEXT, MALLORY = key_of("publisher"), key_of("next"), key_of("mallory")
PAST, FUTURE = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(autouse=True)
def lines(tmp_path, monkeypatch):
    """The folder in which seen lines are remembered where no registry does."""
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    monkeypatch.delenv("SAFELATCH_POLICY", raising=False)
    return tmp_path / "lines"


@pytest.fixture
def pem(tmp_path):
    return pem_of(KEY, tmp_path)


@pytest.fixture
def client(home):
    """The default registry of somebody who trusts the publisher for acme, and holds nothing."""
    with Registry.create() as registry:
        registry.trust_key(KEY.key_id, namespaces=["acme/*"])
        yield registry


class Loads:
    """Loads of the fine-tune with a bundle, each from a folder of its own."""

    def __init__(self, site, root):
        self.site, self.root, self.count = site, root, 0

    def folder(self, bundle):
        self.count += 1
        return write_bundle(bundle, self.root / f"bundle-{self.count}")

    def __call__(self, bundle, **options):
        return load_protected(self.site.tune, artifacts=[self.folder(bundle)], **options)

    def refused(self, kind, code, bundle, *said, **options):
        error = refusal(kind, lambda: self(bundle, **options), *said)
        assert error.code == code
        return error


@pytest.fixture
def load(site, tmp_path):
    return Loads(site, tmp_path)


def labels(model):
    assert model.safelatch.verified
    return [(one.label, one.signed_by) for one in model.safelatch.applied]


# Nothing is wrong


def test_a_signed_bundle_loads_with_a_key_given_or_trusted(site, load, pem, client):
    bundle = signed(site.bundle(), KEY)
    assert labels(load(bundle)) == [("lock@1.0.0", (KEY.key_id,))]
    assert labels(load(bundle, trust=pem)) == [("lock@1.0.0", (KEY.key_id,))]
    assert labels(load(bundle, trust=[MALLORY.key_id, str(pem)])) == [("lock@1.0.0", (KEY.key_id,))]


# Sign flip, scaled or tampered directions


def test_a_negated_lock_is_refused_though_its_publisher_signed_it(site, load, pem):
    """Row 1: a signature says who, not that it helps; the canaries say which way it points."""
    body = parse_body(site.draft)
    bundle = signed(site.bundle(directions=-body.directions), KEY)
    load.refused(NegatedDirectionsError, "negated-directions", bundle,
                 "expected directions toward refusal in most of 4 heads, got 0 heads", trust=pem)  # fmt: skip


def reshaped(bundle, **body):
    """Return a bundle with these members of its body, whatever they say, digests fresh."""
    manifest = replace(bundle.manifest, body={**bundle.manifest.body, **body})
    return make_bundle(manifest, bundle.tensors(), bundle.base_tensors())


@pytest.mark.parametrize("alpha", [1.6, 1000, 0])
def test_a_strength_outside_the_range_of_its_own_manifest_is_refused(site, load, pem, alpha):
    """Row 1: every digest is right and the key is trusted."""
    bundle = signed(reshaped(site.bundle(), alpha=alpha), KEY)
    said = (
        "expected alpha above 0" if alpha == 0 else f"expected alpha within [0, 1.5], got {alpha}"
    )
    load.refused(StrengthRangeError, "strength-range", bundle, said, trust=pem)


def test_a_negative_strength_is_refused(site, load, pem):
    """Row 1: alpha=-6 removes refusals."""
    bundle = signed(reshaped(site.bundle(), alpha=-6.0), KEY)
    load.refused(SchemaViolationError, "schema-violation", bundle, "$.alpha", trust=pem)


def retensored(bundle, **tensors):
    return make_bundle(bundle.manifest, bundle.tensors() | tensors, bundle.base_tensors())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["directions", "sigma"])
def test_a_value_that_is_not_finite_is_refused(site, load, pem, name, value):
    """Row NaN, Inf, huge: safetensors reads them without a word."""
    array = site.bundle().tensors()[name].copy()
    array.reshape(-1)[-1] = value
    bundle = signed(retensored(site.bundle(), **{name: array}), KEY)
    load.refused(NonFiniteTensorError, "non-finite", bundle, "safety-lock body breaks 1 rule(s)",
                 f"got {value if name == 'sigma' else abs(value):g}", trust=pem)  # fmt: skip


def test_directions_longer_than_one_are_refused(site, load, pem):
    """Row 1: scaled directions are another strength under the measured name."""
    directions = site.bundle().tensors()["directions"] * np.float32(3)
    bundle = signed(retensored(site.bundle(), directions=directions), KEY)
    load.refused(SchemaViolationError, "schema-violation", bundle, "length 1, got 3", trust=pem)


def test_tensors_exchanged_under_a_signed_manifest_are_refused(site, load, pem):
    """Row 1: the attacker has no key and leaves the manifest as it is."""
    folder = load.folder(signed(site.bundle(), KEY))
    other = retensored(site.bundle(), directions=-parse_body(site.draft).directions)
    (folder / TENSORS).write_bytes(other.files[TENSORS])
    refusal(DigestMismatchError, lambda: load_protected(site.tune, artifacts=[folder], trust=pem),
            "tensors.safetensors: expected blake3:")  # fmt: skip


def test_a_manifest_made_to_fit_other_tensors_is_refused(site, load, pem, client):
    """Row 1: every digest is right again; only the signature is not."""
    whole = signed(site.bundle(), KEY)
    other = retensored(site.bundle(), directions=-parse_body(site.draft).directions)
    forged = replace(other, signature=whole.signature, line=line_envelope(b"", KEY))
    for options in ({}, {"trust": pem}):
        forged = replace(forged, line=signed(other, KEY).line)  # even with a line that names it
        load.refused(SignatureError, "signature", forged, f"a signature of {other.manifest.digest}",
                     **options)  # fmt: skip


# Wrong base


def test_a_lock_of_another_base_is_refused_though_it_is_signed(site, load, pem, tmp_path):
    """Row wrong base: identity is the digest of the weights, whatever the manifest calls them."""
    other = read_record(write_checkpoint(tmp_path / "other", llama_config()))
    manifest = replace(
        site.bundle().manifest,
        base=replace(site.draft.manifest.base, weights=other.weights),
    )
    mixed = make_bundle(manifest, site.draft.tensors(), other.to_tensors())
    error = refusal_of_any(lambda: load(signed(mixed, KEY), trust=pem))
    assert error.exit_code == 3


def refusal_of_any(call):
    with pytest.raises(SafelatchError) as caught:
        call()
    return caught.value


def test_a_lock_for_acmes_name_made_from_other_weights_is_refused(site, load, pem, tmp_path):
    """Row typosquat, unverified base_model: the name of a base in a manifest is a declaration."""
    shutil.copytree(site.base, tmp_path / "impostor")
    model = AutoModelForCausalLM.from_pretrained(site.base)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.flip(0))
    model.save_pretrained(tmp_path / "impostor")
    refusal(BaseModelMismatchError, lambda: load_protected(
        tmp_path / "impostor", artifacts=[load.folder(signed(site.bundle(), KEY))], trust=pem
    ))  # fmt: skip


# Stale, rollback, freeze


def test_an_expired_line_is_refused(site, load, pem, client):
    """Row freeze: what was revoked since cannot be known."""
    bundle = site.bundle()
    bundle = signed(bundle, KEY, line=line_of(bundle, expires=PAST))
    for options in ({}, {"trust": pem}):
        load.refused(LineExpiredError, "line-expired", bundle,
                     f"line 'lock': expected a time before {PAST}, when it expires", **options)  # fmt: skip


def test_a_line_expires_by_the_verifiers_clock_and_not_by_the_signers(site, lines):
    """Row freeze: ``created`` in the far future moves nothing."""
    bundle = site.bundle()
    line = replace(line_of(bundle, expires="2030-01-01T00:00:00Z"), created=FUTURE)
    whole, trust = signed(bundle, KEY, line=line), Trust((trusted(KEY),), is_given=True)
    end = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert vouch(whole, trust, None, now=end - timedelta(seconds=1))
    refusal(LineExpiredError, lambda: vouch(whole, trust, None, now=end))


def test_an_expired_line_is_not_remembered(site, load, pem, lines):
    """Row freeze: verify first, persist after (CVE-2025-2888)."""
    bundle = site.bundle()
    stale = renewed(line_of(bundle), 9, expires=PAST)
    load.refused(LineExpiredError, "line-expired", signed(bundle, KEY, line=stale), trust=pem)
    assert not lines.exists()
    assert labels(load(signed(bundle, KEY), trust=pem))


def test_a_revoked_version_is_refused_and_its_line_remembered(site, load, pem, client):
    """Row stale: the revocation holds, and the line before it is a rollback from then on."""
    bundle = site.bundle()
    before = line_of(bundle)
    revoked = stated(before, "1.0.0", "revoked", "it leaked")
    for options in ({}, {"trust": pem}):
        assert labels(load(signed(bundle, KEY), **options))
    for options in ({}, {"trust": pem}):
        load.refused(RevokedError, "revoked", signed(bundle, KEY, line=revoked),
                     f"lock@1.0.0 ({bundle.manifest.digest}) is revoked: it leaked.", **options)  # fmt: skip
        load.refused(RollbackError, "rollback", signed(bundle, KEY, line=before), **options)


def test_a_rolled_back_line_is_refused_by_the_registrys_memory(site, load, client, lines):
    """Row rollback: TUF's test_new_snapshot_version_rollback."""
    bundle = site.bundle()
    new = renewed(line_of(bundle), 4)
    assert labels(load(signed(bundle, KEY, line=new)))
    assert client.line_heads()[0].sequence == 5
    assert not lines.exists()
    for old in (line_of(bundle), renewed(line_of(bundle), 3)):
        load.refused(RollbackError, "rollback", signed(bundle, KEY, line=old),
                     f"line 'lock': expected sequence 5 or later, which was seen here, got {old.sequence}.")  # fmt: skip


def test_a_rolled_back_line_is_refused_without_any_registry(site, load, pem, lines):
    """Row rollback: a client that has no registry remembers in a file."""
    bundle = site.bundle()
    new = renewed(line_of(bundle), 4)
    assert labels(load(signed(bundle, KEY, line=new), trust=pem))
    (note,) = lines.iterdir()
    error = load.refused(RollbackError, "rollback", signed(bundle, KEY), "sequence 5", trust=pem)
    assert f"rm {note}" in error.hint


def test_a_forked_line_is_refused(site, load, pem, client):
    """Row rollback: two lines of one name, of one sequence or with another history."""
    bundle = site.bundle()
    first = line_of(bundle)
    seen, other = renewed(first), stated(first, "1.0.0", "yanked")
    for options in ({}, {"trust": pem}):
        assert labels(load(signed(bundle, KEY, line=seen), **options))
        for forked in (other, renewed(other, 9)):
            load.refused(LineForkError, "line-fork", signed(bundle, KEY, line=forked),
                         f"expected document 2 to be {seen.digest}, which was seen here, got "
                         f"{other.digest}", **options)  # fmt: skip


def test_a_line_in_which_a_version_is_gone_is_refused(site, load, pem, client):
    """Row rollback: what was published, and what was revoked, stays on record."""
    one, two = site.bundle("1.0.0"), site.bundle("2.0.0")
    seen = stated(line_of(one, two), "1.0.0", "revoked")
    gone = renewed(seen)
    gone = replace(gone, versions={"2.0.0": gone.versions["2.0.0"]})
    back = {**seen.versions, "1.0.0": replace(seen.versions["1.0.0"], state="active")}
    for options in ({}, {"trust": pem}):
        assert labels(load(signed(two, KEY, line=seen), **options))
        load.refused(VersionConflictError, "version-conflict", signed(two, KEY, line=gone),
                     f"1.0.0: expected {one.manifest.digest}, it is gone", **options)  # fmt: skip
        load.refused(VersionConflictError, "version-conflict",
                     signed(two, KEY, line=replace(renewed(seen), versions=back)),
                     "1.0.0: expected it to stay revoked, got active", **options)  # fmt: skip


def test_a_manifest_beside_the_line_of_another_artifact_is_refused(site, load, pem, client):
    """Row rollback, mix-and-match: both are signed by the publisher, and are not one bundle's."""
    one, other = site.bundle("1.0.0"), site.bundle("1.0.0", alpha=0.5)
    for whose, said in (
        (other, f"expected manifest {other.manifest.digest}, as its line.json says, got"),
        (site.bundle("2.0.0"), "expected manifest none of this version"),
        (site.bundle(name="other"), "expected line other, as its line.json says, got lock"),
    ):
        bundle = replace(signed(one, KEY), line=signed(whose, KEY).line)
        for options in ({}, {"trust": pem}):
            load.refused(VersionConflictError, "version-conflict", bundle, said, **options)


def test_a_mixed_line_is_not_remembered(site, load, pem, lines):
    """Row rollback: a line that does not name the artifact says nothing about it."""
    one, newer = site.bundle("1.0.0"), site.bundle("2.0.0")
    mixed = replace(signed(one, KEY), line=signed(newer, KEY).line)
    load.refused(VersionConflictError, "version-conflict", mixed, trust=pem)
    assert not lines.exists()


def test_a_yanked_version_by_exact_name_loads_with_a_warning_and_an_event(site, load, client):
    """Row stale: yanked is hidden from who names none, and told to who does."""
    bundle = site.bundle()
    line = stated(line_of(bundle), "1.0.0", "yanked", "a weaker one")
    with pytest.warns(UserWarning, match=r"lock@1\.0\.0 is yanked: a weaker one\. It is loaded as"):
        model = load(signed(bundle, KEY, line=line))
    assert labels(model)
    (event,) = [one for one in client.events() if one.action == "load.yanked"]
    assert event.detail["artifact"] == "lock@1.0.0"


def test_a_version_that_came_yanked_is_never_the_default(site, load, client, tmp_path):
    """Row stale: it was published here from a folder, together with the line that yanks it."""
    bundle = site.bundle()
    line = stated(line_of(bundle), "1.0.0", "yanked", "a weaker one")
    done = publish(
        client, load.folder(signed(bundle, KEY, line=line)), name="lock", version="1.0.0"
    )
    assert (done.version.state, done.version.state_reason) == ("yanked", "a weaker one")
    refusal_of_any(lambda: load_protected(site.tune))
    with pytest.warns(UserWarning, match="is yanked"):
        assert labels(load_protected(site.tune, artifacts=["lock@1.0.0"]))


def test_a_version_that_the_registry_revoked_is_refused_wherever_it_comes_from(site, load, client):
    """Row stale: the registry's own word, without any signed line."""
    draft = load.folder(site.draft)
    bundle = published(client, site.draft, draft.with_name("mine"), "1.0.0", KEY)
    (version,) = client.versions("lock")
    client.set_state(version, "revoked", "it leaked")
    load.refused(RevokedError, "revoked", bundle, "is revoked: it leaked")
    error = refusal(
        RevokedError, lambda: load_protected(site.tune, artifacts=["lock@1.0.0"]), "it leaked"
    )
    assert error.code == "revoked"


# Keys: outside their scope, unknown, revoked, outside their validity


def test_a_key_outside_its_namespace_is_refused(site, load, client):
    """Row key compromise: what is stolen of one publisher opens nothing of another one."""
    client.trust_key(MALLORY.key_id, namespaces=["evil/*"])
    load.refused(KeyScopeError, "key-scope", signed(site.bundle(), MALLORY),
                 "expected a key that may speak for acme/base or", f"{MALLORY.key_id} speaks for evil/*")  # fmt: skip


def test_a_base_registered_from_another_repository_is_not_the_publishers(site, load, client):
    """Row namespace reuse: what the manifest calls the base does not widen what a key may."""
    record = read_record(site.base)
    data = site.draft.files["base.safetensors"]
    client.add_base("base", record, data, [("hub", f"evil/base@{'0' * 40}")])
    load.refused(KeyScopeError, "key-scope", signed(site.bundle(), KEY),
                 f"expected a key that may speak for evil/base or {record.weights}")  # fmt: skip


def test_a_key_of_one_namespace_moves_nothing_of_another_one(site, load, client):
    """Row key compromise: the line names acme's base, the manifest the thief's own.

    The line used to be remembered before anybody saw that it is of another base: its states became
    those of acme's versions, its sequence the one to follow.
    """
    bundle = published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    client.trust_key(MALLORY.key_id, namespaces=["evil/*"])
    mine = site.draft.manifest.base
    evil = replace(mine, name="evil/base", weights="blake3:" + "e" * 64)
    manifest = replace(site.bundle().manifest, base=evil)
    thief = bundle.with_manifest(manifest)
    line = stated(renewed(line_of(bundle), 99), "1.0.0", "revoked", "mine now")
    attack = replace(signed(thief, MALLORY), line=signed(bundle, MALLORY, line=line).line)
    refusal(VersionConflictError, lambda: vouch(attack, Trust(tuple(client.trusted_keys())), client),
            "lock@1.0.0: expected base", "as its line.json says")  # fmt: skip
    refusal_of_any(lambda: load(attack))
    assert client.versions("lock")[0].state == "active"
    assert client.line_heads()[0].sequence == 1
    assert kept(client, "1.0.0").line == bundle.line
    assert labels(load_protected(site.tune))


def test_a_key_that_came_with_one_call_changes_nothing_in_the_registry(site, load, client):
    """Row key compromise: whom one call trusts is not whom the registry trusts."""
    bundle = published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    events = len(client.events())
    line = stated(renewed(line_of(bundle), 9), "1.0.0", "revoked", "says somebody")
    for key in (MALLORY, NEXT):
        attack = signed(replace(bundle, signature=None, line=None), key, line=line)
        load.refused(RevokedError, "revoked", attack, trust=key.key_id)
        client.trust_key(NEXT.key_id, namespaces=["evil/*"])  # known, for something else
    assert client.versions("lock")[0].state == "active"
    assert client.line_heads()[0].sequence == 1
    assert kept(client, "1.0.0").line == bundle.line
    assert labels(load_protected(site.tune)) == [("lock@1.0.0", (KEY.key_id,))]
    assert [one.action for one in client.events()[events:]].count("line.accept") == 0


def test_an_unknown_key_is_refused(site, load, pem, client):
    """Row key compromise: that it is signed is no reason to believe it."""
    bundle = signed(site.bundle(), MALLORY)
    for options in ({}, {"trust": pem}):
        load.refused(UntrustedKeyError, "untrusted-key", bundle,
                     f"{MALLORY.key_id}: not trusted here", **options)  # fmt: skip


def test_a_signed_bundle_is_refused_where_nobody_is_trusted(site, load, home):
    """Row key compromise: neither with an empty registry nor with none."""
    bundle = signed(site.bundle(), KEY)
    load.refused(UntrustedKeyError, "untrusted-key", bundle, f"{KEY.key_id}: not trusted here")
    with Registry.create():
        load.refused(UntrustedKeyError, "untrusted-key", bundle)


def test_a_revoked_key_is_refused_also_when_it_is_given_with_the_call(site, load, pem, client):
    """Row key compromise: ``trust=`` does not bring back what the registry revoked."""
    client.revoke_key(KEY.key_id, "the laptop was stolen")
    bundle = signed(site.bundle(), KEY)
    for options in ({}, {"trust": pem}, {"trust": KEY.key_id}):
        load.refused(UntrustedKeyError, "untrusted-key", bundle,
                     f"{KEY.key_id}: revoked (the laptop was stolen)", **options)  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [(FUTURE, None, f"valid from {FUTURE} on"), (None, PAST, f"valid until {PAST}")],
)
def test_a_key_outside_its_validity_is_refused(site, load, client, begin, end, said):
    """Row key compromise: by the verifier's clock."""
    moments = {name: None if at is None else moment.parse_stamp(at)
               for name, at in (("not_before", begin), ("not_after", end))}  # fmt: skip
    client.trust_key(KEY.key_id, namespaces=["acme/*"], **moments)
    load.refused(UntrustedKeyError, "untrusted-key", signed(site.bundle(), KEY),
                 f"{KEY.key_id}: {said}")  # fmt: skip


# The signature taken away


@pytest.mark.parametrize("policy", ["enforce", "warn"])
def test_a_bundle_without_its_signature_is_refused_where_a_key_is_trusted(
    site, load, pem, client, policy
):
    """Row key compromise: else stripping it would be all that an attacker has to do."""
    bundle = site.bundle()
    for options in ({}, {"trust": pem}):
        error = load.refused(UnsignedError, "unsigned", bundle, "lock@1.0.0: expected a signature",
                             "acme/base", policy=policy, **options)  # fmt: skip
        assert error.hint.startswith("Sign it")


@pytest.mark.parametrize("name", ["signature", "line"])
def test_a_bundle_without_one_of_its_envelopes_is_refused(site, load, pem, client, name):
    """Row key compromise: the line is what carries revocation."""
    bundle = replace(signed(site.bundle(), KEY), **{name: None})
    for options in ({}, {"trust": pem}):
        load.refused(UnsignedError, "unsigned", bundle, f"lock@1.0.0 {name}.json, found none",
                     **options)  # fmt: skip


def test_a_lock_that_was_renamed_after_its_signature_was_taken_is_refused(site, load, client):
    """Row key compromise: the names of the base that count are the registry's."""
    record = read_record(site.base)
    measured = [("path", "/where/it/was/measured")]
    client.add_base("acme/base", record, site.draft.files["base.safetensors"], measured)
    base = replace(site.draft.manifest.base, name="somebody/else")
    bundle = site.bundle().with_manifest(replace(site.bundle().manifest, base=base))
    load.refused(UnsignedError, "unsigned", bundle, "acme/base")


def test_a_stripped_lock_of_a_base_that_was_never_registered_is_refused(site, load, client):
    """Row key compromise: stripped and renamed, on a machine that trusts acme and has no base."""
    base = replace(site.draft.manifest.base, name="somebody/else")
    bundle = site.bundle().with_manifest(replace(site.bundle().manifest, base=base))
    load.refused(UnsignedError, "unsigned", bundle)


def test_a_key_speaks_for_what_its_owner_calls_a_base_until_somebody_measured_it(
    site, load, client
):
    """Row key compromise: docs/trust.md says so, and that adding the base ends it."""
    client.trust_key(MALLORY.key_id, namespaces=["evil/*"])
    base = replace(site.draft.manifest.base, name="evil/base")
    bundle = signed(
        site.bundle().with_manifest(replace(site.bundle().manifest, base=base)), MALLORY
    )
    assert load(bundle)
    measured = identify(site.base, settings=Settings.load())
    add_base(client, measured, name="acme/base")
    load.refused(KeyScopeError, "key-scope", bundle)


def test_a_base_planted_under_another_name_is_freed_by_measuring_it(site, load, client):
    """Row key compromise: mallory ships a lock for acme's weights first, under a name of hers."""
    client.trust_key(MALLORY.key_id, namespaces=["mallory/*"])
    base = replace(site.draft.manifest.base, name="mallory/base")
    hers = signed(site.bundle().with_manifest(replace(site.bundle().manifest, base=base)), MALLORY)
    receive(client, hers)
    assert [one.name for one in client.bases()] == ["mallory/base"]
    acmes = signed(site.bundle(name="acme-lock"), KEY)
    assert vouch(acmes, trust_of(None, client), client) is not None
    add_base(client, identify(site.base, settings=Settings.load()), "acme/base", anyway=True)
    load.refused(KeyScopeError, "key-scope", hers)


def test_a_thiefs_versions_are_dropped_when_the_line_is_signed_anew(site, load, owner):
    """Row key compromise: the owner's registry learned the thief's document before the key fell."""
    published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    line = line_in_force(owner, "lock")
    stolen = line.with_version(
        "66.0", digest_bytes(b"thief"), created="2030-01-01T00:00:00Z", expires=None
    )
    accept(VerifiedLine(stolen, signed_line(stolen, [KEY]), (KEY.key_id,)), owner)
    owner.revoke_key(KEY.key_id, "stolen")
    owner.trust_key(NEXT.key_id, namespaces=["acme/*"])
    with pytest.raises(ConfirmationRequiredError, match="signed by a key that counts now"):
        change_state(owner, owner.versions("lock")[0], "yanked", None, Signer([NEXT]))
    sign_again(owner, "lock", Signer([NEXT]))
    assert set(line_in_force(owner, "lock").versions) == {"1.0.0"}


def test_live_models_are_guarded_alike(site, load, pem):
    """Row key compromise: ``protect`` asks the same of a folder, and of a bundle if keys are given."""
    model = AutoModelForCausalLM.from_pretrained(site.tune)
    stripped, strange = site.bundle(), signed(site.bundle(), MALLORY)
    for artifact in (stripped, load.folder(stripped)):
        refusal(UnsignedError, lambda a=artifact: protect(model, a, trust=pem))
    for artifact in (strange, load.folder(strange)):
        refusal(UntrustedKeyError, lambda a=artifact: protect(model, a, trust=pem))
    refusal(UntrustedKeyError, lambda: protect(model, load.folder(strange)))
    handle = protect(model, signed(site.bundle(), KEY), trust=pem)
    assert handle.signed_by == (KEY.key_id,)


@pytest.mark.parametrize("trust", [[], "", "nowhere.pub", "ed25519:", "ED25519:" + "0" * 64, [""]])
def test_trust_in_nobody_is_told_and_not_taken_for_no_wish(site, load, trust):
    """Row key compromise: an empty variable must not turn the question off."""
    error = refusal_of_any(lambda: load(signed(site.bundle(), KEY), trust=trust))
    assert error.hint


def test_a_private_key_given_to_trust_is_refused_and_named(site, load, tmp_path):
    """Row key compromise: it has no place on a machine that only loads."""
    path = tmp_path / "a.key"
    path.write_bytes(KEY.to_pem())
    refusal(UsageError, lambda: load(signed(site.bundle(), KEY), trust=path), "only its owner may")


# Key compromise: rotation


def rotated(site, load, owner, client):
    """The thief of the publisher's key has signed sequence 50, and the client has accepted it."""
    first = published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    assert labels(load(first, registry=client))
    thief = renewed(line_of_kept(first), 49)
    stolen = signed(replace(first, signature=None), KEY, line=thief)
    assert labels(load(stolen, registry=client))
    assert client.line_heads()[0].sequence == 50
    return first, stolen


def line_of_kept(bundle):
    from registry.artifact.trust import verify_line

    names = (bundle.manifest.base.name,)
    found = verify_line(bundle.line, [trusted(KEY), trusted(NEXT)], names, label="x",
                        now=moment.now())  # fmt: skip
    return found.line


@pytest.fixture
def owner(tmp_path):
    with Registry.create(str(tmp_path / "owner" / "registry.db")) as registry:
        registry.trust_key(KEY.key_id, namespaces=["acme/*"])
        yield registry


def test_a_leaked_key_is_replaced_and_the_client_recovers(site, load, owner, client):
    """Row key compromise: TUF's fast-forward recovery."""
    first, stolen = rotated(site, load, owner, client)
    load.refused(RollbackError, "rollback", first, "expected sequence 50")

    owner.revoke_key(KEY.key_id, "stolen")
    owner.trust_key(NEXT.key_id, namespaces=["acme/*"])
    sign_again(owner, "lock", Signer([NEXT]))
    recovered = kept(owner, "1.0.0")

    load.refused(UntrustedKeyError, "untrusted-key", recovered)
    client.trust_key(NEXT.key_id, namespaces=["acme/*"])
    load.refused(RollbackError, "rollback", recovered, "expected sequence 50")
    client.revoke_key(KEY.key_id, "stolen")
    assert labels(load(recovered)) == [("lock@1.0.0", (NEXT.key_id,))]
    for refused in (stolen, first):
        load.refused(UntrustedKeyError, "untrusted-key", refused, "revoked (stolen)")
    assert labels(load(recovered))


def test_a_leaked_key_is_replaced_where_there_is_no_registry(site, load, owner, tmp_path):
    """Row key compromise: the client names the new key, and the thief's notes count no more."""
    first = published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    thief = renewed(line_of_kept(first), 49)
    stolen = signed(replace(first, signature=None), KEY, line=thief)
    assert labels(load(stolen, trust=KEY.key_id))
    owner.trust_key(NEXT.key_id, namespaces=["acme/*"])
    owner.revoke_key(KEY.key_id, "stolen")
    sign_again(owner, "lock", Signer([NEXT]))
    recovered = kept(owner, "1.0.0")
    assert labels(load(recovered, trust=NEXT.key_id))
    load.refused(UntrustedKeyError, "untrusted-key", stolen, trust=NEXT.key_id)


def test_a_planned_rotation_loses_nobody(site, load, owner, client):
    """Row key compromise: both keys sign in between, so that each client moves when it likes."""
    published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    owner.trust_key(NEXT.key_id, namespaces=["acme/*"])
    sign_again(owner, "lock", Signer([KEY, NEXT]))
    both = kept(owner, "1.0.0")
    assert labels(load(both)) == [("lock@1.0.0", (KEY.key_id,))]
    client.trust_key(NEXT.key_id, namespaces=["acme/*"])
    assert labels(load(both)) == [("lock@1.0.0", (KEY.key_id, NEXT.key_id))]
    sign_again(owner, "lock", Signer([NEXT]))
    after = kept(owner, "1.0.0")
    assert labels(load(after)) == [("lock@1.0.0", (KEY.key_id, NEXT.key_id))]
    client.revoke_key(KEY.key_id, "retired")
    assert labels(load(after)) == [("lock@1.0.0", (NEXT.key_id,))]
    load.refused(RollbackError, "rollback", both, "expected sequence 3")


def test_a_line_by_two_keys_is_still_remembered_when_one_of_them_is_revoked(site, load, client):
    """Row key compromise: what the other key vouched for is no thief's."""
    client.trust_key(NEXT.key_id, namespaces=["acme/*"])
    bundle = site.bundle()
    assert labels(load(signed(bundle, KEY, NEXT, line=renewed(line_of(bundle), 9))))
    client.revoke_key(KEY.key_id, "retired")
    load.refused(RollbackError, "rollback", signed(bundle, NEXT), "expected sequence 10")


def test_another_signature_of_the_same_line_undoes_nothing_that_was_decided_here(
    site, load, client
):
    """Row key compromise: it adds who vouches for the line, and says nothing new of its versions."""
    bundle = published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    client.set_state(client.versions("lock")[0], "yanked", "ours")
    client.trust_key(NEXT.key_id, namespaces=["acme/*"])
    again = signed(replace(bundle, line=None), NEXT, line=line_of_kept(bundle))
    assert vouch(again, Trust(tuple(client.trusted_keys())), client)
    (head,) = client.line_heads()
    assert head.key_ids == tuple(sorted([KEY.key_id, NEXT.key_id]))
    assert client.versions("lock")[0].state == "yanked"
    assert client.line_bytes("lock") == bundle.line


def test_a_key_that_signed_the_manifest_alone_does_not_keep_a_thiefs_line(site, client):
    """Row key compromise: a stolen key's line around what another key signed."""
    client.trust_key(NEXT.key_id, namespaces=["acme/*"])
    bundle = site.bundle()
    thief = signed(bundle, KEY, line=renewed(line_of(bundle), 49))
    receive(client, replace(signed(bundle, NEXT), line=thief.line))
    assert [head.key_ids for head in client.line_heads()] == [(KEY.key_id,)]
    client.revoke_key(KEY.key_id, "stolen")
    assert client.line_heads() == []


def test_seventeen_rotations_leave_a_line_that_can_be_read(site, load, owner):
    """Row key compromise: an envelope has 16 signatures at most; the oldest go."""
    published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    for number in range(17):
        key = key_of(f"rotation {number}")
        owner.trust_key(key.key_id, namespaces=["acme/*"])
        sign_again(owner, "lock", Signer([key]))
    assert labels(load(kept(owner, "1.0.0"), trust=key.key_id))


# Path traversal, symlinks


@pytest.mark.parametrize("name", [SIGNATURE, LINE])
def test_an_envelope_that_is_a_link_or_a_folder_is_refused(site, load, pem, tmp_path, name):
    """Row symlinks: nothing outside the bundle is ever read for it."""
    folder = load.folder(signed(site.bundle(), KEY))
    elsewhere = shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(elsewhere)
    refusal(UnsafeFormatError, lambda: load_protected(site.tune, artifacts=[folder], trust=pem))
    (folder / name).unlink()
    (folder / name).mkdir()
    refusal(UnsafeFormatError, lambda: load_protected(site.tune, artifacts=[folder], trust=pem))


def test_a_note_that_is_a_link_is_refused_and_not_followed(site, load, pem, lines, tmp_path):
    """Row symlinks: the memory of lines is read as what it is."""
    assert labels(load(signed(site.bundle(), KEY), trust=pem))
    (note,) = lines.iterdir()
    shutil.move(note, tmp_path / "note")
    note.symlink_to(tmp_path / "note")
    load.refused(UnsafeFormatError, "unsafe-format", signed(site.bundle(), KEY), trust=pem)


def test_a_line_named_like_the_note_of_another_one_is_another_one(site, load, pem, lines):
    """Row path traversal: a dot in a name must not reach the memory of another line."""
    bundle = site.bundle()
    assert labels(load(signed(bundle, KEY), trust=pem))
    (note,) = lines.iterdir()
    twin = site.bundle(name=f"{note.name.partition('.')[0]}.x", alpha=0.5)
    assert labels(load(signed(twin, KEY, line=renewed(line_of(twin), 40)), trust=pem))
    assert labels(load(signed(bundle, KEY), trust=pem))
    assert labels(load(signed(bundle, KEY, line=renewed(line_of(bundle))), trust=pem))


# Header bombs, sizes


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [SIGNATURE, LINE])
def test_an_envelope_of_a_terabyte_is_not_read(site, load, pem, name):
    """Row header bombs: TUF's test_max_metadata_lengths."""
    folder = load.folder(signed(site.bundle(), KEY))
    os.truncate(folder / name, 1 << 40)
    refusal(UnsafeFormatError, lambda: load_protected(site.tune, artifacts=[folder], trust=pem),
            "got 1,099,511,627,776")  # fmt: skip


# SQL injection


def test_quotes_in_every_text_of_a_line_reach_the_registry_as_text(site, load, owner, client):
    """Row SQL injection: bound parameters, whatever a publisher writes."""
    text = "'); DROP TABLE versions; -- \" ` $1 %s {x}"
    published(owner, site.draft, load.root / "draft", "1.0.0", KEY)
    (version,) = owner.versions("lock")
    assert change_state(owner, version, "yanked", text, Signer([KEY])).state_reason == text
    bundle = kept(owner, "1.0.0")
    publish(client, load.folder(bundle), name="lock", version="1.0.0")
    assert client.versions("lock")[0].state_reason == text
    client.revoke_key(KEY.key_id, text)
    load.refused(UntrustedKeyError, "untrusted-key", bundle, text)


# TOCTOU


def test_an_artifact_swapped_between_check_and_load_is_not_what_is_applied(
    site, load, pem, monkeypatch
):
    """Row TOCTOU: every file is read once, and what was checked is what is parsed."""
    folder = load.folder(signed(site.bundle(), KEY))
    evil = signed(site.bundle(directions=-parse_body(site.draft).directions), MALLORY)
    other = load.folder(evil)
    real = load_workflow.open_model

    def swapping(*arguments, **options):
        for path in other.iterdir():
            shutil.copy(path, folder / path.name)
        return real(*arguments, **options)

    monkeypatch.setattr(load_workflow, "open_model", swapping)
    model = load_protected(site.tune, artifacts=[folder], trust=pem)
    (applied,) = model.safelatch.applied
    assert applied.digest == site.bundle().manifest.digest
    assert np.array_equal(applied.body.directions, parse_body(site.draft).directions)
    refusal(UntrustedKeyError, lambda: load_protected(site.tune, artifacts=[folder], trust=pem))


def test_a_model_swapped_between_check_and_load_is_refused(site, load, pem, monkeypatch, tmp_path):
    """Row TOCTOU: what was loaded is compared with what was checked."""
    folder = shutil.copytree(site.tune, tmp_path / "victim")
    bundle = load.folder(signed(site.bundle(), KEY))
    real = AutoModelForCausalLM.from_pretrained

    def swapping(*arguments, **options):
        shutil.copy(site.base / "model.safetensors", folder / "model.safetensors")
        return real(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", swapping)
    refusal(VerificationError, lambda: load_protected(folder, artifacts=[bundle], trust=pem))


# What the registry keeps, exchanged by who can write its database


def rows(client, statement, *values):
    path = client.location.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


def test_an_older_line_put_back_into_the_registry_is_refused(site, load, client):
    """Row rollback: the blob is genuine, and is not the newest that was seen."""
    bundle = published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    ((old,),) = rows(client, "SELECT line_blob FROM artifacts")
    sign_again(client, "lock", Signer([KEY]))
    assert labels(load_protected(site.tune))
    rows(client, "UPDATE artifacts SET line_blob = ?", old)
    assert kept(client, "1.0.0").line == bundle.line
    refusal(RollbackError, lambda: load_protected(site.tune), "expected sequence 2 or later")


@pytest.mark.parametrize("column", ["line_blob", "signature_blob"])
def test_an_envelope_taken_out_of_the_registry_is_refused(site, load, client, column):
    """Row key compromise: the names of the base are asked, not the row."""
    published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    take = {
        "line_blob": "UPDATE artifacts SET line_blob = NULL",
        "signature_blob": "UPDATE versions SET signature_blob = NULL",
    }
    rows(client, take[column])
    refusal(UnsignedError, lambda: load_protected(site.tune))


@pytest.mark.parametrize("change", ["exchanged", "gone"])
def test_a_line_file_of_the_registry_that_was_exchanged_is_refused(
    site, load, client, home, change
):
    """Row rollback: a blob is what its name says, or nothing."""
    published(client, site.draft, load.root / "draft", "1.0.0", KEY)
    ((digest,),) = rows(client, "SELECT line_blob FROM artifacts")
    name = digest.removeprefix("blake3:")
    (path,) = [p for p in (home / "blobs").rglob("*") if p.is_file() and name.endswith(p.name)]
    path.chmod(0o600)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(line_envelope(line_of(site.bundle()).to_bytes(), MALLORY))
    kind = CorruptStoreError if change == "gone" else DigestMismatchError
    refusal(kind, lambda: load_protected(site.tune), "signed line of lock")


# Races


RACER = """
import sys
from support.signed import key_of, line_of, renewed, trusted, FIRST
from registry.artifact.trust import VerifiedLine, signed_line
from registry.workflows.line_memory import accept
key = key_of("publisher")
line = FIRST
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    line = renewed(line)
    try:
        accept(VerifiedLine(line, signed_line(line, [key]), (key.key_id,)), None)
    except Exception as error:
        if type(error).__name__ != "RollbackError":
            raise
"""


def test_processes_that_remember_at_once_never_wind_each_other_back(lines, tmp_path):
    """Row races: whoever is late is refused or accepted, and the highest stays."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        _, said = racer.communicate(timeout=120)
        assert racer.returncode == 0, said
    assert max(path.name for path in lines.iterdir()).endswith(".0041.json")


# Read-only registries


def test_a_registry_that_cannot_be_written_remembers_beside_itself(
    site, load, client, lines, monkeypatch
):
    """Row rollback: a mirror knows what it knew, and the user's folder what came after."""
    bundle = site.bundle()
    assert labels(load(signed(bundle, KEY, line=renewed(line_of(bundle)))))
    with monkeypatch.context() as patch:
        patch.setattr(session, "is_read_only", lambda _: True)
        load.refused(RollbackError, "rollback", signed(bundle, KEY), "expected sequence 2 or later")
        assert not lines.exists()
        assert labels(load(signed(bundle, KEY, line=renewed(line_of(bundle), 4))))
        assert [path.name[-10:] for path in lines.iterdir()] == [".0005.json"]
        late = signed(bundle, KEY, line=renewed(line_of(bundle), 2))
        load.refused(RollbackError, "rollback", late, "expected sequence 5 or later")
    assert client.line_heads()[0].sequence == 2


# Names


@pytest.mark.parametrize("name", ["aсme/base", "acme∕base", "ACME/base", "acme-evil/base",
                                  "evil/acme/base", " acme/base"])  # fmt: skip
def test_a_base_that_is_called_almost_like_the_publishers_is_not_theirs(site, load, client, name):
    """Row typosquat: letters that look alike, and names that begin alike."""
    base = replace(site.draft.manifest.base, name=name)
    bundle = site.bundle().with_manifest(replace(site.bundle().manifest, base=base))
    load.refused(KeyScopeError, "key-scope", signed(bundle, KEY), name)
