"""ESI masks of tiny models: real bundles of a random mask, and what files say of its places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.guarded import rows
from support.locks import CREATED, read_record

from registry.artifact.bundle import Bundle, make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.values import item_size
from registry.kinds import parse_body
from registry.kinds.esi_mask._matrices import matrices, selection_size
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._values import gather_values
from registry.kinds.esi_mask.body import MaskBody

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.kinds.esi_mask._matrices import Matrix

SCORE = {
    "name": "random", "version": 1, "unit": "none", "judge": None, "pairs": 1, "mean": 0.0,
    "seed": 0,
}  # fmt: skip


def mask_bundle(
    model: Any, folder: Path, *, rho: float = 0.02, seed: int = 0, with_values: bool = False
) -> Bundle:
    """Return a bundle of a random mask for ``model``, which is saved in ``folder`` as its base."""
    if not (folder / "config.json").is_file():
        model.save_pretrained(folder)
    record = read_record(folder)
    candidates = matrices(record.entries, sites_for(record.geometry.family), record.geometry)
    numels = [matrix.numel for matrix in candidates]
    chosen = np.random.default_rng(seed).choice(
        sum(numels), selection_size(rho, candidates), replace=False
    )
    bounds = np.cumsum([0, *numels])
    selected = {
        matrix.name: np.sort(chosen[(bounds[n] <= chosen) & (chosen < bounds[n + 1])]) - bounds[n]
        for n, matrix in enumerate(candidates)
    }
    mask = pack(selected, {m.name: m.numel for m in candidates}, what="test")
    with Checkpoint.open(folder) as base:
        values, digests = gather_values(candidates, mask, reader_of(base))
    body = MaskBody(
        matrices=candidates, mask=mask, rho=rho, family=record.geometry.family, score=SCORE,
        digests=digests, values=values if with_values else None,
    )  # fmt: skip
    manifest = Manifest(
        kind="esi-mask",
        created=CREATED,
        base=BaseIdentity(
            name="tiny-base", weights=record.weights, config=record.config_digest,
            tokenizer=record.tokenizer, chat_template=record.chat_template,
        ),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "test"}, "seed": seed, "data": []},
    )  # fmt: skip
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


def mask_body(model: Any, folder: Path, **options: Any) -> MaskBody:
    """Return the checked body of ``mask_bundle``."""
    return parse_body(mask_bundle(model, folder, **options))


def reader_of(checkpoint: Checkpoint) -> Callable[[Matrix, np.ndarray], bytes]:
    """Return what reads raw values of a matrix, at flat indices, from files."""

    def read(matrix: Matrix, indices: np.ndarray) -> bytes:
        raw = np.frombuffer(checkpoint.read(matrix.tensor), f"<u{item_size(matrix.dtype)}")
        return raw[matrix.in_tensor(indices)].tobytes()

    return read


def differing(model: Any, body: MaskBody, base: Path, folder: Path) -> dict[str, tuple[int, int]]:
    """Return how many selected, and how many other values of each matrix are not the base's.

    Read from files on both sides: the trained model is saved in ``folder``.
    """
    model.save_pretrained(folder)
    found = {}
    with Checkpoint.open(base) as before, Checkpoint.open(folder) as after:
        for matrix in body.matrices:
            every = np.arange(matrix.numel)
            size = f"<u{item_size(matrix.dtype)}"
            old, new = (
                np.frombuffer(reader_of(one)(matrix, every), size) for one in (before, after)
            )
            is_selected = body.mask.boolean(matrix.name)
            changed = old != new
            found[matrix.name] = (
                int(changed[is_selected].sum()), int(changed[~is_selected].sum())
            )  # fmt: skip
    return found


def totals(found: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the sums of ``differing``: selected, others."""
    return sum(one for one, _ in found.values()), sum(other for _, other in found.values())


def train(
    model: Any,
    optimizer: Any,
    count: int,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    clipped: Any = None,
    start: int = 0,
) -> None:
    """Train for ``count`` steps of ``accumulate`` rows of 8 tokens each.

    Args:
        model: What is trained.
        optimizer: What steps it.
        count: How many steps.
        accumulate: Rows whose gradients are summed.
        clip: Norm to which gradients are clipped.
        clipped: What is clipped; what the optimizer holds by default.
        start: Seed of the first row.
    """
    model.train()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(count):
        optimizer.zero_grad()
        for part in range(accumulate):
            tokens = rows(1, seed=start + 1 + step * accumulate + part, length=8)
            (model(input_ids=tokens, labels=tokens).loss / accumulate).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(held if clipped is None else clipped, clip)
        optimizer.step()
