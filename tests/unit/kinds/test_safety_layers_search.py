"""The search alone: synthetic prompts over margins, no model."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from registry.errors import LocalizationError
from registry.kinds.safety_layers._points import LEVEL, Point, best_bound, change
from registry.kinds.safety_layers._search import (
    CONTROLS,
    GIVEN,
    GRID,
    RULE,
    chosen,
    control_ranges,
    search,
)
from registry.measure.statistics import mcnemar_exact

N = 60


class World:
    """Prompts with margins around a threshold; a block of layers pushes each of them."""

    def __init__(self, block, *, layers=12, harm=0.0):
        self.block, self.layers, self.harm = block, layers, harm
        self.margins = [0.5 + (i + 0.5) / N for i in range(N)]

    def __call__(self, first, last, alpha):
        inside = sum(first <= layer <= last for layer in self.block)
        outside = last - first + 1 - inside
        push = 1 + (alpha - 1) * inside / len(self.block)
        # Scaling layers outside breaks answers: fewer refusals whichever way they are scaled.
        push -= self.harm * outside * abs(alpha - 1)
        return tuple(push > margin for margin in self.margins)

    @property
    def baseline(self):
        return tuple(margin < 1 for margin in self.margins)

    def search(self, initial, alpha=None, seed=0):
        return search(
            self, self.baseline, layers=self.layers, initial=initial, alpha=alpha, seed=seed
        )


@pytest.mark.parametrize("alpha", [1.3, 0.7, None])
@pytest.mark.parametrize(
    ("block", "around"),
    [
        (block, around)
        for block in ((0, 2), (4, 6), (5, 5), (3, 7), (9, 11))
        for around in ((0, 0), (-2, 2), (-3, 0), (0, 3), (1, 1), (-1, -1))
        if block != (5, 5) or around[0] <= 0 <= around[1]
    ],
)
def test_the_block_is_found_from_any_start_that_holds_most_of_it(block, around, alpha):
    # A range beyond the block breaks answers; below 1 that looks like fewer refusals.
    world = World(range(block[0], block[1] + 1), harm=0.0 if alpha == 0.7 else 0.01)
    found = world.search((max(block[0] + around[0], 0), min(block[1] + around[1], 11)), alpha)
    assert (found.first, found.last) == block
    assert chosen(point.to_dict() for point in found.points) == block
    assert found.alpha == (alpha or 1.3)
    assert found.rule == (RULE if alpha is None else GIVEN)


def test_a_start_far_from_a_bound_goes_on_until_the_best_is_inside():
    world = World(range(2, 10), layers=20, harm=0.02)
    found = world.search((5, 6), 1.3)
    assert (found.first, found.last) == (2, 9)
    upper = [p.last for p in found.points if p.step == "upper"]
    lower = [p.first for p in found.points if p.step == "lower"]
    assert upper == [5, 6, 7, 8, 9, 10]  # two around 6, then one more each time the edge is best
    assert lower == [1, 2, 3, 4, 5, 6, 7]
    assert all(p.first == 5 for p in found.points if p.step == "upper")
    assert all(p.last == 9 for p in found.points if p.step == "lower")


def test_a_wide_start_shrinks_over_a_plateau_to_the_block():
    found = World(range(6, 9)).search((1, 11), 1.3)
    assert (found.first, found.last) == (6, 8)


def test_points_hold_the_flags_and_the_counts_in_order():
    world = World(range(4, 7))
    found = world.search((4, 6), 1.3, seed=3)
    steps = [point.step for point in found.points]
    assert steps == ["baseline", "alpha", *["upper"] * 5, *["lower"] * 5, *["control"] * 5]
    assert found.points[0] == Point("baseline", None, None, 1.0, world.baseline)
    assert found.points[1].to_dict() == {
        "step": "alpha", "first": 4, "last": 6, "alpha": 1.3, "refused": 48,
    }  # fmt: skip
    assert found.effect == {
        "baseline": 30,
        "range": 48,
        "p": mcnemar_exact(48 - 30, 0),
        "control": {"first": 0, "last": 2, "refused": 30},
        "control_p": mcnemar_exact(48 - 30, 0),
    }


# Alpha


def flags(count):
    return tuple(i < count for i in range(N))


def alpha_of(counts, baseline=20):
    """Return the factor that is chosen when the initial range gives these counts."""
    asked = []

    def count(first, last, alpha):
        asked.append(alpha)
        # The rest of the search is a block at 4..6 of enough effect.
        if (first, last) == (4, 6):
            return flags(counts[alpha])
        return flags(baseline)

    found = search(count, flags(baseline), layers=12, initial=(4, 6), seed=0)
    assert tuple(asked[: len(GRID)]) == GRID
    return found.alpha


def test_the_factor_that_adds_the_most_refusals_is_taken():
    assert alpha_of({0.7: 15, 0.8: 14, 0.9: 20, 1.1: 24, 1.2: 40, 1.3: 33}) == 1.2


def test_a_factor_below_1_is_taken_only_if_none_above_adds_refusals():
    """Below 1 a broken answer counts as one more that is no refusal."""
    assert alpha_of({0.7: 0, 0.8: 2, 0.9: 4, 1.1: 20, 1.2: 32, 1.3: 12}) == 1.2
    # Scaling up that takes refusals, and down that adds some, are no reason either.
    assert alpha_of({0.7: 59, 0.8: 8, 0.9: 12, 1.1: 20, 1.2: 22, 1.3: 2}) == 0.8


def test_the_best_of_many_ranges_needs_more_than_one_range_would():
    """20 to 27 of 60 is p 0.016: enough for one range, and not for the best of nine."""
    assert change(flags(27), flags(20), 1.2) == (7, 0.015625)
    with pytest.raises(LocalizationError, match=r"p < 0\.0056; got 27, p 0\.016"):
        alpha_of({0.7: 0, 0.8: 2, 0.9: 4, 1.1: 20, 1.2: 27, 1.3: 12})


def test_a_saturated_factor_is_not_taken_while_another_is_significant():
    assert alpha_of({0.7: 0, 0.8: 2, 0.9: 16, 1.1: 30, 1.2: 58, 1.3: 60}) == 1.1
    assert alpha_of({0.7: 20, 0.8: 20, 0.9: 20, 1.1: 20, 1.2: 58, 1.3: 60}) == 1.3
    assert alpha_of({0.7: 0, 0.8: 3, 0.9: 9, 1.1: 21, 1.2: 21, 1.3: 22}) == 0.8


def test_ties_go_to_the_factor_nearest_1():
    assert alpha_of({0.7: 20, 0.8: 20, 0.9: 20, 1.1: 40, 1.2: 40, 1.3: 40}) == 1.1
    assert alpha_of({0.7: 8, 0.8: 8, 0.9: 20, 1.1: 20, 1.2: 20, 1.3: 20}) == 0.8


def test_a_change_that_is_not_significant_is_no_reason_to_search():
    with pytest.raises(LocalizationError) as caught:
        alpha_of({0.7: 18, 0.8: 19, 0.9: 20, 1.1: 21, 1.2: 22, 1.3: 25})
    assert caught.value.message == (
        "expected layers 4 to 6, where the search starts, to change the 20 of 60 prompts refused "
        "when they are scaled, p < 0.05; got 18 at 0.7 (p 0.5), 19 at 0.8 (p 1), 20 at 0.9 (p 1), "
        "21 at 1.1 (p 1), 22 at 1.2 (p 0.5), 25 at 1.3 (p 0.062)."
    )
    assert caught.value.exit_code == 1
    assert caught.value.code == "not-localized"


def test_a_change_counts_what_is_gained_and_lost_prompt_by_prompt():
    before, after = (True, True, False, False, False), (False, True, True, True, False)
    assert change(after, before, 1.2) == (1, mcnemar_exact(2, 1))
    assert change(after, before, 0.8) == (-1, mcnemar_exact(2, 1))


# Bounds and controls


def test_ties_go_to_the_narrowest_range():
    assert best_bound("upper", {(3, 5): 9, (3, 6): 9, (3, 7): 8}, 1.2) == 5
    assert best_bound("lower", {(1, 6): 9, (2, 6): 9, (3, 6): 8}, 1.2) == 2
    assert best_bound("lower", {(1, 6): 4, (2, 6): 4, (3, 6): 5}, 0.8) == 2


def test_controls_are_as_wide_share_no_layer_and_are_spread_evenly():
    assert control_ranges(4, 6, 12) == [(0, 2), (1, 3), (7, 9), (8, 10), (9, 11)]
    many = control_ranges(10, 12, 40)
    assert len(many) == CONTROLS
    assert many[0] == (0, 2)
    assert many[-1] == (37, 39)
    assert all(last - first == 2 and (last < 10 or first > 12) for first, last in many)
    # Fewer than two fit apart: those that share the fewest layers.
    assert control_ranges(0, 5, 10) == [(3, 8), (4, 9)]
    assert control_ranges(2, 7, 10) == [(0, 5), (4, 9)]
    assert control_ranges(0, 8, 10) == [(1, 9)]
    assert control_ranges(0, 9, 10) == []


def test_a_range_of_all_layers_localises_nothing():
    with pytest.raises(LocalizationError) as caught:
        World(range(6), layers=6).search((0, 5), 1.3)
    assert caught.value.message == (
        "expected a range that leaves another of its width, got all 6 layers: 48 of 60 prompts "
        "refused, 30 unscaled."
    )


def test_refusals_that_every_layer_carries_are_refused_with_the_numbers():
    """Every layer pushes a little: a wider range does more, and the same width elsewhere as much."""

    def count(first, last, alpha):
        return flags(round(20 * (1 + (alpha - 1) * min(last - first + 1, 4))))

    with pytest.raises(LocalizationError) as caught:
        search(count, flags(20), layers=12, initial=(4, 6), alpha=1.3, seed=0)
    assert caught.value.message == (
        "expected layers 4 to 7 scaled by 1.3 to change refusals more than an equally wide range "
        "elsewhere, p < 0.0056; of 60 prompts 20 are refused unscaled, 44 with it, 44 with 0 to 3, "
        "p 1."
    )


def test_a_model_that_never_refuses_has_no_range():
    with pytest.raises(LocalizationError, match=r"expected layers \d+ to \d+ scaled by 0\.8"):
        search(lambda *_: flags(0), flags(0), layers=12, initial=(4, 6), alpha=0.8, seed=0)
    with pytest.raises(LocalizationError, match="where the search starts"):
        search(lambda *_: flags(0), flags(0), layers=12, initial=(4, 6), seed=0)


@pytest.mark.parametrize("alpha", [None, 1.2])
@pytest.mark.parametrize("flips", [0.1, 0.3])
def test_noise_alone_is_hardly_ever_taken_for_a_range(flips, alpha):
    """Every range flips prompts at random, all alike: what is found must be refused again."""
    invented = 0
    for seed in range(300):
        draw = random.Random(seed)
        seen = {}

        def count(first, last, alpha, draw=draw, seen=seen):
            where = (first, last, alpha)
            if where not in seen:
                seen[where] = tuple(flag != (draw.random() < flips) for flag in flags(20))
            return seen[where]

        try:
            search(count, flags(20), layers=24, initial=(8, 13), alpha=alpha, seed=seed)
        except LocalizationError:
            continue
        invented += 1
    assert invented <= 300 * LEVEL


# Stability and recomputation


def test_stability_is_certain_where_every_prompt_says_the_same():
    found = World(range(4, 7), harm=0.2).search((4, 6), 1.3, seed=1)
    assert found.resampled["resamples"] == 1000
    assert sum(row["share"] for row in found.resampled["last"]) == pytest.approx(1)
    assert max(found.resampled["last"], key=lambda row: row["share"])["value"] == 6
    assert found.resampled == World(range(4, 7), harm=0.2).search((4, 6), 1.3, seed=1).resampled


def test_stability_shows_a_bound_that_one_prompt_decides():
    def count(first, last, alpha):
        return flags({(4, 5): 40, (4, 6): 41, (5, 6): 20}.get((first, last), 20))

    found = search(count, flags(20), layers=12, initial=(4, 6), alpha=1.2, seed=0)
    shares = {row["value"]: row["share"] for row in found.resampled["last"]}
    assert found.last == 6
    # The one prompt is drawn at all with probability 1 - (59/60)^60 = 0.635; otherwise it is a tie.
    assert shares[6] == pytest.approx(0.635, abs=0.05)
    assert shares[5] == pytest.approx(0.365, abs=0.05)
    assert found.resampled["first"] == [{"value": 4, "share": 1.0}]


def recorded():
    return [point.to_dict() for point in World(range(4, 7)).search((4, 6), 1.3).points]


def test_a_changed_count_changes_the_range_that_follows():
    points = recorded()
    assert chosen(points) == (4, 6)
    next(p for p in points if p["step"] == "lower" and p["first"] == 3)["refused"] = N
    assert chosen(points) == (3, 6)


@pytest.mark.parametrize("step", ["upper", "lower"])
def test_points_without_a_sweep_name_no_range(step):
    assert chosen([point for point in recorded() if point["step"] != step]) is None
    assert chosen([]) is None


def test_sweeps_that_do_not_belong_together_name_no_range():
    for change_of in ({"alpha": 1.2}, {"last": 7}):
        points = recorded()
        next(p for p in points if p["step"] == "lower").update(change_of)
        assert chosen(points) is None
    points = recorded()
    next(p for p in points if p["step"] == "upper")["first"] = 3
    assert chosen(points) is None


def test_the_range_is_recomputed_without_torch_or_numpy():
    code = (
        "import sys; from registry.kinds.safety_layers._search import chosen; "
        "print(chosen([]), sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout == "None []\n"
