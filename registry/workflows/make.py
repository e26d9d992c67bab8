"""Make an artifact from a base model, and measure the strength it may be used at."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from registry import __version__
from registry.artifact.bundle import make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.digest import short
from registry.errors import BaseModelMismatchError, UsageError
from registry.kinds import kind_of, parse_body
from registry.measure.prompts import PAIRS, load_pairs, load_prompts, read_pairs, read_prompts
from registry.measure.scorer import SCORER
from registry.moment import stamp
from registry.workflows.unfinished import Unkept

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.digest import Digest
    from registry.kinds.contract import Notes
    from registry.measure.prompts import PromptSet
    from registry.workflows.guard import Guard
    from registry.workflows.identify import Identified

    Progress = Callable[[str, int, int], None]


def extract(
    kind: str,
    base: Identified,
    model: Any,
    tokenizer: Any,
    *,
    base_name: str,
    seed: int,
    options: Mapping[str, Any],
    data: PromptSet[Any] | None = None,
    score: Any = None,
    notes: Notes | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Return a draft bundle of ``kind`` made from a base model.

    Args:
        kind: Name of the kind.
        base: The base as it was read.
        model: The same base, live.
        tokenizer: Its tokenizer.
        base_name: What to call the base in the manifest; a declaration.
        seed: Seed of every random choice; recorded.
        options: The kind's options (``KINDS[kind].options``).
        data: Rows of the kind's form; its packaged set by default (``KINDS[kind].data``).
        score: What an ESI mask ranks weights by, in place of its default score.
        notes: Where measurements are kept that an interrupted run need not repeat.
        progress: Called with (stage, done, all).

    Raises:
        UsageError: artifacts of this kind are made by no score.
        SafelatchError: see the kind's ``extract``.
    """
    record, verb = base.record, kind_of(kind).verb("extract")
    require_base = getattr(verb, "require_base", None)
    if require_base is not None:
        require_base(model, record)
    rows = packaged_data(kind) if data is None else data
    kept = Unkept() if notes is None else notes
    given = {"seed": seed, "options": options, "notes": kept, "progress": progress}
    if score is None:
        made = verb.extract(model, tokenizer, rows, **given)
    elif hasattr(verb, "find_mask"):
        made = verb.find_mask(model, score, rows, **given)
    else:
        raise UsageError(
            f"expected no score for a {kind}, whose search has its own.", hint="Leave score= out."
        )
    created = stamp()
    manifest = Manifest(
        kind=kind,
        created=created,
        base=BaseIdentity(
            name=base_name,
            weights=record.weights,
            config=record.config_digest,
            tokenizer=record.tokenizer,
            chat_template=record.chat_template,
        ),
        geometry=record.geometry.to_dict(),
        body=made.body.to_manifest(),
        files={},
        receipts=({"type": "extraction", "created": created, **made.receipt},),
        provenance={
            "tool": tool_versions(),
            "seed": seed,
            "data": made.data,
            "options": dict(options),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        },
    )
    return make_bundle(manifest, made.body.to_tensors(), record.to_tensors())


def delta_of(
    bundle: Bundle, guard: Guard, *, data: Digest | None = None, seed: int | None = None
) -> Bundle:
    """Return a draft bundle of what ``guard`` trained of the artifact ``bundle``.

    Args:
        bundle: What the guard was made with.
        guard: A guard that trains vectors of its own, after training.
        data: Digest of what it was trained on; a declaration.
        seed: Seed of the training; a declaration.

    Raises:
        UsageError: the guard is of another artifact, or trained nothing.
        VerificationError: something else changed meanwhile.
        NonFiniteResultError: a trained value is NaN or infinite.
    """
    manifest = bundle.manifest
    if guard.digest != manifest.digest:
        raise UsageError(
            f"expected a guard of {manifest.label} ({short(manifest.digest)}), got one of "
            f"{guard.label} ({short(guard.digest)}).",
            hint="Give the bundle that the guard was made with.",
        )
    body = guard.delta(data=data, seed=seed)
    receipt = {
        "type": "training",
        "created": stamp(),
        "tool": tool_versions(),
        "of": manifest.digest,
        **guard.verify(),
    }
    made = replace(
        manifest,
        name=None,
        version=None,
        created=stamp(),
        body=body.to_manifest(),
        files={},
        receipts=(*manifest.receipts, receipt),
    )
    return make_bundle(made, body.to_tensors(), bundle.base_tensors())


