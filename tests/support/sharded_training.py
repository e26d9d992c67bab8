"""Two processes on gloo that train sharded models under a guard; run by ``tests/e2e/test_sppft``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from support.guarded import steps, trained

import registry
from registry.errors import GuardError
from registry.live.wrapped import gathered

if TYPE_CHECKING:
    from pathlib import Path

RANKS = 2
CASES = tuple(
    (dtype, order)
    for dtype in ("float32", "bfloat16")
    for order in ("guarded, then sharded", "sharded, then guarded")
)


def run(rank: int, root: Path) -> None:
    """Train every case from ``root/DTYPE/{base,bundle}`` and write what happened, of one rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=RANKS)
    try:
        found = {f"{dtype}, {order}": train(root / dtype, order, dtype) for dtype, order in CASES}
        (root / f"rank{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def train(folder: Path, order: str, dtype: str) -> dict[str, Any]:
    """Return what one training under a guard did, and what was refused."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=getattr(torch, dtype))
    before = whole(model)
    if order.startswith("sharded"):
        shard(model)
        early = torch.optim.AdamW(model.parameters(), lr=0.05)
    guard = registry.guard(model, folder / "bundle")
    if order.startswith("guarded"):
        shard(model)
        early = torch.optim.AdamW(model.parameters(), lr=0.05)
    refused = [refusal(guard.attach, early)]
    optimizer = torch.optim.AdamW(trained(model), lr=0.05, weight_decay=0.1)
    guard.attach(optimizer)
    steps(model, optimizer, 3, accumulate=2, clip=1.0)
    evidence = guard.verify()
    after = whole(model)
    next(p for n, p in model.named_parameters() if ".layers.2." in n).requires_grad_(True)
    refused.append(refusal(optimizer.step))
    kinds = {type(parameter).__name__ for parameter in model.parameters()}
    return {
        "changed": sorted(name for name in before if not torch.equal(before[name], after[name])),
        "names": sorted(before),
        "classes": sorted(kinds),
        "evidence": evidence,
        "refused": refused,
    }


def shard(model: Any) -> None:
    """Shard each layer, and the rest, over all ranks (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)


def whole(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter, put together."""
    return {n: gathered(p.detach()).clone() for n, p in model.named_parameters()}


def refusal(act: Any, *arguments: Any) -> str:
    """Return the first line of the ``GuardError`` that ``act`` raises; empty if it does not."""
    try:
        act(*arguments)
    except GuardError as error:
        return error.message.splitlines()[0]
    return ""
