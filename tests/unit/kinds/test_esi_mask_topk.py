"""The exact global top k: facts, ties, parts that add up, and what is refused."""

from __future__ import annotations

import re
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from registry.errors import NonFiniteTensorError, UsageError
from registry.kinds.esi_mask import _topk
from registry.kinds.esi_mask._topk import (
    cut_at,
    emit,
    lower_histogram,
    random_like,
    rank,
    select,
    ties,
    upper_histogram,
)

TINY = np.float32(1e-45)  # the least denormal


def scores_of(**tensors):
    given = sorted((name, np.array(values, dtype=np.float32)) for name, values in tensors.items())
    return lambda: iter(given)


def as_lists(selected):
    return {name: indices.tolist() for name, indices in selected.items()}


def sorted_selection(tensors, k, *, largest):
    """Return the same by a stable sort of everything, which is what must come out."""
    everything = [(-value if largest else value, name, index)
                  for name, array in tensors for index, value in enumerate(array.tolist())]  # fmt: skip
    best = sorted(everything)[:k]
    return {name: sorted(i for _, n, i in best if n == name) for name, _ in tensors}


def test_the_largest_of_all_tensors_are_selected_wherever_they_are():
    scores = scores_of(a=[1, 9, 2], b=[8, 0, 7], c=[0.5])
    assert as_lists(select(scores, 3)) == {"a": [1], "b": [0, 2], "c": []}
    assert as_lists(select(scores, 3, largest=False)) == {"a": [0], "b": [1], "c": [0]}


def test_ties_go_to_the_first_by_name_and_index():
    scores = scores_of(a=[3, 5, 5], b=[5, 5, 9])
    assert as_lists(select(scores, 3)) == {"a": [1, 2], "b": [2]}
    assert as_lists(select(scores, 4)) == {"a": [1, 2], "b": [0, 2]}
    assert as_lists(select(scores, 2, largest=False)) == {"a": [0, 1], "b": []}


def test_none_and_all_can_be_selected():
    scores = scores_of(a=[0, 1], b=[], c=[3])
    for largest in (True, False):
        assert as_lists(select(scores, 0, largest=largest)) == {"a": [], "b": [], "c": []}
        assert as_lists(select(scores, 3, largest=largest)) == {"a": [0, 1], "b": [], "c": [0]}


def test_no_scores_at_all_give_none():
    assert select(lambda: iter(()), 0) == {}


def test_floats_that_differ_in_their_last_bit_are_told_apart():
    one = np.float32(1)
    above = np.nextafter(one, np.float32(2))
    assert as_lists(select(scores_of(a=[one, above, one]), 1)) == {"a": [1]}
    assert as_lists(select(scores_of(a=[0, TINY, 0]), 1)) == {"a": [1]}
    assert as_lists(select(scores_of(a=[TINY, 0, TINY]), 1, largest=False)) == {"a": [1]}


def test_the_largest_and_the_least_float_are_in_order():
    huge = np.finfo(np.float32).max
    scores = scores_of(a=[huge, np.nextafter(huge, np.float32(0)), 0, TINY])
    assert as_lists(select(scores, 1)) == {"a": [0]}
    assert as_lists(select(scores, 3)) == {"a": [0, 1, 3]}


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 999, 5_000, 29_999, 30_000])
def test_the_selection_is_that_of_a_stable_sort(monkeypatch, k, largest):
    monkeypatch.setattr(_topk, "_CHUNK", 4096)  # so that ties lie on both sides of its borders
    random = np.random.default_rng(5)
    tensors = [(f"t{i}", np.round(random.exponential(size=10_000) * 50).astype(np.float32))
               for i in range(3)]  # fmt: skip
    got = select(lambda: iter(tensors), k, largest=largest)
    assert as_lists(got) == sorted_selection(tensors, k, largest=largest)


def test_indices_are_of_32_bits_and_one_array_for_each_tensor():
    got = select(scores_of(a=[1, 2], b=[]), 1)
    assert [indices.dtype for indices in got.values()] == [np.uint32, np.uint32]


def test_the_scores_are_asked_for_three_times_and_not_changed():
    array, calls = np.array([1, 4, 2], dtype=np.float32), []
    array.flags.writeable = False

    def scores():
        calls.append(1)
        yield "a", array

    assert as_lists(select(scores, 2)) == {"a": [1, 2]}
    assert len(calls) == 3


def test_scores_with_a_stride_are_read_as_they_are():
    array = np.arange(20, dtype=np.float32)[::-2]
    assert as_lists(select(lambda: iter([("a", array)]), 2)) == {"a": [0, 1]}


def halves():
    random = np.random.default_rng(11)
    tensors = [(f"t{i}", random.integers(0, 40, 5_000).astype(np.float32)) for i in range(4)]
    return tensors[:2], tensors[2:]


