"""Sampled values of a live model, against those of a record.

A record holds up to 1,024 values of every tensor in raw bits. After loading, the same positions of
each live parameter must hold these values, cast as the loader casts: this closes the gap between
checking files and loading them. For a model that came from elsewhere, the same positions tell how
far it is from a base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import positions
from registry.errors import VerificationError, listed
from registry.live.attach import attached_shifts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from registry.checkpoint.record import BaseRecord

_SHOWN = 5


def require_same_values(model: nn.Module, record: BaseRecord) -> int:
    """Return how many values were compared, all of them equal.

    Tensors that every loader recomputes (``Sites.recomputed``) are not looked for.

    Raises:
        VerificationError: a tensor of the checkpoint is not in the model, has another shape, or
            holds other values; or the model has a parameter that the checkpoint does not hold.
    """
    import torch

    sites = sites_for(record.geometry.family)
    live = dict(model.named_parameters()) | dict(model.named_buffers())
    findings = _made_up(model, record)
    compared = 0
    for entry in record.entries:
        if entry.name.endswith(sites.recomputed):
            continue
        parameter = live.get(entry.name)
        if parameter is None:
            findings.append(f"{entry.name}: expected in the model, it has no such tensor")
            continue
        if tuple(parameter.shape) != tuple(entry.shape):
            findings.append(
                f"{entry.name}: expected shape {list(entry.shape)}, got {list(parameter.shape)}"
            )
            continue
        expected = _decode(record.samples[entry.name], entry.dtype).to(parameter.dtype)
        where = torch.from_numpy(positions(entry.name, entry.shape)).to(parameter.device)
        got = parameter.detach().reshape(-1)[where].cpu()
        different = int((~_same(expected, got)).sum())
        compared += len(expected)
        if different:
            findings.append(
                f"{entry.name}: {different} of {len(expected)} sampled values differ "
                f"from the file that was checked"
            )
    if findings:
        raise VerificationError(
            f"the loaded model is not the checkpoint that was checked:{listed(findings, _SHOWN)}",
            hint="The files may have changed while loading. Check them again: "
            "safelatch fingerprint MODEL --no-cache",
        )
    return compared


def _made_up(model: nn.Module, record: BaseRecord) -> list[str]:
    """Return a line for each parameter that the loader filled without the checkpoint.

    A record leaves out an output head that equals the input embedding, tied or not.
    """
    import torch

    sites = sites_for(record.geometry.family)
    live = dict(model.named_parameters())
    unknown = sorted(live.keys() - {entry.name for entry in record.entries})
    if sites.head in unknown and torch.equal(live[sites.head], live[sites.embedding]):
        unknown.remove(sites.head)
    return [f"{name}: expected in the files, the loader made it up" for name in unknown]


def live_distance(model: nn.Module, base: BaseRecord) -> float:
    """Return the estimated ``||live - base||_F / ||base||_F`` over the base's matrices.

    The same estimate as ``checkpoint.lineage.judge`` makes from two records, for a model that is
    in memory and whose files were not seen; infinite when a matrix of a layer is missing or
    reshaped, or a value is not finite. Embeddings of another shape (an extended vocabulary) are
    left out.
    """
    import math

    import torch

    sites = sites_for(base.geometry.family)
    live = dict(model.named_parameters())
    change = size = 0.0
    for entry in base.entries:
        if len(entry.shape) < 2:
            continue
        parameter = live.get(entry.name)
        if parameter is None or tuple(parameter.shape) != tuple(entry.shape):
            if sites.layer_of(entry.name) is None:
                continue
            return math.inf
        ours = _decode(base.samples[entry.name], entry.dtype).double()
        where = torch.from_numpy(positions(entry.name, entry.shape)).to(parameter.device)
        theirs = parameter.detach().reshape(-1)[where].cpu().double()
        change += float(((theirs - ours) ** 2).mean()) * entry.numel
        size += float((ours**2).mean()) * entry.numel
    ratio = math.sqrt(change / size) if size else math.inf
    return ratio if math.isfinite(ratio) else math.inf


def stray_parameters(model: nn.Module, base: BaseRecord) -> list[str]:
    """Return the parameters in the model's layers that its base does not have, sorted.

    Biases that this package attached itself are not among them.
    """
    sites = sites_for(base.geometry.family)
    known = {entry.name for entry in base.entries}
    return sorted(
        name
        for name, _ in model.named_parameters()
        if name not in known
        and sites.layer_of(name) is not None
        and not attached_shifts(model, name.removesuffix(".bias"))
    )


def _same(expected: Tensor, got: Tensor) -> Tensor:
    same: Tensor = (expected == got) | (expected.isnan() & got.isnan())
    return same


def _decode(raw: bytes, dtype: str) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(raw), dtype=_torch_dtype(dtype))


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    names = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
        "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    if dtype not in names:
        raise VerificationError(f"expected a dtype torch can load, got {dtype}.")
    return names[dtype]
