from __future__ import annotations

import logging
import warnings

import pytest
import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer
from transformers import GenerationConfig

from registry.errors import UsageError
from registry.measure.conversation import prompt_text
from registry.measure.generate import answers, evaluating

WORDS = ["what is the name of a river tell me about bread Question: Answer: water flour salt"]
PROMPTS = [
    "what is the name of a river",
    "tell me about bread",
    "bread",
    "what is bread",
    "tell me the name of the river of salt water and of a bread",
]


@pytest.fixture
def tokenizer():
    return build_tokenizer(WORDS)


@pytest.fixture
def model(tokenizer):
    return build_chat_model(tokenizer)


def by_hand(model, tokenizer, prompt, tokens):
    """Greedy decoding without cache, padding or generate()."""
    ids = tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    new = []
    for _ in range(tokens):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


def test_batched_answers_equal_a_loop_written_by_hand(model, tokenizer):
    expected = [by_hand(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) == len(PROMPTS)  # a model that says one thing would prove nothing
    assert answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=4) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_answers_do_not_depend_on_the_batch(model, tokenizer, batch_size):
    one_by_one = [answers(model, tokenizer, [p], max_new_tokens=12)[0] for p in PROMPTS]
    assert (
        answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size) == one_by_one
    )


def test_answers_of_a_base_model_without_template(model):
    tokenizer = build_tokenizer(WORDS, chat_template=None)
    assert prompt_text(tokenizer, "what is bread") == "Question: what is bread\nAnswer:"
    assert prompt_text(tokenizer, "x", system="Be brief.").startswith("Be brief.\n\nQuestion: x")
    expected = [by_hand(model, tokenizer, prompt, 6) for prompt in PROMPTS]
    assert answers(model, tokenizer, PROMPTS, max_new_tokens=6) == expected


def test_answer_ends_before_the_end_token(model, tokenizer):
    longest = by_hand(model, tokenizer, PROMPTS[0], 12).split()
    stop = tokenizer.convert_tokens_to_ids(longest[3])
    model.generation_config.eos_token_id = [stop]
    expected = " ".join(longest[: longest.index(longest[3])])
    assert answers(model, tokenizer, PROMPTS[:1], max_new_tokens=12) == [expected]


def test_sampling_and_penalties_of_the_model_are_set_aside_silently(model, tokenizer):
    expected = answers(model, tokenizer, PROMPTS, max_new_tokens=12)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.5, top_k=3, repetition_penalty=9.0,
        suppress_tokens=list(range(6, 14)), max_length=5, num_beams=3,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model.generation_config = own
    before = own.to_dict()
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert answers(model, tokenizer, PROMPTS, max_new_tokens=12) == expected
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert [record.getMessage() for record in records] == []
    assert model.generation_config is own
    assert own.to_dict() == before


def test_tokenizer_and_model_are_afterwards_as_they_were(model, tokenizer):
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    tokenizer.pad_token = None
    answers(model, tokenizer, PROMPTS, max_new_tokens=2)
    assert [module.training for module in model.modules()] == modes
    assert tokenizer.pad_token is None
    assert tokenizer.padding_side == "right"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error(model):
    model.train()
    seen = []
    with pytest.raises(KeyError), evaluating(model):
        {}[seen.append(model.model.layers[0].training)]
    assert seen == [False]
    assert all(module.training for module in model.modules())


def test_tokenizer_without_pad_token_gives_the_same_answers(model, tokenizer):
    expected = answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    tokenizer.pad_token = None
    assert answers(model, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_progress_is_told_after_each_batch(model, tokenizer):
    seen = []
    answers(
        model, tokenizer, PROMPTS, max_new_tokens=1, batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_prompts_give_no_answers(model, tokenizer):
    assert answers(model, tokenizer, []) == []


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"batch_size": 0}])
def test_sizes_below_one_are_refused(model, tokenizer, options):
    with pytest.raises(UsageError, match="at least 1"):
        answers(model, tokenizer, PROMPTS, **options)
