"""Two processes on gloo that look for the mask of one sharded model together.

Run by ``tests/e2e/test_esi_mask_distributed``; ``sharded_training`` does the same for guards.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from support.families import family_model
from support.planted_mask import build_planted_mask, build_tokens, mask_pairs
from support.sharded_training import shard
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

from registry.errors import SafelatchError
from registry.kinds.esi_mask import _kept_sums
from registry.kinds.esi_mask._candidates import live_candidates
from registry.kinds.esi_mask._gradients import gradients
from registry.kinds.esi_mask._scores import RefusalLogOdds
from registry.kinds.esi_mask.extract import extract
from registry.workflows.unfinished import Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 2
OPTIONS = {"rho": 0.02, "limit": 0, "with_values": True, "halves": True}
PAIRS = 4


def planted(dtype: torch.dtype) -> Any:
    """Return the planted model."""
    return build_planted_mask().model.to(dtype)


def tied() -> Any:
    """Return a Llama with matrices of zeros, whose scores are 0: ties in both processes."""
    model = family_model("llama")
    with torch.no_grad():
        for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"):
            model.get_parameter(f"model.{name}.weight").zero_()
    return model


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "float32": (lambda: planted(torch.float32), {}),
    "bfloat16": (lambda: planted(torch.bfloat16), {}),
    "fused": (lambda: family_model("phi3"), {}),
    "experts": (lambda: family_model("mixtral"), {}),
    "ties": (tied, {"rho": 0.97, "halves": False}),
}


def found(model: Any, options: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Return all that an extraction made, as JSON values."""
    made = extract(
        model, build_tokens(), mask_pairs(PAIRS), seed=0, options=OPTIONS | options, **given
    )
    tensors = made.body.to_tensors()
    return {
        "manifest": made.body.to_manifest(),
        "receipt": made.receipt,
        "tensors": {name: array.tobytes().hex() for name, array in tensors.items()},
    }


def run(rank: int, root: Path) -> None:
    """Find the mask of every case and write what was found, of one rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=RANKS)
    try:
        said: dict[str, Any] = {}
        for name, (build, options) in CASES.items():
            model = build()
            shard(model)
            said[name] = found(model, options)
        said["parts"] = parts()
        said["refused"] = refused(rank)
        said["resumed"] = resumed(root / f"notes{rank}" / "out")
        (root / f"rank{rank}.json").write_text(json.dumps(said))
    finally:
        dist.destroy_process_group()


def parts() -> list[int]:
    """Return how many numbers of the sums are here, and how many weights there are in all."""
    model = planted(torch.float32)
    shard(model)
    candidates = live_candidates(model)
    made = gradients(
        model, candidates.parameters, RefusalLogOdds(build_tokens()), mask_pairs(1).rows,
        shards=candidates.shards,
    )  # fmt: skip
    weights = sum(matrix.numel for matrix in candidates.matrices)
    return [sum(total.numel() for total in made.sums[0].values()), weights]


def refused(rank: int) -> list[str]:
    """Return the first lines of what is said to models that are sharded otherwise, or broken."""
    in_part, across, unreduced, broken = (planted(torch.float32) for _ in range(4))
    for layer in in_part.model.layers:
        fully_shard(layer)
    fully_shard(across, shard_placement_fn=lambda p: Shard(p.ndim - 1))
    shard(unreduced)
    unreduced.set_requires_gradient_sync(False)
    shard(broken)
    if rank == 1:
        weight = broken.model.layers[0].mlp.up_proj.weight.to_local()
        with torch.no_grad():
            weight[0, 0] = float("nan")
    return [refusal(model) for model in (in_part, across, unreduced, broken)]


def refusal(model: Any) -> str:
    """Return the first two lines of the error."""
    try:
        found(model, {})
    except SafelatchError as error:
        return "\n".join([type(error).__name__, *error.message.splitlines()[:2]])
    return ""


def resumed(folder: Path) -> dict[str, Any]:
    """Return what is found by a run that goes on behind an interrupted one."""
    _kept_sums._EVERY_S = _kept_sums._TIMES_COST = 0
    done: list[int] = []

    def stop_at(last: int) -> Callable[[str, int, int], None]:
        def progress(stage: str, number: int, _total: int) -> None:
            if stage == "differentiating the score":
                done.append(number)
                if number == last:
                    raise KeyboardInterrupt

        return progress

    for last in (2, PAIRS + 1):
        model = planted(torch.float32)
        shard(model)
        notes = Unfinished(folder, {})
        with suppress(KeyboardInterrupt):
            made = found(model, {}, notes=notes, progress=stop_at(last))
    notes.finish()
    return {
        "found": made,
        "done": done,
        "left": [path.name for path in folder.parent.iterdir()],
    }
