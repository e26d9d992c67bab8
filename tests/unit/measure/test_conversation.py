from __future__ import annotations

import pytest
from support.tiny_tokenizer import TEMPLATE, build_tokenizer
from tokenizers.processors import TemplateProcessing

from registry.errors import CompatibilityError, UsageError
from registry.measure.conversation import answer_tokens, conversation_text, prompt_text, token_ids

WORDS = ["what is the name of a river tell me about bread Question: Answer: water flour salt"]
REWRITES = TEMPLATE.replace("message['content']", "message['content'] | trim")
NO_SYSTEM = TEMPLATE.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")


@pytest.fixture
def tokenizer():
    return build_tokenizer(WORDS)


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
