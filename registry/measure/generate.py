"""Greedy answers of a live model, and the text form of a conversation.

- A tokenizer with a chat template is asked through it; one without gets ``Question: …`` and
  ``Answer:`` on two lines. There is no third way, so a receipt never has to say which was used.
- Where a template has the switch, thinking is off (what is scored is the answer), and the date
  it would print is fixed: the same prompt is the same text every day.
- Decoding is plain greedy: sampling, penalties and suppressed tokens of the model's own
  generation config are set aside for the call. It is the same text on every run of one batch
  size; at reduced precision, another batch size may round to another text.
- Template and tokenizer are somebody else's files: whatever they raise is one error of ours.
- Padding is made here, on the left and masked. Tokenizer, generation config and the train/eval
  mode of every submodule are afterwards as they were.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.errors import CompatibilityError, UsageError
from registry.foreign import refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Variables some templates read: the day (Llama 3 prints it) and the thinking switch (Qwen 3).
_TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}
_QUESTION = "Question: "
_ANSWER = "\nAnswer:"
_LONGEST_TEXT = 1 << 20  # characters; a template that prints more was made to
_RESTORE = "Restore the {} that was published with this model."
_CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


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
                "without it."
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
            f"{len(inside)} of {len(spans)}."
        )
    return list(encoded["input_ids"]), inside


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    batch_size: int = 16,
    system: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Return the model's greedy answer to each prompt, in the order of ``prompts``.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        tokenizer: Its tokenizer.
        prompts: What is asked, one conversation each.
        max_new_tokens: Most tokens of an answer; a longer one is cut.
        batch_size: Conversations decoded together.
        system: System prompt; ``None`` leaves the template's own.
        progress: Called with (done, all) after each batch.

    Returns:
        Answers without special tokens, without blanks around them, and without the half of a
        character that the limit may have cut.

    Raises:
        UsageError: ``max_new_tokens`` or ``batch_size`` is below 1.
        CompatibilityError: see ``prompt_text``.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise UsageError(
            f"expected max_new_tokens and batch_size of at least 1, got {max_new_tokens} and "
            f"{batch_size}."
        )
    rows = [token_ids(tokenizer, prompt_text(tokenizer, prompt, system)) for prompt in prompts]
    require_known_tokens(model, rows)
    # Longest first: rows of one length share a batch, and the largest batch fails first if any.
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    found = [""] * len(rows)
    stops = _stop_tokens(model, tokenizer)
    with _plain_greedy(model, tokenizer, stops, max_new_tokens) as config, evaluating(model):
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            new = _decode(model, [rows[index] for index in batch], config)
            for index, ids in zip(batch, new, strict=True):
                found[index] = _answer_text(tokenizer, ids, stops)
            if progress is not None:
                progress(first + len(batch), len(order))
    return found


def require_known_tokens(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raise ``CompatibilityError`` if a token has no row in the embedding of ``model``."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    highest = max((token for row in rows for token in row), default=0)
    if known is not None and highest >= known:
        raise CompatibilityError(
            f"expected tokens below {known:,}, the rows of the model's embedding, got {highest:,}.",
            hint=_RESTORE.format("tokenizer"),
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the model into eval mode inside the block; each submodule's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
        hint=_RESTORE.format("chat template"),
    )


def _encoded(tokenizer: Any, text: str, **options: Any) -> Any:
    with refusing(_tokenizer_error):
        # A template writes its special tokens itself; a second <bos> would be another prompt.
        own = tokenizer.chat_template is None
        return tokenizer(text, add_special_tokens=own, truncation=False, **options)


def _tokenizer_error(got: str) -> CompatibilityError:
    return CompatibilityError(
        f"expected the tokenizer to turn text into tokens and back, got {got}.",
        hint=_RESTORE.format("tokenizer"),
    )


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    stops = [] if own is None else list(own) if isinstance(own, list | tuple) else [own]
    if not all(type(token) is int and token >= 0 for token in stops):
        raise CompatibilityError(
            f"expected eos_token_id of the generation config to be tokens, got {own!r:.80}.",
            hint=_RESTORE.format("generation_config.json"),
        )
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        stops.append(tokenizer.eos_token_id)
    return stops


@contextmanager
def _plain_greedy(
    model: Any, tokenizer: Any, stops: list[int], max_new_tokens: int
) -> Iterator[Any]:
    """Give the model a generation config with nothing but greedy decoding, inside the block.

    ``generate`` fills what an explicit config leaves open from the model's own, so the model's
    own is what has to be replaced.
    """
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=pad if pad is not None else stops[0] if stops else 0,
    )
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = owner.generation_config
    owner.generation_config = config
    try:
        yield config
    finally:
        owner.generation_config = own


def _decode(model: Any, rows: list[list[int]], config: Any) -> list[list[int]]:
    """Return the new tokens of each row."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    device = model.device
    with torch.no_grad():
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
    new: list[list[int]] = output[:, width:].tolist()
    return new


def _answer_text(tokenizer: Any, ids: list[int], stops: list[int]) -> str:
    for position, token in enumerate(ids):
        if token in stops:
            ids = ids[:position]
            break
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    with refusing(_tokenizer_error):
        text: str = tokenizer.decode(ids, **options)
    return text.strip().rstrip(_CUT_CHARACTER).rstrip()
