"""Tensors that hold several logical matrices one after the other, and how many outputs each has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import GeometryError
from registry.wording import RESTORE_CONFIG

if TYPE_CHECKING:
    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.record import Entry


def fused_outputs(
    entry: Entry, module: str, sites: Sites, geometry: Geometry
) -> tuple[tuple[str, int], ...]:
    """Return (label, outputs) of each matrix in a tensor; one without a label where it is one."""
    outputs = sites.out_features((entry.shape[0], entry.shape[1]))
    width, kv_width = geometry.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    attention = [(sites.query, "#q", width), (sites.key, "#k", kv_width)]
    attention.append((sites.value, "#v", kv_width))
    found = tuple((label, size) for path, label, size in attention if path == module)
    if len(found) > 1:
        if sum(size for _, size in found) != outputs:
            raise GeometryError(
                f"{entry.name}: expected {sum(size for _, size in found)} outputs, got {outputs}.",
                hint=RESTORE_CONFIG,
            )
        return found
    labels = dict(sites.fused).get(module)
    if labels is not None:
        size = equal_parts(entry, outputs, len(labels))
        return tuple((f"#{label}", size) for label in labels)
    return (("", entry.shape[0]),)


def equal_parts(entry: Entry, outputs: int, parts: int) -> int:
    """Return how many of the ``outputs`` each of equal ``parts`` has."""
    if outputs % parts:
        raise GeometryError(
            f"{entry.name}: expected {parts} matrices of one size, got {outputs} outputs.",
            hint=RESTORE_CONFIG,
        )
    return outputs // parts
