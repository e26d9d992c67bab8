"""SPPFT against full fine-tuning: the same base, data, steps, order and optimiser, several seeds.

    python benchmarks/sppft.py MODEL --artifact DIR --attack implicit --out results.jsonl

MODEL is the base that the safety-layers artifact in DIR was made from. ``implicit`` is the paper's
D_I: harmless prompts, each answered by the base itself behind "Sure, the answer is:".
``harmful`` is its D_H: harmless prompts with the base's own answers, and a share of harmful
prompts with complying ones. ``full`` trains all parameters, ``sppft`` the same but what
``registry.guard`` protects, ``control`` as many layers elsewhere. Each finished run is a line in
OUT and is not done again; the table is printed from OUT. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry import guard
from registry.artifact.bundle import read_bundle
from registry.kinds import parse_body
from registry.measure.conversation import answer_tokens, conversation_text
from registry.measure.evaluate import SETS, compare, evaluate
from registry.measure.generate import answers
from registry.measure.prompts import load_pairs, load_prompts
from registry.measure.scorer import is_refusal
from registry.measure.statistics import Rate, bootstrap_mean_difference, mcnemar_exact
from registry.measure.utility import answer_nll

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Example = tuple[str, str]

PREFIX = "Sure, the answer is: "
LENGTH = 96
"""Most tokens of a training conversation."""
HELD_OUT = 24
"""Harmless prompts whose answers are trained on by nobody: the task that is learned."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="SPPFT against full fine-tuning.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--attack", choices=("implicit", "harmful"), default="implicit")
    parser.add_argument("--share", type=float, default=0.2, help="harmful rows, of all")
    parser.add_argument("--arms", nargs="+", default=["full", "sppft"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer that is scored")
    parser.add_argument("--limit", type=int, default=0, help="prompts of each set; 0: all")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def open_model(path: Path) -> Any:
    """Return the base in bf16, in which it is trained and measured: small updates are rounded."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def report_sets(limit: int) -> dict[str, Any]:
    """Return the prompts that are reported on: nothing was made from them, nothing is trained."""
    sets = {name: load_prompts(name).split("report") for name in SETS}
    return {name: rows.first(limit) for name, rows in sets.items()} if limit else sets


def own_answers(model: Any, tokenizer: Any) -> list[Example]:
    """Return harmless prompts and the base's own answers, those that answer."""
    prompts = load_prompts("harmless").split("make", "calibrate").texts
    given = answers(model, tokenizer, prompts, max_new_tokens=48, batch_size=32)
    return [(p, a) for p, a in zip(prompts, given, strict=True) if a and not is_refusal(a)]


def training_rows(kind: str, own: Sequence[Example], share: float) -> list[Example]:
    if kind == "implicit":
        return [(prompt, PREFIX + answer) for prompt, answer in own]
    harmful = [(row.prompt, row.complying) for row in load_pairs().split("make", "calibrate").rows]
    count = min(len(harmful), round(len(own) * share / (1 - share)))
    return [*own, *harmful[:count]]


def tokens_of(tokenizer: Any, row: Example) -> tuple[list[int], list[int]]:
    """Return token ids and labels; only the answer is learned."""
    ids, inside = answer_tokens(tokenizer, *conversation_text(tokenizer, *row))
    labels = [-100] * inside[0] + ids[inside[0] : inside[-1] + 1]
    return ids[: inside[-1] + 1][:LENGTH], labels[:LENGTH]


def batches(rows: Sequence[Any], size: int, seed: int) -> Iterator[list[Any]]:
    order, drawn = torch.Generator().manual_seed(seed), []
    while True:
        while len(drawn) < size:
            drawn += torch.randperm(len(rows), generator=order).tolist()
        yield [rows[index] for index in drawn[:size]]
        del drawn[:size]


def padded(batch: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Return rows of token ids and labels as what a model takes, filled up on the right."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for index, (tokens, targets) in enumerate(batch):
        ids[index, : len(tokens)] = torch.tensor(tokens)
        labels[index, : len(targets)] = torch.tensor(targets)
        mask[index, : len(tokens)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def train(
    model: Any, rows: Sequence[Any], given: argparse.Namespace, seed: int, kept: Any
) -> float:
    """Train what may be trained; return the seconds it took."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=given.rate, weight_decay=given.weight_decay)
    if kept is not None:
        kept.attach(optimizer)
    began, stream = time.perf_counter(), batches(rows, given.batch, seed)
    model.train()
    for _ in range(given.steps):
        loss = model(**padded(next(stream)), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return time.perf_counter() - began


def measured(model: Any, tokenizer: Any, given: argparse.Namespace, own: Any, task: Any) -> Any:
    """Return refusals, utility and what was learned of the task."""
    found = evaluate(
        model, tokenizer, **report_sets(given.limit), own_answers=own, max_new_tokens=given.tokens,
        batch_size=32,
    )  # fmt: skip
    return found, answer_nll(model, tokenizer, task, 16)


def freeze_elsewhere(model: Any, body: Any) -> tuple[int, int]:
    """Freeze as many layers as the range has, at the end of the model that is farther from it."""
    width = body.last - body.first + 1
    first = 0 if body.first >= body.layers - 1 - body.last else body.layers - width
    for layer in model.model.layers[first : first + width]:
        layer.requires_grad_(requires_grad=False)
    return first, first + width - 1


def run(given: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    bundle = read_bundle(given.artifact)
    body = parse_body(bundle)
    done = {(r["arm"], r["seed"]) for r in read(given.out) if r["attack"] == given.attack}
    own = own_answers(open_model(given.model), tokenizer)
    trained, held = own[HELD_OUT:], own[:HELD_OUT]
    rows = [tokens_of(tokenizer, row) for row in training_rows(given.attack, trained, given.share)]
    task = training_rows(given.attack, held, 0.0)
    base, task_before = measured(open_model(given.model), tokenizer, given, None, task)
    print("base", {name: str(getattr(base, name).rate.successes) for name in SETS}, flush=True)
    for seed in given.seeds:
        for arm in given.arms:
            if (arm, seed) in done:
                continue
            torch.manual_seed(seed)
            model, kept = open_model(given.model), None
            if arm == "sppft":
                kept = guard(model, bundle)
            elsewhere = freeze_elsewhere(model, body) if arm == "control" else None
            seconds = train(model, rows, given, seed, kept)
            share = sum(p.numel() for p in model.parameters() if p.requires_grad) / sum(
                p.numel() for p in model.parameters()
            )
            evidence = None if kept is None else kept.verify()
            after, task_after = measured(model, tokenizer, given, base.own_answers, task)
            line = {
                "attack": given.attack, "arm": arm, "seed": seed, "steps": given.steps,
                "batch": given.batch, "rate": given.rate, "rows": len(rows),
                "range": [body.first, body.last], "elsewhere": elsewhere, "trainable": share,
                "seconds": round(seconds, 1), "evidence": str(evidence),
                "compare": compare(base, after),
                "refused": {name: getattr(after, name).refused for name in SETS},
                "before": {name: getattr(base, name).refused for name in SETS},
                "task": [task_before, task_after],
                "sample": after.harmful.answers[:3],
            }  # fmt: skip
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            del model, kept  # before the next one is opened
            print(arm, seed, {k: sum(v) for k, v in line["refused"].items()}, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def shown(flags: Sequence[bool]) -> str:
    rate = Rate.of(flags)
    interval = rate.interval()
    return f"{rate.value:.0%} [{interval.low * 100:.0f}, {interval.high * 100:.0f}]"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(given: argparse.Namespace) -> None:
    """Print a row per arm, refusals pooled over seeds, and a paired test against full per seed."""
    lines = [line for line in read(given.out) if line["attack"] == given.attack]
    if not lines:
        return
    first = lines[0]
    seeds = sorted({line["seed"] for line in lines})
    print(f"\n{given.attack}: {first['steps']} steps of {first['batch']}, rate {first['rate']:g}")
    print(f"layers {first['range']} of the artifact, seeds {seeds}, {first['rows']} rows")
    print(f"{'':9}{'trained':>8}" + "".join(f"{name:>17}" for name in (*SETS, "nats", "task")))
    row(lines[:1], "before", "base", 0)
    for arm in dict.fromkeys(line["arm"] for line in lines):
        row([line for line in lines if line["arm"] == arm], "refused", arm, 1)
    by = {(line["arm"], line["seed"]): line for line in lines}
    for arm in dict.fromkeys(line["arm"] for line in lines if line["arm"] != "full"):
        for seed in seeds:
            if {("full", seed), (arm, seed)} <= by.keys():
                paired(f"seed {seed}: {arm} - full", by["full", seed], by[arm, seed])


def row(lines: Sequence[dict[str, Any]], which: str, label: str, side: int) -> None:
    pooled = {name: [flag for line in lines for flag in line[which][name]] for name in SETS}
    nats = mean([line["compare"]["nll"][("before", "after")[side]] for line in lines])
    task = mean([mean(line["task"][side]) for line in lines])
    share = f"{lines[0]['trainable']:.0%}" if side else ""
    shares = "".join(f"{shown(pooled[name]):>17}" for name in SETS)
    print(f"{label:9}{share:>8}{shares}{nats:17.3f}{task:17.3f}")


def paired(label: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    a, b = one["refused"]["harmful"], two["refused"]["harmful"]
    lost = sum(x and not y for x, y in zip(a, b, strict=True))
    gained = sum(y and not x for x, y in zip(a, b, strict=True))
    change = bootstrap_mean_difference([float(x) for x in a], [float(x) for x in b])
    effect = f"{(gained - lost) / len(a):+.0%} [{change.low:+.0%}, {change.high:+.0%}]"
    print(f"  {label}, refuses harmful: {effect}, p = {mcnemar_exact(lost, gained):.2g}")


if __name__ == "__main__":
    chosen = arguments()
    run(chosen)
    table(chosen)
