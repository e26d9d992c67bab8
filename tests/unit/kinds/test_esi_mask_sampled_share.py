"""A share that is estimated from samples which are not equally dense."""

from __future__ import annotations

import pytest

from registry.kinds.esi_mask._judged import Judged
from registry.kinds.esi_mask._sampled_share import sampled_share
from registry.measure.statistics import wilson


def row(selected: int, sampled: int, equal: int) -> Judged:
    return Judged("w", "drifted", selected, None, sampled, equal, 0.0, 1.0)


def test_a_matrix_that_is_sampled_more_densely_does_not_speak_for_the_others():
    small, large = row(1_000, 400, 0), row(99_000, 400, 400)
    found = sampled_share([small, large])
    assert (found.successes, found.n) == (400, 800)
    assert found.value == 0.99
    assert found.low <= 0.99 <= found.high
    assert found.low > 0.95  # thrown together they would be half and half


def test_equally_dense_samples_are_one_sample():
    found = sampled_share([row(1_000, 100, 50), row(3_000, 300, 240)])
    interval = wilson(290, 400)
    assert found.value == pytest.approx(290 / 400)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_weights_without_a_sample_may_be_anything():
    found = sampled_share([row(500, 100, 100), row(500, 0, 0)])
    assert found.value == 1.0
    assert found.low == pytest.approx(wilson(100, 100).low / 2)
    assert found.high == 1.0
    assert sampled_share([row(500, 100, 0), row(500, 0, 0)]).high > 0.5
    assert sampled_share([row(500, 0, 0)]) is None
    assert sampled_share([]) is None
