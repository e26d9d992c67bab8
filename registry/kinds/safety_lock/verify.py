"""Read a live model back: is the lock that must be there really there?

Three readings, each of which can say no:
- the directions point toward refusal *in this model* (before applying; a negated lock would not);
- every touched bias equals the module's own bias plus W_o @ displacement, recomputed from the
  artifact and the model's weights now, and W_o is bit for bit what it was at apply;
- in a real forward pass, every touched module ran and its mean output moved as the hook form says,
  within a quarter of the shift (bf16 outputs are rounded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.errors import (
    ApplyError,
    CompatibilityError,
    EvidenceError,
    NegatedDirectionsError,
    VerificationError,
)
from registry.kinds.safety_lock._activations import head_rows
from registry.kinds.safety_lock._directions import figures
from registry.kinds.safety_lock._holds import compare
from registry.kinds.safety_lock.apply import input_shifts, output_shifts, weight_digest
from registry.live.attach import attached_shifts, expected_bias, original_bias
from registry.live.capture import captured_calls
from registry.live.sites import model_geometry, weight_columns
from registry.measure.generate import evaluating
from registry.measure.prompts import load_pairs
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from registry.kinds.safety_lock._holds import Measurement
    from registry.kinds.safety_lock.apply import LockApplication
    from registry.kinds.safety_lock.body import LockBody
    from registry.measure.prompts import Pair, PromptSet

CANARY_TOKENS = 16
SIGN_PAIRS = 8
"""Preference pairs of the sign check: 16 short sequences, one forward pass."""
BIAS_TOLERANCE = 1e-5
"""Largest error of a bias value relative to the largest one, beside one rounding of its own."""
SHIFT_TOLERANCE = 0.25
"""Largest error of the mean output shift in the forward canary, relative to what this lock alone
moves: bf16 outputs are rounded to 2^-8 of their size, the shift is a mean over tokens."""
REPAIR = "Take it off and apply it again: registry.unprotect(model), then registry.protect(...)"


@dataclass(frozen=True, slots=True)
class LockEvidence:
    """What was read back.

    Attributes:
        modules: How many modules carry the lock.
        bias_error: Largest difference between a live bias and the recomputed one.
        canary_error: Largest relative error of a module's mean output shift in a forward pass.
    """

    modules: int
    bias_error: float
    canary_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for the event log."""
        return {
            "modules": self.modules,
            "bias_error": self.bias_error,
            "canary_error": self.canary_error,
        }


def precondition(
    model: nn.Module, open_tokenizer: Callable[[], Any], body: LockBody
) -> dict[str, Any]:
    """Check, on the model as it was loaded, what must hold before the lock goes on.

    Here: the sign of the directions, on packaged pairs that no lock is made from.

    Raises:
        NegatedDirectionsError: see ``require_toward_refusal``.
    """
    pairs = load_pairs().split("report").first(SIGN_PAIRS).rows
    return require_toward_refusal(model, open_tokenizer(), body, pairs)


def require_toward_refusal(
    model: nn.Module, tokenizer: Any, body: LockBody, pairs: Sequence[Pair]
) -> dict[str, Any]:
    """Check the sign of the directions on pairs they were not made from.

    For each head: mean projection of refusing minus complying answers, in units of sigma. Their
    mean and the majority of heads must be positive, and so must the push of all heads together,
    where each counts with its own sigma: an inflated sigma makes a negated head look harmless in
    its own units while it pushes hardest.

    Returns:
        Counts and the mean, for the report.

    Raises:
        NegatedDirectionsError: the directions point away from refusal in this model.
    """
    import torch

    geometry = model_geometry(model)
    rows, used = head_rows(model, tokenizer, pairs, geometry, answer_tokens=body.answer_window)
    index = [layer * geometry.heads + head for layer, head in body.heads]
    picked = rows.flatten(3, 4)[:, :, :, index].double()
    projections = (picked * torch.tensor(body.directions).double()).sum(-1)  # [pairs, 2, r, K]
    contrast = (projections[:, 0] - projections[:, 1]).mean(dim=(0, 1))
    sigma = torch.tensor(body.sigma).double()
    effect = contrast / sigma
    positive = int((effect > 0).sum())
    mean, push = float(effect.mean()), float((contrast * sigma).sum())
    if not (mean > 0 and push > 0 and 2 * positive > len(index)):
        raise NegatedDirectionsError(
            f"expected directions toward refusal in most of {len(index)} heads, got {positive} "
            f"heads and a mean contrast of {mean:+.3f} sigma (push {push:+.3g}) on {len(used)} "
            "pairs: applying this lock would remove refusals.",
            hint="Do not use it. Get the bundle from its publisher again, and compare its digest.",
        )
    return {"pairs": len(used), "heads_positive": positive, "heads": len(index),
            "mean_contrast_sigma": round(mean, 6)}  # fmt: skip


def measurable(body: LockBody, pairs: PromptSet[Pair]) -> tuple[Pair, ...]:
    """Return the pairs out of ``pairs`` on which ``measure`` compares a fine-tune with the base.

    Raises:
        EvidenceError: the body says nothing of its base to compare with.
        CompatibilityError: the base was measured on other pairs.
    """
    if body.holds is None:
        raise EvidenceError(
            "expected what the directions measured in the base, this artifact does not say it: it "
            "was imported, or made before that was written down.",
            hint=REMAKE,
        )
    return body.holds.rows_of(pairs)


