"""Find the weights of an aligned base on which its safety depends most.

Source: Qi et al., arXiv 2604.08297, section on expected safety impact. What the published code does
otherwise (sums in bf16, a sampled threshold, one sigma for fused matrices, layers by position) is
described in docs/esi-mask.md and done right here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import ApplyError, UsageError
from registry.kinds.esi_mask._candidates import live_candidates, require_base
from registry.kinds.esi_mask._gradients import gradients, halves
from registry.kinds.esi_mask._impact import Impact, agreement, rounded, spread
from registry.kinds.esi_mask._imported import FORMAT as FOREIGN_FORMAT
from registry.kinds.esi_mask._imported import parse_imported as parse_foreign
from registry.kinds.esi_mask._imported import read_foreign
from registry.kinds.esi_mask._kept_sums import KeptSums
from registry.kinds.esi_mask._matrices import selection_size
from registry.kinds.esi_mask._packed import PackedMask, pack
from registry.kinds.esi_mask._scores import GuardLogOdds, RefusalLogOdds
from registry.kinds.esi_mask._topk import select
from registry.kinds.esi_mask._values import gather_values
from registry.kinds.esi_mask.body import MaskBody
from registry.live.compare import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from torch import nn

    from registry.checkpoint.architecture import Sites
    from registry.kinds.contract import Notes
    from registry.kinds.esi_mask._candidates import Candidates
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._scores import Score
    from registry.measure.prompts import Pair, PromptSet

    Progress = Callable[[str, int, int], None]

__all__ = [
    "FOREIGN_FORMAT",
    "Extraction",
    "GuardLogOdds",
    "RefusalLogOdds",
    "extract",
    "find_mask",
    "parse_foreign",
    "read_foreign",
    "require_base",
]

_WHAT = "the mask that was found"
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Extraction:
    """What ``extract`` made.

    Attributes:
        body: The mask.
        receipt: What the weights were ranked by, and which matrices had no gradient.
        data: The data it was made from, for the manifest's provenance.
    """

    body: MaskBody
    receipt: dict[str, Any]
    data: list[dict[str, Any]]


def extract(
    model: nn.Module,
    tokenizer: Any,
    data: PromptSet[Pair],
    *,
    seed: int,
    options: Mapping[str, Any],
    notes: Notes | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Find the mask by ``RefusalLogOdds``: see ``find_mask``, whose arguments these are."""
    score = RefusalLogOdds(tokenizer)
    return find_mask(model, score, data, seed=seed, options=options, notes=notes, progress=progress)


