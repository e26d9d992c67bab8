"""Locate the safety layers of an aligned base model.

Source: Safety Layers (Li et al., arXiv 2408.17003), sections 3.2 to 3.4. Curves say where to begin,
scaling says which range it is, and controls say whether it is one: a range that changes refusals no
more than its equals elsewhere is not written down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes, digest_json
from registry.errors import UsageError
from registry.kinds.safety_layers import _curves, _search
from registry.kinds.safety_layers._published import PUBLISHED
from registry.kinds.safety_layers._scaling import plan_scaling, scaled
from registry.kinds.safety_layers.body import LayersBody
from registry.live.layers import live_layers
from registry.measure.generate import answers
from registry.measure.prompts import load_prompts
from registry.measure.scorer import SCORER, is_refusal
from registry.measure.statistics import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from registry.kinds.contract import Notes
    from registry.measure.prompts import Prompt, PromptSet

    Progress = Callable[[str, int, int], None]
    Flags = tuple[bool, ...]

__all__ = ["PUBLISHED", "Extraction", "extract"]

MOST_PROMPTS = 10_000
"""Most over-rejection prompts: the exact test takes the square of their number."""
_BATCH = 32  # conversations decoded together: the same for every point, so they compare


@dataclass(frozen=True, slots=True)
class Extraction:
    """What ``extract`` made.

    Attributes:
        body: The range with its measurement.
        receipt: How each module was scaled, and what the range does to refusals.
        data: The data it was made from, for the manifest's provenance.
    """

    body: LayersBody
    receipt: dict[str, Any]
    data: list[dict[str, Any]]


def extract(
    model: nn.Module,
    tokenizer: Any,
    data: PromptSet[Prompt],
    *,
    seed: int,
    options: Mapping[str, Any],
    notes: Notes,
    progress: Progress | None = None,
) -> Extraction:
    """Find the closed range of layers that carries refusals.

    Args:
        model: The aligned base. Its layers are scaled meanwhile, and afterwards as they were.
        tokenizer: Its tokenizer.
        data: Harmless prompts that sound harmful: refusals of these are counted.
        seed: Seed of every draw; recorded.
        options: ``alpha`` (0: by its rule), ``answer_tokens``, ``limit`` (0: all rows of every
            set), ``attention_output``, ``norms``.
        notes: Where counts and curves are kept: an interrupted search goes on behind them.
        progress: Called with (stage, done, all).

    Raises:
        LocalizationError: no range changes refusals more than the baseline and its controls do.
        UsageError: too few prompts, or an alpha that scales nothing.
        UnsupportedArchitectureError, TargetModuleMissingError, ApplyError: layers of this model
            cannot be scaled.
        CompatibilityError, NonFiniteResultError: the model cannot be asked.
        VerificationError: a weight is not what it was before scaling.
    """
    alpha, limit = float(options["alpha"]), int(options["limit"])
    attention_output = bool(options["attention_output"])
    if alpha == 1 or not math.isfinite(alpha):
        raise UsageError(
            "expected an alpha other than 1, which scales nothing, or 0 for the rule's; "
            f"got {alpha:g}."
        )
    sets = {
        "harmful": load_prompts("harmful").split("make"),
        "harmless": load_prompts("harmless").split("make"),
        "scary": data,
    }
    if limit:
        sets = {name: rows.first(limit) for name, rows in sets.items()}
    if len(sets["scary"]) > MOST_PROMPTS:
        raise UsageError(
            f"expected at most {MOST_PROMPTS:,} prompts in {data.name}, got {len(data):,}.",
            hint=f"Use the first of them: --limit {MOST_PROMPTS}",
        )
    layers = live_layers(model)
    scaling = plan_scaling(model, attention_output=attention_output)
    seen = _kept(
        notes, "curves", lambda: _measured_curves(model, tokenizer, sets, seed, progress),
        lambda held: _are_curves(held, len(layers)),
    )  # fmt: skip
    start = _curves.initial_range(seen["gap"], seen["controls"]["scary"])
    initial = start or _curves.middle_third(len(layers))
    asking = _Asking(
        model, tokenizer, sets["scary"].texts, int(options["answer_tokens"]), attention_output,
        notes, progress,
    )  # fmt: skip
    found = _search.search(
        asking.scaled,
        asking.baseline(),
        layers=len(layers),
        initial=initial,
        alpha=alpha or None,
        seed=seed,
    )
    described = {name: rows.describe() for name, rows in sets.items()}
    measurement = {
        "template": _template(tokenizer),
        "scorer": SCORER,
        "max_new_tokens": asking.answer_tokens,
        "prompts": described,
        "n": len(sets["scary"]),
        **seen,
        "initial": {
            "first": initial[0],
            "last": initial[1],
            "rule": _curves.FALLBACK if start is None else _curves.RULE,
            "from_curves": start is not None,
        },
        "scaling": {
            "mode": scaling.mode,
            "alpha": found.alpha,
            "attention_output": attention_output,
            "rule": found.rule,
        },
        "points": [point.to_dict() for point in found.points],
        "resampled": found.resampled,
        "effect": found.effect,
        "seed": seed,
    }
    body = LayersBody(
        first=found.first,
        last=found.last,
        layers=len(layers),
        family=layers.sites.family,
        norms=str(options["norms"]),
        measurement=measurement,
        refused=_flags([point.flags for point in found.points]),
    )
    receipt = {
        "scaled": scaling.modules,
        "refused": {
            name: Rate(found.effect[name], len(sets["scary"])).to_dict()
            for name in ("baseline", "range")
        },
    }
    return Extraction(body, receipt, list(described.values()))


@dataclass(frozen=True, slots=True)
class _Asking:
    """Which over-rejection prompts the model refuses, scaled and not."""

    model: nn.Module
    tokenizer: Any
    prompts: Sequence[str]
    answer_tokens: int
    attention_output: bool
    notes: Notes
    progress: Progress | None

    def baseline(self) -> Flags:
        """Return which are refused by the model as it is."""
        return self._refused("refused", "as it is")

    def scaled(self, first: int, last: int, alpha: float) -> Flags:
        """Return which are refused with layers first to last, both included, scaled by alpha."""
        stage = f"layers {first} to {last} by {alpha:g}"
        key = f"refused {first} {last} {alpha!r}"
        scaling = scaled(self.model, first, last, alpha, attention_output=self.attention_output)
        return self._refused(key, stage, scaling)

    def _refused(self, key: str, stage: str, around: Any = None) -> Flags:
        from contextlib import nullcontext

        def asked() -> str:
            with around or nullcontext():
                given = answers(
                    self.model, self.tokenizer, self.prompts, max_new_tokens=self.answer_tokens,
                    batch_size=_BATCH, progress=_stage(self.progress, stage),
                )  # fmt: skip
            return "".join(str(int(is_refusal(answer))) for answer in given)

        def is_one_each(held: Any) -> bool:
            return isinstance(held, str) and len(held) == len(self.prompts) and set(held) <= {*"01"}

        return tuple(flag == "1" for flag in _kept(self.notes, key, asked, is_one_each))


def _kept(
    notes: Notes, key: str, measure: Callable[[], Any], fits: Callable[[Any], bool]
) -> Any:  # fmt: skip
    """Return what is noted under ``key``; measured and noted now if nothing is.

    Raises:
        UsageError: what is noted is nothing that was measured here.
    """
    found = notes.recall(key)
    if found is None:
        found = measure()
        notes.keep(key, found)
    elif not fits(found):
        raise UsageError(
            f"expected notes that an interrupted search left, got something else under {key!r}.",
            hint="Remove the file that ends in .unfinished beside --out, and begin anew.",
        )
    return found


def _are_curves(held: Any, layers: int) -> bool:
    """Return whether notes have the form of ``_measured_curves``: numbers, one per layer."""

    def form(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: form(item) for name, item in value.items()}
        is_row = isinstance(value, list) and len(value) == layers
        return is_row and all(type(item) in {int, float} for item in value)

    pair, angles = {"mean": True, "std": True}, {"degrees": True, "low": True, "high": True}
    return bool(
        form(held)
        == {
            "curves": {"harmless": pair, "harmful": pair, "between": pair},
            "gap": {**angles, "paper": True},
            "controls": {"form": angles, "scary": angles},
        }
    )


def _measured_curves(
    model: nn.Module,
    tokenizer: Any,
    sets: Mapping[str, PromptSet[Prompt]],
    seed: int,
    progress: Progress | None,
) -> dict[str, Any]:
    modules = live_layers(model).modules
    outputs = {
        name: _curves.unit_outputs(
            _curves.last_token_outputs(
                model, tokenizer, rows.texts, modules,
                progress=_stage(progress, f"outputs of {name} prompts"),
            ),
            rows.rows,
        )
        for name, rows in sets.items()
    }  # fmt: skip
    harmless = outputs["harmless"]
    scary = _curves.gap(harmless, outputs["scary"], seed=seed)
    form = _curves.form_gap(harmless, seed=seed)
    return {
        "curves": _curves.curves(harmless, outputs["harmful"]),
        "gap": _curves.gap(harmless, outputs["harmful"], seed=seed),
        "controls": {
            name: {figure: control[figure] for figure in ("degrees", "low", "high")}
            for name, control in (("form", form), ("scary", scary))
        },
    }


def _template(tokenizer: Any) -> dict[str, str | None]:
    """Return the name of the prompts' form, and the digest of a chat template's text."""
    template = tokenizer.chat_template
    if template is None:
        return {"name": "Question: … Answer:", "digest": None}
    if isinstance(template, str):
        return {"name": "chat template", "digest": digest_bytes(template.encode())}
    return {"name": "chat template", "digest": digest_json(template)}


def _flags(rows: Sequence[Flags]) -> Any:
    import numpy as np

    return np.array(rows, dtype=np.uint8)


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
