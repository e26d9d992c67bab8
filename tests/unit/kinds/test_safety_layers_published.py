"""The four published ranges: what they say, what they fit, and that nothing was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.refusals import refusal

from registry.checkpoint.architecture import SITES
from registry.checkpoint.geometry import Geometry
from registry.errors import GeometryError
from registry.kinds.safety_layers._conventions import from_half_open, from_open
from registry.kinds.safety_layers._published import PAPER, PUBLISHED, PublishedRange
from registry.kinds.safety_layers.body import PUBLISHED as ORIGIN

KNOWN = {
    "phi-3-mini-4k-instruct": (11, 15, 32, 0.8, "phi3"),
    "llama-2-7b-chat": (6, 14, 32, 1.15, "llama"),
    "llama-3-8b-instruct": (6, 12, 32, 1.2, "llama"),
    "gemma-2b-it": (6, 11, 18, None, "gemma"),
}
"""First, last, layers, alpha and family of each, written down once more."""
ROWS = list(PUBLISHED.values())


def test_the_four_ranges_are_those_after_both_bounds_were_searched() -> None:
    found = {
        name: (row.first, row.last, row.geometry.layers, row.alpha, row.geometry.family)
        for name, row in PUBLISHED.items()
    }
    assert found == KNOWN


def test_the_range_of_gemma_is_what_its_other_spellings_say() -> None:
    row = PUBLISHED["gemma-2b-it"]
    assert (row.first, row.last) == from_half_open(6, 12) == from_open(5, 12)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_can_be_bound_and_says_second_hand(row: PublishedRange) -> None:
    assert row.geometry.family in SITES
    assert 0 <= row.first <= row.last < row.geometry.layers
    assert "second-hand" in row.where
    body = row.bind(row.geometry)
    assert (body.first, body.last, body.layers) == (row.first, row.last, row.geometry.layers)
    assert (body.origin, body.measurement, body.refused) == (ORIGIN, None, None)
    assert body.source == {
        "paper": PAPER, "where": row.where, "model": row.model, "alpha": row.alpha,
        "status": "published, not re-measured",
    }  # fmt: skip
    assert body.describe()["origin"] == row.describe()["origin"] == "published, not re-measured"


def test_an_alpha_that_nobody_knows_is_none_and_not_made_up() -> None:
    assert PUBLISHED["gemma-2b-it"].describe()["alpha"] is None


@pytest.mark.parametrize(
    ("change", "line"),
    [({"layers": 26}, "layers: expected 18, got 26"), ({"heads": 16}, "heads: expected 8, got 16"),
     ({"kv_heads": 8}, "kv_heads: expected 1, got 8"),
     ({"head_dim": 128}, "head_dim: expected 256, got 128"),
     ({"hidden_size": 3072}, "hidden_size: expected 2048, got 3072"),
     ({"family": "gemma2"}, "family: expected gemma, got gemma2")],
)  # fmt: skip
def test_a_base_of_another_geometry_is_refused_with_both_values(
    change: dict[str, int], line: str
) -> None:
    row = PUBLISHED["gemma-2b-it"]
    other = replace(row.geometry, **change)  # type: ignore[arg-type]
    error = refusal(GeometryError, lambda: row.bind(other), "of the geometry of gemma-2b-it", line)
    assert error.message.count("\n") == 1
    assert "safelatch import published:gemma-2b-it --base BASE --out DIR" in str(error.hint)


def test_every_difference_is_told_at_once() -> None:
    other = Geometry("qwen2", layers=2, heads=4, kv_heads=2, head_dim=16, hidden_size=64)
    error = refusal(GeometryError, lambda: PUBLISHED["llama-2-7b-chat"].bind(other))
    assert error.message.count("\n") == 6


def test_a_range_is_never_fitted_to_another_depth() -> None:
    row = PUBLISHED["llama-3-8b-instruct"]
    refusal(
        GeometryError,
        lambda: row.bind(replace(row.geometry, layers=64)),
        "a range is never scaled to another depth",
    )