def find_mask(
    model: nn.Module,
    score: Score,
    data: PromptSet[Pair],
    *,
    seed: int,
    options: Mapping[str, Any],
    notes: Notes | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Rank every candidate weight by its expected safety impact, and select the largest.

    A model that FSDP2 sharded is asked by all of its processes together: each calls this with the
    same arguments, and each gets the same mask (see ``_shards`` on what is the same bit by bit).
    It is computed in the precision that the caller sharded it with.

    Args:
        model: The aligned base, read only.
        score: What safety is.
        data: Questions with a refusing and a complying answer.
        seed: Seed of the split into halves; recorded.
        options: ``rho`` (share of the candidates' weights), ``limit`` (0: all pairs),
            ``with_values``, ``halves``.
        notes: Where sums are kept meanwhile, so that an interrupted run goes on from them. Every
            process of a sharded model has notes of its own.
        progress: Called with (stage, done, all).

    Raises:
        UsageError: rho is no share, selects nothing, or there are too few pairs.
        UnsupportedArchitectureError, GeometryError, ApplyError: the model cannot be read, or no
            gradient reaches its weights.
        CompatibilityError: a pair cannot be asked in the model's form.
        NonFiniteResultError, NonFiniteTensorError: a score or a gradient is NaN or infinite.
    """
    rho = float(options["rho"])
    if not 0 < rho <= 1:
        raise UsageError(f"rho: expected a share above 0 and up to 1, got {rho!r}.")
    rows = data.first(int(options["limit"])) if options["limit"] else data
    parts = halves(len(rows), seed) if options["halves"] else None
    found = live_candidates(model)
    live, sites, shards, candidates = found.live, found.sites, found.shards, found.matrices
    k = selection_size(rho, candidates)
    if not k:
        raise UsageError(f"rho: expected a share of at least one weight, got {rho!r}.")
    summed = gradients(
        model,
        found.parameters,
        score,
        rows.rows,
        parts=parts,
        routers=found.routers,
        shards=shards,
        kept=None if notes is None else KeptSums(notes, {"data": rows.describe(), "seed": seed}),
        progress=_stage(progress, "differentiating the score"),
    )
    sigma = {
        matrix.name: spread(shards.whole(shards.held(live, sites, matrix), matrix))
        for matrix in candidates
    }
    impact = Impact(candidates, sites, sigma, summed, shards)
    unseen = impact.without_gradient()
    if len(unseen) == len(candidates):
        raise ApplyError(
            f"expected a gradient of {score.name} in some of {len(candidates):,} matrices, got "
            "none but zeros.",
            hint="Look whether the model's forward pass is cut from its weights, and of a sharded "
            "model whether its gradients are reduced: model.set_requires_gradient_sync(True)",
        )
    numels = {matrix.name: matrix.numel for matrix in candidates}
    tell = _stage(progress, "selecting weights")
    selected = _selected(impact, k, None, tell)
    mask = pack(selected, numels, what=_WHAT)
    values, digests = _values(found, mask)
    described = score.describe()
    body = MaskBody(
        matrices=candidates,
        mask=mask,
        rho=rho,
        family=sites.family,
        score={
            **described,
            "pairs": len(rows),
            "mean": rounded(sum(summed.scores) / len(summed.scores)),
            "seed": seed,
        },
        digests=digests,
        values=values if options["with_values"] else None,
        stability=None if parts is None else _stability(impact, k, numels, progress),
        coverage=_coverage(summed.routed, sites, candidates),
        mass=impact.mass(selected),
    )
    receipt = {
        "pairs": rows.describe(),
        "score": described,
        "scores": {"lowest": rounded(min(summed.scores)), "highest": rounded(max(summed.scores))},
        "sums": "float32",
        "without_gradient": {"matrices": len(unseen), "first": list(unseen[:_SHOWN])},
    }
    return Extraction(body, receipt, [rows.describe()])


def _selected(
    impact: Impact, k: int, part: int | None, progress: Callable[[int, int], None] | None
) -> dict[str, np.ndarray]:
    """Return the k largest scores by matrix; ``select`` looks at all of them a few times."""
    shards = impact.shards
    passes, all_of_it = 0, (3 if shards.is_one else 4) * len(impact.matrices)

    def scores() -> Iterable[tuple[str, np.ndarray]]:
        nonlocal passes
        before, passes = passes * len(impact.matrices), passes + 1
        for number, scored in enumerate(impact.scores(part), start=1):
            yield scored
            if progress is not None:
                progress(before + number, all_of_it)

    selected = select(scores, k, across=None if shards.is_one else shards)
    return shards.joined(selected, impact.matrices)


def _stability(
    impact: Impact, k: int, numels: Mapping[str, int], progress: Progress | None
) -> dict[str, Any]:
    """Return how far the masks of the two halves agree."""
    first, second = (
        _selected(impact, k, part, _stage(progress, f"selecting weights by half {part + 1}"))
        for part in (0, 1)
    )
    jaccard, chance = agreement(first, second, numels)
    pairs = list(impact.found.pairs)
    return {"pairs": pairs, "jaccard": rounded(jaccard), "chance": rounded(chance)}


def _values(found: Candidates, mask: PackedMask) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights at the selected places, raw bytes in the base's dtype, and digests."""
    import torch

    shards = found.shards

    def read(matrix: Matrix, indices: np.ndarray) -> bytes:
        part = shards.held(found.live, found.sites, matrix)
        chosen = shards.values(part, matrix, indices).to(torch_dtype(matrix.dtype))
        raw: bytes = chosen.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        return raw

    return gather_values(found.matrices, mask, read)


def _coverage(
    routed: Mapping[str, list[int]], sites: Sites, candidates: tuple[Matrix, ...]
) -> tuple[dict[str, Any], ...] | None:
    """Return how many tokens each expert was given, a row per layer that has experts.

    ``None`` without experts, and where a router does not say which ones it chose.
    """
    layers = sorted({m.layer for m in candidates if m.expert is not None and m.layer is not None})
    rows = []
    for layer in layers:
        names = [f"{sites.layer_prefix(layer)}.{router}" for router in sites.routers]
        tokens = next((routed[name] for name in names if name in routed), None)
        if tokens is None:
            return None
        rows.append({"layer": layer, "tokens": tokens})
    return tuple(rows) or None


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
