"""Existence curves: from which layer on a model tells harmful prompts from harmless ones.

Source: Safety Layers (arXiv 2408.17003), sections 3.2 and 3.3. Done differently here:
- all pairs instead of 500 draws, so the means are exact; a prompt is never paired with itself;
- outputs are read by hooks on the layers, raw: the last of transformers' ``hidden_states`` is
  behind the final norm and compares with no other;
- prompts are asked through the model's own chat template, and compared within one grammatical
  form only (question, imperative): a question beside an imperative differs in every layer;
- the gap is an energy distance in angles, NM - (NN + MM) / 2. The paper's NM - NN also rises when
  one set is merely more uniform than the other; it is recorded beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import NonFiniteResultError, TargetModuleMissingError, UsageError
from registry.live.capture import captured_calls
from registry.measure.conversation import prompt_text, token_ids
from registry.measure.generate import evaluating, require_known_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from torch import Tensor, nn

    from registry.measure.prompts import Prompt

BATCH = 16
RESAMPLES = 1000
ONSET, PLATEAU = 0.25, 0.9
"""Shares of the largest gap of any layer. The gap of a large model grows slowly from its first
layers on, significantly above 0 from nearly the first: what counts is where it becomes a part of
what it will be."""
RULE = (
    "first: from it on, two layers in a row (one at the top), the gap's lower 95 % bound is above "
    f"{ONSET:.0%} of the largest gap of any layer and the gap is above the scary control's; "
    f"last: from first on, the first layer whose gap is at least {PLATEAU:.0%} of the largest"
)
FALLBACK = "the curves named no layer by their rule: the middle third of the layers"
_FORMS = ("question", "imperative")
_DIGITS = 6  # of every figure that is written down


@dataclass(frozen=True, slots=True)
class Outputs:
    """Unit outputs of one set of prompts, and each prompt's form.

    Attributes:
        units: fp64 [prompts, layers, hidden_size], L2 norm 1.
        forms: ``question`` or ``imperative``, one per prompt.
    """

    units: np.ndarray
    forms: tuple[str, ...]

    def rows(self, form: str) -> np.ndarray:
        """Return the units of one form."""
        found: np.ndarray = self.units[[own == form for own in self.forms]]
        return found


def last_token_outputs(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    layers: Sequence[nn.Module],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return every layer's raw output at the last prompt token, fp32 [prompts, layers, hidden].

    Args:
        model: A live model, read only.
        tokenizer: Its tokenizer.
        prompts: What is asked, one conversation each.
        layers: The decoder layers, in order.
        progress: Called with (prompts done, all).

    Raises:
        CompatibilityError: template or tokenizer do not go with the model.
        TargetModuleMissingError: a layer did not run.
        NonFiniteResultError: an output is NaN or infinite.
    """
    import torch

    rows = [token_ids(tokenizer, prompt_text(tokenizer, prompt)) for prompt in prompts]
    require_known_tokens(model, rows)
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    found: Tensor | None = None
    with torch.no_grad(), evaluating(model), captured_calls(layers) as seen:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            _forward(model, [rows[index] for index in batch])
            for layer, call in enumerate(seen):
                if call is None:
                    raise TargetModuleMissingError(
                        f"layer {layer}: expected to run in a forward pass, it did not.",
                        hint="Load the model as its family's own class: "
                        "AutoModelForCausalLM.from_pretrained(DIR)",
                    )
                hidden = call[1]
                if found is None:
                    found = torch.empty((len(rows), len(layers), hidden.shape[-1]))
                for place, index in enumerate(batch):
                    found[index, layer] = hidden[place, len(rows[index]) - 1].float().cpu()
            if progress is not None:
                progress(start + len(batch), len(order))
    if found is None:
        raise UsageError("expected at least one prompt, got none.")
    broken = int((~torch.isfinite(found).flatten(1).all(1)).sum())
    if broken:
        raise NonFiniteResultError(
            f"expected finite layer outputs, got NaN or infinity in {broken} of {len(found)} "
            "prompts.",
            hint="Check the weights for NaN, or load in another dtype.",
        )
    return found


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
        input_ids=batch.to(device), attention_mask=mask.to(device), use_cache=False,
        logits_to_keep=1,
    )  # fmt: skip


def unit_outputs(outputs: Tensor, prompts: Sequence[Prompt]) -> Outputs:
    """Return the outputs at unit length, in fp64; an output of 0 stays 0."""
    wide = outputs.double()
    norms = wide.norm(dim=-1, keepdim=True)
    units = (wide / norms.clamp_min(1e-300)).numpy()
    return Outputs(units, tuple(prompt.form for prompt in prompts))


