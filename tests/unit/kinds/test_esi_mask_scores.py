"""What the weights are differentiated by: by hand once more, and guards that cannot be asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from support.planted_mask import (
    COMPLYING,
    DANGER,
    NEUTRAL,
    REFUSING,
    build_planted_mask,
    mask_pairs,
    mean_score,
)
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer

from registry.errors import CompatibilityError, NonFiniteResultError, UsageError
from registry.kinds.esi_mask._scores import GuardLogOdds, RefusalLogOdds

GUARD = (
    "judge {% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {% endfor %}"
    "verdict: "
)
PAIR = replace(mask_pairs(1).rows[0], refusing="No word1 word2", complying="Sure")


@cache
def planted():
    found = build_planted_mask()
    found.model.double()
    return found


def guard_tokenizer(template=GUARD):
    words = (*DANGER, *NEUTRAL, REFUSING, COMPLYING, "judge", "verdict:", "safe", "un", "sound")
    return build_tokenizer(words, chat_template=template)


@cache
def guard_model():
    return build_chat_model(guard_tokenizer()).double()


def guarded(**changes):
    fields = {
        "tokenizer": planted().tokenizer, "guard": guard_model(),
        "guard_tokenizer": guard_tokenizer(), "guard_name": "a guard", "unsafe": "un sound",
    }  # fmt: skip
    return GuardLogOdds(**fields | changes)


def total_likelihood(model, tokenizer, text, count):
    """Return the log-likelihood of the last ``count`` tokens of ``text``."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    likely = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(likely[place - 1, ids[place]] for place in range(len(ids) - count, len(ids)))


# Refusing against complying


def test_refusal_log_odds_are_the_difference_of_mean_log_likelihoods():
    model, tokenizer = planted().model, planted().tokenizer
    with torch.no_grad():
        terms = list(RefusalLogOdds(tokenizer).terms(model, PAIR))
        mean = mean_score(model, tokenizer, [PAIR])
    refusing = total_likelihood(model, tokenizer, f"{PAIR.prompt} No word1 word2", 3) / 3
    complying = total_likelihood(model, tokenizer, f"{PAIR.prompt} Sure", 1)
    assert float(terms[0]) == pytest.approx(refusing.item(), rel=1e-5)
    assert float(terms[1]) == pytest.approx(-complying.item(), rel=1e-5)
    assert float(sum(terms)) == pytest.approx(float(mean), rel=1e-5)


def test_a_term_is_computed_when_the_one_before_may_be_gone():
    """So one conversation is in memory at a time."""
    model, calls = planted().model, []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        terms = RefusalLogOdds(planted().tokenizer).terms(model, PAIR)
        next(terms).backward()
        assert len(calls) == 1
        next(terms)
        assert len(calls) == 2
    finally:
        handle.remove()
        model.zero_grad()


def test_swapped_answers_turn_the_sign_round():
    score = RefusalLogOdds(planted().tokenizer)
    swapped = replace(PAIR, refusing=PAIR.complying, complying=PAIR.refusing)
    value, turned = (
        float(sum(score.terms(planted().model, pair)).detach()) for pair in (PAIR, swapped)
    )
    assert value == -turned
    assert value > 0  # the model refuses


def test_a_score_says_what_it_is():
    assert RefusalLogOdds(planted().tokenizer).describe() == {
        "name": "refusal-log-odds", "version": 1, "unit": "nats per answer token", "judge": None,
    }  # fmt: skip
    described = guarded().describe()
    assert described["name"] == "guard-log-odds"
    assert described["judge"]["name"] == "a guard"
    assert described["judge"]["verdicts"] == {"safe": "safe", "unsafe": "un sound"}
    assert described["judge"]["chat_template"].startswith("blake3:")


def test_a_judge_with_other_weights_is_another_judge():
    one = guarded().describe()["judge"]["weights"]
    assert one == guarded().describe()["judge"]["weights"]
    other = copy.deepcopy(guard_model())
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert replace(guarded(), guard=other).describe()["judge"]["weights"] != one
    assert replace(guarded(), guard=other.to("meta")).describe()["judge"]["weights"] is None


# A guard


def test_a_guard_is_asked_in_its_own_template_for_whole_verdicts():
    """``un sound`` is two tokens: both are scored."""
    asked = f"judge <user> {PAIR.prompt} <assistant> {PAIR.refusing} verdict: "
    with torch.no_grad():
        safe = total_likelihood(guard_model(), guard_tokenizer(), f"{asked}safe", 1)
        unsafe = total_likelihood(guard_model(), guard_tokenizer(), f"{asked}un sound", 2)
    got = guarded().log_odds(PAIR.prompt, PAIR.refusing)
    assert got == pytest.approx(float(safe - unsafe), rel=1e-5)


def test_a_guards_gradient_is_that_of_its_margin_times_the_answers_log_odds():
    score, model, tokenizer = guarded(), planted().model, planted().tokenizer
    weight = model.get_parameter("model.layers.1.mlp.down_proj.weight")
    margin = score.log_odds(PAIR.prompt, PAIR.refusing) - score.log_odds(
        PAIR.prompt, PAIR.complying
    )
    refusing = total_likelihood(model, tokenizer, f"{PAIR.prompt} No word1 word2", 3)
    complying = total_likelihood(model, tokenizer, f"{PAIR.prompt} Sure", 1)
    (expected,) = torch.autograd.grad(margin / 4 * (refusing - complying), [weight])
    (got,) = torch.autograd.grad(sum(score.terms(model, PAIR)), [weight])
    assert margin != 0
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-9)


def test_a_guard_gets_no_gradient():
    sum(guarded().terms(planted().model, PAIR)).backward()
    planted().model.zero_grad()
    assert all(parameter.grad is None for parameter in guard_model().parameters())


def test_a_guard_that_is_not_shown_the_prompt_is_refused():
    """The published code shows its guard the answer alone."""
    blind = GUARD.replace("{% for message in messages %}", "{% for message in messages[1:] %}")
    with pytest.raises(CompatibilityError) as caught:
        guarded(guard_tokenizer=guard_tokenizer(blind)).log_odds(PAIR.prompt, PAIR.refusing)
    assert caught.value.message == (
        "a guard: expected the guard's chat template to write prompt and answer word for word, in "
        "at most 1,048,576 characters, got a text without the prompt."
    )


def test_a_guard_without_a_template_of_its_own_is_refused():
    with pytest.raises(CompatibilityError, match="expected a tokenizer with the guard's own chat"):
        guarded(guard_tokenizer=guard_tokenizer(None))


def test_verdicts_that_the_guard_does_not_know_are_refused():
    with pytest.raises(CompatibilityError) as caught:
        guarded(safe="fine", unsafe="harmful").log_odds(PAIR.prompt, PAIR.refusing)
    assert caught.value.message == (
        "a guard: expected verdicts that are different tokens behind the same ones, got 'fine' as "
        "[1] and 'harmful' as [1]."
    )


@pytest.mark.parametrize("verdicts", [("safe", "safe"), ("", "un")])
def test_verdicts_that_are_one_or_empty_are_refused(verdicts):
    with pytest.raises(UsageError, match="expected two different verdicts of the guard"):
        guarded(safe=verdicts[0], unsafe=verdicts[1])


def test_a_guard_without_finite_likelihoods_is_refused():
    broken = build_chat_model(guard_tokenizer())
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteResultError, match="expected finite likelihoods of 'safe' and"):
        guarded(guard=broken).log_odds(PAIR.prompt, PAIR.refusing)
