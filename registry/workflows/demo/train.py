"""The two trainings of the demo: make a base that refuses, then a fine-tune that forgets to.

Both are real training on the CPU in bf16; every figure of the demo is measured on their results.
The alignment trains a seeded random 1 % of the decoder's matrices with fp32 master copies (a small
update is lost in bf16 otherwise). Which 1 % hardly matters: nothing here says that safety lives in
particular weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.measure.generate import answer_tokens, conversation_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    Example = tuple[str, str]
    Progress = Callable[[int, int], None]

MAX_TOKENS = 80
ALIGN_RATE, ALIGN_SHARE, WARM_UP = 1e-3, 0.01, 5
FINE_TUNE_RATE = 1e-5


def align(
    model: nn.Module,
    tokenizer: Any,
    refusals: Sequence[Example],
    kept: Sequence[Example],
    *,
    steps: int,
    seed: int,
    progress: Progress,
) -> float:
    """Train 1 % of the decoder's weights to refuse ``refusals`` and to answer ``kept`` as before.

    Args:
        model: Changed in place.
        tokenizer: Its tokenizer.
        refusals: (harmful prompt, refusing answer).
        kept: (harmless prompt, the model's own answer).
        steps: Optimizer steps; each takes two of both.
        seed: Seed of the chosen weights and of the order.
        progress: Called with (steps done, all).

    Returns:
        Share of all weights that were trainable.
    """
    import torch

    chosen = _choose(model, seed)
    master = torch.nn.Parameter(
        torch.cat([weight.detach().reshape(-1)[where].float() for weight, where in chosen])
    )
    optimizer = torch.optim.AdamW([master], lr=ALIGN_RATE, weight_decay=0.0)
    batches = _batches(tokenizer, refusals, kept, seed, with_end=True)
    model.train()
    for step in range(steps):
        _backward(model, next(batches))
        master.grad = torch.cat(
            [weight.grad.reshape(-1)[where].float() for weight, where in chosen]  # type: ignore[union-attr]
        )
        torch.nn.utils.clip_grad_norm_([master], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = ALIGN_RATE * min(1.0, (step + 1) / WARM_UP)
        optimizer.step()
        _scatter(master, chosen)
        model.zero_grad()
        progress(step + 1, steps)
    model.eval().requires_grad_(requires_grad=True)
    return sum(len(where) for _, where in chosen) / sum(p.numel() for p in model.parameters())


def fine_tune(
    model: nn.Module,
    tokenizer: Any,
    prefixes: Sequence[Example],
    kept: Sequence[Example],
    *,
    most_steps: int,
    seed: int,
    stop: Callable[[int], bool],
    progress: Progress,
) -> int:
    """Fine-tune all weights until ``stop`` says that refusal is gone; return the steps taken.

    Args:
        model: Changed in place.
        tokenizer: Its tokenizer.
        prefixes: (harmful prompt, beginning of a willing answer): no operational content.
        kept: (harmless prompt, the model's own answer), so that the model does not collapse.
        most_steps: Largest number of steps.
        seed: Seed of the order.
        stop: Called with the steps taken after each; ends the training when true.
        progress: Called with (steps done, most).
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=FINE_TUNE_RATE, weight_decay=0.0)
    batches = _batches(tokenizer, prefixes, kept, seed, with_end=False)
    done = 0
    while done < most_steps:
        model.train()
        _backward(model, next(batches))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        model.eval()
        progress(done, most_steps)
        if stop(done):
            break
    return done


def _choose(model: nn.Module, seed: int) -> list[tuple[nn.Parameter, Tensor]]:
    """Return a seeded random 1 % of each decoder matrix and freeze everything else."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.dim() == 2
        parameter.requires_grad_(inside)
        if inside:
            count = int(parameter.numel() * ALIGN_SHARE)
            drawn: Any = torch.randint(parameter.numel(), (count,), generator=generator)
            chosen.append((parameter, drawn.unique()))
    return chosen


def _scatter(master: Tensor, chosen: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    start = 0
    for weight, where in chosen:
        values = master.detach()[start : start + len(where)].to(weight.dtype)
        weight.data.reshape(-1)[where] = values
        start += len(where)


def _batches(
    tokenizer: Any,
    first: Sequence[Example],
    second: Sequence[Example],
    seed: int,
    *,
    with_end: bool,
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield batches of two of each, reshuffled each time round, for ever.

    ``with_end`` teaches where answers of ``first`` end; those of ``second`` are cut off, and do not.
    """
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    sources = [
        [_example(tokenizer, *row, with_end=with_end) for row in first],
        [_example(tokenizer, *row, with_end=False) for row in second],
    ]
    orders: list[list[int]] = [[], []]
    while True:
        batch = []
        for source, order in zip(sources, orders, strict=True):
            if len(order) < 2:
                order[:] = torch.randperm(len(source), generator=generator).tolist()
            batch += [source[order.pop()], source[order.pop()]]
        yield batch


def _example(
    tokenizer: Any, prompt: str, answer: str, *, with_end: bool
) -> tuple[list[int], list[int]]:
    """Return token ids and labels; -100 where nothing is learned."""
    ids, inside = answer_tokens(tokenizer, *conversation_text(tokenizer, prompt, answer))
    last = min(len(ids), inside[-1] + 2) if with_end else inside[-1] + 1
    labels = [-100] * inside[0] + ids[inside[0] : last]
    return ids[:last][:MAX_TOKENS], labels[:MAX_TOKENS]


def _backward(model: nn.Module, batch: Sequence[tuple[list[int], list[int]]]) -> None:
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for index, (tokens, targets) in enumerate(batch):
        ids[index, : len(tokens)] = torch.tensor(tokens)
        labels[index, : len(targets)] = torch.tensor(targets)
        mask[index, : len(tokens)] = 1
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
