"""Strength is measured: the rule, its refusals, and a base that is untouched afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from support.locks import snapshot
from support.planted import LEVELS, build_planted, planted_pairs, planted_prompts

from registry.errors import CalibrationError, NonFiniteResultError, UsageError
from registry.kinds.safety_lock.apply import apply, undo
from registry.kinds.safety_lock.extract import Budget, calibrate, extract, random_control
from registry.live.attach import owners
from registry.measure.generate import answers
from registry.measure.scorer import is_refusal

GRID = (0.5, 1.0, 1.5, 2.0, 2.5)
SETS = {
    "harmful": planted_prompts("harmful", (4, 5, 6, 7, 8, 9)),
    "harmless": planted_prompts("harmless", (0, 0, 0, 1)),
    "scary": planted_prompts("scary", (0, 1, 1, 2)),
}
SETTINGS = {**SETS, "seed": 0, "grid": GRID, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def planted():
    return build_planted(LEVELS)


@pytest.fixture(scope="module")
def body(planted):
    options = {"heads": 4, "answer_tokens": 5, "folds": 3, "repeats": 1}
    return extract(planted.model, planted.tokenizer, planted_pairs(), seed=0, options=options).body


@pytest.fixture(scope="module")
def rises(planted, body):
    """Over-refusal and refusal at each strength, measured here and not by ``calibrate``."""
    found = {}
    for alpha in GRID:
        done = apply(planted.model, body, owner="test", alpha=alpha, allow_unsafe=True)
        shares = [
            [is_refusal(text) for text in
             answers(planted.model, planted.tokenizer, prompts.texts, max_new_tokens=8)]
            for prompts in SETS.values()
        ]  # fmt: skip
        undo(planted.model, done)
        found[alpha] = (sum(shares[1] + shares[2]) / 8, sum(shares[0]) / 6)
    return found


def run(planted, body, budget, **changes):
    return calibrate(planted.model, planted.tokenizer, body, budget=budget, **(SETTINGS | changes))


def test_the_planted_world_has_strengths_on_both_sides_of_every_budget(rises):
    over = [rises[alpha][0] for alpha in GRID]
    assert over == sorted(over)
    assert over[0] == 0.0
    assert 0.0 < over[2] < over[-1] == 1.0
    assert 0.0 < rises[0.5][1] < 1.0


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2, 0.5, 0.99, 1.0])
def test_the_largest_strength_below_the_first_that_breaks_the_budget_is_taken(
    planted, body, rises, budget
):
    made = run(planted, body, Budget(over_refusal=budget, nll=1e9))
    expected = None
    for alpha in GRID:
        if rises[alpha][0] > budget:
            break
        expected = alpha
    assert made.body.alpha == expected
    assert made.body.alpha_range == (0.0, expected)
    tried = [row["alpha"] for row in made.receipt["sweep"]]
    broken = [row["alpha"] for row in made.receipt["sweep"] if not row["inside_budget"]]
    assert tried == list(GRID[: len(tried)])
    assert broken == [alpha for alpha in GRID if alpha > expected][:1]
    for row in made.receipt["sweep"]:
        assert row["over_refusal_rise"] == pytest.approx(rises[row["alpha"]][0])
        assert row["refusals_gained"] == round(6 * rises[row["alpha"]][1])


def test_the_second_budget_alone_ends_the_sweep_too(planted, body):
    made = run(planted, body, Budget(over_refusal=1.0, nll=1e9))
    cost = {row["alpha"]: row["nll_rise"] for row in made.receipt["sweep"]}
    assert cost[0.5] < cost[1.5]
    between = (cost[1.0] + cost[1.5]) / 2
    assert run(planted, body, Budget(over_refusal=1.0, nll=between)).body.alpha == 1.0


def test_when_even_the_smallest_strength_costs_too_much_it_says_what_it_cost(planted, body):
    with pytest.raises(CalibrationError) as caught:
        run(planted, body, Budget(over_refusal=0.05, nll=1e9), grid=(2.5,))
    assert "5% over-refusal" in caught.value.message
    assert "alpha 2.5 costs +100.0%" in caught.value.message
    assert "--budget" in caught.value.hint


@pytest.mark.parametrize("grid", [(), (0.0, 1.0), (-1.0, 1.0), (float("nan"),), (float("inf"),)])
def test_a_grid_without_strengths_above_zero_is_refused(planted, body, grid):
    with pytest.raises(UsageError, match="above 0"):
        run(planted, body, Budget(), grid=grid)


def test_the_base_is_unlocked_and_bit_identical_afterwards(planted, body):
    before = snapshot(planted.model)
    run(planted, body, Budget(over_refusal=0.5, nll=1e9))
    assert snapshot(planted.model) == before
    assert owners(planted.model) == []


@pytest.mark.parametrize("stage", ["unlocked", "alpha 1", "random control"])
def test_an_interrupt_in_the_middle_leaves_the_base_unlocked(planted, body, stage):
    before = snapshot(planted.model)
    seen = []

    def progress(now, done, total):
        seen.append(now)
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planted, body, Budget(over_refusal=0.5, nll=1e9), progress=progress)
    assert seen[-1] == stage
    assert snapshot(planted.model) == before
    assert owners(planted.model) == []
    assert planted.model.state_dict().keys() == build_planted(LEVELS).model.state_dict().keys()


def test_the_random_control_has_the_same_heads_and_norms_and_its_own_seed(body):
    first, again, other = (random_control(body, seed) for seed in (1, 1, 2))
    assert first.heads == body.heads
    assert first.sigma.tobytes() == body.sigma.tobytes()
    assert np.abs(np.linalg.norm(first.directions, axis=1) - 1).max() < 1e-6
    assert first.directions.tobytes() == again.directions.tobytes()
    assert first.directions.tobytes() != other.directions.tobytes()


def test_the_random_control_is_measured_at_the_chosen_strength_and_does_less(planted, body):
    made = run(planted, body, Budget(over_refusal=0.5, nll=1e9))
    control, sweep = made.receipt["random_control"], made.receipt["sweep"]
    chosen = next(row for row in sweep if row["alpha"] == made.body.alpha)
    assert control["alpha"] == made.body.alpha
    assert control["refusals_gained"] < chosen["refusals_gained"]


def test_the_same_calibration_twice_gives_the_same_receipt(planted, body):
    one, two = (run(planted, body, Budget(over_refusal=0.2, nll=1e9)) for _ in range(2))
    assert one.receipt == two.receipt


def test_a_strength_that_the_models_numbers_cannot_carry_ends_the_sweep(planted, body):
    made = run(planted, body, Budget(over_refusal=1.0, nll=1e9), grid=(0.5, 1e38))
    assert made.body.alpha_range == (0.0, 0.5)
    assert made.receipt["sweep"][-1] == {
        "alpha": 1e38,
        "inside_budget": False,
        "reason": "not finite",
    }


def test_not_even_the_smallest_strength_carried_is_an_error(planted, body):
    with pytest.raises(NonFiniteResultError):
        run(planted, body, Budget(over_refusal=1.0, nll=1e9), grid=(1e38,))
