"""What selected weights held when a guard began, compared with what the artifact says of them.

A sharded parameter is put together first, on every rank, one at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes
from registry.errors import VerificationError
from registry.kinds.esi_mask._selected import flat_indices
from registry.kinds.esi_mask.body import DELTA
from registry.live.bits import digest_as, digest_of
from registry.live.compare import decode, same_values, torch_dtype
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from torch import Tensor, nn

    from registry.digest import Digest
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._selected import Selection
    from registry.kinds.esi_mask.body import MaskBody

_SAME, _ROUNDED, _UNKNOWN, _DRIFTED = "same", "rounded", "unknown", "drifted"


@dataclass(frozen=True, slots=True)
class Bits:
    """The bits of some values.

    Attributes:
        dtype: Their dtype then (``torch.dtype``).
        digest: BLAKE3 of their bytes.
    """

    dtype: Any
    digest: Digest

    @classmethod
    def of(cls, values: Tensor) -> Bits:
        """Return the bits of ``values``."""
        return cls(values.dtype, digest_of(values))

    def same_as(self, values: Tensor) -> bool:
        """Return whether ``values`` are these bits, in this dtype or exactly widened."""
        return digest_as(values, self.dtype) == self.digest


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the selected weights of a model held when a guard began.

    Attributes:
        values: Selected values of each parameter, matrix after matrix, in the dtype of the model.
        bits: Their bits, by matrix.
        by_digest: Matrices whose selected weights were found to be the artifact's, bit for bit.
        by_values: Matrices of which that was seen after a cast alone: the model is in a narrower
            dtype than its base.
        not_compared: Matrices in a narrower dtype of which the artifact has no values.
    """

    values: dict[str, Tensor]
    bits: dict[str, Bits]
    by_digest: int
    by_values: int
    not_compared: int


def read_baseline(
    parameters: Mapping[str, nn.Parameter], chosen: Iterable[Selection], body: MaskBody
) -> Baseline:
    """Return what is selected of ``parameters``, after comparing it with ``body``.

    Raises:
        VerificationError: selected weights are not the artifact's; their matrices are listed.
    """
    values, bits, findings, seen = {}, {}, [], Counter[str]()
    known = body.put_values() if body.form == DELTA else body.base_values()
    for selection in chosen:
        found = selected_values(parameters[selection.name], body, selection)
        values[selection.name] = found
        parts = selection.by_matrix(found)
        for matrix in selection.matrices:
            part = parts[matrix.name]
            bits[matrix.name] = Bits.of(part)
            expected = body.selected_digest(matrix.name)
            if body.form == DELTA:
                expected = digest_bytes(known[matrix.name].data)
            verdict = _verdict(part, matrix, expected, known.get(matrix.name))
            seen[verdict] += 1
            if verdict == _DRIFTED:
                findings.append(f"{matrix.name}: expected {expected}, it holds other values")
    if findings:
        what = "as the delta puts them there" if body.form == DELTA else "as in the base"
        raise VerificationError(
            f"expected the selected weights {what}, those of {len(findings)} of {len(bits)} "
            f"matrices have drifted; the guard would go on from there:{listed(sorted(findings))}",
            hint="Put them back first: registry.protect(model, artifact, base=DIR)",
        )
    return Baseline(values, bits, seen[_SAME], seen[_ROUNDED], seen[_UNKNOWN])


def selected_values(parameter: nn.Parameter, body: MaskBody, selection: Selection) -> Tensor:
    """Return the selected values of a parameter [count], matrix after matrix; a copy."""
    whole = gathered(parameter.detach())
    return whole.reshape(-1)[indices_of(body, selection).to(whole.device)]


def indices_of(body: MaskBody, selection: Selection) -> Tensor:
    """Return flat indices into the whole parameter, matrix after matrix: int64 [count]."""
    import torch

    return torch.from_numpy(flat_indices(body, selection))


def _verdict(part: Tensor, matrix: Matrix, expected: Digest, raw: np.ndarray | None) -> str:
    """Return how ``part`` compares with what has this digest in the base's dtype, or is ``raw``."""
    import torch

    dtype = torch_dtype(matrix.dtype)
    if digest_as(part, dtype) == expected:
        return _SAME
    if torch.promote_types(part.dtype, dtype) == part.dtype:
        return _DRIFTED
    if raw is None:
        return _UNKNOWN
    rounded = decode(raw.tobytes(), matrix.dtype).to(part.dtype)
    return _ROUNDED if bool(same_values(rounded, part.cpu()).all()) else _DRIFTED