def describe_run(
    kind: str, base: Identified, model: Any, *, seed: int, options: Mapping[str, Any],
    data: PromptSet[Any],
) -> dict[str, Any]:  # fmt: skip
    """Return what a run of ``extract`` is of: one that is any different measures other things."""
    return {
        "kind": kind,
        "base": base.record.weights,
        "config": base.record.config_digest,
        "tokenizer": base.record.tokenizer,
        "chat_template": base.record.chat_template,
        "packaged": {name: load_prompts(name).digest for name in ("harmful", "harmless")},
        "scorer": SCORER,
        "seed": seed,
        "options": dict(options),
        "data": data.describe(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "tool": tool_versions(),
    }


def packaged_data(kind: str) -> PromptSet[Any]:
    """Return the rows that artifacts of ``kind`` are made from by default."""
    row = kind_of(kind)
    whole: PromptSet[Any] = load_pairs() if row.data == PAIRS else load_prompts(row.data)
    return whole.split(*row.splits)


def read_data(kind: str, path: Path) -> PromptSet[Any]:
    """Return the rows of a user's own file, of the form that ``kind`` is made from.

    Raises:
        NotFoundError, SchemaViolationError, UnsafeFormatError: see ``measure.prompts``.
    """
    row = kind_of(kind)
    whole: PromptSet[Any] = read_pairs(path) if row.data == PAIRS else read_prompts(path)
    return whole.split(*row.splits)


def calibrate(
    bundle: Bundle,
    base: Identified,
    model: Any,
    tokenizer: Any,
    *,
    budget: Any,
    seed: int,
    limit: int | None = None,
    max_new_tokens: int = 40,
    grid: tuple[float, ...] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Return ``bundle`` with a measured strength and the receipt of its sweep, as a draft.

    Args:
        bundle: A draft or a published bundle.
        base: The base it was made from, as read.
        model: The same base, live; unlocked before and after.
        tokenizer: Its tokenizer.
        budget: What protection may cost (the kind's ``Budget``).
        seed: Seed of the random control; recorded.
        limit: Use only the first this many prompts of each set; recorded.
        max_new_tokens: Length of the answers that are scored.
        grid: Strengths to try; the kind's by default.
        progress: Called with (stage, done, all).

    Raises:
        BaseModelMismatchError: ``base`` is not the base of ``bundle``.
        CalibrationError: no strength is within the budget.
    """
    require_base_of(bundle, base)
    body = parse_body(bundle)
    sets = {
        name: load_prompts(name).split("calibrate") for name in ("harmful", "harmless", "scary")
    }
    if limit is not None:
        sets = {name: prompts.first(limit) for name, prompts in sets.items()}
    extra: dict[str, Any] = {} if grid is None else {"grid": grid}
    calibration = kind_of(bundle.manifest.kind).verb("extract").calibrate(
        model, tokenizer, body, **sets, budget=budget, seed=seed,
        max_new_tokens=max_new_tokens, progress=progress, **extra,
    )  # fmt: skip
    receipt = {
        "type": "calibration",
        "created": stamp(),
        "tool": tool_versions(),
        "dtype": str(model.dtype).removeprefix("torch."),
        **calibration.receipt,
    }
    kept = [r for r in bundle.manifest.receipts if r["type"] != "calibration"]
    return bundle.with_manifest(
        replace(
            bundle.manifest,
            name=None,
            version=None,
            body=calibration.body.to_manifest(),
            receipts=(*kept, receipt),
        )
    )


def require_base_of(bundle: Bundle, model: Identified) -> None:
    """Check that ``model`` is the base that ``bundle`` was made from, before it is loaded.

    Raises:
        BaseModelMismatchError: it is another model.
    """
    promised = bundle.manifest.base
    if model.record.weights != promised.weights:
        raise BaseModelMismatchError(
            f"expected the base {promised.name} ({short(promised.weights)}), got {model.locator} "
            f"({short(model.record.weights)}): strength is measured on the base itself.",
            hint=f"Name that base: --base {promised.name}",
        )


def tool_versions() -> dict[str, str]:
    """Return the versions a receipt needs to be understood later."""
    packages = ("torch", "transformers", "tokenizers", "numpy")
    return {"safelatch": __version__, **{package: version(package) for package in packages}}
