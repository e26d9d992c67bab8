"""The tensors of an artifact as bytes and back: NumPy arrays, and byte strings as U8 vectors.

This module owns the writing of safetensors; what is read is judged by ``registry.tensorfile``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import UnsafeFormatError
from registry.tensorfile import ARTIFACT_HEADER_LIMIT, header_length, parse_header
from registry.wording import REMAKE, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

_NUMPY = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


def write_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return ``tensors`` as safetensors bytes; the same values give the same bytes."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}))


def read_tensors(data: bytes, *, what: str) -> dict[str, Any]:
    """Parse an artifact's safetensors bytes strictly (header of at most 1 MiB).

    Raises:
        UnsafeFormatError: the bytes break the format, or hold a dtype artifacts do not use.
    """
    import numpy as np

    given: dict[str, Any] = {
        "file_size": len(data), "what": what, "limit": ARTIFACT_HEADER_LIMIT, "hint": REMAKE
    }  # fmt: skip
    length = header_length(data[:8], **given)
    header = parse_header(data[8 : 8 + length], **given)
    unknown = sorted({entry.dtype for entry in header.entries} - set(_NUMPY))
    if unknown:
        raise UnsafeFormatError(
            f"{what}: expected dtypes {sorted(_NUMPY)}, got {unknown}.", hint=REMAKE
        )
    body = memoryview(data)[header.data_start :]
    return {
        entry.name: np.frombuffer(body[entry.begin : entry.end], dtype=_NUMPY[entry.dtype]).reshape(
            entry.shape
        )
        for entry in header.entries
    }


def write_payloads(payloads: Mapping[str, bytes]) -> bytes:
    """Return named byte strings as a safetensors file of U8 vectors."""
    import numpy as np

    return write_tensors({k: np.frombuffer(v, dtype=np.uint8) for k, v in payloads.items()})


def read_payloads(data: bytes, *, what: str) -> dict[str, bytes]:
    """Return the byte strings that ``write_payloads`` wrote.

    Raises:
        UnsafeFormatError: see ``read_tensors``; or a tensor is no vector of U8.
    """
    tensors = read_tensors(data, what=what)
    wrong = [
        f"{name!r:.120}: expected uint8 in one dimension, got {array.dtype.name} {array.shape}"
        for name, array in tensors.items()
        if (array.dtype.name, array.ndim) != ("uint8", 1)
    ]
    if wrong:
        raise UnsafeFormatError(f"{what}: expected byte strings alone:{listed(wrong)}", hint=REMAKE)
    return {name: array.tobytes() for name, array in tensors.items()}
