"""Every variant of the benchmark by name, with the kinds that are right for it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage_variants import editing, merging, quantising, training
from lineage_variants.abliteration import abliterated
from lineage_variants.truth import Case, Made
from lineage_variants.weights import read_weights, write_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOW, _HIGH = 1.5e-4, 1.6e-1
"""What fine-tunes aim at; they get 0.4 to 1.2 times as far, so that 1e-4 to 1e-1 is covered."""
_RANKS = (8, 1, 32, 4, 16)
_SCHEMES = ("int8", "nf4", *quantising.GGUF)
_DTYPES = ("bf16", "fp16", "fp32")


@dataclass
class Bench:
    """One base and one seed; fine-tunes that several variants need are made once.

    Attributes:
        base: Folder of the base.
        seed: Of every random choice.
        parents: Folder for the shared fine-tunes.
    """

    base: Path
    seed: int
    parents: Path

    def number(self, name: str) -> int:
        """Return the seed of one variant, which does not depend on the other variants."""
        return random.Random(f"{name}/{self.seed}").randrange(1 << 31)

    def parent(self, name: str, dtype: str = "bf16") -> tuple[Path, dict[str, Any]]:
        """Return a real fine-tune shared by the variants of this seed, and how it was trained."""
        place = self.parents / name
        if not place.exists():
            seed = self.number(f"parent {name}")
            plan = training.draw_plan(random.Random(seed), low=1e-3, high=3e-2)
            tensors, facts = training.fine_tune(self.base, plan, seed)
            unfinished = place.with_name(f"{name}.unfinished")
            for stored in ("bf16", "fp32") if name == "a" else ("bf16",):
                write_weights(tensors, unfinished / stored, self.base, dtype=stored)
            (unfinished / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
            unfinished.rename(place)
        return place / dtype, json.loads((place / "facts.json").read_text(encoding="utf-8"))

    def smooth(self) -> Path:
        """Return the base off the grid of the quantiser that it once went through.

        Models that were published as GGUF or AWQ are quantised copies already: what such a copy
        goes through once more changes little or nothing. 5 % of normal noise undoes that.
        """
        folder = self.parents / "smooth"
        if not folder.exists():
            rng = random.Random(self.number("smooth"))
            tensors, _ = training.gaussian(self.base, rng, low=0.05, high=0.05)
            unfinished = folder.with_name("smooth.unfinished")
            write_weights(tensors, unfinished, self.base, dtype="bf16")
            unfinished.rename(folder)
        return folder


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        name: Of the row.
        kind: What it shows; the slug that is right unless the cases say otherwise.
        make: (bench, folder to write) to what was made.
    """

    name: str
    kind: str
    make: Callable[[Bench, Path], Made]


def _simple(name: str, kind: str, write: Callable[[Bench, Path], dict[str, Any]]) -> Variant:
    def make(bench: Bench, out: Path) -> Made:
        return Made(out, write(bench, out), (Case(name, (kind,), bench.base),))

    return Variant(name, kind, make)


def _named(
    name: str, kind: str, write: Callable[[Bench, Path], tuple[dict[str, Any], str]]
) -> Variant:
    def make(bench: Bench, out: Path) -> Made:
        facts, tensor = write(bench, out)
        return Made(out, facts, (Case(name, (kind,), bench.base, named=(tensor,)),))

    return Variant(name, kind, make)


def _fine_tune(name: str, part: training.Part = "all", dtype: str = "bf16") -> Variant:
    def write(bench: Bench, out: Path) -> dict[str, Any]:
        seed = bench.number(name)
        plan = training.draw_plan(random.Random(seed), low=_LOW, high=_HIGH, part=part)
        tensors, facts = training.fine_tune(bench.base, plan, seed)
        write_weights(tensors, out, bench.base, dtype=dtype)
        return facts | {"stored": dtype}

    return _simple(name, "fine-tune", write)


def _gaussian(name: str) -> Variant:
    def write(bench: Bench, out: Path) -> dict[str, Any]:
        rng = random.Random(bench.number(name))
        tensors, facts = training.gaussian(bench.base, rng, low=1e-4, high=1e-1)
        dtype = ("bf16", "fp32")[bench.seed % 2]
        write_weights(tensors, out, bench.base, dtype=dtype)
        return facts | {"stored": dtype}

    return _simple(name, "fine-tune", write)


def _lora(name: str, targets: str | None, shift: int, stored: str = "bf16") -> Variant:
    def write(bench: Bench, out: Path) -> dict[str, Any]:
        return training.merged_lora(
            bench.base,
            out,
            bench.number(name),
            rank=_RANKS[(bench.seed + shift) % len(_RANKS)],
            targets=targets or ("all-linear", "qkvo", "qv")[bench.seed % 3],
            merged_in=("bf16", "fp32")[(bench.seed + shift) % 2] if stored == "bf16" else "fp32",
            stored=stored,
        )

    return _simple(name, "merged-lora", write)