def curves(harmless: Outputs, harmful: Outputs) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation of the cosines over all pairs, per layer.

    Source: Safety Layers, section 3.2: N-N, M-M and N-M, over all pairs whatever their form.
    """
    import numpy as np

    found = {}
    for name, a, b in (
        ("harmless", harmless, harmless), ("harmful", harmful, harmful),
        ("between", harmless, harmful),
    ):  # fmt: skip
        cosines = np.einsum("ald,bld->lab", a.units, b.units).clip(-1, 1)
        pairs = cosines.reshape(len(cosines), -1)
        if a is b:
            pairs = cosines[:, ~np.eye(len(a.units), dtype=bool)]
        found[name] = {"mean": rounded(pairs.mean(1)), "std": rounded(pairs.std(1))}
    return found


def gap(a: Outputs, b: Outputs, *, seed: int) -> dict[str, list[float]]:
    """Return the angular gap between two sets of prompts within one form, per layer.

    Args:
        a: The reference set.
        b: The other set.
        seed: Seed of the bootstrap over prompts.

    Returns:
        ``degrees``, the mean over the forms of AB - (AA + BB) / 2; ``low`` and ``high``, its 95 %
        interval; ``paper``, the same mean of AB - AA.

    Raises:
        UsageError: no form has two prompts on both sides.
    """
    groups = [(a.rows(form), b.rows(form)) for form in _FORMS]
    usable = [pair for pair in groups if min(len(side) for side in pair) > 1]
    if not usable:
        raise UsageError(
            "expected at least 2 prompts of one form on both sides, got "
            + " and ".join(
                f"{len(first)} against {len(second)} of form {form}"
                for form, (first, second) in zip(_FORMS, groups, strict=True)
            )
            + ".",
            hint="Raise --limit, or give more prompts.",
        )
    return _gap(usable, seed)


def form_gap(harmless: Outputs, *, seed: int) -> dict[str, list[float]]:
    """Return the same gap between the questions and the imperatives of one set: form alone.

    Raises:
        UsageError: there are not two of each.
    """
    questions, imperatives = (harmless.rows(form) for form in _FORMS)
    if min(len(questions), len(imperatives)) < 2:
        raise UsageError(
            f"expected at least 2 harmless questions and imperatives, got {len(questions)} and "
            f"{len(imperatives)}.",
            hint="Raise --limit.",
        )
    return _gap([(questions, imperatives)], seed)


def _gap(groups: Sequence[tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, list[float]]:
    import numpy as np

    random = np.random.default_rng(seed)
    layers = groups[0][0].shape[1]
    degrees, paper = np.zeros(layers), np.zeros(layers)
    drawn = np.zeros((RESAMPLES, layers))
    for a, b in groups:
        angles = [_angles(x, y) for x, y in ((a, a), (a, b), (b, b))]
        sizes = (len(a), len(b))
        once = [np.ones((1, size)) for size in sizes]
        again = [1.0 * random.multinomial(n, np.full(n, 1 / n), RESAMPLES) for n in sizes]
        within_a, between, within_b = _means(angles, *once)
        degrees += (between - (within_a + within_b) / 2)[0] / len(groups)
        paper += (between - within_a)[0] / len(groups)
        within_a, between, within_b = _means(angles, *again)
        drawn += (between - (within_a + within_b) / 2) / len(groups)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return {
        "degrees": rounded(degrees), "low": rounded(low), "high": rounded(high),
        "paper": rounded(paper),
    }  # fmt: skip


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the angle of every pair in degrees, [layers, a, b]; 0 of a prompt with itself."""
    import numpy as np

    cosines = np.einsum("ald,bld->lab", a, b).clip(-1, 1)
    found: np.ndarray = np.rad2deg(np.arccos(cosines))
    if a is b:
        found[:, np.eye(len(a), dtype=bool)] = 0.0
    return found


def _means(
    angles: Sequence[np.ndarray], weights_a: np.ndarray, weights_b: np.ndarray
) -> list[np.ndarray]:
    """Return the mean angle within a, between a and b, and within b, [draws, layers].

    A prompt drawn twice makes no pair with itself: such pairs count in neither sum nor number.
    """
    import numpy as np

    found = []
    sides = ((weights_a, weights_a), (weights_a, weights_b), (weights_b, weights_b))
    for (left, right), matrix in zip(sides, angles, strict=True):
        total = np.stack([((left @ layer) * right).sum(1) for layer in matrix], axis=1)
        pairs = left.sum(1) * right.sum(1)
        if left is right:
            pairs = pairs - (left**2).sum(1)
        # One prompt drawn n times makes no pair; its spread is then nothing.
        found.append(total / np.maximum(pairs, 1)[:, None])
    return found


def initial_range(
    harm: Mapping[str, Sequence[float]], scary: Mapping[str, Sequence[float]]
) -> tuple[int, int] | None:
    """Return the range that ``RULE`` reads off the curves, or ``None`` where it names no layer."""
    layers, most = len(harm["degrees"]), max(harm["degrees"])
    is_there = [
        low > max(0.0, ONSET * most) and degrees > control
        for low, degrees, control in zip(
            harm["low"], harm["degrees"], scary["degrees"], strict=True
        )
    ]
    first = next((i for i in range(layers) if all(is_there[i : i + 2])), None)
    if first is None:
        return None
    reached = (i for i in range(first, layers) if harm["degrees"][i] >= PLATEAU * most)
    last = next(reached, layers - 1)
    return first, last


def middle_third(layers: int) -> tuple[int, int]:
    """Return where the search starts when the curves name no layer."""
    return layers // 3, max(layers // 3, 2 * layers // 3 - 1)


def rounded(values: Any) -> list[float]:
    """Return values as they are written down: plain floats, no -0."""
    return [round(float(value), _DIGITS) + 0.0 for value in values]
