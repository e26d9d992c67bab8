"""Which tensors of a range are protected, and where a live model holds them.

A tensor is named as the files name it. A live model may hold several in one parameter (the experts
of a mixture), so a name of a file and a name of a parameter are both asked for here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.record import BaseRecord, Entry
    from registry.kinds.safety_layers.body import LayersBody


def is_protected(name: str, sites: Sites, *, first: int, last: int, norms: str) -> bool:
    """Return whether the tensor or parameter ``name`` belongs to what the range protects.

    Source: Safety Layers, SPPFT: parameters below the attention and the MLP of the chosen layers
    do not get gradients, the layers' own norms do. That is ``norms`` of ``trainable``;
    ``frozen`` protects everything in the layer.
    """
    layer = sites.layer_of(name)
    if layer is None or not first <= layer <= last:
        return False
    if norms == "frozen":
        return True
    return name.removeprefix(f"{sites.layer_prefix(layer)}.").split(".")[0] in _parts(sites)


def protected_entries(
    record: BaseRecord, sites: Sites, *, first: int, last: int, norms: str
) -> tuple[Entry, ...]:
    """Return the base's tensors that are protected, sorted by name.

    Tensors that every loader computes anew are left out: they are no weights.
    """
    return tuple(
        entry
        for entry in record.entries
        if is_protected(entry.name, sites, first=first, last=last, norms=norms)
        and not entry.name.endswith(sites.recomputed)
    )


def live_names(entries: Iterable[Entry], sites: Sites) -> tuple[str, ...]:
    """Return the parameters of a live model that hold ``entries``, sorted, each once."""
    return tuple(sorted({sites.place_of(entry.name).name for entry in entries}))


def strays(parameters: Iterable[str], buffers: Iterable[str], body: LayersBody) -> list[str]:
    """Return what stands in the layers of the range beside the base's own, sorted.

    Also where the norms are trained: what is added right below a layer acts on what is protected.
    Buffers that every loader computes anew are left out: they are no weights.
    """
    sites = sites_for(body.family)
    held = [*parameters, *(name for name in buffers if not name.endswith(sites.recomputed))]
    return sites.strays(held, body.own, body.range)


def _parts(sites: Sites) -> set[str]:
    """Return the first steps from a layer to its attention and its MLP, in files and live."""
    paths = [sites.attn_out, sites.mlp_out]
    paths += [path for row in sites.regrouped for path in (row.stored, row.live)]
    return {path.split(".")[0] for path in paths}
