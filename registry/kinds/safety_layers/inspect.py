"""Which layers of the range are untouched in these bytes, and how far did each other one drift?

Works on bytes alone, without torch. A layer is

    untouched    every protected tensor is the base's, bit for bit
    rounded      some are held in a dtype too narrow for the base's values, and every sampled one is
                 the base's, rounded: evidence, no proof
    drifted      any other; a tensor that is missing, reshaped or too many is drift

Only untouched layers make the range ``stored``. The drift of a layer is the larger of two estimates
of ``||W - W_base||_F / ||W_base||_F``, as in ``checkpoint.lineage``: over its matrices, and of one
of its vectors. Samples estimate, digests are certain: an edit that no sample meets has drift 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.lineage import Squares
from registry.kinds.safety_layers._stored import loaded_as, read_effective, read_stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites
    from registry.kinds.safety_layers._stored import Reading
    from registry.kinds.safety_layers.body import LayersBody

State = Literal["untouched", "rounded", "drifted"]


@dataclass(frozen=True, slots=True)
class LayerInspection:
    """One layer of the range.

    Attributes:
        layer: 0-based.
        state: See the module.
        drift: Relative, dimensionless; infinite where a tensor has nothing to be compared with.
        tensors: How many of the base's are protected in it.
        changed: Those that are neither the base's nor the base's rounded, sorted.
        missing: Those that nothing holds, sorted.
        reshaped: Those that have another shape, sorted.
        unexpected: Tensors that the base does not have, sorted.
    """

    layer: int
    state: State
    drift: float
    tensors: int
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; an infinite drift is ``null``."""
        return {
            "layer": self.layer,
            "state": self.state,
            "drift": float(f"{self.drift:.6g}") if math.isfinite(self.drift) else None,
            "tensors": self.tensors,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "reshaped": list(self.reshaped),
            "unexpected": list(self.unexpected),
        }


@dataclass(frozen=True, slots=True)
class LayersInspection:
    """What the bytes say.

    Attributes:
        layers: One per layer of the range, ascending.
        norms: Whether the layers' own norms are protected too: ``frozen``, or ``trainable``.
        tensors: The protected tensors, when every layer is untouched.
        loader_keeps: Every loader reads a model's own weights; transformers puts an adapter that
            lies beside them on top.
        explains: No config field differs because of them.
    """

    layers: tuple[LayerInspection, ...]
    norms: str
    tensors: tuple[str, ...]
    loader_keeps: bool = True
    explains: tuple[str, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether every layer of the range is untouched."""
        return all(layer.state == "untouched" for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: counts, and a row per layer."""
        states = [layer.state for layer in self.layers]
        return {
            "stored": self.stored,
            "loader_keeps": self.loader_keeps,
            "range": f"{self.layers[0].layer}..{self.layers[-1].layer}",
            "norms": self.norms,
            "untouched": states.count("untouched"),
            "rounded": states.count("rounded"),
            "drifted": states.count("drifted"),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def inspect(checkpoint: Checkpoint, body: LayersBody, sites: Sites) -> LayersInspection:
    """Return which layers of ``body`` are untouched in the bytes of ``checkpoint``."""
    found = _judged(body, sites, *read_stored(checkpoint, body, sites))
    return replace(found, loader_keeps=not (checkpoint.folder / "adapter_config.json").exists())


def inspect_adapter(record: BaseRecord, body: LayersBody, sites: Sites) -> LayersInspection:
    """Return which layers an adapter leaves untouched.

    A weight that it changes is drift, whatever is made of the sum afterwards.

    Args:
        record: Of the base of ``body`` with the adapter merged into it
            (``checkpoint.effective.effective_record``).
        body: The safety layers.
        sites: The row of the family.
    """
    return _judged(body, sites, *read_effective(record, body, sites))


def _judged(
    body: LayersBody, sites: Sites, readings: Sequence[Reading], beside: Sequence[str]
) -> LayersInspection:
    layers = tuple(
        _layer(
            layer,
            [reading for reading in readings if sites.layer_of(reading.base.name) == layer],
            tuple(name for name in beside if layer in map(sites.layer_of, loaded_as(name, sites))),
        )
        for layer in body.range
    )
    found = LayersInspection(layers, body.norms, ())
    if not found.stored:
        return found
    return LayersInspection(layers, body.norms, tuple(entry.name for entry in body.protected))


def _layer(layer: int, readings: Sequence[Reading], unexpected: tuple[str, ...]) -> LayerInspection:
    lost = [reading for reading in readings if reading.pair is None]
    changed = tuple(
        reading.base.name
        for reading in readings
        if reading.pair is not None and not (reading.is_same or reading.is_rounded)
    )
    state: State = "untouched"
    if lost or changed or unexpected:
        state = "drifted"
    elif not all(reading.is_same for reading in readings):
        state = "rounded"
    return LayerInspection(
        layer,
        state,
        math.inf if lost else _drift(readings),
        len(readings),
        changed,
        tuple(reading.base.name for reading in lost if reading.is_missing),
        tuple(reading.base.name for reading in lost if not reading.is_missing),
        unexpected,
    )


def _drift(readings: Sequence[Reading]) -> float:
    """Return the larger of the matrices' relative distance and that of a vector."""
    import numpy as np

    matrices, vectors = Squares(), [0.0]
    for reading in readings:
        pair = reading.pair
        if pair is None or not pair.base.numel:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            size = float(np.mean(pair.flat(pair.ours) ** 2)) * pair.base.numel
            change = 0.0
            if not reading.is_same:
                change = float(np.mean(pair.flat(pair.change) ** 2)) * pair.base.numel
                if not np.isfinite(pair.theirs).all():
                    change = math.inf
        if pair.is_matrix:
            matrices.add(change, size)
        else:
            vector = Squares()
            vector.add(change, size)
            vectors.append(vector.ratio())
    return max(matrices.ratio() if matrices.tensors else 0.0, *vectors)
