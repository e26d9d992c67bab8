"""What is true about a variant: what was done, and how far it really is from its base.

The distance is ``||child - base||_F / ||base||_F`` over every matrix that both have in one shape,
of all elements in float64: what ``registry.checkpoint.lineage`` estimates from samples.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lineage_variants.weights import open_tensors, read_config
from registry.checkpoint.architecture import sites_for

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_ROWS_AT_ONCE = 1 << 20  # elements of a piece that is compared


@dataclass(frozen=True)
class Case:
    """One question about a variant, and the answers that are right.

    Attributes:
        row: Name of the row of the table.
        expected: Slugs that are right.
        base: Folder it is judged against.
        others: (name, folder) of the other registered models.
        named: Tensors that the answer has to name, where that is asked.
    """

    row: str
    expected: tuple[str, ...]
    base: Path
    others: tuple[tuple[str, Path], ...] = ()
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A variant on disk: where, how it was made, and what is asked about it."""

    folder: Path
    parameters: dict[str, Any]
    cases: tuple[Case, ...] = field(default=())


@dataclass(frozen=True)
class Truth:
    """What is true between one base and one child.

    Attributes:
        distance: Relative, over all matrices.
        per_layer: The same for each decoder layer.
        changed: Names of the tensors in both whose values differ.
    """

    distance: float
    per_layer: tuple[float, ...]
    changed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "distance": self.distance,
            "per_layer": list(self.per_layer),
            "changed": list(self.changed),
        }


def measure(base: Path, child: Path) -> Truth:
    """Return the distance of two checkpoints from all their elements."""
    config = read_config(base)
    sites = sites_for(config["model_type"])
    total, layers = [0.0, 0.0], [[0.0, 0.0] for _ in range(int(config["num_hidden_layers"]))]
    changed = []
    with open_tensors(base) as ours, open_tensors(child) as theirs:
        for name in sorted(ours.keys() & theirs.keys()):
            if name.endswith(sites.recomputed):
                continue
            if ours.shape(name) != theirs.shape(name):
                changed.append(name)
                continue
            one, two = ours.get(name), theirs.get(name)
            change, size, equal = _squares(one, two)
            if not equal:
                changed.append(name)
            if one.ndim < 2:
                continue
            layer = sites.layer_of(name)
            for sums in (total, *(() if layer is None else (layers[layer],))):
                sums[0] += change
                sums[1] += size
    return Truth(_ratio(*total), tuple(_ratio(*sums) for sums in layers), tuple(changed))


def write_truth(made: Made, truths: list[Truth], path: Path) -> None:
    """Write ``truth.json``: folders relative to the variant's own."""

    def relative(folder: Path) -> str:
        return os.path.relpath(folder, made.folder)

    cases = [
        {
            "row": case.row,
            "expected": list(case.expected),
            "base": relative(case.base),
            "others": [[name, relative(folder)] for name, folder in case.others],
            "named": list(case.named),
            **truth.to_dict(),
        }
        for case, truth in zip(made.cases, truths, strict=True)
    ]
    document = {"parameters": made.parameters, "cases": cases}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_truth(folder: Path) -> tuple[Made, list[Truth]]:
    """Return what ``write_truth`` wrote into a variant's folder."""
    document = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    cases, truths = [], []
    for case in document["cases"]:
        others = tuple((name, (folder / path).resolve()) for name, path in case["others"])
        base = (folder / case["base"]).resolve()
        cases.append(Case(case["row"], tuple(case["expected"]), base, others, tuple(case["named"])))
        truths.append(Truth(case["distance"], tuple(case["per_layer"]), tuple(case["changed"])))
    return Made(folder, document["parameters"], tuple(cases)), truths


def _ratio(change: float, size: float) -> float:
    if not math.isfinite(change):
        return math.inf
    return math.sqrt(change / size) if size else 0.0


def _squares(one: torch.Tensor, two: torch.Tensor) -> tuple[float, float, bool]:
    """Return the squares of the change and of the base, and whether all values are equal."""
    one, two = one.reshape(-1), two.reshape(-1)
    change = size = 0.0
    equal = True
    for ours, theirs in zip(one.split(_ROWS_AT_ONCE), two.split(_ROWS_AT_ONCE), strict=True):
        base = ours.double()
        delta = theirs.double() - base
        equal = equal and not bool(delta.count_nonzero())
        change += float(delta.square().sum())
        size += float(base.square().sum())
    return change, size, equal
