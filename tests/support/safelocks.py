"""Files of exactly the form of the official ``.safelock`` ones, and the official ones where they are.

``safelock`` writes with torch.save and NumPy; ``stored_zip`` puts any pickle where it belongs.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OFFICIAL = Path(
    os.environ.get("SAFELATCH_TEST_SAFELOCKS")
    or Path(__file__).resolve().parents[3] / "shared/data/safelock"
)
"""Folder of official files; nothing of them is in the repository."""
NEMO = (
    (16, 5), (16, 14), (16, 19), (39, 0), (39, 12), (39, 13), (18, 0), (18, 1), (18, 3), (18, 9),
    (18, 14), (18, 15), (18, 27), (22, 22), (38, 2), (12, 5), (21, 0), (36, 25), (30, 25), (15, 23),
    (15, 25), (15, 26), (17, 17), (14, 18),
)  # fmt: skip
"""Heads of the official lock of Mistral Nemo, in the order of its file."""
Heads = tuple[tuple[int, int], ...]
NAME = "model.layers.{}.self_attn.head_out"


def vectors(count: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Return unit vectors as they are published: normalised, then rounded to fp16."""
    drawn = np.random.default_rng(seed).standard_normal((count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def layers_of(
    heads: Iterable[tuple[int, int]], directions: np.ndarray, sigma: Iterable[float]
) -> dict[str, list[Any]]:
    """Return the object that is saved."""
    layers: dict[str, list[Any]] = {}
    for (layer, head), direction, scale in zip(heads, directions, sigma, strict=True):
        row = (np.int64(head), direction, np.float16(scale))
        layers.setdefault(NAME.format(layer), []).append(row)
    return layers


def a_lock(
    heads: Heads = ((1, 3), (0, 2)), *, width: int = 16, seed: int = 0
) -> dict[str, list[Any]]:
    """Return an object with random directions."""
    sigma = np.linspace(0.5, 1.5, len(heads))
    return layers_of(heads, vectors(len(heads), width, seed=seed), sigma)


def saved(value: Any) -> bytes:
    """Return what torch.save writes of ``value`` today."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickle_of(value: Any, *, old: bool = True) -> bytes:
    """Return the pickle of ``value`` as torch.save writes it; ``old``: as NumPy 1 named its parts."""
    with zipfile.ZipFile(io.BytesIO(saved(value))) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        data = archive.read(name)
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n") if old else data


def stored_zip(
    pickle: bytes,
    *,
    root: str = "Tiny_Model",
    more: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return ``pickle`` and the three small members in a zip; ``more`` are whole names."""
    members = {
        f"{root}/data.pkl": pickle,
        f"{root}/byteorder": b"little",
        f"{root}/version": b"3\n",
        f"{root}/.data/serialization_id": b"1" * 40,
        **(more or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def safelock(value: Any) -> bytes:
    """Return the file of ``value``, in the form of the official ones."""
    return stored_zip(pickle_of(value))
