from __future__ import annotations

import logging
import warnings

import pytest
import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import TEMPLATE, build_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from registry.errors import CompatibilityError, UsageError
from registry.measure.conversation import answer_tokens, conversation_text, prompt_text, token_ids
from registry.measure.generate import answers, evaluating

WORDS = ["what is the name of a river tell me about bread Question: Answer: water flour salt"]
PROMPTS = [
    "what is the name of a river",
    "tell me about bread",
    "bread",
    "what is bread",
    "tell me the name of the river of salt water and of a bread",
]
REWRITES = TEMPLATE.replace("message['content']", "message['content'] | trim")
NO_SYSTEM = TEMPLATE.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")


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


def test_system_prompt_reaches_the_text(tokenizer):
    text = prompt_text(tokenizer, "what is bread", system="tell me")
    assert text == "<system>\ntell me<end>\n<user>\nwhat is bread<end>\n<assistant>\n"


def test_template_that_drops_the_system_prompt_is_refused():
    tokenizer = build_tokenizer(WORDS, chat_template=NO_SYSTEM)
    assert "bread" in prompt_text(tokenizer, "bread")
    with pytest.raises(CompatibilityError, match="system prompt word for word"):
        prompt_text(tokenizer, "bread", system="salt")


def test_template_that_prints_the_date_prints_a_fixed_one():
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} " + TEMPLATE
    tokenizer = build_tokenizer(WORDS, chat_template=dated)
    assert prompt_text(tokenizer, "bread").startswith("26 Jul 2024 ")


def test_thinking_is_switched_off_where_there_is_a_switch():
    switch = TEMPLATE + "{% if enable_thinking is false %}<think></think>{% endif %}"
    assert prompt_text(build_tokenizer(WORDS, chat_template=switch), "bread").endswith("</think>")


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_special_tokens_of_the_tokenizer_come_only_where_no_template_wrote_its_own(template):
    tokenizer = build_tokenizer(WORDS, chat_template=template)
    bos = tokenizer.convert_tokens_to_ids("<system>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<system> $A", special_tokens=[("<system>", bos)]
    )
    text, start, end = conversation_text(tokenizer, "bread", "salt")
    ids, inside = answer_tokens(tokenizer, text, start, end)
    assert (ids[0] == bos) == (template is None)
    assert ids == token_ids(tokenizer, text)
    assert tokenizer.convert_ids_to_tokens([ids[i] for i in inside]) == ["salt"]


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_conversation_span_is_the_answer(template):
    tokenizer = build_tokenizer(WORDS, chat_template=template)
    text, start, end = conversation_text(tokenizer, "tell me about bread", "flour water salt")
    assert text[start:end] == "flour water salt"
    assert text.startswith(prompt_text(tokenizer, "tell me about bread"))
    ids, inside = answer_tokens(tokenizer, text, start, end)
    assert tokenizer.convert_ids_to_tokens([ids[i] for i in inside]) == ["flour", "water", "salt"]
    assert ids == token_ids(tokenizer, text)


def test_span_is_found_although_the_prompt_holds_the_answer(tokenizer):
    text, start, end = conversation_text(tokenizer, "salt water", "salt water")
    assert (text[start:end], text.index("salt water") < start) == ("salt water", True)


def test_answer_token_over_the_border_counts(tokenizer):
    text, start, end = conversation_text(tokenizer, "bread", "flour salt")
    _, inside = answer_tokens(tokenizer, text, start + 2, end - 2)
    assert len(inside) == 2


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (REWRITES, " salt"),
        (TEMPLATE.replace("<assistant>\n{% endif", "<assistant>\nNow: {% endif"), "salt"),
    ],
)
def test_template_that_rewrites_the_answer_is_refused(template, answer):
    tokenizer = build_tokenizer(WORDS, chat_template=template)
    with pytest.raises(CompatibilityError, match="to continue with"):
        conversation_text(tokenizer, "bread", answer)


def test_empty_answer_is_refused(tokenizer):
    with pytest.raises(UsageError, match="at least one character"):
        conversation_text(tokenizer, "bread", "")


def test_answer_without_tokens_is_refused(tokenizer):
    text, start, _ = conversation_text(tokenizer, "bread", "flour salt")
    with pytest.raises(CompatibilityError, match="got 0 of"):
        answer_tokens(tokenizer, text, start + 5, start + 6)  # the blank between the words


def test_slow_tokenizer_is_refused(tokenizer):
    class Slow:
        is_fast = False

    with pytest.raises(CompatibilityError, match="fast tokenizer"):
        answer_tokens(Slow(), "bread salt", 6, 10)
