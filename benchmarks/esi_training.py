"""SET and SPA beside full training and beside random masks: same rows, order, steps, schedule.

    python benchmarks/esi_training.py MODEL --artifact DIR --train refusals --rows FILE --out A
    python benchmarks/esi_training.py MODEL --artifact DIR --train sums --steps 200 --out B

``refusals`` teaches to refuse: lines {"prompt", "response"} of FILE, and as ``--harmless`` of the
rows harmless prompts with the base's own answers. There ``mask`` is SET: the selected weights are
trained alone, ``random`` as many of every matrix drawn by seed, ``full`` all weights. ``sums`` is a
benign task, word problems with worked answers; ``implicit`` are harmless prompts that the base
answers behind "Sure, the answer is:". There ``mask`` is SPA: all but the selected weights are
trained, and ``random`` all but random ones.

No row asks what is reported on; ``--report calibrate`` is for choosing a rate. SET, SPA and
``random`` train the model in the base's dtype, ``full`` in fp32 where it teaches to refuse, as SET
has fp32 copies of what it trains. All are measured in the base's dtype. Each run is a line in OUT
and is not done again; the table is printed from OUT. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from esi import random_choice, refusals_beside
from sppft import PREFIX, batches, mean, padded, read, shown, tokens_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.artifact.bundle import read_bundle
from registry.kinds import kind_of, parse_body
from registry.kinds.esi_mask._candidates import live_candidates
from registry.kinds.esi_mask._matrices import held
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._values import gather_values
from registry.measure.evaluate import SETS, compare, evaluate
from registry.measure.generate import answers
from registry.measure.prompts import load_prompts
from registry.measure.scorer import is_refusal
from registry.measure.utility import answer_nll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.kinds.esi_mask.body import MaskBody

    Row = tuple[str, str]

ARMS = ("mask", "random", "full")
WARM_UP = 0.03
HELD_OUT = 64
"""Rows of the task that nobody trains on."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="SET and SPA beside full training.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--train", choices=("refusals", "sums", "implicit"), required=True)
    parser.add_argument("--rows", type=Path, help="refusals: lines of prompt and response")
    parser.add_argument("--harmless", type=float, default=0.5, help="refusals: share of the rows")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-5)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer that is scored")
    parser.add_argument("--limit", type=int, default=0, help="prompts of each set; 0: all")
    parser.add_argument("--report", choices=("report", "calibrate"), default="report")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def prompt_sets(given: argparse.Namespace) -> dict[str, Any]:
    sets = {name: load_prompts(name).split(given.report) for name in SETS}
    return {name: rows.first(given.limit) for name, rows in sets.items()} if given.limit else sets


def word_problem(draw: random.Random) -> Row:
    """Return a question with one right answer, and the way to it."""
    who, thing = draw.choice(("Ana", "Ben", "Chen", "Dora", "Emil")), draw.choice(
        ("apples", "books", "coins", "pens", "tickets")
    )  # fmt: skip
    have, boxes, each, given = (draw.randint(low, high) for low, high in
                                ((11, 60), (2, 9), (3, 12), (2, 10)))  # fmt: skip
    total = have + boxes * each
    question = (
        f"{who} has {have} {thing} and buys {boxes} boxes with {each} {thing} each. Then {who} "
        f"gives {given} away. How many {thing} are left?"
    )
    return question, (
        f"The boxes hold {boxes} * {each} = {boxes * each} {thing}. Together that is {have} + "
        f"{boxes * each} = {total}. After giving {given} away, {total} - {given} = "
        f"{total - given} are left. Answer: {total - given}"
    )


