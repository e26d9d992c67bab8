"""What makes a checkpoint's bytes carry the artifact: new bits at known places of stored tensors.

Every other byte stays. Where the checkpoint is in another float dtype than the base, the values are
put there in its own: exactly in a wider one, rounded in a narrower one, which is then no proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.held import find_held
from registry.checkpoint.values import exact_bits, is_float, item_size, rounded, to_float64
from registry.errors import CompatibilityError, GeometryError, UnsupportedArchitectureError
from registry.kinds.esi_mask._targets import Targets, in_tensor_order
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.sites import Sites
    from registry.kinds.contract import BaseTensors
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.body import MaskBody

    Patches = Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True, slots=True)
class _Span:
    """Elements of a stored tensor that are elements of one of the base.

    Attributes:
        matrix: A matrix of the tensor of the base.
        dtype: Of the stored tensor.
        begin: First element, in the stored tensor.
        start: The same element in the tensor of the base.
        count: How many elements.
    """

    matrix: Matrix
    dtype: str
    begin: int
    start: int
    count: int


def patches(
    checkpoint: Checkpoint, body: MaskBody, sites: Sites, base: BaseTensors | None
) -> Patches:
    """Return, by stored tensor, what gives the sorted flat places and the bits that go there.

    Values are read when a tensor is asked for, so that those of one are in memory.

    Raises:
        GeometryError: a matrix is not in the checkpoint, or has another shape there.
        UnsupportedArchitectureError: one is packed or quantised.
    """
    import numpy as np

    spans: dict[str, list[_Span]] = {}
    lost, packed = [], []
    stored = {
        name: find_held(checkpoint.tensors, sites, entry) for name, entry in body.entries.items()
    }
    for matrix in in_tensor_order(body):
        entry, held = body.entries[matrix.tensor], stored[matrix.tensor]
        if held is None or held.shape != entry.shape:
            got = "nothing" if held is None else f"shape {list(held.shape)}"
            lost.append(f"{matrix.name}: expected shape {list(entry.shape)}, got {got}")
            continue
        if not is_float(held.dtype):
            packed.append(f"{matrix.name}: {held.dtype}")
            continue
        size, start = item_size(held.dtype), 0
        first, last = matrix.in_tensor(np.asarray([0, matrix.numel - 1]))
        for part in held.parts:
            count = (part.end - part.begin) // size
            if start <= last and first < start + count:
                span = _Span(matrix, held.dtype, part.begin // size, start, count)
                spans.setdefault(part.name, []).append(span)
            start += count
    if lost:
        raise GeometryError(
            f"expected the matrices of the mask in {checkpoint.path}, {len(lost)} are not there:"
            f"{listed(lost)}",
            hint="See which base this model descends from: safelatch lineage MODEL",
        )
    if packed:
        raise UnsupportedArchitectureError(
            f"expected floats of 16 bits or more in {checkpoint.path}, got {len(packed)} others:"
            f"{listed(packed)}",
            hint="Name the model before it was quantised.",
        )
    targets = Targets(body, base)
    return {
        name: lambda found=tuple(found): _patch(found, body, targets)  # type: ignore[misc]
        for name, found in spans.items()
    }


def _patch(
    spans: tuple[_Span, ...], body: MaskBody, targets: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted flat places in one stored tensor, int64, and their bits, unsigned integers."""
    import numpy as np

    places, bits = [], []
    for span in spans:
        matrix = span.matrix
        raw = _cast(targets.raw(matrix), matrix, span.dtype)
        flat = matrix.in_tensor(body.indices(matrix.name)) - span.start
        low, high = flat.searchsorted([0, span.count])
        places.append(flat[low:high] + span.begin)
        bits.append(np.frombuffer(raw, dtype=f"<u{item_size(span.dtype)}")[low:high])
    flat, values = np.concatenate(places), np.concatenate(bits)
    order = np.argsort(flat, kind="stable")
    return flat[order], values[order]


def _cast(raw: bytes, matrix: Matrix, dtype: str) -> bytes:
    if dtype == matrix.dtype:
        return raw
    cast = rounded(to_float64(raw, matrix.dtype), dtype)
    bits = None if cast is None else exact_bits(cast, dtype)
    if bits is None or not _is_finite(bits, dtype):
        raise CompatibilityError(
            f"{matrix.name}: expected values that {dtype} can hold, some are beyond it.",
            hint="Name the model in the dtype of its base, or in a wider one.",
        )
    return bits


def _is_finite(bits: bytes, dtype: str) -> bool:
    import numpy as np

    return bool(np.isfinite(to_float64(bits, dtype)).all())
