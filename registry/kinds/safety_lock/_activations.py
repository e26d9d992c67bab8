"""What a model computes at the ends of answers: rows of head activations, and residual norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import ApplyError, NonFiniteResultError, UsageError
from registry.live.capture import captured_calls, captured_inputs
from registry.live.sites import attention_outputs, decoder_layers
from registry.measure.conversation import answer_tokens, conversation_text
from registry.measure.generate import evaluating, require_known_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from registry.checkpoint.geometry import Geometry
    from registry.measure.prompts import Pair

BATCH = 16


def head_rows(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[Pair],
    geometry: Geometry,
    *,
    answer_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, list[str]]:
    """Return the head activations at the last tokens of each answer, and which pairs were used.

    Source: SafetyLock, activation collection: the input of the output projection at the last r
    positions of the answer. Here the positions are found by character offsets, so that r tokens
    of the *answer* are read under every chat template; pairs with an answer shorter than r tokens
    are left out.

    Args:
        model: A live model, read only.
        tokenizer: Its fast tokenizer.
        pairs: Questions with a refusing and a complying answer.
        geometry: The model's geometry.
        answer_tokens: r.
        progress: Called with (conversations done, all).

    Returns:
        fp32 rows on the CPU, [pairs used, 2 (refusing, complying), r, layers, heads, head_dim],
        and the ids of the pairs used.

    Raises:
        UsageError: no pair has two answers of at least r tokens.
        CompatibilityError: template or tokenizer do not go with the model.
        NonFiniteResultError: an activation is NaN or infinite.
    """
    import torch

    sequences, ids = _usable(model, tokenizer, pairs, answer_tokens)
    modules = attention_outputs(model, geometry)
    shape = (answer_tokens, geometry.layers, geometry.heads, geometry.head_dim)
    rows = torch.empty((len(sequences), *shape), dtype=torch.float32)
    done = 0
    with torch.no_grad(), evaluating(model), captured_inputs(modules) as seen:
        for batch in _batches(sequences):
            _forward(model, [sequences[index][0] for index in batch])
            for layer, hidden in enumerate(seen):
                if hidden is None:
                    raise _skipped(layer)
                for row, index in enumerate(batch):
                    picked = hidden[row, sequences[index][1]].float().cpu()
                    rows[index, :, layer] = picked.reshape(answer_tokens, *shape[2:])
            done += len(batch)
            if progress is not None:
                progress(done, len(sequences))
    if not torch.isfinite(rows).all():
        broken = int((~torch.isfinite(rows).flatten(1).all(1)).sum())
        raise NonFiniteResultError(
            f"expected finite attention outputs, got NaN or infinity in {broken} of "
            f"{len(rows)} conversations.",
            hint="Check the weights for NaN, or load in another dtype.",
        )
    return rows.reshape(len(ids), 2, *shape), ids


def residual_norms(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[Pair],
    geometry: Geometry,
    *,
    answer_tokens: int,
) -> Tensor:
    """Return how long the residual stream is behind each layer, at the tokens ``head_rows`` reads.

    Returns:
        fp64 [layers] on the CPU: the root mean square, over tokens, of the L2 norm of the layer's
        output.

    Raises:
        UsageError, CompatibilityError: as ``head_rows``.
        NonFiniteResultError: an output is NaN or infinite.
    """
    import torch

    sequences, _ = _usable(model, tokenizer, pairs, answer_tokens)
    layers = decoder_layers(model, geometry)
    squares = torch.zeros(geometry.layers, dtype=torch.float64)
    with torch.no_grad(), evaluating(model), captured_calls(layers) as calls:
        for batch in _batches(sequences):
            _forward(model, [sequences[index][0] for index in batch])
            for layer, call in enumerate(calls):
                if call is None:
                    raise _skipped(layer)
                for row, index in enumerate(batch):
                    picked = call[1][row, sequences[index][1]].float().cpu().double()
                    squares[layer] += picked.square().sum()
    if not torch.isfinite(squares).all():
        raise NonFiniteResultError(
            f"expected finite outputs of {geometry.layers} layers, got NaN or infinity in "
            f"{int((~torch.isfinite(squares)).sum())}.",
            hint="Check the weights for NaN, or load in another dtype.",
        )
    return (squares / (len(sequences) * answer_tokens)).sqrt()


def _usable(
    model: nn.Module, tokenizer: Any, pairs: Sequence[Pair], count: int
) -> tuple[list[tuple[list[int], list[int]]], list[str]]:
    """Return the token sequences of the pairs that can be read, and their ids; at least one."""
    sequences, ids = _sequences(tokenizer, pairs, count)
    if not ids:
        raise UsageError(
            f"expected pairs whose answers have at least {count} tokens, got none in {len(pairs)}.",
            hint="Lower --answer-tokens, or give longer answers.",
        )
    require_known_tokens(model, [tokens for tokens, _ in sequences])
    return sequences, ids


def _skipped(layer: int) -> ApplyError:
    return ApplyError(
        f"layer {layer}: expected to run in a forward pass, it did not.",
        hint="Load the model as its family's own class: AutoModelForCausalLM.from_pretrained(DIR)",
    )


def _sequences(
    tokenizer: Any, pairs: Sequence[Pair], count: int
) -> tuple[list[tuple[list[int], list[int]]], list[str]]:
    """Return (token ids, last ``count`` answer positions) of both answers of each usable pair."""
    sequences, used = [], []
    for pair in pairs:
        both = [
            answer_tokens(tokenizer, *conversation_text(tokenizer, pair.prompt, answer))
            for answer in (pair.refusing, pair.complying)
        ]
        if all(len(positions) >= count for _, positions in both):
            sequences += [(ids, positions[-count:]) for ids, positions in both]
            used.append(pair.id)
    return sequences, used


def _batches(sequences: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Yield indices, longest first, so that a batch holds little padding."""
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index][0]), index))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _forward(model: nn.Module, rows: Sequence[list[int]]) -> None:
    import torch

    device = next(model.parameters()).device
    width = max(len(ids) for ids in rows)
    batch = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(batch)
    for index, ids in enumerate(rows):  # padded on the right: no token sees what follows it
        batch[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
    model(
        input_ids=batch.to(device),
        attention_mask=mask.to(device),
        use_cache=False,
        logits_to_keep=1,
    )
