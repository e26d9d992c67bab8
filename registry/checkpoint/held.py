"""Where a checkpoint's files hold a tensor of the base: under its name, or regrouped.

One writer stores the experts of a mixture one by one, another as one tensor. What holds a tensor
is given as parts of stored tensors, whose bytes one after the other are the tensor's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from registry.checkpoint.values import item_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.reader import TensorInfo
    from registry.checkpoint.record import Entry
    from registry.checkpoint.sites import Place, Sites


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``[begin, end)`` of the stored tensor ``name``."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Held:
    """What holds a tensor: parts of stored tensors, one after the other."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def find_held(tensors: Mapping[str, TensorInfo], sites: Sites, entry: Entry) -> Held | None:
    """Return what holds ``entry`` of the base among stored ``tensors``; ``None`` if nothing does.

    Its shape is what is held: it need not be the base's.
    """
    if entry.name in tensors:
        return _whole(tensors, entry.name)
    place = sites.place_of(entry.name)
    if place.name in tensors:
        return _slice(tensors, place)
    return _joined(
        tensors,
        {
            (at.index, at.part, at.parts): name
            for name in tensors
            if (at := sites.place_of(name)).name == entry.name
        },
    )


def _whole(tensors: Mapping[str, TensorInfo], name: str) -> Held:
    info = tensors[name]
    return Held(info.dtype, info.shape, (Part(name, 0, info.nbytes),))


def _slice(tensors: Mapping[str, TensorInfo], place: Place) -> Held | None:
    """Return slice ``part`` of ``parts`` of ``name[index]``, whose bytes are together."""
    if place.index is None:
        return _whole(tensors, place.name)
    info = tensors[place.name]
    if len(info.shape) < 2 or place.index >= info.shape[0] or info.shape[1] % place.parts:
        return None
    shape = (info.shape[1] // place.parts, *info.shape[2:])
    size = prod(shape) * item_size(info.dtype)
    begin = (place.index * place.parts + place.part) * size
    return Held(info.dtype, shape, (Part(place.name, begin, begin + size),))


def _joined(
    tensors: Mapping[str, TensorInfo], slices: Mapping[tuple[int | None, int, int], str]
) -> Held | None:
    """Return what the slices make up, ``None`` unless they are all there and alike."""
    if list(slices) == [(None, 0, 1)]:
        return _whole(tensors, slices[None, 0, 1])
    forms = {(tensors[name].dtype, tensors[name].shape) for name in slices.values()}
    if len(forms) != 1:
        return None
    (dtype, shape), parts = forms.pop(), max(key[2] for key in slices)
    count = len(slices) // parts
    wanted = [(index, part, parts) for index in range(count) for part in range(parts)]
    if set(slices) != set(wanted) or not shape:
        return None
    names = [slices[key] for key in wanted]
    pieces = tuple(Part(name, 0, tensors[name].nbytes) for name in names)
    return Held(dtype, (count, parts * shape[0], *shape[1:]), pieces)
