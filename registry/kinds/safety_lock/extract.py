"""Make a safety lock from an aligned base model.

Source: SafetyLock (arXiv 2410.10343), sections on probing, directions and intervention; the
published code's faults (unseeded row splits, wrong token windows, fp16 statistics, arbitrary ties)
are described in docs/safety-lock.md and done right here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.kinds.safety_lock._activations import head_rows
from registry.kinds.safety_lock._calibrate import Budget, Calibration, calibrate, random_control
from registry.kinds.safety_lock._directions import directions_and_scales, figures
from registry.kinds.safety_lock._holds import HOLD_PAIRS, Bounds, Holds
from registry.kinds.safety_lock._probe import score_heads
from registry.kinds.safety_lock._safelock import FORMAT as FOREIGN_FORMAT
from registry.kinds.safety_lock._safelock import parse_imported as parse_foreign
from registry.kinds.safety_lock._safelock import read_foreign
from registry.kinds.safety_lock.apply import output_shifts
from registry.kinds.safety_lock.body import LockBody
from registry.live.sites import model_geometry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from registry.kinds.contract import Notes
    from registry.measure.prompts import Pair, PromptSet

__all__ = [
    "FOREIGN_FORMAT",
    "Budget",
    "Calibration",
    "Extraction",
    "calibrate",
    "extract",
    "parse_foreign",
    "random_control",
    "read_foreign",
]


@dataclass(frozen=True, slots=True)
class Extraction:
    """What ``extract`` made.

    Attributes:
        body: The lock, uncalibrated.
        receipt: What was measured while making it.
        data: The data it was made from, for the manifest's provenance.
    """

    body: LockBody
    receipt: dict[str, Any]
    data: list[dict[str, Any]]


def extract(
    model: nn.Module,
    tokenizer: Any,
    data: PromptSet[Pair],
    *,
    seed: int,
    options: Mapping[str, Any],
    notes: Notes | None = None,  # noqa: ARG001 -- the contract's: it takes a minute
    progress: Callable[[str, int, int], None] | None = None,
) -> Extraction:
    """Find the heads that tell refusing from complying, their directions and scales.

    Args:
        model: The aligned base, read only.
        tokenizer: Its fast tokenizer.
        data: Questions with a refusing and a complying answer.
        seed: Seed of the cross-validation's folds; recorded.
        options: ``heads`` (K), ``answer_tokens`` (r), ``folds``, ``repeats``.
        notes: Not used.
        progress: Called with (stage, done, all).

    Raises:
        UsageError: too few usable pairs or heads for these options.
        UnsupportedArchitectureError, GeometryError, ApplyError: the model cannot be read.
    """
    count, r = int(options["heads"]), int(options["answer_tokens"])
    geometry = model_geometry(model)
    if count > geometry.layers * geometry.heads:
        raise UsageError(
            f"expected at most {geometry.layers * geometry.heads} heads in this model, got {count}."
        )
    rows, used = head_rows(
        model,
        tokenizer,
        data.rows,
        geometry,
        answer_tokens=r,
        progress=_stage(progress, "reading activations"),
    )
    if len(used) < int(options["folds"]):
        raise UsageError(
            f"expected at least {options['folds']} usable pairs, got {len(used)} of {len(data)}.",
            hint="Give more pairs with --data FILE, or lower --folds.",
        )
    scores = score_heads(
        rows,
        folds=int(options["folds"]),
        repeats=int(options["repeats"]),
        seed=seed,
        progress=_stage(progress, "probing heads"),
    )
    chosen = scores.ranking()[:count]
    directions, sigma = directions_and_scales(rows, chosen)
    heads = tuple(divmod(index, geometry.heads) for index in chosen)
    probe = {
        "method": "logistic regression, L2, C=1, no standardisation; folds by pair",
        "folds": min(int(options["folds"]), len(used)),
        "repeats": int(options["repeats"]),
        "accuracy": [round(float(scores.accuracy[index]), 6) for index in chosen],
        "standard_error": [round(float(scores.standard_error[index]), 6) for index in chosen],
        "median_accuracy": round(float(scores.accuracy.median()), 6),
    }
    body = LockBody(
        heads=heads,
        directions=directions.numpy(),
        sigma=sigma.numpy(),
        head_dim=geometry.head_dim,
        alpha=None,
        alpha_range=None,
        answer_tokens=r,
        probe=probe,
    )
    shifts = output_shifts(model, body, geometry, alpha=1.0)
    norms = tuple(float(f"{float(shift.norm()):.6g}") for shift in shifts.values())
    ids = used[:HOLD_PAIRS]
    base = figures(model, tokenizer, body, [row for row in data.rows if row.id in ids])
    source = {"name": data.name, "version": data.version, "digest": data.digest}
    holds = Holds(pairs=source, ids=tuple(ids), base=base, bounds=Bounds())
    body = replace(body, shift_norms=norms, holds=holds)
    receipt = {"pairs": data.describe(), "pairs_used": len(used), "pairs_given": len(data)}
    return Extraction(body, receipt, [data.describe()])


def _stage(
    progress: Callable[[str, int, int], None] | None, name: str
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