def measure(
    model: nn.Module,
    tokenizer: Any,
    body: LockBody,
    rows: Sequence[Pair],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Return whether the directions still hold in ``model``, beside what they were in the base.

    Args:
        model: A live model without the lock, read only.
        tokenizer: Its fast tokenizer.
        body: The lock; see ``measurable``.
        rows: What ``measurable`` returned.
        progress: Called with (conversations done, all).

    Raises:
        CompatibilityError, ApplyError: the model cannot be measured.
    """
    if body.holds is None:
        raise RuntimeError("measurable() comes first")
    got = figures(model, tokenizer, body, rows, progress=progress)
    return compare(body.holds, got, body.heads, alpha=body.alpha)


def verify(model: nn.Module, body: LockBody, application: LockApplication) -> LockEvidence:
    """Return evidence that ``application`` of ``body`` is on ``model`` now.

    Raises:
        VerificationError: it is not; every finding is listed.
    """
    try:
        expected = output_shifts(model, body, model_geometry(model), alpha=application.alpha)
    except (CompatibilityError, ApplyError) as error:
        raise VerificationError(
            f"the lock is not on the model as the artifact prescribes:\n  {error.message}",
            hint=REPAIR,
        ) from error
    findings: list[str] = []
    worst = 0.0
    for name, shift in expected.items():
        module = model.get_submodule(name)
        if weight_digest(module) != application.weight_digests[name]:
            findings.append(f"{name}.weight: expected as it was at apply, its bits have changed")
        shifts = {**attached_shifts(model, name), application.owner: shift}
        off = _bias_error(name, module, expected_bias(model, name, shifts), findings)
        worst = max(worst, off)
    canary = 0.0
    if not findings:
        canary = _canary(model, body, application, findings)
    if findings:
        listed = "".join(f"\n  {finding}" for finding in findings)
        raise VerificationError(
            f"the lock is not on the model as the artifact prescribes:{listed}", hint=REPAIR
        )
    return LockEvidence(len(expected), worst, canary)


def _bias_error(name: str, module: nn.Module, expected: Tensor, findings: list[str]) -> float:
    import torch

    live: Any = getattr(module, "bias", None)
    if live is None:
        findings.append(f"{name}.bias: expected the lock's shift, the module has no bias")
        return float("inf")
    wanted = expected.float().to(live.device)
    scale = float(wanted.abs().max())
    if live.shape != wanted.shape:
        findings.append(f"{name}.bias: expected shape {list(wanted.shape)}, got {list(live.shape)}")
        return float("inf")
    errors = (live.detach().float() - wanted).abs()
    error = float(errors.max())
    # Equal where it was applied; another device may round the last bit of W_o @ direction.
    allowed = torch.finfo(expected.dtype).eps * wanted.abs() + BIAS_TOLERANCE * scale
    if not bool((errors <= allowed).all()):
        findings.append(
            f"{name}.bias: expected the shift recomputed from W_o (largest {scale:.4g}), "
            f"differs by {error:.4g}"
        )
    return error


def _canary(
    model: nn.Module, body: LockBody, application: LockApplication, findings: list[str]
) -> float:
    """Run a short forward pass and compare each touched output with the hook form of the lock."""
    import torch

    geometry = application.geometry
    shifts = input_shifts(model, body, geometry, alpha=application.alpha)
    modules = list(shifts)
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = (torch.arange(1, CANARY_TOKENS + 1, device=device) * 37 % vocabulary)[None]
    with torch.no_grad(), evaluating(model), captured_calls(modules) as calls:
        model(input_ids=ids, use_cache=False)
    names = {id(module): name for name, module in model.named_modules()}
    transposed = sites_for(geometry.family).transposed
    worst = 0.0
    for module, call in zip(modules, calls, strict=True):
        name = names[id(module)]
        if call is None:
            findings.append(f"{name}: expected to run in a forward pass, it did not")
            continue
        inputs, outputs = (value.float() for value in call)
        weight = weight_columns(module, transposed=transposed).detach().float()
        moved = outputs - inputs @ weight.T
        bias: Any = module.bias
        hook = weight @ shifts[module]
        size = float(hook.norm())
        if size == 0.0:
            findings.append(f"{name}: expected a lock that moves the output, it moves nothing")
            continue
        rest = moved.mean(dim=(0, 1)) - hook - _others(model, name, application.owner, bias)
        error = float(rest.norm()) / size
        worst = max(worst, error)
        if not error <= SHIFT_TOLERANCE:
            findings.append(
                f"{name}: expected the output to move as the hook form (|b| = {size:.4g}), "
                f"relative error {error:.3g}"
            )
    return worst


def _others(model: nn.Module, name: str, owner: str, bias: Tensor) -> Tensor:
    """Return what the module's output moves by without this lock: own bias and other owners."""
    import torch

    rest = {key: value for key, value in attached_shifts(model, name).items() if key != owner}
    own = expected_bias(model, name, rest) if rest else None
    if own is None:
        own = original_bias(model, name)
    return torch.zeros_like(bias.float()) if own is None else own.detach().float().to(bias.device)
