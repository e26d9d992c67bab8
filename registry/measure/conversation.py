"""The text form of a conversation, and which of its tokens are the answer's.

- A tokenizer with a chat template is asked through it; one without gets ``Question: …`` and
  ``Answer:`` on two lines. There is no third way, so a receipt never has to say which was used.
- Where a template has the switch, thinking is off (what is scored is the answer), and the date
  it would print is fixed: the same prompt is the same text every day.
- Template and tokenizer are somebody else's files: whatever they raise is one error of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import CompatibilityError, UsageError
from registry.foreign import refusing

if TYPE_CHECKING:
    from collections.abc import Sequence

# Variables some templates read: the day (Llama 3 prints it) and the thinking switch (Qwen 3).
_TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}
_QUESTION = "Question: "
_ANSWER = "\nAnswer:"
_LONGEST_TEXT = 1 << 20  # characters; a template that prints more was made to
RESTORE = "Restore the {} that was published with this model."
"""Hint of an error about a file beside the weights, by its name."""


def prompt_text(tokenizer: Any, prompt: str, system: str | None = None) -> str:
    """Return the text that asks ``prompt``, up to where the answer begins.

    Raises:
        CompatibilityError: the template drops or rewrites the prompt or the system prompt.
    """
    if tokenizer.chat_template is None:
        head = "" if system is None else f"{system}\n\n"
        return f"{head}{_QUESTION}{prompt}{_ANSWER}"
    text = _render(tokenizer, _messages(prompt, system), add_generation_prompt=True)
    for part, what in ((prompt, "prompt"), (system, "system prompt")):
        if part is not None and part.strip() not in text:
            raise CompatibilityError(
                f"expected the {what} word for word in the chat template's text, got a text "
                "without it.",
                hint=RESTORE.format("chat template"),
            )
    return text


def conversation_text(
    tokenizer: Any, prompt: str, answer: str, system: str | None = None
) -> tuple[str, int, int]:
    """Return the text of ``prompt`` answered by ``answer``, and where the answer stands in it.

    Returns:
        The text and the answer's characters as the half-open range ``[start, end)``.

    Raises:
        UsageError: the answer is empty.
        CompatibilityError: the template rewrites the answer (blanks around it, a special token
            in it) or puts something before it that it does not put before a new one.
    """
    if not answer:
        raise UsageError("expected an answer of at least one character, got none.")
    prefix = prompt_text(tokenizer, prompt, system)
    if tokenizer.chat_template is None:
        start = len(prefix) + 1
        return f"{prefix} {answer}", start, start + len(answer)
    messages = [*_messages(prompt, system), {"role": "assistant", "content": answer}]
    text = _render(tokenizer, messages, add_generation_prompt=False)
    start, end = len(prefix), len(prefix) + len(answer)
    if not text.startswith(prefix) or text[start:end] != answer:
        raise CompatibilityError(
            f"expected the chat template to continue with {answer[:60]!r}, got "
            f"{text[start : start + 60]!r}.",
            hint="Strip blanks and special tokens from the answer, or set another chat template.",
        )
    return text, start, end


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text made by this module; special tokens are added exactly once."""
    return list(_encoded(tokenizer, text)["input_ids"])


def answer_tokens(tokenizer: Any, text: str, start: int, end: int) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation and which of them carry the answer's characters.

    Args:
        tokenizer: A fast tokenizer: it knows the characters of each token.
        text: What ``conversation_text`` returned, with its ``start`` and ``end``.
        start: First character of the answer.
        end: One past the answer's last character.

    Returns:
        Token ids, and ascending indices into them; a token over the border counts as answer.

    Raises:
        CompatibilityError: the tokenizer has no offsets, or gives no token to the answer or to
            what stands before it.
    """
    if not tokenizer.is_fast:
        raise CompatibilityError(
            "expected a fast tokenizer, which knows the characters of each token, got "
            f"{type(tokenizer).__name__}.",
            hint="Save a tokenizer.json beside the model.",
        )
    encoded = _encoded(tokenizer, text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(spans) if a < b and a < end and b > start]
    if not inside or inside[0] == 0:
        raise CompatibilityError(
            f"expected tokens for {text[start:end][:60]!r} after at least one of the prompt, got "
            f"{len(inside)} of {len(spans)}.",
            hint=RESTORE.format("chat template"),
        )
    return list(encoded["input_ids"]), inside


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ``ids`` without special tokens, as it is.

    Raises:
        CompatibilityError: the tokenizer raises.
    """
    with refusing(_tokenizer_error):
        text: str = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    return text


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": prompt}]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    options = {"add_generation_prompt": add_generation_prompt, **_TEMPLATE_VARIABLES}
    with refusing(_template_error):
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    if len(text) > _LONGEST_TEXT:
        raise _template_error(f"{len(text):,} characters")
    return text


def _template_error(got: str) -> CompatibilityError:
    return CompatibilityError(
        f"expected the chat template to write at most {_LONGEST_TEXT:,} characters, got {got}.",
        hint=RESTORE.format("chat template"),
    )


def _encoded(tokenizer: Any, text: str, **options: Any) -> Any:
    with refusing(_tokenizer_error):
        # A template writes its special tokens itself; a second <bos> would be another prompt.
        own = tokenizer.chat_template is None
        return tokenizer(text, add_special_tokens=own, truncation=False, **options)


def _tokenizer_error(got: str) -> CompatibilityError:
    return CompatibilityError(
        f"expected the tokenizer to turn text into tokens and back, got {got}.",
        hint=RESTORE.format("tokenizer"),
    )
