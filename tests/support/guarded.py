"""Models to guard: tiny ones of four layers, bundles whose range is 1 to 2, and a training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from support.families import family_model
from support.locks import CREATED, read_record

from registry.artifact.bundle import Bundle, make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.kinds import parse_body
from registry.kinds.safety_layers.body import PUBLISHED, LayersBody

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GUARDED = ("llama", "qwen2", "qwen3", "gemma2", "phi3", "mixtral")
LAYERS, FIRST, LAST = 4, 1, 2
SOURCE = {
    "paper": "none", "where": "made up for a test", "model": "tiny", "alpha": None,
    "status": "published, not re-measured",
}  # fmt: skip


def layers_model(
    family: str = "llama", *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """Return a seeded tiny model of four layers, every parameter random."""
    return family_model(family, dtype=dtype, num_hidden_layers=LAYERS, **changes)


def layers_bundle(
    model: Any, folder: Path, *, first: int = FIRST, last: int = LAST, norms: str = "frozen"
) -> Bundle:
    """Return a bundle of this range for ``model``, which is saved in ``folder`` as its base."""
    if not (folder / "config.json").is_file():
        model.save_pretrained(folder)
    record = read_record(folder)
    body = LayersBody(
        first=first, last=last, layers=record.geometry.layers, family=record.geometry.family,
        norms=norms, origin=PUBLISHED, source=SOURCE,
    )  # fmt: skip
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
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


def layers_body(model: Any, folder: Path, **options: Any) -> LayersBody:
    """Return the checked body of ``layers_bundle``."""
    return parse_body(layers_bundle(model, folder, **options))


def trained(model: Any) -> list[Any]:
    """Return the parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def rows(count: int, *, seed: int = 0, length: int = 12) -> torch.Tensor:
    """Return seeded token ids [count, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 96, (count, length), generator=generator)


def steps(
    model: Any, optimizer: Any, count: int, *, accumulate: int = 1, clip: float | None = None
) -> None:
    """Train for ``count`` steps of ``accumulate`` micro-batches."""
    model.train()
    for step in range(count):
        optimizer.zero_grad()
        for part in range(accumulate):
            tokens = rows(2, seed=1 + step * accumulate + part)
            (model(input_ids=tokens, labels=tokens).loss / accumulate).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(trained(model), clip)
        optimizer.step()


def bits(model: Any) -> dict[str, bytes]:
    """Return the bytes of every parameter."""
    return {
        name: parameter.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, parameter in model.named_parameters()
    }


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Return the names whose bytes differ."""
    return {name for name in before if before[name] != after[name]}


def in_range(names: Iterable[str]) -> set[str]:
    """Return the names of parameters in layers 1 to 2, read from the name alone."""
    return {name for name in names if ".layers.1." in name or ".layers.2." in name}
