"""Canonical JSON: the vectors of RFC 8785, and laws that hold for every value."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digest import canonical_json, digest_bytes, digest_json, parse_json
from registry.errors import UnsafeFormatError

# RFC 8785, appendix B: IEEE 754 bits to what ECMAScript prints.
NUMBERS = {
    0x0000000000000000: "0",
    0x8000000000000000: "0",
    0x0000000000000001: "5e-324",
    0x8000000000000001: "-5e-324",
    0x7FEFFFFFFFFFFFFF: "1.7976931348623157e+308",
    0xFFEFFFFFFFFFFFFF: "-1.7976931348623157e+308",
    0x4340000000000000: "9007199254740992",
    0xC340000000000000: "-9007199254740992",
    0x4430000000000000: "295147905179352830000",
    0x44B52D02C7E14AF5: "9.999999999999997e+22",
    0x44B52D02C7E14AF6: "1e+23",
    0x44B52D02C7E14AF7: "1.0000000000000001e+23",
    0x444B1AE4D6E2EF4E: "999999999999999700000",
    0x444B1AE4D6E2EF4F: "999999999999999900000",
    0x444B1AE4D6E2EF50: "1e+21",
    0x3EB0C6F7A0B5ED8C: "9.999999999999997e-7",
    0x3EB0C6F7A0B5ED8D: "0.000001",
    0x41B3DE4355555553: "333333333.3333332",
    0x41B3DE4355555554: "333333333.33333325",
    0x41B3DE4355555555: "333333333.3333333",
    0x41B3DE4355555556: "333333333.3333334",
    0x41B3DE4355555557: "333333333.33333343",
    0xBECBF647612F3696: "-0.0000033333333333333333",
    0x43143FF3C1CB0959: "1424953923781206.2",
}

texts = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**53) + 1, 2**53 - 1)
# Doubles from 2^53 to 1e21 print as integers that no strict reader may take: see the test below.
numbers = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda value: not 2**53 <= abs(value) < 1e21
)
scalars = st.none() | st.booleans() | integers | texts | numbers
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


@pytest.mark.parametrize("bits", NUMBERS, ids=hex)
def test_numbers_print_as_the_rfc_says(bits):
    (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    assert canonical_json(value).decode() == NUMBERS[bits]


def test_the_example_of_the_rfc():
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical_json(value).decode() == (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_members_are_sorted_by_utf_16_as_in_the_rfc():
    members = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    assert list(json.loads(canonical_json(members))) == [
        "\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


@given(documents)
def test_every_document_round_trips_and_has_one_spelling(value):
    data = canonical_json(value)
    again = parse_json(data, what="x", limit=1 << 20)
    assert again == value
    assert canonical_json(again) == data
    assert json.loads(data) == value
    assert digest_json(value) == digest_bytes(data)


@pytest.mark.parametrize("value", [2.0**53, 5.469499272248343e16, -1e20])
def test_a_double_that_prints_as_an_unsafe_integer_is_not_canonical_when_it_comes_back(value):
    again = parse_json(canonical_json(value), what="x", limit=100)
    with pytest.raises(ValueError, match=r"2\^53"):
        canonical_json(again)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_round_trips_to_the_same_bits(value):
    again = float(json.loads(canonical_json(value)))
    assert struct.pack(">d", again) == struct.pack(">d", value + 0.0 if value else 0.0)


@given(st.dictionaries(texts, integers), st.randoms())
def test_the_order_of_insertion_is_of_no_account(members, random):
    names = list(members)
    random.shuffle(names)
    assert canonical_json({name: members[name] for name in names}) == canonical_json(members)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 2**53, -(2**53), {1: 2}, {None: 1}, b"x", {1},
     object(), "\ud800", {"\udfff": 1}],
    ids=repr,
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ValueError):
        canonical_json([value])


@given(texts, integers, integers)
def test_a_member_that_comes_twice_is_refused(name, one, two):
    text = json.dumps(name)
    data = f'{{"a":{{{text}:{one},"other name":0,{text}:{two}}}}}'.encode()
    with pytest.raises(UnsafeFormatError, match="appears twice"):
        parse_json(data, what="x", limit=1 << 20)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_parse_or_are_refused_and_nothing_else(data):
    try:
        parsed = parse_json(data, what="x", limit=1 << 20)
    except UnsafeFormatError:
        return
    assert parsed == json.loads(data.decode())


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1e999]", "[-1e999]", "{'a':1}",
                                  "[1,]", "01", '"\t"', "[" * 100_000])  # fmt: skip
def test_what_only_lenient_readers_accept_is_refused(text):
    with pytest.raises(UnsafeFormatError):
        parse_json(text.encode(), what="x", limit=1 << 20)
