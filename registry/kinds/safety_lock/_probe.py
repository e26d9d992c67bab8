"""Linear probes, all heads at once: how well does each head tell refusing from complying?

- Logistic regression with L2 penalty, C = 1, intercept free and no standardisation (the paper's
  setting), solved by Newton's method for all heads in one batch, in float64.
- Folds are drawn by pair, never by row: tokens of one answer do not leak across a split. The
  draw comes from a seed that is recorded.
- Ranking: held-out accuracy, then held-out likelihood, then (layer, head). Nothing is arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NEWTON_STEPS = 12
TOLERANCE = 1e-8
_CHUNK = 512  # heads solved together: bounds the memory of the Hessians


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """Held-out scores of all heads.

    Attributes:
        accuracy: Mean held-out accuracy, [layers * heads].
        standard_error: Standard error of it over pairs, [layers * heads].
        likelihood: Mean held-out log-likelihood in nats, [layers * heads].
    """

    accuracy: Tensor
    standard_error: Tensor
    likelihood: Tensor

    def ranking(self) -> list[int]:
        """Return head indices, best first."""
        keys = list(zip(self.accuracy.tolist(), self.likelihood.tolist(), strict=True))
        return sorted(range(len(keys)), key=lambda i: (-keys[i][0], -keys[i][1], i))


def score_heads(
    rows: Tensor,
    *,
    folds: int,
    repeats: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeScores:
    """Score every head by grouped, repeated k-fold cross-validation.

    Source: SafetyLock, head selection by probes on the activations of safe and unsafe answers.
    The paper splits rows at random and scores train and validation together; here only held-out
    pairs count.

    Args:
        rows: [pairs, 2, r, layers, heads, head_dim], refusing first.
        folds: k; at most the number of pairs.
        repeats: How often the folds are drawn anew.
        seed: Seed of the draws.
        progress: Called with (fits done, all).
    """
    import torch

    pairs, _, tokens = rows.shape[:3]
    width = rows.shape[-1]
    by_head = rows.flatten(3, 4).permute(3, 0, 1, 2, 4).double()  # [heads, pairs, 2, r, head_dim]
    heads = by_head.shape[0]
    labels = torch.tensor([1.0, 0.0], dtype=torch.float64)
    correct = torch.zeros(heads, pairs, dtype=torch.float64)
    likelihood = torch.zeros(heads, pairs, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    folds = min(folds, pairs)
    for repeat in range(repeats):
        order = torch.randperm(pairs, generator=generator)
        for fold in range(folds):
            held = order[fold::folds]
            kept = torch.ones(pairs, dtype=torch.bool)
            kept[held] = False
            for start in range(0, heads, _CHUNK):
                block = by_head[start : start + _CHUNK]
                train = block[:, kept].reshape(len(block), -1, width)
                target = labels.repeat_interleave(tokens).repeat(int(kept.sum()))
                weights, bias = _fit(train, target)
                test = block[:, held]  # [chunk, held, 2, r, head_dim]
                logits = (test * weights[:, None, None, None]).sum(-1) + bias[:, None, None, None]
                signed = torch.stack([logits[:, :, 0], -logits[:, :, 1]], dim=2)
                stop = start + len(block)
                correct[start:stop, held] += (signed > 0).double().mean(dim=(2, 3))
                likelihood[start:stop, held] += torch.nn.functional.logsigmoid(signed).mean((2, 3))
            if progress is not None:
                progress(repeat * folds + fold + 1, repeats * folds)
    accuracy = (correct / repeats).mean(1)
    error = (correct / repeats).std(1, unbiased=True) / pairs**0.5 if pairs > 1 else accuracy * 0
    return ProbeScores(accuracy, error, (likelihood / repeats).mean(1))


def _fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Fit all heads: minimise ``|w|^2 / 2 + sum(log-loss)``, x [heads, rows, d], y [rows]."""
    import torch

    ones = torch.ones(*x.shape[:2], 1, dtype=x.dtype)
    design = torch.cat([x, ones], dim=2)
    penalty = torch.eye(design.shape[2], dtype=x.dtype)
    penalty[-1, -1] = 1e-10  # the intercept is free
    weights = torch.zeros(x.shape[0], design.shape[2], dtype=x.dtype)
    for _ in range(NEWTON_STEPS):
        chance = torch.sigmoid((design @ weights[..., None]).squeeze(-1))
        gradient = (design.mT @ (chance - y)[..., None]).squeeze(-1) + weights @ penalty
        curvature = (chance * (1 - chance)).clamp_min(1e-9)
        hessian = design.mT @ (design * curvature[..., None]) + penalty
        step = torch.linalg.solve(hessian, gradient)
        longest = step.norm(dim=1, keepdim=True)
        weights = weights - step * (10.0 / longest.clamp_min(10.0))  # damped while far away
        if float(step.abs().max()) < TOLERANCE:
            break
    return weights[:, :-1], weights[:, -1]