@pytest.mark.parametrize("largest", [True, False])
def test_two_halves_summed_select_what_the_whole_does(largest):
    """What two processes do: sum two histograms, share the ties out by their order."""
    first, second = halves()
    whole = first + second
    k = 7_900
    upper = upper_histogram(first) + upper_histogram(second)
    assert np.array_equal(upper, upper_histogram(whole))
    half = rank(upper, k, largest=largest)
    lowers = [lower_histogram(first, half.bin), lower_histogram(second, half.bin)]
    assert np.array_equal(sum(lowers), lower_histogram(whole, half.bin))
    cut = cut_at(half, sum(lowers), largest=largest)
    in_first = int(lowers[0][cut.bits & 0xFFFF])  # how many ties the first process has
    assert ties(first, cut).sum() == in_first
    assert 0 < in_first < cut.tied  # the selected ties do lie in both
    got = {
        **dict(emit(first, cut, tied=in_first)),
        **dict(emit(second, cut, tied=cut.tied - in_first)),
    }
    assert sum(indices.size for indices in got.values()) == k
    assert as_lists(got) == as_lists(select(lambda: iter(whole), k, largest=largest))


class Threads:
    """Threads in place of processes: each has some rows of every tensor."""

    def __init__(self, ranks):
        self.ranks, self._here, self._given = ranks, threading.local(), [None] * ranks
        self._barrier = threading.Barrier(ranks, timeout=20)

    @property
    def rank(self):
        return self._here.rank

    def sum(self, numbers):
        self._given[self.rank] = numbers
        self._barrier.wait()
        total = sum(self._given)
        self._barrier.wait()
        return total

    def each(self, act):
        """Return what ``act`` gives or raises in every thread."""

        def run(rank):
            self._here.rank = rank
            try:
                return act(rank)
            except UsageError as error:
                return error
            except NonFiniteTensorError as error:
                return error

        with ThreadPoolExecutor(self.ranks) as pool:
            return list(pool.map(run, range(self.ranks)))


def cut_into(array, ranks):
    """Return rows as FSDP2 cuts them: equal ones, and a last one that may be short or empty."""
    step = -(-array.size // ranks)
    return [array[rank * step : (rank + 1) * step] for rank in range(ranks)]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("k", [0, 1, 7_900, 10_000, 20_003])
def test_processes_with_some_rows_of_each_tensor_select_what_one_does(k, ranks, largest):
    first, second = halves()
    tensors = [*first, *second, ("t4", np.array([3, 3, 1], np.float32))]  # fewer than processes
    parts = {name: cut_into(array, ranks) for name, array in tensors}
    across = Threads(ranks)

    def act(rank):
        here = [(name, pieces[rank]) for name, pieces in parts.items()]
        return select(lambda: iter(here), k, largest=largest, across=across)

    got = across.each(act)
    starts = {name: np.cumsum([0, *(p.size for p in pieces)]) for name, pieces in parts.items()}
    joined = {
        name: [
            int(start + i) for rank, start in enumerate(starts[name][:-1]) for i in got[rank][name]
        ]
        for name in parts
    }
    assert joined == as_lists(select(lambda: iter(tensors), k, largest=largest))


def test_a_score_that_one_process_refuses_is_refused_by_all():
    across = Threads(3)
    values = [[1, 2], [1, np.nan], [3, 4]]

    def act(rank):
        here = [("a", np.array(values[rank], np.float32))]
        return select(lambda: iter(here), 2, across=across)

    errors = across.each(act)
    assert [type(error) for error in errors] == [NonFiniteTensorError] * 3
    assert [error.message.splitlines()[0] for error in errors] == [
        "scores: expected finite numbers from 0 in 3 processes, got others in 1 of them.",
        "scores: expected finite numbers from 0, got:",
        "scores: expected finite numbers from 0 in 3 processes, got others in 1 of them.",
    ]


def test_little_memory_is_used_beyond_the_scores_and_the_result():
    random = np.random.default_rng(2)
    tensors = [(f"t{i}", random.random(4_000_000, dtype=np.float32)) for i in range(4)]
    tracemalloc.start()
    try:
        got = select(lambda: iter(tensors), 160_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(indices.nbytes for indices in got.values()) == 640_000
    assert peak < 8_000_000  # the scores have 64,000,000 bytes


@pytest.mark.parametrize("k", [-1, 4])
def test_more_than_all_or_less_than_none_is_refused(k):
    with pytest.raises(UsageError, match=re.escape(f"k: expected 0 to 3 scores, got {k}.")):
        select(scores_of(a=[1, 2], b=[3]), k)


@pytest.mark.parametrize(
    ("values", "error", "finding"),
    [
        ([1, np.nan], NonFiniteTensorError, "1 NaN, 0 infinite, 0 negative"),
        ([1, -np.nan], NonFiniteTensorError, "1 NaN, 0 infinite, 0 negative"),
        ([np.inf, -np.inf, -1], NonFiniteTensorError, "0 NaN, 2 infinite, 1 negative"),
        ([1, -1, -2], UsageError, "0 NaN, 0 infinite, 2 negative"),
        ([1, -0.0], UsageError, "0 NaN, 0 infinite, 1 negative"),
        ([1, -TINY], UsageError, "0 NaN, 0 infinite, 1 negative"),
    ],
)
def test_a_score_that_is_no_finite_number_from_0_is_refused(values, error, finding):
    with pytest.raises(error) as caught:
        select(scores_of(good=[1, 2], wrong=values), 1)
    assert type(caught.value) is error
    assert caught.value.message == (
        f"scores: expected finite numbers from 0, got:\n  'wrong': {finding}"
    )


def test_every_tensor_with_a_refused_score_is_named(monkeypatch):
    monkeypatch.setattr(_topk, "_CHUNK", 2)
    with pytest.raises(NonFiniteTensorError) as caught:
        select(scores_of(a=[np.nan, 1, 1, np.nan, np.inf], b=[1], c=[-1, 2]), 1)
    assert caught.value.violations == [
        "'a': 2 NaN, 1 infinite, 0 negative",
        "'c': 0 NaN, 0 infinite, 1 negative",
    ]


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"]])
def test_tensors_out_of_order_are_refused(names):
    tensors = [(name, np.ones(2, dtype=np.float32)) for name in names]
    with pytest.raises(UsageError) as caught:
        select(lambda: iter(tensors), 1)
    assert caught.value.message == (
        f"scores: expected names in sorted order, got {names[1]!r} after {names[0]!r}."
    )


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.ones(3), "float64 (3,)"),
        (np.ones(3, dtype=np.int32), "int32 (3,)"),
        (np.ones((3, 1), dtype=np.float32), "float32 (3, 1)"),
        (np.ones(3, dtype=">f4"), ">f4 (3,)"),
    ],
)
def test_what_is_no_vector_of_float32_is_refused(array, got):
    with pytest.raises(UsageError) as caught:
        select(lambda: iter([("a", array)]), 1)
    assert caught.value.message == f"scores of 'a': expected float32 in one dimension, got {got}."


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([[1, 1, 9]], "scores in the bin of rank k: expected 1 as in the first pass, got 0."),
        ([[1, 5, 1], [9, 9, 9]], "scores selected: expected 1 as in the first pass, got 3."),
        ([[1, 5, 1], [1, 1, 1]], "scores selected: expected 1 as in the first pass, got 0."),
    ],
)
def test_scores_that_change_between_passes_are_refused(later, message):
    passes = iter([[1, 5, 1], *later])

    def scores():
        yield "a", np.array(next(passes), dtype=np.float32)

    with pytest.raises(UsageError) as caught:
        select(scores, 1)
    assert caught.value.message == message


