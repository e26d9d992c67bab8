"""The bits of protected parameters: their digests, and whether they are the base's.

A sharded parameter is put together first, on every rank, one at a time. A live model may hold a
base in a wider dtype: a value that came from a narrower one is cast back and compared by digest. In
a narrower dtype only the sampled values can be compared, cast as a loader casts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import positions
from registry.errors import VerificationError
from registry.live.bits import digest_as, digest_of
from registry.live.compare import decode, held_part, same_values, torch_dtype
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from registry.checkpoint.record import Entry
    from registry.digest import Digest
    from registry.kinds.safety_layers.body import LayersBody


@dataclass(frozen=True, slots=True)
class Bits:
    """What one parameter held.

    Attributes:
        dtype: Its dtype then (``torch.dtype``).
        shape: Its whole shape.
        digest: BLAKE3 of its bytes, row-major.
    """

    dtype: Any
    shape: tuple[int, ...]
    digest: Digest

    def same_as(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` holds these bits, in this dtype or exactly widened."""
        return tuple(tensor.shape) == self.shape and digest_as(tensor, self.dtype) == self.digest


@dataclass(frozen=True, slots=True)
class Baseline:
    """What protected parameters held when the guard began.

    Attributes:
        bits: By parameter.
        by_digest: Tensors of the base that were found whole, bit for bit.
        by_samples: Tensors of which only the sampled values could be compared, all equal: the
            model holds them in a narrower dtype than the base.
    """

    bits: dict[str, Bits]
    by_digest: int
    by_samples: int


def read_baseline(parameters: Mapping[str, Tensor], body: LayersBody) -> Baseline:
    """Return what ``parameters`` hold, after comparing them with the base of ``body``.

    Raises:
        VerificationError: a tensor is not the base's; all of them are listed.
    """
    sites = sites_for(body.family)
    entries: dict[str, list[Entry]] = {}
    for entry in body.protected:
        entries.setdefault(sites.place_of(entry.name).name, []).append(entry)
    bits, findings, by_digest = {}, [], 0
    for name, parameter in parameters.items():
        whole = gathered(parameter.detach())
        bits[name] = Bits(whole.dtype, tuple(whole.shape), digest_of(whole))
        for entry in entries[name]:
            part = held_part({name: whole}, sites, entry)
            if part is None or tuple(part.shape) != tuple(entry.shape):
                got = "nothing of this shape" if part is None else f"shape {list(part.shape)}"
                findings.append(f"{entry.name}: expected shape {list(entry.shape)}, got {got}")
            elif digest_as(part, torch_dtype(entry.dtype)) == entry.digest:
                by_digest += 1
            elif _holds_all_of(part, entry) or not _same_samples(part, entry, body):
                findings.append(f"{entry.name}: expected {entry.digest}, it holds other values")
    if findings:
        raise VerificationError(
            f"expected layers {body.first} to {body.last} as in the base, {len(findings)} of "
            f"{len(body.protected)} protected tensors have drifted; frozen now, they would stay "
            f"so:{listed(sorted(findings))}",
            hint="Put the base's layers back first: registry.protect(model, artifact, base=DIR)",
        )
    return Baseline(bits, by_digest, len(body.protected) - by_digest)


def changed_bits(parameters: Mapping[str, Tensor], baseline: Baseline) -> list[str]:
    """Return a line for each protected parameter that does not hold what it held, sorted."""
    return [
        f"{name}: expected {known.digest}, it holds other bits"
        for name, known in sorted(baseline.bits.items())
        if not known.same_as(gathered(parameters[name].detach()))
    ]


def _holds_all_of(part: Tensor, entry: Entry) -> bool:
    """Whether the dtype of ``part`` holds every value of the base's, so that no cast differs."""
    import torch

    return torch.promote_types(part.dtype, torch_dtype(entry.dtype)) == part.dtype


def _same_samples(part: Tensor, entry: Entry, body: LayersBody) -> bool:
    import torch

    expected = decode(body.samples[entry.name], entry.dtype).to(part.dtype)
    where = torch.from_numpy(positions(entry.name, entry.shape)).to(part.device)
    return bool(same_values(expected, part.reshape(-1)[where].cpu()).all())
