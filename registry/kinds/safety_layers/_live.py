"""Where a live model holds the protected tensors, and whether they are the base's.

The same three answers as in the bytes of a file (``_stored``): *same*, by the digest of the values
in the base's dtype; *rounded*, by samples alone; or neither. A bias that this package added to a
module is set aside: the module's own is what is read, and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import positions
from registry.checkpoint.values import is_float
from registry.errors import GeometryError
from registry.live.attach import attached_shifts
from registry.live.bits import digest_as
from registry.live.compare import decode, held_part, own_part, same_values, torch_dtype
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
        is_same: Whether it is the base's, bit for bit, when cast to the base's dtype.
        is_rounded: Whether its dtype cannot hold the base's values, and every sampled one is the
            base's, rounded.
        fact: What it is instead, for people; empty when it is one of the two.
    """

    entry: Entry
    held: Tensor | None
    is_same: bool
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
            found.append(LiveTensor(entry, None, is_same=False, is_rounded=False, fact=fact))
            continue
        found.append(_compared(body, entry, held))
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
    """Return the protected layers' parameters that the base does not have, sorted.

    What this package attached itself is not among them.
    """
    sites = sites_for(body.family)
    known = {sites.place_of(entry.name).name for entry in body.protected}
    return sorted(
        name
        for name, _ in model.named_parameters()
        if body.protects(name)
        and name not in known
        and not attached_shifts(model, name.removesuffix(".bias"))
    )


def carried(model: nn.Module, body: LayersBody, layers: set[int]) -> list[str]:
    """Return who attached something to a module in one of ``layers``, sorted."""
    sites = sites_for(body.family)
    return sorted({
        owner
        for name, _ in model.named_modules()
        if sites.layer_of(f"{name}.") in layers
        for owner in attached_shifts(model, name)
    })  # fmt: skip


def _compared(body: LayersBody, entry: Entry, held: Tensor) -> LiveTensor:
    import torch

    own, wanted = held.detach().cpu(), torch_dtype(entry.dtype)
    got = digest_as(own, wanted)
    if got == entry.digest:
        return LiveTensor(entry, held, is_same=True, is_rounded=False, fact="")
    if not is_float(entry.dtype) or torch.promote_types(own.dtype, wanted) == own.dtype:
        lost = f"values that {entry.dtype} does not have"
        fact = f"expected {entry.digest} as in the base, got {got or lost}"
        return LiveTensor(entry, held, is_same=False, is_rounded=False, fact=fact)
    expected = decode(body.samples[entry.name], entry.dtype).to(own.dtype)
    where = torch.from_numpy(positions(entry.name, entry.shape))
    different = int((~same_values(expected, own.reshape(-1)[where])).sum())
    fact = ""
    if different:
        dtype = str(own.dtype).removeprefix("torch.")
        fact = (
            f"expected the base's values rounded to {dtype}, {different} of {len(expected)} "
            "sampled ones differ"
        )
    return LiveTensor(entry, held, is_same=False, is_rounded=not different, fact=fact)
