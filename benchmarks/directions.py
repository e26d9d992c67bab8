"""What ``check --measure`` tells apart: fine-tunes, impostors and abliterated copies of one base.

    python benchmarks/directions.py MODEL --out DIR [--mild 30] [--harmful 16] [--heads 24]

Makes a lock from MODEL, then real fine-tunes of it (AdamW on all weights), models of the same
architecture that are no children of it, and abliterated copies, below DIR; what is there already is
used again. Runs the command on each and prints a table. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.artifact.bundle import write_bundle
from registry.live.sites import decoder_layers, model_geometry
from registry.measure.conversation import prompt_text, token_ids
from registry.measure.generate import answers
from registry.measure.prompts import load_prompts
from registry.measure.scorer import is_refusal
from registry.settings import Settings
from registry.workflows.demo.train import fine_tune
from registry.workflows.identify import identify
from registry.workflows.make import extract

if TYPE_CHECKING:
    from collections.abc import Callable

BEGINNINGS = ("Sure, here is", "Sure, here are")
PROMPTS = 48


def of(name: str) -> list[str]:
    return [row.prompt for row in load_prompts(name).split("make").rows]


class _Workshop:
    """Makes the variants of one base."""

    def __init__(self, base: Path, arguments: argparse.Namespace) -> None:
        self.base, self.arguments = base, arguments
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.kept: list[tuple[str, str]] = []

    def open(self, dtype: Any = torch.bfloat16, *, source: str | None = None) -> Any:
        place = self.base if source is None else self.place(source)
        return AutoModelForCausalLM.from_pretrained(place, dtype=dtype).eval()

    def place(self, name: str) -> Path:
        folder: Path = self.arguments.out
        return folder / name.replace(" ", "-").replace(",", "").replace("%", "percent")

    def own_answers(self) -> list[tuple[str, str]]:
        if not self.kept:
            asked = of("harmless")
            given = answers(self.open(), self.tokenizer, asked, max_new_tokens=24, batch_size=32)
            self.kept = [(p, a) for p, a in zip(asked, given, strict=True) if a]
        return self.kept

    def tuned(self, learned: list[tuple[str, str]], steps: int) -> Any:
        model = self.open(torch.float32)
        fine_tune(
            model, self.tokenizer, learned, self.own_answers(), most_steps=steps,
            seed=self.arguments.seed, stop=lambda _: False, progress=lambda *_: None,
        )  # fmt: skip
        return model.to(torch.bfloat16)

    def mild(self) -> Any:
        return self.tuned([row for row in self.own_answers() if not is_refusal(row[1])],
                          self.arguments.mild)  # fmt: skip

    def harmful(self) -> Any:
        asked = of("harmful")
        return self.tuned([(p, BEGINNINGS[i % 2]) for i, p in enumerate(asked)],
                          self.arguments.harmful)  # fmt: skip

    def direction(self, model: Any, layer: int) -> torch.Tensor:
        """Return the unit mean difference of the residual stream, harmful minus harmless."""
        module, means = decoder_layers(model, model_geometry(model))[layer], []
        for name in ("harmful", "harmless"):
            ends = []

            def keep(_module: Any, _args: Any, output: Any, ends: list[Any] = ends) -> None:
                ends.append(output[0, -1].float())

            handle = module.register_forward_hook(keep)
            with torch.no_grad():
                for text in of(name)[:PROMPTS]:
                    ids = token_ids(self.tokenizer, prompt_text(self.tokenizer, text))
                    model(torch.tensor([ids]), use_cache=False)
            handle.remove()
            means.append(torch.stack(ends).mean(0))
        difference = means[0] - means[1]
        return difference / difference.norm()

    def abliterated(
        self, share: float = 1.0, *, part: slice = slice(None), source: str | None = None
    ) -> Any:
        model = self.open(source=source)
        layers = decoder_layers(model, model_geometry(model))
        v = self.direction(model, len(layers) // 2)
        with torch.no_grad():
            for layer in layers[part]:
                for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                    whole = weight.float()
                    weight.copy_(whole - share * torch.outer(v, v @ whole))
            table = model.get_input_embeddings().weight
            whole = table.float()
            table.copy_(whole - share * torch.outer(whole @ v, v))
        return model

    def reversed(self) -> Any:
        model = self.open()
        layers = decoder_layers(model, model_geometry(model))
        states = [copy.deepcopy(layer.state_dict()) for layer in layers]
        for layer, state in zip(layers, reversed(states), strict=True):
            layer.load_state_dict(state)
        return model

    def random(self) -> Any:
        model, generator = self.open(), torch.Generator().manual_seed(self.arguments.seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(noise * parameter.float().std())
        return model


def lock(shop: _Workshop, folder: Path) -> Path:
    if not folder.is_dir():
        base = identify(str(shop.base), settings=Settings.load())
        options = {"heads": shop.arguments.heads, "answer_tokens": 5, "folds": 5, "repeats": 1}
        write_bundle(
            extract("safety-lock", base, shop.open(), shop.tokenizer, base_name=shop.base.name,
                    seed=shop.arguments.seed, options=options),
            folder,
        )  # fmt: skip
    return folder


def measured(artifact: Path, model: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "registry", "check", str(artifact.resolve()), str(model),
               "--measure", "--device", "cpu", "--format", "json"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode not in {0, 3}:
        raise SystemExit(run.stdout + run.stderr)
    document: dict[str, Any] = json.loads(run.stdout)
    return document


def row(name: str, document: dict[str, Any]) -> str:
    figures = {entry["figure"]: entry["value"] for entry in document["measured"]["summary"]}
    heads = document["measured"]["heads"]
    cosines = [head["cosine"] for head in heads]
    codes = [finding["code"] for finding in document["findings"] if finding["severity"] == "error"]
    cells = [
        name,
        f"{min(cosines):.2f} {median(cosines):.2f} {max(cosines):.2f}",
        f"{median(head['margin'] for head in heads):.2f}",
        *(f"{figures[figure]:.3g}" for figure in ("cosine", "positive", "dose", "floor")),
        f"{document['verdict']} {', '.join(codes)}".strip(),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mild", type=int, default=30, help="steps")
    parser.add_argument("--harmful", type=int, default=16, help="steps")
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shop = _Workshop(arguments.model, arguments)
    variants: dict[str, Callable[[], Any]] = {
        "fine-tune, mild": shop.mild,
        "fine-tune, harmful": shop.harmful,
        "abliterated": shop.abliterated,
        "abliterated by 90 %": lambda: shop.abliterated(0.9),
        "abliterated by 50 %": lambda: shop.abliterated(0.5),
        "abliterated, layers from 8": lambda: shop.abliterated(part=slice(8, None)),
        "harmful, then abliterated": lambda: shop.abliterated(source="fine-tune, harmful"),
        "layers reversed": shop.reversed,
        "random weights": shop.random,
    }
    artifact = lock(shop, arguments.out / "lock")
    print(
        "| model | cosine: least, median, most | margin, sigma | cosine / base | heads positive "
        "| dose / base | floor / base | verdict |\n|---|---|---|---|---|---|---|---|"
    )
    print(row("the base itself", measured(artifact, arguments.model)), flush=True)
    for name, make in variants.items():
        folder = shop.place(name)
        if not folder.is_dir():
            make().save_pretrained(folder)
            shop.tokenizer.save_pretrained(folder)
        print(row(name, measured(artifact, folder)), flush=True)


if __name__ == "__main__":
    main()
