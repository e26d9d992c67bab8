"""Greedy answers of a live model.

- Decoding is plain greedy: sampling, penalties and suppressed tokens of the model's own
  generation config are set aside for the call. It is the same text on every run of one batch
  size; at reduced precision, another batch size may round to another text.
- Padding is made here, on the left and masked. Tokenizer, generation config and the train/eval
  mode of every submodule are afterwards as they were.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.errors import CompatibilityError, UsageError
from registry.measure.conversation import RESTORE, prompt_text, text_of, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


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
            hint=RESTORE.format("tokenizer"),
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


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    stops = [] if own is None else list(own) if isinstance(own, list | tuple) else [own]
    if not all(type(token) is int and token >= 0 for token in stops):
        raise CompatibilityError(
            f"expected eos_token_id of the generation config to be tokens, got {own!r:.80}.",
            hint=RESTORE.format("generation_config.json"),
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
    return text_of(tokenizer, ids).strip().rstrip(_CUT_CHARACTER).rstrip()
