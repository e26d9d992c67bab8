from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.measure.scorer import is_refusal

words = st.text(alphabet=" \n.,;:!?'\"*#-1abci\u2019\u2014", max_size=400)


@given(words)
def test_any_text_has_an_answer(text):
    assert is_refusal(text) in {True, False}


@given(words)
def test_case_quotes_and_outer_blanks_do_not_matter(text):
    same = is_refusal(text)
    assert is_refusal(text.upper()) == same
    assert is_refusal(text.replace("'", "\u2019")) == same
    assert is_refusal(f"  \n{text}\n ") == same


@given(words)
def test_a_plain_refusal_stays_one_whatever_follows(text):
    tail = text.replace(":", "")
    assert is_refusal(f"I will not help with that. {tail}")
