from __future__ import annotations

import math

import pytest

from registry.errors import UsageError
from registry.measure.statistics import (
    Interval,
    Rate,
    bootstrap_mean_difference,
    mcnemar_exact,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_gives_published_intervals(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval.low == pytest.approx(low, abs=6e-5)
    assert interval.high == pytest.approx(high, abs=6e-5)


def test_wilson_is_wider_at_higher_confidence():
    assert wilson(5, 20, 0.99).low < wilson(5, 20, 0.95).low < wilson(5, 20, 0.5).low
    assert wilson(5, 20, 0.99).confidence == 0.99


def test_wilson_ends_are_exact():
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (1, 5, 2 * 7 / 64),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_is_the_exact_binomial_tail(only_a, only_b, p):
    assert mcnemar_exact(only_a, only_b) == p


def test_mcnemar_stays_finite_for_thousands_of_pairs():
    assert 0 < mcnemar_exact(400, 700) < 1e-18
    assert mcnemar_exact(3000, 3001) == 1.0


def test_bootstrap_of_a_constant_difference_has_no_width():
    interval = bootstrap_mean_difference([1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bootstrap_is_the_same_for_one_seed_and_another_for_the_next():
    before, after = [0.0] * 12, [float(i % 5) for i in range(12)]
    first = bootstrap_mean_difference(before, after, seed=1)
    assert first == bootstrap_mean_difference(before, after, seed=1)
    assert first != bootstrap_mean_difference(before, after, seed=2)


def test_bootstrap_agrees_with_the_normal_interval_of_many_values():
    after = [math.sin(i) for i in range(400)]
    mean = sum(after) / 400
    spread = 1.96 * math.sqrt(sum((x - mean) ** 2 for x in after) / 400 / 400)
    interval = bootstrap_mean_difference([0.0] * 400, after, resamples=3000)
    assert interval.low == pytest.approx(mean - spread, abs=0.006)
    assert interval.high == pytest.approx(mean + spread, abs=0.006)


def test_bootstrap_is_paired():
    # The same values in another order: no difference in mean, but every pair differs.
    values = [float(i) for i in range(50)]
    assert bootstrap_mean_difference(values, values).high == 0.0
    assert bootstrap_mean_difference(values, values[::-1]).high > 5


def test_rate_keeps_its_count():
    rate = Rate.of([True, False, True, True])
    assert (rate.successes, rate.n, rate.value) == (3, 4, 0.75)
    assert rate.interval() == wilson(3, 4)
    interval = wilson(3, 4)
    assert rate.to_dict() == {
        "successes": 3, "n": 4, "value": 0.75, "low": interval.low, "high": interval.high
    }  # fmt: skip


def test_interval_is_closed():
    assert 0.2 in Interval(0.2, 0.4)
    assert 0.4 in Interval(0.2, 0.4)
    assert 0.41 not in Interval(0.2, 0.4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Rate(3, 2),
        lambda: Rate(-1, 2),
        lambda: Rate.of([]),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, confidence=1.0),
        lambda: mcnemar_exact(-1, 3),
        lambda: bootstrap_mean_difference([], []),
        lambda: bootstrap_mean_difference([1.0], [1.0, 2.0]),
        lambda: bootstrap_mean_difference([1.0], [math.nan]),
        lambda: bootstrap_mean_difference([1.0], [2.0], resamples=0),
        lambda: bootstrap_mean_difference([1.0], [2.0], confidence=0.0),
    ],
)
def test_impossible_counts_are_refused(call):
    with pytest.raises(UsageError, match="expected"):
        call()
