"""Every kind of change to a real model, made for real and judged against the truth.

    pip install -r benchmarks/requirements-lineage.txt
    python benchmarks/lineage.py --model PATH [--seeds 20] [--only KIND] [--json FILE]

Prints a Markdown table: distance estimated from samples against the distance of all elements, how
often the kind of change was named as expected, and every miss. Nothing is asserted. A seed decides
the random choices: texts, learning rates, ranks, layers, positions. With ``--json`` each result is
appended as it comes and a second run does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage_table import print_table
from lineage_variants.catalogue import VARIANTS, Bench, Variant
from lineage_variants.truth import Case, Truth, measure, read_truth, write_truth

from registry.checkpoint.change import classify, explain
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoint.record import BaseRecord

_LAYERS_SHOWN = 1e-9  # layers that moved less have no ratio


class Records:
    """Records by folder; those of bases and parents are kept."""

    def __init__(self) -> None:
        self._kept: dict[Path, BaseRecord] = {}

    def of(self, folder: Path) -> BaseRecord:
        """Return the record of a checkpoint, measured once."""
        if folder not in self._kept:
            with Checkpoint.open(folder) as checkpoint:
                self._kept[folder] = fingerprint(checkpoint)
        return self._kept[folder]

    def drop(self, *folders: Path) -> None:
        """Forget folders that are about to be removed, and all below them."""
        for known in list(self._kept):
            if any(known == folder or folder in known.parents for folder in folders):
                del self._kept[known]


def answer(case: Case, child: Path, truth: Truth, records: Records) -> dict[str, Any]:
    """Return what the registry says about one case, beside what is true."""
    base, other = records.of(case.base), records.of(child)
    lineage = judge(base, other)
    kind, figures, changed = _classified(case, base, other, records)
    ratios = [
        estimate / real
        for estimate, real in zip(lineage.per_layer, truth.per_layer, strict=True)
        if _LAYERS_SHOWN < real < math.inf
    ]
    named = set(case.named)
    right = kind in case.expected and (not named or named == set(changed))
    return {
        "row": case.row,
        "expected": list(case.expected),
        "got": kind,
        "right": right if kind else None,
        "relation": lineage.relation,
        "truth": truth.distance,
        "estimate": lineage.distance if math.isfinite(lineage.distance) else None,
        "layer_ratios": [min(ratios), max(ratios)] if ratios else None,
        "vectors": lineage.vectors if math.isfinite(lineage.vectors) else None,
        "named": list(case.named),
        "changed": [len(changed), *sorted(changed)[:3]],
        "truly_changed": len(truth.changed),
        "figures": figures,
    }


def _classified(
    case: Case, base: BaseRecord, child: BaseRecord, records: Records
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return what the command says where the case's base and the other models are registered."""
    known = [("base", base), *((name, records.of(folder)) for name, folder in case.others)]
    judged = [(name, record, judge(record, child)) for name, record in known]
    near = [each for each in judged if each[2].is_descendant]
    if len(near) > 1:
        _, change = explain(child, sorted(near, key=lambda each: each[2].distance))
    else:
        change = classify(base, child)
    return change.kind, dict(change.figures), tuple(change.changed)


def run(
    variant: Variant, bench: Bench, folder: Path, records: Records, *, keep: bool
) -> Iterator[dict[str, Any]]:
    """Make one variant unless it is there, judge it, and remove it again unless it is kept."""
    begun = time.perf_counter()
    if not (folder / "truth.json").exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        made = variant.make(bench, unfinished)
        found = [measure(case.base, unfinished) for case in made.cases]
        write_truth(made, found, unfinished / "truth.json")
        unfinished.rename(folder)
    made, truths = read_truth(folder)
    taken = time.perf_counter() - begun
    for case, truth in zip(made.cases, truths, strict=True):
        result = answer(case, folder, truth, records)
        yield {
            "model": bench.base.name,
            "variant": variant.name,
            "seed": bench.seed,
            **result,
            "parameters": made.parameters,
            "seconds_to_make": round(taken, 1),
        }
    records.drop(folder)
    if not keep:
        shutil.rmtree(folder)


def wanted(only: list[str]) -> list[Variant]:
    """Return the variants of the kinds, names or beginnings of names in ``only``; or all."""
    kinds = {variant.kind for variant in VARIANTS}
    starts = tuple(word for word in only if word not in kinds)
    found = [
        variant
        for variant in VARIANTS
        if not only or variant.kind in only or variant.name.startswith(starts)
    ]
    if not found:
        expected, got = ", ".join(sorted(kinds)), ", ".join(only)
        sys.exit(f"expected --only to name a variant or one of {expected}, got {got}.")
    return found


def read_results(path: Path | None, model: str) -> list[dict[str, Any]]:
    """Return the results of this model; a line that an interrupt cut is taken off the file."""
    if path is None or not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["model"] == model]


def write_results(path: Path | None, found: list[dict[str, Any]]) -> None:
    """Append the results of one variant, all or none as far as a single write goes."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in found))


def work(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return all results, those read from the file included."""
    model = arguments.model.name
    rows = read_results(arguments.json, model)
    done = {(row["variant"], row["seed"]) for row in rows}
    records = Records()
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        place = folder / f"seed-{seed}"
        bench = Bench(arguments.model, seed, place / "parents")
        bench.parents.mkdir(parents=True, exist_ok=True)
        for variant in wanted(arguments.only):
            if (variant.name, seed) in done:
                continue
            keep = arguments.keep is not None
            found = list(run(variant, bench, place / variant.name, records, keep=keep))
            write_results(arguments.json, found)
            rows += found
            for row in found:
                said = "" if row["right"] is None else ("  " if row["right"] else "X ") + row["got"]
                shown = "inf" if row["estimate"] is None else f"{row['estimate']:.3e}"
                print(
                    f"seed {seed:2} {row['row']:52} truth {row['truth']:.3e} estimate {shown} "
                    f"{row['relation']:10} {row['seconds_to_make']:5} s {said}",
                    file=sys.stderr,
                    flush=True,
                )
        if arguments.keep is None:
            records.drop(place)
            shutil.rmtree(place)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "\n".join(f"  {variant.name:30} {variant.kind}" for variant in VARIANTS)
    parser.epilog = f"variants and their kinds, for --only:\n{names}"
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of the base model, with its tokenizer"
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="how many (20)")
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="the first of them (0)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND",
        help="a kind, or how a variant's name begins; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each result as a line")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep the variants in DIR/seed-N/VARIANT; those that are there are judged, not made",
    )
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR",
        help="where variants are made that are not kept; about 2 GB for a model of 270 MB",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.model = arguments.model.resolve()
    if not (arguments.model / "config.json").exists():
        parser.error(f"expected --model to be a folder with config.json, got {arguments.model}")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries among themselves
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # optional kernels that are not there
    if arguments.keep is not None:
        rows = work(arguments, arguments.keep.resolve())
    else:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            rows = work(arguments, Path(folder))
    print_table(rows)


if __name__ == "__main__":
    main()
