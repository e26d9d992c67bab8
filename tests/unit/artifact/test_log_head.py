"""The signed head of an event log: its bytes are frozen here; what is refused is in tests/attacks."""

from __future__ import annotations

import pytest

from registry.artifact.envelope import Envelope
from registry.artifact.log_head import PAYLOAD_TYPE, LogHead, read_head, sign_head
from registry.artifact.signing import PrivateKey, read_private_key
from registry.digest import Digest
from registry.errors import SchemaViolationError, SignatureError, UnsignedError, UntrustedKeyError

HEAD = LogHead("ab" * 16, 41, Digest("blake3:" + "0f" * 32), "2030-01-31T12:00:00Z")
DOCUMENT = (
    b'{"created":"2030-01-31T12:00:00Z","digest":"blake3:' + b"0f" * 32 + b'","registry":"'
    + b"ab" * 16 + b'","schema":"safelatch/log-head/v1","sequence":41}'
)  # fmt: skip
PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
FILE = (
    b'{"payload":"eyJjcmVhdGVkIjoiMjAzMC0wMS0zMVQxMjowMDowMFoiLCJkaWdlc3QiOiJibGFrZTM6MGYwZjBmMG'
    b'YwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZiIsInJlZ2lzdHJ5'
    b'IjoiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWIiLCJzY2hlbWEiOiJzYWZlbGF0Y2gvbG9nLWhlYWQvdj'
    b'EiLCJzZXF1ZW5jZSI6NDF9","payloadType":"application/vnd.safelatch.log-head.v1+json","signat'
    b'ures":[{"keyid":"ed25519:03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"'
    b',"sig":"+aEh+T0kMch8yMrznr4nVOUgolW2V+InaVrWw0Lal5vb7mtwYDIqX8KqfJUeu9IwCdCABuHNszfrJqHYyb'
    b'cMAg=="}]}'
)  # fmt: skip


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "fixed.key"
    path.write_bytes(PEM)
    return read_private_key(path)


def test_the_document_is_these_bytes_and_comes_back():
    assert HEAD.to_bytes() == DOCUMENT
    assert LogHead.from_bytes(DOCUMENT, what="head") == HEAD


def test_the_file_is_these_bytes_and_comes_back(key):
    assert sign_head(HEAD, key) == FILE
    assert read_head(FILE, {key.key_id, "another"}, what="head") == (HEAD, (key.key_id,))


def test_only_the_keys_that_count_are_named(key):
    other = PrivateKey.generate()
    both = other.sign(key.sign(Envelope(DOCUMENT, PAYLOAD_TYPE))).to_bytes()
    assert read_head(both, [other.key_id], what="head")[1] == (other.key_id,)
    assert read_head(both, [key.key_id, other.key_id], what="head")[1] == (
        key.key_id,
        other.key_id,
    )


def test_a_signature_that_is_none_counts_against_the_others(key):
    other = PrivateKey.generate()
    stolen = other.sign(Envelope(b"other bytes", PAYLOAD_TYPE)).signatures
    signed = key.sign(Envelope(DOCUMENT, PAYLOAD_TYPE, stolen)).to_bytes()
    with pytest.raises(SignatureError, match=other.key_id):
        read_head(signed, [key.key_id], what="head")


def test_a_key_that_does_not_count_is_named_with_the_repair(key):
    with pytest.raises(UntrustedKeyError) as caught:
        read_head(FILE, [], what="head.json")
    assert str(caught.value) == (
        f"head.json: expected a signature by one of 0 keys, got those of:\n  {key.key_id}\n"
        "Name the public key that you know signs it: safelatch log verify --head HEAD --trust PUB"
    )


def test_an_unsigned_head_is_refused():
    with pytest.raises(UnsignedError) as caught:
        read_head(Envelope(DOCUMENT, PAYLOAD_TYPE).to_bytes(), [], what="head.json")
    assert caught.value.message == "head.json: expected a signature, found none."


def test_every_violation_is_told_at_once():
    wrong = b'{"created":"x","digest":"x","registry":"x","schema":"safelatch/log-head/v1"}'
    with pytest.raises(SchemaViolationError) as caught:
        LogHead.from_bytes(wrong, what="head.json")
    assert caught.value.message.splitlines() == [
        "head.json breaks 5 rule(s).",
        (
            "  $: expected ['created', 'digest', 'registry', 'schema', 'sequence'], got "
            "['created', 'digest', 'registry', 'schema']"
        ),
        "  $.registry: expected 32 hex digits, got 'x'",
        "  $.sequence: expected an integer from 1 on, got None",
        "  $.digest: expected blake3:<64 hex digits>, got 'x'",
        "  $.created: expected a moment such as 2030-01-31T00:00:00Z, got 'x'",
    ]
