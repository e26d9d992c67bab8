"""ESI masks on tiny bases: the base in a folder, a bundle, a fine-tune, and a delta of the mask."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from support.families import family_model
from support.masked import mask_bundle

from registry.artifact.bundle import Bundle, make_bundle
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.values import item_size
from registry.errors import CheckpointNotFoundError
from registry.kinds import parse_body
from registry.kinds.esi_mask.body import DELTA
from registry.kinds.esi_mask.inspect import inspect, inspect_beside
from registry.workflows.base_tensors import BaseTensors

if TYPE_CHECKING:
    from pathlib import Path

    from registry.kinds.esi_mask.body import MaskBody
    from registry.kinds.esi_mask.inspect import MaskInspection

FAMILIES = ("gpt2", "llama", "mixtral", "phi3", "qwen2")
"""A fused and transposed family, a plain one, experts, fused projections, and biases."""
TRAINED = {
    "steps": 100, "optimizer": "AdamW", "learning_rate": 1e-4, "weight_decay": 0.0, "data": None,
    "seed": 0,
}  # fmt: skip
INTS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


class Base:
    """The base's tensors in a folder, and which were asked for; the one that is named is gone."""

    def __init__(self, bundle: Bundle, folder: Path, absent: str | None) -> None:
        self.bundle, self.folder, self.absent = bundle, folder, absent
        self.asked: list[str] = []

    def read(self, name: str) -> bytes:
        self.asked.append(name)
        if name == self.absent:
            raise CheckpointNotFoundError("gone")
        with BaseTensors(self.bundle, self.folder) as tensors:
            return tensors.read(name)


class Masked(NamedTuple):
    """A base on disk and in memory, and an artifact of it."""

    folder: Path
    model: Any
    bundle: Bundle
    body: MaskBody

    def base(self, folder: Path | None = None, absent: str | None = None) -> Base:
        return Base(self.bundle, folder or self.folder, absent)

    def tuned(self, dtype: torch.dtype | None = None, *, relative: float = 0.01) -> Any:
        """Return a copy in which every parameter has drifted."""
        model = copy.deepcopy(self.model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                size = relative * parameter.float().norm() / drawn.norm()
                parameter.add_((size * drawn).to(parameter.dtype))
        return model if dtype is None else model.to(dtype)

    def inspect(self, folder: Path, *, beside: bool = False) -> MaskInspection:
        """Return what is found in ``folder``, counted beside the base where that is asked for."""
        with Checkpoint.open(folder) as checkpoint:
            sites = sites_for(self.body.family)
            if not beside:
                return inspect(checkpoint, self.body, sites)
            return inspect_beside(checkpoint, self.body, sites, self.base())

    def places(self) -> dict[str, np.ndarray]:
        """Return which weights of each stored tensor of the base are selected, as booleans."""
        found: dict[str, np.ndarray] = {}
        for matrix in self.body.matrices:
            mask = found.setdefault(matrix.tensor, np.zeros(matrix.shape, dtype=bool))
            rows = slice(matrix.row, matrix.row + matrix.rows)
            columns = slice(matrix.column, matrix.column + matrix.cols)
            boolean = self.body.mask.boolean(matrix.name).reshape(matrix.rows, matrix.cols)
            mask[rows, columns] = boolean
        return found

    def as_delta(self) -> Masked:
        """Return the same mask as a delta, whose new values are the base's with one bit flipped."""
        values = gathered(self)
        parts = []
        for matrix in self.body.matrices:
            bits = values[matrix.name].copy()
            bits ^= 1
            parts.append(bits.tobytes())
        new = np.frombuffer(b"".join(parts), dtype=np.uint8)
        body = replace(self.body, form=DELTA, new_values=new, delta=TRAINED, values=None)
        manifest = replace(self.bundle.manifest, body=body.to_manifest())
        bundle = make_bundle(manifest, body.to_tensors(), self.bundle.base_tensors())
        return Masked(self.folder, self.model, bundle, parse_body(bundle))


def gathered(made: Masked) -> dict[str, np.ndarray]:
    """Return the base's selected bits by matrix, read from its files."""
    found = {}
    with Checkpoint.open(made.folder) as checkpoint:
        for matrix in made.body.matrices:
            raw = checkpoint.read(matrix.tensor)
            bits = np.frombuffer(raw, f"<u{item_size(matrix.dtype)}").reshape(matrix.shape)
            rows = bits[matrix.row : matrix.row + matrix.rows]
            own = rows[:, matrix.column : matrix.column + matrix.cols]
            found[matrix.name] = own.reshape(-1)[made.body.indices(matrix.name)]
    return found


def masked(
    family: str, folder: Path, dtype: torch.dtype = torch.float32, *, with_values: bool = False,
    **options: Any,
) -> Masked:  # fmt: skip
    """Return a random mask of 2 % of a tiny model of ``family``, which is saved in ``folder``."""
    model = family_model(family, dtype=dtype)
    bundle = mask_bundle(model, folder, with_values=with_values, **options)
    return Masked(folder, model, bundle, parse_body(bundle))


def saved(model: Any, folder: Path) -> Path:
    """Save ``model`` in ``folder`` and return it."""
    model.save_pretrained(folder)
    return folder
