"""Two processes on gloo that train sharded models with a mask; run by ``tests/e2e/test_spa_set``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from support.masked import train
from support.sharded_training import refusal, shard, whole

import registry
from registry.live.wrapped import gathered

if TYPE_CHECKING:
    from pathlib import Path

RANKS = 2
STEPS = 200
CLIP = 0.05
CASES = tuple(
    (mode, order)
    for mode in ("preserve", "enhance")
    for order in ("guarded, then sharded", "sharded, then guarded")
)


def run(rank: int, root: Path) -> None:
    """Train every case from ``root/{base,bundle}`` and write what happened, of one rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=RANKS)
    try:
        found = {f"{mode}, {order}": trained_with(root, mode, order, rank) for mode, order in CASES}
        found["gradients alone"] = leak(root)
        found["whole"] = refuse_whole(root)
        (root / f"rank{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def trained_with(root: Path, mode: str, order: str, rank: int) -> dict[str, Any]:
    """Return what one training under a guard said; rank 0 saves the model it made."""
    model = load(root)
    if order.startswith("sharded"):
        shard(model)
    guard = registry.guard(model, root / "bundle", mode=mode)
    if order.startswith("guarded"):
        shard(model)
    is_long = order.startswith("sharded")
    optimizer = optimizer_of(guard, model, is_long=is_long)
    guard.attach(optimizer)
    train(model, optimizer, STEPS if is_long else 5, accumulate=1 if is_long else 2, clip=CLIP)
    evidence = guard.verify()
    said: dict[str, Any] = {"evidence": evidence, "report": guard.report().to_dict()}
    if mode == "enhance":
        body = guard.delta(seed=7)
        said |= {"new_values": body.new_values.tobytes().hex(), "how": body.delta}
        early = torch.optim.AdamW(model.parameters(), lr=0.01)
        said["refused"] = refusal(guard.attach, early)
    values = whole(model)
    if rank == 0:
        torch.save(values, root / f"{mode}, {order}.pt")
    return said


def leak(root: Path) -> int:
    """Return how many selected weights change where their gradients alone are zeroed."""
    model = load(root)
    shard(model)
    guard = registry.guard(model, root / "bundle")
    optimizer = optimizer_of(guard, model)
    guard._kept._work.bind()  # the hooks of the gradients, and no others
    before = selected(guard, model)
    train(model, optimizer, 5, accumulate=2, clip=CLIP)
    return int((selected(guard, model) != before).sum())


def selected(guard: Any, model: Any) -> torch.Tensor:
    """Return the selected values, where matrices and parameters have one name."""
    parameters = dict(model.named_parameters())
    return torch.cat(
        [
            gathered(parameters[matrix.name].detach()).reshape(-1)[
                torch.from_numpy(guard.body.indices(matrix.name).astype("int64"))
            ]
            for matrix in guard.body.matrices
        ]
    )


def refuse_whole(root: Path) -> str:
    """Return how selected weights are refused that every process has whole."""
    guard = registry.guard(load(root), root / "bundle", mode="enhance")
    return refusal(guard.parameters)


def optimizer_of(guard: Any, model: Any, *, is_long: bool = True) -> torch.optim.Optimizer:
    """Return AdamW with decay of what is trained; SGD, on which clipping tells, of short runs."""
    trained = guard.parameters() if guard.has_vectors else model.parameters()
    if not is_long:
        return torch.optim.SGD(trained, lr=1.0, momentum=0.9)
    return torch.optim.AdamW(trained, lr=0.02, weight_decay=0.1)


def load(root: Path) -> Any:
    """Return the base."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
