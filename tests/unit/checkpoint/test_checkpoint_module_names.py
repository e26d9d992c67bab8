"""What a pattern and the end of a name match is what PEFT's own expressions match."""

from __future__ import annotations

import re

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from registry.checkpoint._module_names import NamePattern, ends_in

KEYS = st.tuples(
    st.sampled_from(["", "^"]),
    st.lists(st.sampled_from(["a", "b", "-", ".", r"\."]), min_size=1, max_size=6).map("".join),
    st.sampled_from(["", "$"]),
).map("".join)
NAMES = st.text("ab.-", max_size=8)


@settings(max_examples=300, deadline=None)
@given(KEYS, NAMES)
@example("^a.b", "x.a.b")
@example("^a.b", "a.b")
@example("a.b", "axb")
@example(r"a\.b", "axb")
@example("a", "ba")
@example("a$", "b.a")
def test_a_pattern_matches_what_peft_matches(key: str, name: str) -> None:
    assert NamePattern.allows(key)
    expected = re.match(rf"(.*\.)?({key})$", name) is not None
    assert NamePattern.of(key).matches(name) == expected


@settings(max_examples=200, deadline=None)
@given(NAMES, st.frozensets(NAMES, max_size=4))
def test_an_end_is_the_name_or_what_is_behind_a_dot(name: str, ends: frozenset[str]) -> None:
    assume("" not in ends)
    expected = name in ends or any(name.endswith(f".{end}") for end in ends)
    assert ends_in(name, ends) == expected
