from __future__ import annotations

import pytest
import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer

from registry.errors import NonFiniteResultError, UsageError
from registry.measure.conversation import prompt_text
from registry.measure.utility import answer_nll, exact_match

PAIRS = [
    ("what is bread", "flour water salt"),
    ("tell me the name of a river", "water"),
    ("salt", "the salt of the river is in the water of the name"),
    ("bread", "bread"),
]


@pytest.fixture
def tokenizer():
    return build_tokenizer([f"{prompt} {answer}" for prompt, answer in PAIRS])


@pytest.fixture
def model(tokenizer):
    return build_chat_model(tokenizer, seed=3)


def by_hand(model, tokenizer, prompt, answer):
    """One forward pass per answer token, nothing shared, nothing padded."""
    ids = tokenizer(prompt_text(tokenizer, prompt))["input_ids"]
    losses = []
    for token in tokenizer(answer)["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        losses.append(-float(torch.log_softmax(logits, dim=-1)[token]))
        ids = [*ids, token]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_nll_is_the_mean_over_answer_tokens_only(model, tokenizer, batch_size):
    expected = [by_hand(model, tokenizer, prompt, answer) for prompt, answer in PAIRS]
    assert answer_nll(model, tokenizer, PAIRS, batch_size) == pytest.approx(expected, rel=1e-4)


def test_nll_leaves_the_model_in_its_mode_and_without_gradients(model, tokenizer):
    model.train()
    answer_nll(model, tokenizer, PAIRS)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nll_of_a_broken_model_is_refused(model, tokenizer):
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteResultError, match="finite likelihoods"):
        answer_nll(model, tokenizer, PAIRS)


def test_nll_of_nothing_is_nothing(model, tokenizer):
    assert answer_nll(model, tokenizer, []) == []


def test_batches_of_none_are_refused(model, tokenizer):
    with pytest.raises(UsageError, match="batch_size of at least 1, got 0"):
        answer_nll(model, tokenizer, PAIRS, 0)


def test_exact_match_counts_equal_texts():
    rate = exact_match(["a", "b", "c"], ["a", "B", "c"])
    assert (rate.successes, rate.n) == (2, 3)


@pytest.mark.parametrize(("a", "b"), [([], []), (["a"], ["a", "b"])])
def test_exact_match_of_unequal_lists_is_refused(a, b):
    with pytest.raises(UsageError, match="expected"):
        exact_match(a, b)
