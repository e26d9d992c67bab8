"""What a protection costs: likelihood and sameness of answers the model gave before.

A refusal rate alone hides damage: a model can stop refusing harmless prompts and answer them
wrongly. These two figures stand beside every rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import NonFiniteResultError, UsageError
from registry.measure.conversation import answer_tokens, conversation_text
from registry.measure.generate import evaluating
from registry.measure.statistics import Rate

if TYPE_CHECKING:
    from collections.abc import Sequence


def answer_nll(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    batch_size: int = 8,
    *,
    system: str | None = None,
) -> list[float]:
    """Return the mean negative log-likelihood of each given answer, in nats per answer token.

    The answer is teacher-forced: token t is predicted from the prompt and the answer's tokens
    before t. What the template writes after the answer is not counted.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        tokenizer: Its fast tokenizer.
        pairs: (prompt, answer), the answer not empty.
        batch_size: Conversations per forward pass.
        system: System prompt; ``None`` leaves the template's own.

    Raises:
        UsageError: an answer is empty, or ``batch_size`` is below 1.
        CompatibilityError: see ``conversation_text`` and ``answer_tokens``.
        NonFiniteResultError: the model gives an answer no finite likelihood.
    """
    if batch_size < 1:
        raise UsageError(f"expected a batch_size of at least 1, got {batch_size}.")
    rows = []
    for prompt, answer in pairs:
        text, start, end = conversation_text(tokenizer, prompt, answer, system)
        rows.append(answer_tokens(tokenizer, text, start, end))
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index][0]), index))
    values = [0.0] * len(rows)
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            for index, value in zip(batch, _nll(model, [rows[i] for i in batch]), strict=True):
                values[index] = value
    return values


def exact_match(a: Sequence[str], b: Sequence[str]) -> Rate:
    """Return how many texts of ``a`` are, character for character, the text of ``b`` beside them.

    Raises:
        UsageError: the lengths differ, or there is nothing to compare.
    """
    if len(a) != len(b):
        raise UsageError(f"expected as many texts on both sides, got {len(a)} and {len(b)}.")
    return Rate.of(x == y for x, y in zip(a, b, strict=True))


def _nll(model: Any, rows: list[tuple[list[int], list[int]]]) -> list[float]:
    """Return nats per answer token; a row is its token ids and the indices of the answer's."""
    import math

    import torch

    width = max(len(ids) for ids, _ in rows)
    batch = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(batch)
    for index, (ids, _) in enumerate(rows):  # padded on the right: no token sees what follows it
        batch[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
    with torch.no_grad():
        logits = model(
            input_ids=batch.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
        ).logits
        values = []
        for index, (ids, answer) in enumerate(rows):
            predicted = logits[index, [position - 1 for position in answer]].float()
            target = torch.tensor([ids[position] for position in answer], device=logits.device)
            values.append(float(torch.nn.functional.cross_entropy(predicted, target)))
    if not all(math.isfinite(value) for value in values):
        raise NonFiniteResultError(
            "expected finite likelihoods, got NaN or infinity.",
            hint="Check the weights for NaN, or load in another dtype.",
        )
    return values
