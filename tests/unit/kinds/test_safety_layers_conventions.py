"""One range, three spellings: [6, 11] is range(6, 12) is begin 5, end 12."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refusal

from registry.errors import UsageError
from registry.kinds.safety_layers._conventions import (
    from_half_open,
    from_open,
    spellings,
    to_half_open,
    to_open,
)

RANGES = st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda pair: tuple(sorted(pair)))


def test_the_range_of_gemma_in_every_spelling() -> None:
    assert from_half_open(6, 12) == from_open(5, 12) == (6, 11)
    assert to_half_open(6, 11) == (6, 12)
    assert to_open(6, 11) == (5, 12)
    assert spellings(6, 11) == "range(6, 12); begin 5, end 12, both excluded"


def test_the_defaults_of_the_authors_script_freeze_5_to_14() -> None:
    assert from_open(4, 15) == (5, 14)


@given(RANGES)
def test_each_spelling_gives_the_range_back(closed: tuple[int, int]) -> None:
    assert from_half_open(*to_half_open(*closed)) == closed
    assert from_open(*to_open(*closed)) == closed


@given(RANGES, st.integers(0, 200))
def test_each_spelling_holds_the_same_layers(closed: tuple[int, int], layer: int) -> None:
    first, last = closed
    begin, end = to_open(first, last)
    inside = first <= layer <= last
    assert (layer in range(*to_half_open(first, last))) is inside
    assert (begin < layer < end) is inside


@pytest.mark.parametrize("given", [(6, 6), (7, 6), (-1, 3)])
def test_a_half_open_range_without_a_layer_or_below_0_is_refused(given: tuple[int, int]) -> None:
    message = (
        f"expected a range of at least one layer from 0 on, got range({given[0]}, {given[1]})."
    )
    refusal(UsageError, lambda: from_half_open(*given), message)


@pytest.mark.parametrize("given", [(5, 6), (6, 5), (-2, 3)])
def test_an_open_range_without_a_layer_or_below_0_is_refused(given: tuple[int, int]) -> None:
    message = (
        f"expected a range of at least one layer from 0 on, got begin {given[0]}, end {given[1]}."
    )
    refusal(UsageError, lambda: from_open(*given), message)
