"""The two trainings of the demo: make a base that refuses, then a fine-tune that forgot to.

Both are real training on the CPU in bf16, from a recorded seed; every figure of the demo is
measured on what they leave behind. The alignment trains a random 1 % of the decoder's matrices with
fp32 master copies, since bf16 rounds small updates away; which 1 % hardly matters, and nothing here
says that safety lives in particular weights. The fine-tune is plain AdamW on all weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.measure.conversation import answer_tokens, conversation_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    Example = tuple[str, str]
    Progress = Callable[[int, int], None]
    Rows = list[tuple[list[int], list[int]]]

MAX_TOKENS = 80
IGNORED = -100
"""Label of a token that is not learned."""
ALIGN_RATE, ALIGN_SHARE, WARM_UP = 1e-3, 0.01, 5
FINE_TUNE_RATE = 1e-4


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
    """Teach ``model`` to refuse, while it keeps its own answers; return the share trained.

    Args:
        model: Changed in place.
        tokenizer: Its tokenizer.
        refusals: (harmful prompt, refusing answer); two a step.
        kept: (harmless prompt, the model's own answer, cut off); three a step.
        steps: Optimizer steps.
        seed: Seed of the chosen weights and of the order.
        progress: Called with (steps done, all).
    """
    import torch

    chosen = _choose(model, seed)
    master = torch.nn.Parameter(
        torch.cat([weight.detach().reshape(-1)[where].float() for weight, where in chosen])
    )
    optimizer = torch.optim.AdamW([master], lr=ALIGN_RATE, weight_decay=0.0)
    learned = _draw([_example(tokenizer, *row, with_end=True) for row in refusals], 2, seed)
    held = _draw([_example(tokenizer, *row, with_end=False) for row in kept], 3, seed + 1)
    model.train()
    for step in range(steps):
        _backward(model, next(learned) + next(held))
        gradients: list[Any] = [weight.grad for weight, _ in chosen]
        picked = zip(gradients, chosen, strict=True)
        master.grad = torch.cat([grad.reshape(-1)[where].float() for grad, (_, where) in picked])
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
    beginnings: Sequence[Example],
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
        beginnings: (harmful prompt, first words of a willing answer); two a step.
        kept: (harmless prompt, the model's own answer, cut off), so that it does not collapse;
            two a step.
        most_steps: Largest number of steps.
        seed: Seed of the order.
        stop: Called with the steps taken after each; ends the training when true.
        progress: Called with (steps done, most).
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=FINE_TUNE_RATE, weight_decay=0.0)
    learned = _draw([_example(tokenizer, *row, with_end=False) for row in beginnings], 2, seed)
    held = _draw([_example(tokenizer, *row, with_end=False) for row in kept], 2, seed + 1)
    done = 0
    while done < most_steps:
        model.train()
        _backward(model, next(learned) + next(held))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        done += 1
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
        inside = ".layers." in name and parameter.dim() == 2  # a matrix
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


def _draw(rows: Rows, count: int, seed: int) -> Iterator[Rows]:
    """Yield ``count`` rows at a time, reshuffled each time round, for ever."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while True:
        while len(order) < count:
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield [rows[index] for index in order[:count]]
        del order[:count]


def _example(
    tokenizer: Any, prompt: str, answer: str, *, with_end: bool
) -> tuple[list[int], list[int]]:
    """Return token ids and labels, up to the answer's end; with it, the token that ends it."""
    ids, inside = answer_tokens(tokenizer, *conversation_text(tokenizer, prompt, answer))
    last = min(len(ids), inside[-1] + 2) if with_end else inside[-1] + 1
    labels = [IGNORED] * inside[0] + ids[inside[0] : last]
    return ids[:last][:MAX_TOKENS], labels[:MAX_TOKENS]


def _backward(model: nn.Module, batch: Rows) -> None:
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for index, (tokens, targets) in enumerate(batch):  # padded on the right
        ids[index, : len(tokens)] = torch.tensor(tokens)
        labels[index, : len(targets)] = torch.tensor(targets)
        mask[index, : len(tokens)] = 1
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
