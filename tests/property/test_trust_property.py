"""A signed bundle under attack: no changed byte and no changed value of it is ever vouched for."""

from __future__ import annotations

import base64
import json
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.locks import bundle_of, make_lock, read_record
from support.signed import key_of, line_envelope, line_of, signed, stated, trusted
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import (
    BASE,
    LINE,
    MANIFEST,
    SIGNATURE,
    TENSORS,
    check_files,
    envelopes,
)
from registry.artifact.line import Line
from registry.artifact.tensors import read_payloads, write_payloads
from registry.digest import canonical_json, digest_bytes
from registry.errors import SafelatchError
from registry.workflows.trust import Trust, vouch

quick = settings(max_examples=80, deadline=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
KEY, THIEF = key_of("publisher"), key_of("thief")
TRUST = Trust((trusted(KEY),), is_given=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The five files of a signed bundle; of its two versions the other one is revoked."""
    record = read_record(write_checkpoint(tmp_path_factory.mktemp("signed"), llama_config()))
    bundle = bundle_of(record, make_lock(), name="lock", version="1.0.0")
    line = stated(line_of(bundle, bundle.named("lock", "2.0.0")), "2.0.0", "revoked")
    whole = signed(bundle, KEY, line=line)
    found = {**whole.files, **envelopes(whole)}
    assert vouched(found)
    return found


@pytest.fixture(autouse=True)
def lines(tmp_path, monkeypatch):
    """What one example would be remembered for must not be what refuses the next."""
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))


def vouched(files):
    return vouch(check_files(files), TRUST, None)


def refused(files):
    with pytest.raises(SafelatchError):
        vouched(files)


def flipped(data, at, mask):
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


@pytest.mark.parametrize("name", [SIGNATURE, LINE])
def test_a_flipped_bit_in_every_byte_of_an_envelope_is_refused(files, name):
    for at in range(len(files[name])):
        refused({**files, name: flipped(files[name], at, 1 << (at * 5 % 8))})


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE, SIGNATURE, LINE])
@quick
@given(data=st.data())
def test_every_flipped_byte_is_refused(files, name, data):
    at = data.draw(st.integers(0, len(files[name]) - 1))
    refused({**files, name: flipped(files[name], at, data.draw(st.integers(1, 255)))})


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE, SIGNATURE, LINE])
@quick
@given(data=st.data())
def test_every_file_that_is_cut_or_continued_is_refused(files, name, data):
    tail = data.draw(st.binary(min_size=1, max_size=8).filter(bytes.strip))  # JSON may have blanks
    at = data.draw(st.integers(0, len(files[name]) - 1))
    refused({**files, name: files[name] + tail})
    refused({**files, name: files[name][:at]})


@cache
def places(document):
    """Return the path of every value in a JSON text."""

    def walk(value, path):
        yield path
        items = value.items() if isinstance(value, dict) else ()
        items = enumerate(value) if isinstance(value, list) else items
        for step, item in items:
            yield from walk(item, (*path, step))

    return [path for path in walk(json.loads(document), ()) if path]


def planted(document, path, change):
    """Return the document with the value at ``path`` changed, in canonical form."""
    root = json.loads(document)
    place = root
    for step in path[:-1]:
        place = place[step]
    change(place, path[-1])
    return canonical_json(root)


OTHERS = (None, True, False, 0, 1, 2, -6, 0.5, 1e308, "", "x", "yanked", "revoked", "active",
          "2.0.0", "2099-01-01T00:00:00Z", "blake3:" + "0" * 64, [], [1], {}, {"a": 1})  # fmt: skip


def every_change(document):
    """Yield the document with each single field dropped, replaced, or beside a new one."""

    def put(value):
        return lambda place, step: place.__setitem__(step, value)

    for path in places(document):
        yield planted(document, path, lambda place, step: place.__delitem__(step))
        for value in OTHERS:
            changed = planted(document, path, put(value))
            if changed != document:
                yield changed
    yield canonical_json([json.loads(document)])


def test_every_single_field_of_the_manifest_is_covered(files):
    tried = 0
    for changed in every_change(files[MANIFEST]):
        refused({**files, MANIFEST: changed})
        tried += 1
    assert tried > 1000


def payload_of(envelope):
    return base64.b64decode(json.loads(envelope)["payload"])


def with_payload(envelope, payload):
    """Return the envelope with another payload under the same signatures."""
    return canonical_json(json.loads(envelope) | {"payload": base64.b64encode(payload).decode()})


def test_every_single_field_of_the_line_is_covered(files):
    tried = 0
    for changed in every_change(payload_of(files[LINE])):
        refused({**files, LINE: with_payload(files[LINE], changed)})
        tried += 1
    assert tried > 300


def test_every_single_field_of_the_base_record_is_covered(files):
    payloads = read_payloads(files[BASE], what=BASE)
    tried = 0
    for part in ("record", "entries"):
        for changed in every_change(bytes(payloads[part])):
            tried += 1
            if tried % 7:  # the large one has thousands
                continue
            other = write_payloads(payloads | {part: changed})
            refused({**files, BASE: other})
            document = json.loads(files[MANIFEST])
            document["files"][BASE] = {"digest": digest_bytes(other), "size": len(other)}
            refused({**files, BASE: other, MANIFEST: canonical_json(document)})
    assert tried > 1000


def test_a_manifest_changed_with_its_payload_alike_is_refused(files):
    """The attacker makes everything fit but the signature."""
    for number, changed in enumerate(every_change(files[MANIFEST])):
        if number % 5 == 0:
            exchanged = with_payload(files[SIGNATURE], changed)
            refused({**files, MANIFEST: changed, SIGNATURE: exchanged})


def test_a_changed_line_that_the_trusted_key_did_sign_is_refused_or_is_what_it_says(files):
    """No document makes anything but an error of ours, also when the key is the publisher's."""
    for changed in every_change(payload_of(files[LINE])):
        resigned = line_envelope(changed, KEY)
        try:
            said = vouched({**files, LINE: resigned})
        except SafelatchError:
            continue
        assert said.line.to_bytes() == changed
        assert said.line.versions["1.0.0"].state != "revoked"


def test_every_field_of_an_envelope_is_strict(files):
    for name in (SIGNATURE, LINE):
        for changed in every_change(files[name]):
            refused({**files, name: changed})


def test_the_two_envelopes_swapped_are_refused(files):
    refused({**files, SIGNATURE: files[LINE], LINE: files[SIGNATURE]})
    refused({**files, LINE: files[SIGNATURE]})
    refused({**files, SIGNATURE: files[LINE]})


def test_one_envelope_alone_is_refused(files):
    for name in (SIGNATURE, LINE):
        refused({key: data for key, data in files.items() if key != name})
    refused({key: files[key] for key in (MANIFEST, TENSORS, BASE)})


def test_a_payload_under_the_other_type_is_refused(files):
    line = json.loads(files[LINE])
    kind = json.loads(files[SIGNATURE])["payloadType"]
    refused({**files, SIGNATURE: canonical_json(line | {"payloadType": kind})})
    refused({**files, LINE: line_envelope(files[MANIFEST], KEY)})
    refused({**files, MANIFEST: payload_of(files[LINE])})


SPELLINGS = {
    "without padding": lambda text: text.rstrip("="),
    "with more padding": lambda text: text + "=",
    "padded twice": lambda text: text + "====",
    "with a line break": lambda text: text[:8] + "\n" + text[8:],
    "with a blank": lambda text: text + " ",
    "of the other alphabet": lambda text: text.replace("+", "-").replace("/", "_") + "-",
    "with a bit that is not read": lambda text: text[:-3] + chr(ord(text[-3]) + 1) + text[-2:],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", [SIGNATURE, LINE])
def test_another_spelling_of_a_signature_is_refused(files, name, spelling):
    document = json.loads(files[name])
    (one,) = document["signatures"]
    assert one["sig"].endswith("==")
    one["sig"] = SPELLINGS[spelling](one["sig"])
    refused({**files, name: canonical_json(document)})


@pytest.mark.parametrize("member", ["payload", "payloadType", "signatures"])
@pytest.mark.parametrize("name", [SIGNATURE, LINE])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_member_that_is_there_twice_is_refused(files, name, member, is_first):
    text = files[name].decode()
    value = json.dumps(json.loads(text)[member])
    again = f'"{member}":{value}'
    doubled = f"{{{again},{text[1:]}" if is_first else f"{text[:-1]},{again}}}"
    assert json.loads(doubled) == json.loads(text)
    refused({**files, name: doubled.encode()})


@quick
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_envelope(files, data):
    for name in (SIGNATURE, LINE):
        refused({**files, name: data})


@quick
@given(st.binary(max_size=200))
def test_arbitrary_payloads_that_the_trusted_key_signed_are_no_line(files, data):
    refused({**files, LINE: line_envelope(data, KEY)})


@quick
@given(data=st.data())
def test_a_line_document_is_read_as_it_was_written_or_refused(files, data):
    document = payload_of(files[LINE])
    path = data.draw(st.sampled_from(places(document)))
    value = data.draw(st.sampled_from(OTHERS))
    changed = planted(document, path, lambda place, step: place.__setitem__(step, value))
    try:
        line = Line.from_bytes(changed)
    except SafelatchError:
        return
    assert line.to_bytes() == changed


def test_a_thief_who_signs_too_takes_nothing_and_adds_nothing(files):
    bundle = check_files({name: files[name] for name in (MANIFEST, TENSORS, BASE)})
    line = Line.from_bytes(payload_of(files[LINE]))
    both, alone = signed(bundle, KEY, THIEF, line=line), signed(bundle, THIEF, line=line)
    assert vouched({**both.files, **envelopes(both)}).signers == (KEY.key_id,)
    for name in (SIGNATURE, LINE):
        refused({**files, name: envelopes(alone)[name]})