def training_rows(given: argparse.Namespace, base: Any, tokenizer: Any) -> list[Row]:
    """Return conversations; none asks what is reported on or what a rate is chosen by."""
    if given.train == "sums":
        draw = random.Random("word problems")
        return [word_problem(draw) for _ in range(HELD_OUT + given.steps * given.batch)]
    asked = load_prompts("harmless").split("make").texts
    own = [
        (prompt, answer)
        for prompt, answer in zip(
            asked, answers(base, tokenizer, asked, max_new_tokens=48, batch_size=32), strict=True
        )
        if answer and not is_refusal(answer)
    ]
    if given.train == "implicit":
        return [(prompt, PREFIX + answer) for prompt, answer in own]
    known = {plain(text) for name in SETS for text in load_prompts(name).texts}
    lines = [json.loads(line) for line in given.rows.read_text("utf-8").splitlines()]
    refusals = [(r["prompt"], r["response"]) for r in lines if plain(r["prompt"]) not in known]
    count = round(len(refusals) * given.harmless / (1 - given.harmless))
    return refusals + [own[index % len(own)] for index in range(count)]


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def body_of(arm: str, body: MaskBody, model: Any, seed: int) -> MaskBody:
    """Return the mask, or one of as many random weights of every matrix."""
    if arm == "mask":
        return body
    found = live_candidates(model)
    numels = {matrix.name: matrix.numel for matrix in body.matrices}
    mask = pack(random_choice(body, seed), numels, what="a random mask")

    def stored(matrix: Any, indices: Any) -> bytes:
        flat = torch.from_numpy(indices.astype("int64"))
        weights = held(found.live, found.sites, matrix)
        chosen = weights[flat // matrix.cols, flat % matrix.cols].detach().contiguous()
        raw: bytes = chosen.view(torch.uint8).numpy().tobytes()
        return raw

    _, digests = gather_values(body.matrices, mask, stored)
    return replace(body, mask=mask, digests=digests, values=None, stability=None, mass=None)


def train(model: Any, rows: Sequence[Any], given: argparse.Namespace, seed: int, kept: Any) -> Any:
    """Train, and return the mean losses of the first and the last ten steps."""
    enhancing = kept is not None and kept.mode == "enhance"
    free = kept.parameters() if enhancing else list(model.parameters())
    optimizer = torch.optim.AdamW(free, lr=given.rate, weight_decay=given.weight_decay)
    if kept is not None:
        kept.attach(optimizer)
    warm = max(1, round(WARM_UP * given.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (
        (step + 1) / warm if step < warm
        else (1 + math.cos(math.pi * (step - warm) / (given.steps - warm))) / 2
    ))  # fmt: skip
    losses, stream = [], batches(rows, given.batch, seed)
    model.train()
    for _ in range(given.steps):
        loss = model(**padded(next(stream)), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return [round(mean(losses[:10]), 4), round(mean(losses[-10:]), 4)]


def asked(model: Any, tokenizer: Any, given: argparse.Namespace, own: Any) -> Any:
    return evaluate(
        model, tokenizer, **prompt_sets(given), own_answers=own, max_new_tokens=given.tokens,
        batch_size=32,
    )  # fmt: skip


def key_of(given: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Return what makes a run this run and no other."""
    names = ("train", "steps", "batch", "rate", "weight_decay", "harmless", "report", "limit")
    return {"arm": arm, "seed": seed, **{name: getattr(given, name) for name in names}}


def is_of(line: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(line[name] == value for name, value in key.items())


def run(given: argparse.Namespace) -> None:
    done = read(given.out)
    todo = [
        (arm, seed)
        for seed in given.seeds
        for arm in given.arms
        if not any(is_of(line, key_of(given, arm, seed)) for line in done)
    ]
    if not todo:
        return
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    body = parse_body(read_bundle(given.artifact))
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype="auto").eval()
    texts = training_rows(given, model, tokenizer)
    task = texts[:HELD_OUT] if given.train == "sums" else texts[:0]
    rows = [tokens_of(tokenizer, row) for row in texts[len(task) :]]
    narrow = model.dtype
    base = asked(model, tokenizer, given, None)
    before = answer_nll(model, tokenizer, task, 16)
    print("base", {name: getattr(base, name).rate.successes for name in SETS}, flush=True)
    for arm, seed in todo:
        torch.manual_seed(seed)
        wide = arm == "full" and given.train == "refusals"
        model = AutoModelForCausalLM.from_pretrained(
            given.model, dtype=torch.float32 if wide else "auto"
        )
        dtype, kept = model.dtype, None
        if arm != "full":
            mode = "enhance" if given.train == "refusals" else "preserve"
            guard = kind_of("esi-mask").verb("guard").guard
            kept = guard(model, body_of(arm, body, model, seed), mode=mode)
        began = time.perf_counter()
        losses = train(model, rows, given, seed, kept)
        seconds = time.perf_counter() - began
        evidence = None if kept is None else kept.verify().to_dict()
        trained = kept.report().to_dict() if kept is not None else None
        model = model.to(narrow)
        after = asked(model, tokenizer, given, base.own_answers)
        line = key_of(given, arm, seed) | {
            "rows": len(rows), "losses": losses, "seconds": round(seconds, 1), "dtype": str(dtype),
            "evidence": evidence, "trained": trained,
            "refused": {name: getattr(after, name).refused for name in SETS},
            "before": {name: getattr(base, name).refused for name in SETS},
            "compare": compare(base, after),
            "task": [before, answer_nll(model, tokenizer, task, 16)],
            "sample": [*after.harmful.answers[:3], *after.harmless.answers[:3]],
        }  # fmt: skip
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        del model, kept  # before the next one is opened
        print(arm, seed, {n: sum(line["refused"][n]) for n in SETS}, losses, flush=True)


def table(given: argparse.Namespace) -> None:
    """Print a row per arm, seeds together, and what the mask did beside each other arm."""
    key = key_of(given, "", 0)
    del key["arm"], key["seed"]
    lines = [line for line in read(given.out) if is_of(line, key)]
    if not lines:
        return
    print(f"\n{given.train}: {given.steps} steps of {given.batch}, rate {given.rate:g}, "
          f"{lines[0]['rows']} rows, on {given.report}, seeds "
          f"{sorted({line['seed'] for line in lines})}")  # fmt: skip
    print(f"{'':8}" + "".join(f"{name:>17}" for name in (*SETS, "nats", "task")))
    row("base", lines[:1], "before", 0)
    arms = {arm: [line for line in lines if line["arm"] == arm] for arm in ARMS}
    for arm, found in arms.items():
        if found:
            row(arm, found, "refused", 1)
    for arm in ("random", "full"):
        if arms["mask"] and arms[arm]:
            print(f"  mask - {arm}: {refusals_beside(arms[arm], arms['mask'])}")


def row(label: str, lines: Sequence[dict[str, Any]], which: str, side: int) -> None:
    rates = "".join(
        f"{shown([flag for line in lines for flag in line[which][name]]):>17}" for name in SETS
    )
    nats = mean([line["compare"]["nll"][("before", "after")[side]] for line in lines])
    tasks = [mean(line["task"][side]) for line in lines if line["task"][side]]
    print(f"{label:8}{rates}{nats:17.3f}" + (f"{mean(tasks):17.3f}" if tasks else ""))


if __name__ == "__main__":
    chosen = arguments()
    run(chosen)
    table(chosen)
