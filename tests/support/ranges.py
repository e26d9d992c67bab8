"""Bodies of safety layers for tests: a search that really ran, over a model made of arithmetic."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from support.tiny_models import llama_config, tensor_shapes, write_checkpoint

from registry.artifact.bundle import Bundle, make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.digest import digest_bytes
from registry.kinds.safety_layers._search import search
from registry.kinds.safety_layers.body import LayersBody

if TYPE_CHECKING:
    from pathlib import Path

    from registry.checkpoint.record import BaseRecord

FIRST, LAST, LAYERS, PROMPTS, ALREADY = 4, 7, 12, 40, 8
"""The layers that refuse, of how many; the prompts, and how many of them are refused unscaled."""
CREATED = "2030-01-01T00:00:00Z"


def refused(first: int, last: int, alpha: float) -> tuple[bool, ...]:
    """Return which prompts are refused with these layers scaled: the planted ones add, others take."""
    inside = max(0, min(last, LAST) - max(first, FIRST) + 1)
    others = last - first + 1 - inside
    more = round((5 * inside - 2 * others) * (alpha - 1) / 0.3)
    return tuple(index < ALREADY + more for index in range(PROMPTS))


def a_measurement(*, layers: int = LAYERS, initial: tuple[int, int] = (5, 6)) -> Any:
    """Return what the search found and the ``measurement`` member of its body."""
    found = search(refused, refused(0, 0, 1.0), layers=layers, initial=initial, seed=0)
    rise = [round(40 / (1 + math.exp(FIRST - layer)), 6) for layer in range(layers)]
    flat = [2.0 + 0.125 * layer for layer in range(layers)]

    def angles(values: list[float]) -> dict[str, list[float]]:
        low, high = ([value + side for value in values] for side in (-1.5, 1.5))
        return {"degrees": values, "low": low, "high": high}

    def cosines(values: list[float]) -> dict[str, list[float]]:
        return {"mean": values, "std": [0.0625] * layers}

    def rows(name: str, count: int) -> dict[str, Any]:
        digest = digest_bytes(name.encode())
        return {"name": name, "version": "1", "digest": digest, "split": "make", "rows": count}

    return found, {
        "template": {"name": "chat template", "digest": digest_bytes(b"template")},
        "scorer": "opening/1",
        "max_new_tokens": 16,
        "prompts": {
            "harmful": rows("harmful", 20),
            "harmless": rows("harmless", 20),
            "scary": rows("scary", PROMPTS),
        },
        "n": PROMPTS,
        "curves": {
            "harmless": cosines([0.9375] * layers),
            "harmful": cosines([0.875] * layers),
            "between": cosines([round(0.9 - value / 100, 6) for value in rise]),
        },
        "gap": {**angles(rise), "paper": [value - 1 for value in rise]},
        "controls": {"form": angles(flat), "scary": angles([value / 2 for value in flat])},
        "initial": {"first": initial[0], "last": initial[1], "rule": "a rule", "from_curves": True},
        "scaling": {
            "mode": "weights", "alpha": found.alpha, "attention_output": False, "rule": found.rule,
        },
        "points": [point.to_dict() for point in found.points],
        "resampled": found.resampled,
        "effect": found.effect,
        "seed": 0,
    }  # fmt: skip


def a_body(**changes: Any) -> LayersBody:
    """Return the body of the planted range, as ``extract`` makes it."""
    found, measurement = a_measurement()
    flags = np.array([point.flags for point in found.points], dtype=np.uint8)
    body = LayersBody(
        first=found.first, last=found.last, layers=LAYERS, family="llama",
        measurement=measurement, refused=flags,
    )  # fmt: skip
    return replace(body, **changes)


def a_base(folder: Path, *, layers: int = LAYERS, **changes: Any) -> Path:
    """Write the checkpoint of a llama of this many tiny layers."""
    small = {"hidden_size": 32, "intermediate_size": 40, "head_dim": 8, "vocab_size": 32}
    config = llama_config(num_hidden_layers=layers, **small, **changes)
    return write_checkpoint(folder, config)


def gemma_2b_shaped(folder: Path) -> Path:
    """Write a checkpoint of gemma-2b's geometry: zeros that take no room on the disk.

    Its MLP and its vocabulary are tiny, which no geometry speaks of.
    """
    config = llama_config(
        model_type="gemma", architectures=["GemmaForCausalLM"], num_hidden_layers=18,
        num_attention_heads=8, num_key_value_heads=1, head_dim=256, hidden_size=2048,
        intermediate_size=8, vocab_size=16,
    )  # fmt: skip
    header: dict[str, Any] = {}
    end = 0
    for name, shape in sorted(tensor_shapes(config).items()):
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def range_bundle(record: BaseRecord, body: LayersBody, **changes: Any) -> Bundle:
    """Return a self-consistent draft bundle of ``body`` for the base of ``record``."""
    manifest = Manifest(
        kind="safety-layers",
        created=CREATED,
        base=BaseIdentity(
            name="tiny-base", weights=record.weights, config=record.config_digest,
            tokenizer=record.tokenizer, chat_template=record.chat_template,
        ),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "test"}, "seed": 0, "data": []},
    )  # fmt: skip
    return make_bundle(replace(manifest, **changes), body.to_tensors(), record.to_tensors())
