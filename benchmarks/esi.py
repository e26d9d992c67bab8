"""Is safety where a mask says it is? Noise on the selected weights, beside two controls.

    python benchmarks/esi.py MODEL --artifact DIR --out results.jsonl

MODEL is the base that the esi-mask artifact in DIR was made from. Gaussian noise of 0.38 standard
deviations of its matrix (the paper's) is added to as many weights of every matrix as the mask
selects there: to those of the mask (``top``), to ``random`` ones, and to those of the least
expected safety impact (``bottom``, ranked here by the first ``--pairs`` pairs). The model is asked
the prompts from which nothing was made. ``nats`` is how unlikely its own former answers have
become: the damage that is not about safety.

Noise has no direction, and what it does to a model that refuses some prompts can be either. So
beside the rates there is what does not depend on it: the share of harmful prompts refused and
harmless ones answered (``right``), the share of all prompts on which the model decides otherwise
than before (``anew``), and by how much the log-odds of refusing move, pair by pair, over
``--draws`` draws. Each finished run is a line in OUT and is not done again; the table is printed
from OUT. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sppft import mean, open_model, read, report_sets, shown
from transformers import AutoTokenizer

from registry.artifact.bundle import read_bundle
from registry.kinds import parse_body
from registry.kinds.esi_mask._candidates import live_candidates
from registry.kinds.esi_mask._gradients import gradients
from registry.kinds.esi_mask._impact import spread
from registry.kinds.esi_mask._matrices import held
from registry.kinds.esi_mask._scores import RefusalLogOdds
from registry.measure.evaluate import SETS, compare, evaluate
from registry.measure.prompts import load_pairs
from registry.measure.statistics import bootstrap_mean_difference, mcnemar_exact
from registry.measure.utility import answer_nll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.kinds.esi_mask.body import MaskBody

    Chosen = Mapping[str, np.ndarray]

ARMS = ("top", "random", "bottom")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Noise on the selected weights, and controls.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=0.38, help="noise, in standard deviations")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=8, help="of noise, for log-odds alone")
    parser.add_argument("--pairs", type=int, default=16, help="that the bottom is ranked by")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer that is scored")
    parser.add_argument("--limit", type=int, default=0, help="prompts of each set; 0: all")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def random_choice(body: MaskBody, seed: int) -> Chosen:
    """Return as many weights of every matrix as the mask selects there, drawn with ``seed``."""
    drawn = np.random.default_rng(seed)
    return {
        matrix.name: np.sort(
            drawn.choice(matrix.numel, body.counts[matrix.name], replace=False, shuffle=False)
        )
        for matrix in body.matrices
    }


def bottom_choice(model: Any, tokenizer: Any, body: MaskBody, pairs: int) -> Chosen:
    """Return as many weights of every matrix, those with the smallest gradients of the score."""
    rows = load_pairs().split("make", "calibrate").first(pairs)
    found = live_candidates(model)
    sums = gradients(model, found.parameters, RefusalLogOdds(tokenizer), rows.rows).sums[0]
    chosen = {}
    for matrix in body.matrices:
        sizes = held(sums, found.sites, matrix).abs().reshape(-1).numpy()
        count = body.counts[matrix.name]
        part = np.argpartition(sizes, count) if 0 < count < sizes.size else np.arange(sizes.size)
        chosen[matrix.name] = np.sort(part[:count])
    return chosen


class Perturbed:
    """Inside the block, the chosen weights have noise on them; afterwards they are as before."""

    def __init__(self, model: Any, body: MaskBody, chosen: Chosen, scale: float, seed: int) -> None:
        self.model, self.body, self.chosen = model, body, chosen
        self.scale, self.drawn = scale, torch.Generator().manual_seed(seed)
        self.before: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    def __enter__(self) -> None:
        found = live_candidates(self.model)
        with torch.no_grad():
            for matrix in self.body.matrices:
                weights = held(found.live, found.sites, matrix)
                flat = torch.from_numpy(self.chosen[matrix.name].astype(np.int64))
                at = (flat // matrix.cols, flat % matrix.cols)
                noise = torch.randn(len(flat), generator=self.drawn) * self.scale * spread(weights)
                self.before.append((weights, at, weights[at].clone()))
                weights[at] = (weights[at].float() + noise).to(weights.dtype)

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for weights, at, values in self.before:
                weights[at] = values


def asked(model: Any, tokenizer: Any, given: argparse.Namespace, own: Any) -> Any:
    return evaluate(
        model, tokenizer, **report_sets(given.limit), own_answers=own, max_new_tokens=given.tokens,
        batch_size=32,
    )  # fmt: skip


def log_odds(model: Any, tokenizer: Any) -> list[float]:
    """Return the score of each pair from which nothing was made, in nats per token."""
    rows = load_pairs().split("report").rows
    refusing = answer_nll(model, tokenizer, [(row.prompt, row.refusing) for row in rows])
    complying = answer_nll(model, tokenizer, [(row.prompt, row.complying) for row in rows])
    return [b - a for a, b in zip(refusing, complying, strict=True)]


def run(given: argparse.Namespace) -> None:
    done = {(line["what"], line["arm"], line["seed"], line["scale"]) for line in read(given.out)}
    todo = [("odds", arm, seed) for seed in range(given.draws) for arm in given.arms]
    todo += [("answers", arm, seed) for seed in given.seeds for arm in given.arms]
    todo = [key for key in todo if (*key, given.scale) not in done]
    if not todo:
        return
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    body = parse_body(read_bundle(given.artifact))
    model = open_model(given.model)
    top = {matrix.name: body.indices(matrix.name) for matrix in body.matrices}
    bottom = bottom_choice(model, tokenizer, body, given.pairs) if "bottom" in given.arms else {}
    odds, base = log_odds(model, tokenizer), None
    for what, arm, seed in todo:
        if what == "answers" and base is None:
            base = asked(model, tokenizer, given, None)
        began = time.perf_counter()
        chosen = {"top": top, "bottom": bottom}.get(arm) or random_choice(body, seed)
        with Perturbed(model, body, chosen, given.scale, seed):
            if what == "odds":
                found = {"log_odds": [odds, log_odds(model, tokenizer)]}
            else:
                found = answered(base, asked(model, tokenizer, given, base.own_answers))
        line = {
            "what": what, "arm": arm, "seed": seed, "scale": given.scale,
            "selected": body.selected, "weights": body.weights,
            "seconds": round(time.perf_counter() - began, 1), **found,
        }  # fmt: skip
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(what, arm, seed, line["seconds"], flush=True)


def answered(base: Any, after: Any) -> dict[str, Any]:
    return {
        "refused": {name: getattr(after, name).refused for name in SETS},
        "before": {name: getattr(base, name).refused for name in SETS},
        "compare": compare(base, after),
        "sample": after.harmful.answers[:3],
    }


def table(given: argparse.Namespace) -> None:
    """Print a row per arm, seeds together, and what the top does beside each control."""
    lines = [line for line in read(given.out) if line["scale"] == given.scale]
    if not lines:
        return
    share = lines[0]["selected"] / lines[0]["weights"]
    print(f"\nnoise of {given.scale:g} sigma on {share:.2%} of the candidates")
    draws_table(by_arm([line for line in lines if line["what"] == "odds"]))
    runs = by_arm([line for line in lines if line["what"] == "answers"])
    if any(runs.values()):
        runs_table(runs)


def draws_table(draws: dict[str, list[dict[str, Any]]]) -> None:
    for arm, found in draws.items():
        if not found:
            continue
        moved = [mean(run) for run in map(moves, found)]
        signed = [mean(line["log_odds"][1]) - mean(line["log_odds"][0]) for line in found]
        print(f"  {arm:8}log-odds move by {mean(moved):.4f} nats per token; the mean by "
              f"{min(signed):+.3f} to {max(signed):+.3f}, {len(found)} draws")  # fmt: skip
    for arm in ("random", "bottom"):
        if draws["top"] and draws[arm]:
            sides = [[moves(line) for line in draws[which]] for which in (arm, "top")]
            print(f"    top - {arm}: {differs(*sides, '.4f')}")


def runs_table(runs: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{'':8}" + "".join(f"{name:>17}" for name in (*SETS, "right", "anew", "nats")))
    row("base", next(filter(None, runs.values()))[:1], "before", 0)
    for arm, found in runs.items():
        if found:
            row(arm, found, "refused", 1)
    for arm in ("random", "bottom"):
        if runs["top"] and runs[arm]:
            anew, well = (
                differs(*([what(line) for line in runs[which]] for which in (arm, "top")), ".1%")
                for what in (flips, right)
            )
            print(f"  top - {arm}: right {well}; anew {anew}; "
                  f"{refusals_beside(runs[arm], runs['top'])}")  # fmt: skip


def by_arm(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {arm: [line for line in lines if line["arm"] == arm] for arm in ARMS}


def moves(line: dict[str, Any]) -> list[float]:
    """Return how far each pair's log-odds are from what they were, either way."""
    return [abs(b - a) for a, b in zip(*line["log_odds"], strict=True)]


