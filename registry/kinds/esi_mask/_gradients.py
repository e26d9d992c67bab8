"""Gradients of a score, summed over pairs in fp32, of the parameters that hold candidates.

- A parameter's gradient is taken away by a hook as soon as backward has made it: what is resident
  beside the model is one sum per parameter (fp32, on the CPU by default) and one gradient.
- Sums are fp32 whatever the model's dtype is: added up in bf16, a term below 1/256 of the sum is
  lost. In fp32 that is 1/16,777,216: compensated (Kahan) sums change nothing with some hundred
  pairs.
- The pairs may be split into halves, each with sums of its own: the whole is their sum, and how far
  the halves agree says how much the pairs decide.
- The model is read only: which parameters want a gradient, gradients that are there already, and
  every module's mode are afterwards as they were, also after an error or Ctrl-C.
"""

from __future__ import annotations

import math
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import ApplyError, NonFiniteResultError, NonFiniteTensorError, UsageError
from registry.kinds.esi_mask._places import local
from registry.measure.generate import evaluating
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from registry.kinds.esi_mask._kept_sums import KeptSums
    from registry.kinds.esi_mask._scores import Score
    from registry.kinds.esi_mask._shards import Shards
    from registry.measure.prompts import Pair

_DTYPE = "Check the weights for NaN, or load in another dtype: bfloat16 or float32."


_PIECE = 1 << 18  # weights that are added in one go


@dataclass(frozen=True, slots=True)
class Gradients:
    """Summed gradients of a score.

    Attributes:
        sums: For each part of the pairs, parameter name to the sum of the gradients of the pairs'
            scores, fp32 of the parameter's shape; zeros where backward gave none.
        pairs: How many pairs each part has.
        scores: Each pair's score, in the order of the pairs.
        routed: Router module to how many tokens it sent to each expert, over all conversations.
    """

    sums: tuple[dict[str, Tensor], ...]
    pairs: tuple[int, ...]
    scores: tuple[float, ...]
    routed: dict[str, list[int]]


