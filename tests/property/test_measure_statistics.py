from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.measure.statistics import mcnemar_exact, wilson

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.01, 0.999))
def test_wilson_lies_in_the_unit_interval_and_holds_the_share(count, confidence):
    successes, n = count
    interval = wilson(successes, n, confidence)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1


@given(counts)
def test_wilson_mirrors_successes_and_failures(count):
    successes, n = count
    one, other = wilson(successes, n), wilson(n - successes, n)
    assert abs(one.low - (1 - other.high)) < 1e-9
    assert abs(one.high - (1 - other.low)) < 1e-9


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_a_symmetric_probability(only_a, only_b):
    p = mcnemar_exact(only_a, only_b)
    assert 0 < p <= 1
    assert p == mcnemar_exact(only_b, only_a)


@given(st.integers(0, 100), st.integers(0, 100))
def test_mcnemar_falls_as_one_side_grows(small, more):
    assert mcnemar_exact(small, small + more + 1) <= mcnemar_exact(small, small + more)