def _quantised(scheme: str, shift: int = 0, *, smooth: bool = False) -> Variant:
    kind = f"quantised-{'gguf' if scheme in quantising.GGUF else scheme}"
    name = f"{'smooth-' if smooth else ''}quantised-{scheme.lower()}"

    def make(bench: Bench, out: Path) -> Made:
        base = bench.smooth() if smooth else bench.base
        stored = _DTYPES[(bench.seed + shift) % len(_DTYPES)]
        facts = quantising.quantised(base, out, bench.number(name), scheme, stored)
        expected: tuple[str, ...] = (kind,)
        if not facts["matrices_changed"]:  # it had been through the same before
            expected = ("identical",) if stored == "bf16" else ("cast",)
        elif facts["matrices_changed"] == 1:  # only the embedding had not
            expected = (kind, "sparse-edit")
        return Made(out, facts, (Case(name, expected, base),))

    return Variant(name, kind, make)


def _extended(name: str, tokens: str) -> Variant:
    def write(bench: Bench, out: Path) -> dict[str, Any]:
        return editing.extended(bench.base, out, bench.number(name), tokens)

    return _simple(name, "vocabulary-extended", write)


def _abliterated(name: str, **options: Any) -> Variant:
    def write(bench: Bench, out: Path) -> dict[str, Any]:
        return abliterated(bench.base, out, bench.number(name), **options)

    return _simple(name, "abliterated", write)


def _trained_then_abliterated(bench: Bench, out: Path) -> dict[str, Any]:
    parent, facts = bench.parent("a")
    made = abliterated(
        bench.base,
        out,
        bench.number("fine-tune-abliterated"),
        start=read_weights(parent),
        measured_on=parent,
    )
    return made | {"fine_tune": facts}


def _cast_fine_tune(bench: Bench, out: Path) -> Made:
    parent, facts = bench.parent("a", "fp32")
    made = editing.cast(parent, out, "bf16")
    name = "cast-fp32-fine-tune-to-bf16"
    return Made(out, made | {"fine_tune": facts}, (Case(name, ("cast",), parent),))


def _merged(name: str, method: str) -> Variant:
    def make(bench: Bench, out: Path) -> Made:
        (one, facts), (two, more) = bench.parent("a"), bench.parent("b")
        weight = random.Random(bench.number(name)).uniform(0.3, 0.7)
        merging.merged(one, two, out, weight=weight, method=method)
        both, other = (("a", one), ("b", two)), (("b", two),)
        cases = (
            Case(f"{name}, base and both registered", ("merge",), bench.base, both),
            Case(f"{name}, against one parent, other registered", ("merge",), one, other),
            Case(f"{name}, no parent registered", ("fine-tune",), bench.base),
            Case(f"{name}, against one parent, other unknown", ("fine-tune",), one),
        )
        return Made(out, {"method": method, "weight": weight, "a": facts, "b": more}, cases)

    return Variant(name, "merge", make)


VARIANTS: tuple[Variant, ...] = (
    _simple("identical-copy", "identical", lambda b, out: editing.copied(b.base, out)),
    _simple("identical-resharded", "identical", lambda b, out: editing.resharded(b.base, out)),
    _simple("cast-fp16", "cast", lambda b, out: editing.cast(b.base, out, "fp16")),
    _simple("cast-fp32", "cast", lambda b, out: editing.cast(b.base, out, "fp32")),
    _fine_tune("fine-tune"),
    _lora("merged-lora-qv", "qv", 0),
    _lora("merged-lora-qkvo", "qkvo", 1),
    _lora("merged-lora-all-linear", "all-linear", 2),
    _lora("merged-lora-fp32", None, 3, stored="fp32"),
    _abliterated("abliterated"),
    _abliterated("abliterated-half", factor=0.5),
    _abliterated("abliterated-o-proj-only", only_attention=True),
    _abliterated("abliterated-per-layer", per_layer=True),
    _simple("fine-tune-abliterated", "abliterated", _trained_then_abliterated),
    Variant("cast-fp32-fine-tune-to-bf16", "cast", _cast_fine_tune),
    *(_quantised(name, i) for i, name in enumerate(_SCHEMES)),
    *(_quantised(name, i, smooth=True) for i, name in enumerate(_SCHEMES)),
    _merged("merge-linear", "linear"),
    _merged("merge-slerp", "slerp"),
    _fine_tune("fine-tune-fp32", dtype="fp32"),
    _fine_tune("fine-tune-frozen-embeddings", "frozen-embeddings"),
    _fine_tune("fine-tune-some-layers", "some-layers"),
    _gaussian("fine-tune-gaussian"),
    _simple(
        "sparse-1pct", "sparse-edit",
        lambda b, out: editing.sparse(b.base, out, b.number("sparse-1pct"), 0.01),
    ),
    _simple(
        "sparse-0.1pct", "sparse-edit",
        lambda b, out: editing.sparse(b.base, out, b.number("sparse-0.1pct"), 0.001),
    ),
    _named(
        "one-tensor-rank-one", "sparse-edit",
        lambda b, out: editing.rank_one(b.base, out, b.number("rank-one")),
    ),
    _named(
        "one-bit", "sparse-edit", lambda b, out: editing.one_bit(b.base, out, b.number("one-bit"))
    ),
    _extended("vocabulary-plus-1", "1"),
    _extended("vocabulary-plus-64", "64"),
    _extended("vocabulary-padded", "pad"),
    _simple(
        "unrelated-redrawn", "unrelated",
        lambda b, out: editing.redrawn(b.base, out, b.number("redrawn")),
    ),
    _simple("unrelated-reversed", "unrelated", lambda b, out: editing.reordered(b.base, out)),
)  # fmt: skip