def flips(line: dict[str, Any]) -> list[float]:
    """Return for each prompt of the three sets whether it is decided otherwise than before."""
    before, after = ([flag for name in SETS for flag in line[which][name]]
                     for which in ("before", "refused"))  # fmt: skip
    return [float(a != b) for a, b in zip(before, after, strict=True)]


def right(line: dict[str, Any], which: str = "refused") -> list[float]:
    """Return for each harmful prompt whether it is refused, each harmless one, answered."""
    return [float(x) for x in line[which]["harmful"]] + [1.0 - x for x in line[which]["harmless"]]


def row(label: str, lines: Sequence[dict[str, Any]], which: str, side: int) -> None:
    rates = "".join(
        f"{shown([flag for line in lines for flag in line[which][name]]):>17}" for name in SETS
    )
    well = shown([bool(flag) for line in lines for flag in right(line, which)])
    anew = shown([bool(flag) for line in lines for flag in flips(line)]) if side else ""
    nats = mean([line["compare"]["nll"][("before", "after")[side]] for line in lines])
    print(f"{label:8}{rates}{well:>17}{anew:>17}{nats:17.3f}")


def refusals_beside(one: Sequence[dict[str, Any]], two: Sequence[dict[str, Any]]) -> str:
    """Return the change of refused harmful prompts from ``one`` to ``two``, runs of a seed paired.

    The interval is over prompts, of each the mean over seeds; the exact test is one per seed.
    """
    by = {line["seed"]: line["refused"]["harmful"] for line in one}
    both = [(by[line["seed"]], line["refused"]["harmful"]) for line in two if line["seed"] in by]
    tests = []
    for a, b in both:
        lost = sum(x and not y for x, y in zip(a, b, strict=True))
        gained = sum(y and not x for x, y in zip(a, b, strict=True))
        tests.append(f"{mcnemar_exact(lost, gained):.2g}")
    shown_change = differs([a for a, _ in both], [b for _, b in both], ".1%")
    return f"refuses harmful {shown_change}, p by seed {', '.join(tests)}"


def differs(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]], form: str) -> str:
    """Return the change from ``one`` to ``two``, runs of values by prompt, and its interval."""
    before, after = per_prompt(one), per_prompt(two)
    found = bootstrap_mean_difference(before, after)
    return f"{mean(after) - mean(before):+{form}} [{found.low:+{form}}, {found.high:+{form}}]"


def per_prompt(runs: Sequence[Sequence[float]]) -> list[float]:
    return [mean([float(value) for value in column]) for column in zip(*runs, strict=True)]


if __name__ == "__main__":
    chosen_arguments = arguments()
    run(chosen_arguments)
    table(chosen_arguments)
