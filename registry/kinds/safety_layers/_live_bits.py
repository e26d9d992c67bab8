"""The bits of protected parameters: their digests, and whether they are the base's.

A sharded parameter is put together first, on every rank, one at a time. A live model may hold a
base in a wider dtype: a value that came from a narrower one is cast back and compared by digest. In
a narrower dtype only the sampled values can be compared, cast as a loader casts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.values import is_float
from registry.errors import VerificationError
from registry.live.bits import digest_as, digest_of
from registry.live.compare import different_samples, held_part, torch_dtype
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
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

    def fact(self, tensor: Tensor) -> str:
        """Return what ``tensor`` is instead; empty where it holds these bits, or wider ones."""
        if tuple(tensor.shape) != self.shape:
            return f"expected shape {list(self.shape)}, got {list(tensor.shape)}"
        got = digest_as(tensor, self.dtype)
        return "" if got == self.digest else f"expected {self.digest}, got {_said(got, self.dtype)}"


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
        bits[name] = bits_of(whole)
        for entry in entries[name]:
            part = held_part({name: whole}, sites, entry)
            if part is None or tuple(part.shape) != tuple(entry.shape):
                got = "nothing of this shape" if part is None else f"shape {list(part.shape)}"
                findings.append(f"{entry.name}: expected shape {list(entry.shape)}, got {got}")
                continue
            found = judge(part, entry, body.samples[entry.name])
            by_digest += found.is_same
            if found.fact:
                findings.append(f"{entry.name}: {found.fact}")
    if findings:
        raise VerificationError(
            f"expected layers {body.first} to {body.last} as in the base, {len(findings)} of "
            f"{len(body.protected)} protected tensors have drifted; frozen now, they would stay "
            f"so:{listed(sorted(findings), 5)}",
            hint="Put the base's layers back first: registry.protect(model, artifact, base=DIR)",
        )
    return Baseline(bits, by_digest, len(body.protected) - by_digest)


def changed_bits(parameters: Mapping[str, Tensor], baseline: Baseline) -> list[str]:
    """Return a line for each protected parameter that does not hold what it held, sorted."""
    return [
        f"{name}: {fact}"
        for name, known in sorted(baseline.bits.items())
        if (fact := known.fact(gathered(parameters[name].detach())))
    ]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a tensor is the base's.

    Attributes:
        is_same: Whether it is, bit for bit, when cast to the base's dtype.
        is_rounded: Whether its dtype cannot hold the base's values, and every sampled one is the
            base's, rounded.
        fact: What it is instead, for people; empty when it is one of the two.
    """

    is_same: bool
    is_rounded: bool
    fact: str


def judge(part: Tensor, entry: Entry, samples: bytes) -> Judgement:
    """Return whether ``part`` is the tensor of the base that ``entry`` states.

    Args:
        part: A tensor of the entry's shape.
        entry: The base's entry.
        samples: Its sampled raw bits; asked where ``part`` is in a narrower float dtype.
    """
    part, wanted = part.detach().cpu(), torch_dtype(entry.dtype)
    got = digest_as(part, wanted)
    if got == entry.digest:
        return Judgement(is_same=True, is_rounded=False, fact="")
    if not _is_narrower(part.dtype, entry):
        fact = f"expected {entry.digest} as in the base, got {_said(got, wanted)}"
        return Judgement(is_same=False, is_rounded=False, fact=fact)
    different, count = different_samples(part, entry, samples)
    fact = ""
    if different:
        fact = (
            f"expected the base's values rounded to {spelled(part.dtype)}, {different} of {count} "
            "sampled ones differ"
        )
    return Judgement(is_same=False, is_rounded=not different, fact=fact)


def bits_of(tensor: Tensor) -> Bits:
    """Return what ``tensor`` holds."""
    return Bits(tensor.dtype, tuple(tensor.shape), digest_of(tensor))


def spelled(dtype: torch.dtype) -> str:
    """Return the name of ``dtype`` for people."""
    return str(dtype).removeprefix("torch.")


def _said(got: Digest | None, dtype: torch.dtype) -> str:
    return got or f"values that {spelled(dtype)} does not have"


def _is_narrower(dtype: torch.dtype, entry: Entry) -> bool:
    """Whether a cast of the base's values to ``dtype`` rounds them; never of 8-bit floats."""
    import torch

    floats = dtype.is_floating_point and dtype.itemsize > 1 and is_float(entry.dtype)
    return floats and torch.promote_types(dtype, torch_dtype(entry.dtype)) != dtype
