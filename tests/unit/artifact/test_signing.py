"""Keys and signatures: made, kept as PEM, and checked; DSSE as others write it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError as TheirVerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey
from support.refusals import refusal
from support.signed import key_of

from registry.artifact.envelope import MOST_SIGNATURES, Envelope, Signature, read_envelope
from registry.artifact.signing import (
    PrivateKey,
    is_encrypted,
    public_pem,
    read_private_key,
    read_public_key,
    require_key_id,
    require_signatures,
)
from registry.digest import parse_json
from registry.errors import (
    ConfirmationRequiredError,
    NotFoundError,
    SignatureError,
    UnsafeFormatError,
    UsageError,
)

TYPE = "application/vnd.test+json"
ALICE, BOB = key_of("alice"), key_of("bob")
EMPTY = Envelope(b"payload", TYPE)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def check(envelope):
    require_signatures(envelope, what="x.json", hint="Get it.")


def refused(envelope, by=ALICE):
    said = f"x.json: expected a signature of these bytes by {by.key_id}, got one of other bytes"
    refusal(SignatureError, lambda: check(envelope), said)


def signature_by(key, envelope=EMPTY):
    return key.sign(envelope).signatures[-1]


# Signatures


def test_signatures_of_these_bytes_are_accepted():
    check(ALICE.sign(EMPTY))
    check(BOB.sign(ALICE.sign(EMPTY)))
    check(EMPTY)


@pytest.mark.parametrize("changes", [{"payload": b"payloae"}, {"payload_type": TYPE + "2"},
                                     {"payload": b"", "payload_type": TYPE + " 7 payload"}])  # fmt: skip
def test_a_signature_of_other_bytes_or_of_another_type_is_refused(changes):
    refused(replace(ALICE.sign(EMPTY), **changes))


def test_a_signature_under_the_name_of_another_key_is_refused():
    signature = signature_by(BOB)
    refused(replace(EMPTY, signatures=(Signature(ALICE.key_id, signature.value),)))


def test_one_wrong_signature_beside_a_right_one_is_refused():
    wrong = Signature(BOB.key_id, bytes(64))
    refused(replace(EMPTY, signatures=(signature_by(ALICE), wrong)), BOB)


def test_a_signature_moved_by_the_order_of_the_group_is_refused():
    value = signature_by(ALICE).value
    moved = int.from_bytes(value[32:], "little") + GROUP_ORDER
    twin = Signature(ALICE.key_id, value[:32] + moved.to_bytes(32, "little"))
    refused(replace(EMPTY, signatures=(twin,)))


def test_a_key_that_is_no_point_of_the_curve_signs_nothing():
    name = "ed25519:" + "02" + "00" * 31
    envelope = replace(EMPTY, signatures=(Signature(name, bytes(64)),))
    refusal(SignatureError, lambda: check(envelope), name)


def test_signing_again_replaces_the_own_signature_alone():
    envelope = ALICE.sign(BOB.sign(ALICE.sign(EMPTY)))
    assert envelope.key_ids == (BOB.key_id, ALICE.key_id)
    check(envelope)


def test_more_keys_than_an_envelope_may_have_drop_the_oldest_and_it_can_be_read():
    keys = [key_of(f"key {number}") for number in range(MOST_SIGNATURES + 2)]
    envelope = EMPTY
    for key in keys:
        envelope = key.sign(envelope)
    assert envelope.key_ids == tuple(key.key_id for key in keys[2:])
    again = read_envelope(
        envelope.to_bytes(), payload_type=TYPE, what="x.json", limit=5000, hint="Get it."
    )
    check(again)


def test_the_same_key_signs_the_same_bytes_alike():
    assert ALICE.sign(EMPTY) == ALICE.sign(EMPTY)


# Keys as files


def test_a_key_is_read_back_from_its_files(tmp_path):
    private, public = tmp_path / "a.key", tmp_path / "a.pub"
    private.write_bytes(ALICE.to_pem())
    public.write_bytes(public_pem(ALICE.key_id))
    assert read_private_key(private).key_id == ALICE.key_id
    assert read_public_key(public) == ALICE.key_id
    assert not is_encrypted(private)
    assert PrivateKey.generate().key_id != PrivateKey.generate().key_id


def test_a_key_does_not_show_itself():
    secret = ALICE.to_pem().decode().split("\n")[1]
    assert repr(ALICE) == f"PrivateKey({ALICE.key_id})"
    assert secret not in repr(ALICE)


def test_an_encrypted_key_asks_for_its_passphrase(tmp_path):
    path = tmp_path / "a.key"
    path.write_bytes(ALICE.to_pem("correct horse"))
    assert is_encrypted(path)
    assert read_private_key(path, "correct horse").key_id == ALICE.key_id
    for given, got in ((None, "none"), ("wrong", "another one"), ("", "none")):
        said = f"expected the passphrase of {path}, got "
        error = refusal(ConfirmationRequiredError, lambda g=given: read_private_key(path, g), said)
        assert error.message.endswith((f"{got}.", "another one."))


def test_a_passphrase_for_a_key_without_one_is_left_alone(tmp_path):
    path = tmp_path / "a.key"
    path.write_bytes(ALICE.to_pem())
    assert read_private_key(path, "needless").key_id == ALICE.key_id


def test_the_private_key_in_place_of_the_public_one_is_refused_and_the_other_way_round(tmp_path):
    private, public = tmp_path / "a.key", tmp_path / "a.pub"
    private.write_bytes(ALICE.to_pem())
    public.write_bytes(public_pem(ALICE.key_id))
    refusal(UsageError, lambda: read_public_key(private), "expected a public key at", "a private")
    refusal(UsageError, lambda: read_private_key(public), "expected a private key at", "a public")


def test_a_key_that_is_not_there_is_told_with_what_makes_one(tmp_path):
    path = tmp_path / "a.key"
    refusal(NotFoundError, lambda: read_private_key(path), f"expected a key at {path}, found none")
    refusal(NotFoundError, lambda: read_public_key(path), f"expected a key at {path}, found none")


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\n",
                                  b"-----BEGIN OPENSSH KEY-----\nAAAA\n-----END OPENSSH KEY-----\n"])  # fmt: skip
def test_a_file_that_is_no_key_is_refused(tmp_path, data):
    path = tmp_path / "a.key"
    path.write_bytes(data)
    refusal(UnsafeFormatError, lambda: read_private_key(path), "a private Ed25519 key in PEM")
    if b"PRIVATE" not in data:
        refusal(UnsafeFormatError, lambda: read_public_key(path), "a public Ed25519 key in PEM")


@pytest.mark.parametrize("make", [
    lambda: ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate,
    lambda: rsa.generate_private_key(65537, 2048),
], ids=["P-256", "Ed448", "RSA"])  # fmt: skip
def test_a_key_of_another_algorithm_is_refused(tmp_path, make):
    key, private, public = make(), tmp_path / "a.key", tmp_path / "a.pub"
    private.write_bytes(key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    ))  # fmt: skip
    public.write_bytes(key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    ))  # fmt: skip
    refusal(UnsafeFormatError, lambda: read_private_key(private), "got something else")
    refusal(UnsafeFormatError, lambda: read_public_key(public), "got something else")


def test_a_file_too_large_for_a_key_is_not_read(tmp_path):
    path = tmp_path / "a.pub"
    path.write_bytes(b"x" * 20_000)
    refusal(UnsafeFormatError, lambda: read_public_key(path), "at most 16,384 bytes")


def test_a_text_that_names_no_key_is_refused():
    assert require_key_id(ALICE.key_id) == ALICE.key_id
    for text in (ALICE.key_id.upper(), "ed25519:", ALICE.key_id + " "):
        refusal(UsageError, lambda t=text: require_key_id(t), "expected a key as ed25519:<64 hex")


# As others see it


def test_openssl_reads_our_keys_and_its_signature_is_ours(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    private, public, data = tmp_path / "a.key", tmp_path / "a.pub", tmp_path / "data"
    private.write_bytes(ALICE.to_pem())
    public.write_bytes(public_pem(ALICE.key_id))
    data.write_bytes(EMPTY.signed_bytes)

    def openssl(*arguments):
        return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout

    raw = ALICE.key_id.removeprefix("ed25519:")
    shown = openssl("pkey", "-in", str(private), "-noout", "-text_pub").decode()
    assert "".join(re.findall(r"[0-9a-f]{2}(?=:|\n)", shown.partition("pub:")[2])) == raw
    assert openssl("pkey", "-in", str(private), "-pubout") == public.read_bytes()
    assert openssl("pkey", "-pubin", "-in", str(public), "-outform", "DER")[-32:].hex() == raw
    made = openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(private), "-in", str(data))
    check(replace(EMPTY, signatures=(Signature(ALICE.key_id, made),)))


def their_key(key):
    raw = key.key_id.removeprefix("ed25519:")
    return SSlibKey(key.key_id, "ed25519", "ed25519", {"public": raw})


def test_securesystemslib_verifies_what_we_sign():
    ours = BOB.sign(ALICE.sign(EMPTY))
    theirs = TheirEnvelope.from_dict(parse_json(ours.to_bytes(), what="x", limit=10_000))
    assert theirs.pae() == ours.signed_bytes
    found = theirs.verify([their_key(ALICE), their_key(BOB)], threshold=2)
    assert set(found) == {ALICE.key_id, BOB.key_id}
    with pytest.raises(TheirVerificationError):
        theirs.verify([their_key(key_of("mallory"))], threshold=1)


def test_we_verify_what_securesystemslib_signs():
    theirs = TheirEnvelope(b"payload", TYPE, {})
    theirs.sign(CryptoSigner(ALICE._key, their_key(ALICE)))
    ours = Envelope(theirs.payload, theirs.payload_type, tuple(
        Signature(keyid, bytes.fromhex(one.signature)) for keyid, one in theirs.signatures.items()
    ))  # fmt: skip
    check(ours)
    assert ours == ALICE.sign(EMPTY)
    document = theirs.to_dict()
    assert parse_json(ours.to_bytes(), what="x", limit=10_000) == document
