"""Where a live model holds the protected tensors, and whether they are the base's.

The same three answers as in the bytes of a file (``_stored``): *same*, by the digest of the values
in the base's dtype; *rounded*, by samples alone; or neither (``_live_bits.judge``). A bias that
this package added to a module is set aside: the module's own is what is read, and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.errors import GeometryError
from registry.kinds.safety_layers._live_bits import judge
from registry.kinds.safety_layers._protected import strays
from registry.live.attach import attached_shifts
from registry.live.compare import held_part, own_part
from registry.live.sites import model_geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from registry.checkpoint.record import Entry
    from registry.kinds.safety_layers.body import LayersBody


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """One protected tensor of the base in a live model.

    Attributes:
        entry: The base's entry.
        held: The part of the model that holds it, in the parameter's own memory; ``None`` where
            no plain weights of its shape do.
        is_rounded: Whether samples alone say that it is the base's (``Judgement``).
        fact: What it is instead, for people; empty when it is the base's.
    """

    entry: Entry
    held: Tensor | None
    is_rounded: bool
    fact: str


def require_same_family(model: nn.Module, body: LayersBody) -> None:
    """Check that the model is of the body's family and depth.

    Raises:
        GeometryError: with both values; or see ``model_geometry``.
        ApplyError: adapters are in place.
    """
    geometry = model_geometry(model)
    expected, got = (body.family, body.layers), (geometry.family, geometry.layers)
    if expected != got:
        raise GeometryError(
            f"expected a {expected[0]} of {expected[1]} layers as the base, got a {got[0]} of "
            f"{got[1]}.",
            hint="See which base this model descends from: safelatch lineage MODEL",
        )


def read_live(model: nn.Module, body: LayersBody) -> list[LiveTensor]:
    """Return every protected tensor as the model holds it, sorted by name."""
    sites = sites_for(body.family)
    live: dict[str, Tensor] = dict(model.named_parameters())
    found = []
    for entry in body.protected:
        held = own_part(model, held_part(live, sites, entry), entry.name)
        fact = _not_readable(entry, held, live.get(sites.place_of(entry.name).name))
        if held is None or fact:
            found.append(LiveTensor(entry, None, is_rounded=False, fact=fact))
            continue
        judged = judge(held, entry, body.samples[entry.name])
        found.append(LiveTensor(entry, held, judged.is_rounded, judged.fact))
    return found


def _not_readable(entry: Entry, held: Tensor | None, parameter: Tensor | None) -> str:
    import torch

    if held is None:
        return f"expected a tensor of shape {list(entry.shape)}, got none"
    if type(parameter) is not torch.nn.Parameter or type(held) is not torch.Tensor:
        return f"expected a plain parameter, got {type(parameter).__name__}"
    if held.device.type == "meta":
        return "expected weights on a device, they are offloaded"
    if tuple(held.shape) != entry.shape:
        return f"expected shape {list(entry.shape)}, got {list(held.shape)}"
    return ""


def unexpected_parameters(model: nn.Module, body: LayersBody) -> list[str]:
    """Return the parameters and buffers in the range that the base does not have, sorted.

    No family has buffers there. What this package attached itself is not among them.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    stray = strays(parameters, buffers, body)
    return [name for name in stray if not attached_shifts(model, name.removesuffix(".bias"))]


def carried(model: nn.Module, body: LayersBody, layers: set[int]) -> list[str]:
    """Return who attached something to a module in one of ``layers``, sorted."""
    sites = sites_for(body.family)
    return sorted({
        owner
        for name, _ in model.named_modules()
        if sites.layer_of(f"{name}.") in layers
        for owner in attached_shifts(model, name)
    })  # fmt: skip
