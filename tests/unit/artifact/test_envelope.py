"""Envelopes: one strict form, and what is signed is the type with the payload."""

from __future__ import annotations

import base64
import json

import pytest
from support.refusals import refusal
from support.signed import key_of

from registry.artifact.envelope import Envelope, Signature, is_key_id, read_envelope
from registry.errors import UnsafeFormatError, UnsupportedSchemaVersionError

TYPE = "application/vnd.test+json"
KEY = "ed25519:" + "ab" * 32
ENVELOPE = Envelope(b"payload", TYPE, (Signature(KEY, b"s" * 64),))


def read(data, **changes):
    given = {"payload_type": TYPE, "what": "x.json", "limit": 1000, "hint": "Get it."} | changes
    return read_envelope(data, **given)


def refused(data, *said, kind=UnsafeFormatError, **changes):
    return refusal(kind, lambda: read(data, **changes), "x.json: ", *said)


def with_member(**members):
    document = json.loads(ENVELOPE.to_bytes()) | members
    return json.dumps(document).encode()


def with_signature(**members):
    one = json.loads(ENVELOPE.to_bytes())["signatures"][0] | members
    return with_member(signatures=[one])


def test_an_envelope_is_read_as_it_was_written():
    assert read(ENVELOPE.to_bytes()) == ENVELOPE
    assert read(Envelope(b"", TYPE).to_bytes()) == Envelope(b"", TYPE)
    assert ENVELOPE.key_ids == (KEY,)


def test_what_is_signed_is_the_type_and_the_payload_with_their_lengths():
    assert ENVELOPE.signed_bytes == b"DSSEv1 25 application/vnd.test+json 7 payload"
    assert Envelope(b"", "é").signed_bytes == "DSSEv1 2 é 0 ".encode()


def test_the_example_of_the_dsse_specification():
    example = Envelope(b"hello world", "http://example.com/HelloWorld")
    assert example.signed_bytes == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"{}", b"1"])
def test_a_document_that_is_no_envelope_is_refused(data):
    refused(data, "expected an envelope of ['payload', 'payloadType', 'signatures']")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"payload": NaN}'])
def test_a_file_that_is_no_strict_json_is_refused(data):
    refused(data)


def test_a_member_too_many_or_missing_is_refused():
    refused(with_member(more=1), "got ['more', 'payload'")
    document = json.loads(ENVELOPE.to_bytes())
    del document["signatures"]
    refused(json.dumps(document).encode(), "got ['payload', 'payloadType']")


def test_a_member_that_is_there_twice_is_refused():
    text = ENVELOPE.to_bytes().replace(b'"payloadType"', b'"payload":"","payloadType"', 1)
    refused(text, "member 'payload' appears twice")
    text = ENVELOPE.to_bytes().replace(b'"sig"', b'"keyid":"","sig"', 1)
    refused(text, "member 'keyid' appears twice")


@pytest.mark.parametrize("kind", ["application/vnd.other+json", TYPE + " ", "", None, 1, [TYPE]])
def test_a_payload_of_another_type_is_refused(kind):
    refused(with_member(payloadType=kind), "expected payloadType",
            kind=UnsupportedSchemaVersionError)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["cGF5bG9hZA", "cGF5bG9hZA=", "cGF5bG9hZB==", "cGF5 bG9hZA==", "cGF5bG9hZA==\n", "cGF5bG9h\r",
     "cGF5-G9hZA==", "cGF5bG9hZA====", "é", "=", None, 7, ["cGF5"]],
)  # fmt: skip
def test_another_spelling_of_base64_is_refused(text):
    refused(with_member(payload=text), "expected a payload in base64")


def test_a_payload_over_the_limit_is_refused():
    data = Envelope(b"x" * 501, TYPE).to_bytes()
    refused(data, "expected a payload of at most 500 bytes, got 501", limit=500)


def test_a_file_over_twice_the_limit_is_not_even_parsed():
    refused(b"{" * 2001, "expected at most 2,000 bytes, got 2,001")


@pytest.mark.parametrize("found", [None, {}, "x", 1])
def test_signatures_that_are_no_list_are_refused(found):
    refused(with_member(signatures=found), "expected signatures as a list of at most 16")


def test_a_seventeenth_signature_is_refused():
    many = [{"keyid": f"ed25519:{i:064x}", "sig": sig(b"s" * 64)} for i in range(17)]
    assert len(read(with_member(signatures=many[:16]), limit=5000).signatures) == 16
    refused(with_member(signatures=many), "at most 16, got 17 of them", limit=5000)


def test_two_signatures_of_one_key_are_refused():
    one = json.loads(ENVELOPE.to_bytes())["signatures"][0]
    refused(
        with_member(signatures=[one, one]), f"expected one signature of each key, got two of {KEY}"
    )


def sig(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "members",
    [{"sig": sig(b"s" * 63)}, {"sig": sig(b"s" * 65)}, {"sig": ""}, {"sig": None}, {"sig": "!"},
     {"keyid": None}, {"keyid": ""}, {"keyid": KEY.upper()}, {"keyid": "ab" * 32},
     {"keyid": KEY + "\n"}, {"keyid": "ed25519:" + "ab" * 31}, {"cert": "x"}],
    ids=str,
)  # fmt: skip
def test_a_signature_of_another_form_is_refused(members):
    refused(with_signature(**members), "expected a signature of keyid ed25519:<64 hex digits>")


@pytest.mark.parametrize("one", [None, [], "x", 1, {}])
def test_a_signature_that_is_no_object_is_refused(one):
    refused(with_member(signatures=[one]), "expected a signature of keyid")


def test_a_key_id_is_lower_case_hex_and_nothing_more():
    assert is_key_id(key_of("a").key_id)
    for text in ("", "ed25519:", KEY[:-1], KEY + "0", KEY + "\n", KEY.upper(), " " + KEY,
                 "ed25519:" + "٣" * 64):  # fmt: skip
        assert not is_key_id(text)