# The random control


NUMELS = {"a": 1000, "b": 10, "c": 7, "d": 0}


def test_the_random_control_has_as_many_of_each_tensor_and_none_twice():
    counts = {"a": 300, "b": 9, "c": 7, "d": 0}
    got = random_like(counts, NUMELS, seed=1)
    for name, indices in got.items():
        assert indices.dtype == np.uint32
        assert indices.size == counts[name]
        assert np.all(indices[1:] > indices[:-1])
        assert not indices.size or indices[-1] < NUMELS[name]


def test_the_random_control_depends_on_seed_name_and_count_alone():
    first = random_like({"a": 50, "b": 3}, NUMELS, seed=7)
    again = random_like({"b": 3, "a": 50, "c": 1}, NUMELS, seed=7)
    assert as_lists(first)["a"] == as_lists(again)["a"]
    assert as_lists(first)["b"] == as_lists(again)["b"]
    assert as_lists(first) != as_lists(random_like({"a": 50, "b": 3}, NUMELS, seed=8))
    same = random_like({"x": 50, "y": 50}, {"x": 1000, "y": 1000}, seed=7)
    assert as_lists(same)["x"] != as_lists(same)["y"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_set_of_weights_is_drawn_equally_often(count):
    drawn = [tuple(random_like({"t": count}, {"t": 5}, seed=seed)["t"].tolist())
             for seed in range(2_000)]  # fmt: skip
    sets, times = np.unique(np.array(drawn), axis=0, return_counts=True)
    expected = 2_000 / len(sets)
    assert len(sets) == {1: 5, 2: 10, 4: 5}[count]
    assert ((times - expected) ** 2 / expected).sum() < 30  # chi-squared: 1 in 2,000 at 9 degrees


def test_more_random_weights_than_a_tensor_has_are_refused():
    with pytest.raises(UsageError) as caught:
        random_like({"a": 5, "b": 11, "c": -1}, NUMELS, seed=1)
    assert caught.value.message == (
        "The selection does not fit the tensors:"
        "\n  'b': expected 0 to 10 weights, got 11\n  'c': expected 0 to 7 weights, got -1"
    )
