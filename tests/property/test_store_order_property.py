from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from registry.store._order import order_key

number = st.one_of(st.integers(0, 3), st.integers(0, 10**8))


@st.composite
def versions(draw: st.DrawFn) -> str:
    epoch = draw(st.sampled_from(["", "0!", "1!", "12!"]))
    release = ".".join(map(str, draw(st.lists(number, min_size=1, max_size=4))))
    pre = draw(st.sampled_from(["", "a0", "a10", "b2", "rc1", "rc9"]))
    post = draw(st.sampled_from(["", ".post0", ".post2", ".post10"]))
    dev = draw(st.sampled_from(["", ".dev0", ".dev3", ".dev11"]))
    part = st.one_of(st.integers(0, 12).map(str), st.sampled_from(["a", "ab", "b1", "1a", "z"]))
    local = draw(st.lists(part, max_size=3).map(lambda parts: "+" + ".".join(parts)))
    text = epoch + release + pre + post + dev + (local if local != "+" else "")
    return text if len(text) <= 64 else "1"


@given(versions(), versions())
def test_keys_compare_as_packaging_compares_the_versions(one: str, other: str) -> None:
    def relation(a: object, b: object) -> tuple[bool, bool]:
        return (a < b, a == b)  # type: ignore[operator]

    keys = order_key(one).encode(), order_key(other).encode()
    assert relation(*keys) == relation(Version(one), Version(other))


@given(versions())
def test_the_key_fits_its_column_and_is_plain_ascii(version: str) -> None:
    key = order_key(version)
    assert len(key) <= 512
    assert key.isascii()
