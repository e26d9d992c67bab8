"""Sampled values of a live model, against those of a record.

A record holds a sketch of every tensor: raw bits at known positions. After loading, the same
positions of each live parameter must hold these values, cast as the loader casts: this closes the
gap between checking files and loading them. For a model that came from elsewhere, the flat part of
the sketch tells how far it is from a base.

A loader may put stored tensors together (the experts of a mixture become one parameter). The row of
sites says where each of them went, and its values are looked for there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.lineage import Squares, vector_role
from registry.checkpoint.sketch import extent, positions
from registry.errors import VerificationError
from registry.live.attach import attached_shifts, original_bias
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.record import BaseRecord, Entry

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Compared:
    """What ``require_same_values`` looked at.

    Attributes:
        tensors: How many tensors of the checkpoint were compared.
        values: How many of their values, all equal.
        recomputed: Tensors of the checkpoint that were not looked for, sorted: every loader
            computes its own (``Sites.recomputed``).
    """

    tensors: int
    values: int
    recomputed: tuple[str, ...]


def require_same_values(model: nn.Module, record: BaseRecord) -> Compared:
    """Return what was compared, all of it equal.

    Every tensor of the checkpoint is compared or named in the result, and every parameter of the
    model must come from the checkpoint.

    Raises:
        VerificationError: a tensor of the checkpoint is not in the model, has another shape, or
            holds other values; or the model has a parameter that the checkpoint does not hold.
    """
    sites = sites_for(record.geometry.family)
    live = dict(model.named_parameters()) | dict(model.named_buffers())
    findings = _made_up(model, record)
    recomputed, values = [], 0
    for entry in record.entries:
        if entry.name.endswith(sites.recomputed):
            recomputed.append(entry.name)
            continue
        held = held_part(live, sites, entry)
        if held is None:
            findings.append(f"{entry.name}: expected in the model, it has no such tensor")
            continue
        if tuple(held.shape) != tuple(entry.shape):
            findings.append(
                f"{entry.name}: expected shape {list(entry.shape)}, got {list(held.shape)}"
            )
            continue
        different, count = different_samples(held, entry, record.samples[entry.name])
        values += count
        if different:
            findings.append(
                f"{entry.name}: {different} of {count} sampled values differ "
                f"from the file that was checked"
            )
    if findings:
        raise VerificationError(
            f"the loaded model is not the checkpoint that was checked:{listed(findings, _SHOWN)}",
            hint="The files may have changed while loading. Check them again: "
            "safelatch fingerprint MODEL --no-cache",
        )
    return Compared(len(record.entries) - len(recomputed), values, tuple(recomputed))


def held_part(live: Mapping[str, Tensor], sites: Sites, entry: Entry) -> Tensor | None:
    """Return the part of the live model that holds a stored tensor, ``None`` where none does.

    It shares the parameter's memory.
    """
    place = sites.place_of(entry.name)
    whole = live.get(place.name)
    if whole is None or place.index is None:
        return whole if whole is None else whole.detach()
    if whole.ndim < 2 or place.index >= whole.shape[0] or whole.shape[1] % place.parts:
        return None
    size = whole.shape[1] // place.parts
    return whole.detach()[place.index, place.part * size : (place.part + 1) * size]


def _made_up(model: nn.Module, record: BaseRecord) -> list[str]:
    """Return a line for each parameter that the loader filled without the checkpoint.

    A record leaves out an output head that equals the input embedding, tied or not.
    """
    import torch

    sites = sites_for(record.geometry.family)
    live = dict(model.named_parameters())
    filled: Counter[str] = Counter()
    for entry in record.entries:
        filled[sites.place_of(entry.name).name] += entry.numel
    known = {entry.name for entry in record.entries}
    unknown = sorted(name for name in live.keys() - known if filled[name] != live[name].numel())
    if sites.head in unknown and torch.equal(live[sites.head], live[sites.embedding]):
        unknown.remove(sites.head)
    return [f"{name}: expected in the files, the loader made it up" for name in unknown]


def live_distance(model: nn.Module, base: BaseRecord) -> float:
    """Return the estimated ``||live - base||_F / ||base||_F``: matrices, or a role of vectors.

    The larger of the two estimates that ``checkpoint.lineage.judge`` makes from two records, for a
    model that is in memory and whose files were not seen. What this package attached itself is set
    aside; infinite when a matrix of a layer is missing or
    reshaped, or a value is not finite. Embeddings of another shape (an extended vocabulary) are
    left out.
    """
    import math

    import torch

    sites = sites_for(base.geometry.family)
    live: dict[str, Tensor] = dict(model.named_parameters())
    total, roles = Squares(), dict[str, Squares]()
    for entry in base.entries:
        if not entry.numel or entry.name.endswith(sites.recomputed):
            continue
        held = own_part(model, held_part(live, sites, entry), entry.name)
        if held is None or tuple(held.shape) != tuple(entry.shape):
            if sites.layer_of(entry.name) is None:
                continue
            return math.inf
        flat = extent(entry.shape).flat
        ours = decode(base.samples[entry.name], entry.dtype)[:flat].double()
        where = torch.from_numpy(positions(entry.name, entry.shape)[:flat]).to(held.device)
        theirs = gathered(held).reshape(-1)[where].cpu().double()
        change, size = float(((theirs - ours) ** 2).mean()), float((ours**2).mean())
        role = vector_role(sites, entry.name)
        squares = total if len(entry.shape) > 1 else roles.setdefault(role, Squares())
        squares.add(change * entry.numel, size * entry.numel)
    return max(squares.ratio() for squares in (total, *roles.values()))


def own_part(model: nn.Module, held: Tensor | None, name: str) -> Tensor | None:
    """Return ``held``, or the bias that the module had before this package attached one."""
    module = name.removesuffix(".bias")
    own = original_bias(model, module) if attached_shifts(model, module) else held
    return own if own is None else own.detach()


def stray_parameters(model: nn.Module, base: BaseRecord) -> list[str]:
    """Return the parameters in the model's layers that its base does not have, sorted.

    Biases that this package attached itself are not among them.
    """
    names = (name for name, _ in model.named_parameters())
    stored = (entry.name for entry in base.entries)
    stray = sites_for(base.geometry.family).strays(names, stored)
    return [name for name in stray if not attached_shifts(model, name.removesuffix(".bias"))]


def different_samples(held: Tensor, entry: Entry, raw: bytes) -> tuple[int, int]:
    """Return how many sampled values of ``held`` are not the stored ones, and of how many.

    Args:
        held: A tensor of the entry's shape, in any dtype and place.
        entry: What is stored.
        raw: Its sampled raw bits, which are cast as a loader casts.
    """
    import torch

    expected = decode(raw, entry.dtype).to(held.dtype)
    where = torch.from_numpy(positions(entry.name, entry.shape)).to(held.device)
    got = held.reshape(-1)[where].cpu()
    return int((~same_values(expected, got)).sum()), len(expected)


def same_values(expected: Tensor, got: Tensor) -> Tensor:
    """Return where two tensors are equal; NaN is equal to NaN."""
    same: Tensor = (expected == got) | (expected.isnan() & got.isnan())
    return same


def decode(raw: bytes, dtype: str) -> Tensor:
    """Return the elements of raw bits of a safetensors dtype, one after the other.

    Raises:
        VerificationError: torch has no such dtype.
    """
    import torch

    return torch.frombuffer(bytearray(raw), dtype=torch_dtype(dtype))


def torch_dtype(dtype: str) -> torch.dtype:
    """Return torch's name of a safetensors dtype.

    Raises:
        VerificationError: it has none.
    """
    import torch

    names = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
        "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    if dtype not in names:
        raise VerificationError(
            f"expected a dtype torch can load, got {dtype}.",
            hint="Save the checkpoint in a dtype that torch has, such as bfloat16.",
        )
    return names[dtype]