def halves(count: int, seed: int) -> tuple[int, ...]:
    """Return for each of ``count`` pairs which half it is in, 0 or 1; drawn with ``seed``.

    Raises:
        UsageError: there are fewer than two pairs.
    """
    if count < 2:
        raise UsageError(
            f"expected at least 2 pairs for two halves, got {count}.",
            hint="Give more pairs with --data FILE or --limit N, or do not measure how far they "
            "agree: --no-halves",
        )
    order = list(range(count))
    random.Random(f"halves {seed}").shuffle(order)  # noqa: S311 -- a split, not a secret
    second = set(order[(count + 1) // 2 :])
    return tuple(int(index in second) for index in range(count))


def gradients(
    model: nn.Module,
    names: Collection[str],
    score: Score,
    pairs: Sequence[Pair],
    *,
    parts: Sequence[int] | None = None,
    routers: Collection[str] = (),
    device: Any = "cpu",
    shards: Shards | None = None,
    kept: KeptSums | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Gradients:
    """Return the summed gradients of ``score`` over ``pairs``; the model is as it was.

    Args:
        model: A live model.
        names: Parameters that are wanted; no other gets a gradient.
        score: What is differentiated.
        pairs: What it is the mean over.
        parts: For each pair, which part's sums it goes into, from 0; one part by default.
        routers: Modules that choose experts; those that say which they chose are counted.
        device: Where the sums are kept.
        shards: Of a sharded model, what is in this process: sums are of that.
        kept: Where sums are kept between pairs; those of an interrupted run are taken up.
        progress: Called with (pairs done, all).

    Raises:
        UsageError: there are no pairs.
        ApplyError: a parameter is not there as plain floating-point numbers.
        NonFiniteResultError: a pair's score is NaN or infinite.
        NonFiniteTensorError: a sum is; all of them are named.
    """
    import torch

    if not pairs:
        raise UsageError("expected at least 1 pair, got none.")
    wanted = _wanted(model, names, is_one=shards is None or shards.is_one)
    parts = [0] * len(pairs) if parts is None else parts
    sums = tuple(
        {
            name: torch.zeros(local(parameter).shape, dtype=torch.float32, device=device)
            for name, parameter in wanted.items()
        }
        for _ in range(max(parts) + 1)
    )
    found: list[float] = []
    into = [sums[0]]
    with _differentiated(model, wanted, into), _counted(model, routers) as routed:
        if kept is not None:
            found += kept.take_up(sums, routed, score=score, parts=parts, shards=shards)
        for pair, part in list(zip(pairs, parts, strict=True))[len(found) :]:
            into[0] = sums[part]
            found.append(_backward(model, score, pair))
            if kept is not None:
                kept.keep(sums, found, routed)
            if progress is not None:
                progress(len(found), len(pairs))
    _require_finite(sums, shards)
    counts = tuple(list(parts).count(part) for part in range(len(sums)))
    return Gradients(sums, counts, tuple(found), routed)


def _backward(model: nn.Module, score: Score, pair: Pair) -> float:
    """Differentiate each term of the pair's score, and return the score."""
    import torch

    total = 0.0
    for term in score.terms(model, pair):
        value = float(term.detach())
        if not math.isfinite(value):
            raise NonFiniteResultError(
                f"pair {pair.id!r:.120}: expected a finite {score.name}, got {value}.", hint=_DTYPE
            )
        total += value
        if term.requires_grad:
            torch.autograd.backward(term)
    return total


def _wanted(model: nn.Module, names: Collection[str], *, is_one: bool) -> dict[str, nn.Parameter]:
    """Return the named parameters, each plain numbers on a device."""
    import torch

    live = dict(model.named_parameters())
    findings = []
    for name in sorted(names):
        value = live.get(name)
        if value is None:
            findings.append(f"{name}: expected a parameter, the model has none")
        elif (is_one and type(value) is not torch.nn.Parameter) or not value.is_floating_point():
            findings.append(
                f"{name}: expected a plain floating-point parameter, got {type(value).__name__} "
                f"of {value.dtype}"
            )
        elif value.device.type == "meta":
            findings.append(f"{name}: expected weights on a device, they are offloaded")
    if findings:
        raise ApplyError(
            f"expected weights that can be differentiated, got:{listed(findings)}",
            hint="Load whole and without quantisation: "
            "AutoModelForCausalLM.from_pretrained(DIR, dtype='bfloat16')",
        )
    return {name: live[name] for name in sorted(names)}


@contextmanager
def _differentiated(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], into: Sequence[dict[str, Tensor]]
) -> Iterator[None]:
    """Inside the block, move gradients of ``wanted`` to the sums that ``into`` holds first."""
    import torch

    def taking(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is not None:
                total = into[0][name]
                _add(total, local(gradient).to(total.device))
            parameter.grad = None

        return take

    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in
              model.parameters()]  # fmt: skip
    chosen = {id(parameter) for parameter in wanted.values()}
    handles = []
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in chosen)
        hooked: Mapping[str, Any] = wanted  # torch's hooks have no types
        for name, parameter in hooked.items():
            handles.append(parameter.register_post_accumulate_grad_hook(taking(name)))
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, requires_grad, gradient in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def _add(total: Tensor, gradient: Tensor) -> None:
    """Add a gradient of any dtype to an fp32 sum, in fp32.

    A piece at a time: what is widened stays in a core's cache.
    """
    pieces = zip(total.view(-1).split(_PIECE), gradient.reshape(-1).split(_PIECE), strict=True)  # type: ignore[no-untyped-call]
    for into, more in pieces:
        into.add_(more)


@contextmanager
def _counted(model: nn.Module, routers: Collection[str]) -> Iterator[dict[str, list[int]]]:
    """Give how many tokens each router sent to each expert, counted inside the block."""
    routed: dict[str, list[int]] = {}

    def counting(name: str) -> Callable[..., None]:
        def count(module: Any, _args: Any, output: Any) -> None:
            chosen = output[-1] if isinstance(output, tuple) else None
            experts = getattr(module, "num_experts", None)
            if chosen is None or experts is None or chosen.is_floating_point():
                return  # not a router that says which experts it chose
            tokens = chosen.reshape(-1).bincount(minlength=experts).tolist()
            before = routed.get(name, [0] * experts)
            routed[name] = [a + b for a, b in zip(before, tokens, strict=True)]

        return count

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(counting(name))
        for name in sorted(routers)
        if name in modules
    ]
    try:
        yield routed
    finally:
        for handle in handles:
            handle.remove()


def _require_finite(sums: Sequence[Mapping[str, Tensor]], shards: Shards | None) -> None:
    """Refuse sums with NaN or infinity, which stay in a sum once they are there."""
    import numpy as np

    names = list(sums[0])
    counts = np.zeros(len(names), dtype=np.int64)
    for part in sums:
        for index, name in enumerate(names):
            finite = part[name].isfinite()
            if not bool(finite.all()):
                counts[index] += int((~finite).sum())
    if shards is not None:  # in every process the same, or one would wait for the others
        counts = shards.sum(counts)
    broken = {name: int(count) for name, count in zip(names, counts, strict=True) if count}
    if broken:
        raise NonFiniteTensorError(
            f"expected finite gradients, got NaN or infinity in {len(broken)} parameters:",
            [f"{name}: {count:,} entries" for name, count in sorted(broken.items())],
            hint=_DTYPE,
        )
