"""Samples of a tensor: the same positions on every machine, the raw bits found there.

The format is frozen: records that travel hold these samples, and a changed position would make
every old record lie. Rules:

- Positions depend on the tensor's name and shape alone, never on its dtype or values.
- Slot ``i`` of ``k`` covers elements ``[i*n//k, (i+1)*n//k)``; the position in it is output ``i``
  of splitmix64 modulo the slot's width. Positions are therefore sorted and unique.
- The seed is the first 8 bytes, little-endian, of BLAKE3 of a domain text, the name and the shape.
- A tensor of at most ``k`` elements is taken whole.
- Integer arithmetic only; values are compared in float64, into which every dtype here is exact
  except 64-bit integers.

Source of the generator: Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes
from registry.tensorfile import ITEM_BITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]
    Values = NDArray[np.float64]

PER_TENSOR = 1024
"""Samples per tensor, part of the format."""

_DOMAIN = "safelatch/sketch/v1\0flat\0"
_PLAIN_DTYPES = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<f4",
}  # fmt: skip


def item_size(dtype: str) -> int:
    """Return the bytes of one element of a safetensors dtype."""
    return ITEM_BITS[dtype] // 8


def sample_count(shape: tuple[int, ...], count: int = PER_TENSOR) -> int:
    """Return how many elements of a tensor of this ``shape`` are sampled."""
    return min(prod(shape), count)


def positions(name: str, shape: tuple[int, ...], count: int = PER_TENSOR) -> Positions:
    """Return the flat, row-major positions to sample, sorted and unique.

    Returns:
        [min(count, numel)], int64.
    """
    import numpy as np

    numel = prod(shape)
    if numel <= count:
        return np.arange(numel, dtype=np.int64)
    slots = np.arange(count + 1, dtype=np.uint64) * np.uint64(numel) // np.uint64(count)
    width = slots[1:] - slots[:-1]
    picked: Positions = (slots[:-1] + splitmix64(_seed(name, shape), count) % width).astype(
        np.int64
    )
    return picked


def splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first ``count`` outputs of splitmix64 from ``seed``, modulo 2**64."""
    import numpy as np

    step, shifts = np.uint64(0x9E3779B97F4A7C15), [np.uint64(n) for n in (30, 27, 31)]
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * step
        z = (z ^ (z >> shifts[0])) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> shifts[1])) * np.uint64(0x94D049BB133111EB)
        outputs: NDArray[np.uint64] = z ^ (z >> shifts[2])
    return outputs


def _seed(name: str, shape: tuple[int, ...]) -> int:
    text = _DOMAIN + name + "\0" + "x".join(str(size) for size in shape)
    digest = digest_bytes(text.encode("utf-8")).removeprefix("blake3:")
    return int.from_bytes(bytes.fromhex(digest[:16]), "little")


def take(piece: memoryview | bytes, dtype: str, where: Positions, *, first: int = 0) -> bytes:
    """Return the raw little-endian bits of the sampled elements that are in ``piece``.

    Args:
        piece: Whole elements of the tensor, one after the other.
        dtype: Their dtype.
        where: Flat positions in the tensor, sorted.
        first: Position in the tensor of the first element of ``piece``.
    """
    import numpy as np

    bits = np.frombuffer(piece, dtype=f"<u{item_size(dtype)}")
    begin, end = np.searchsorted(where, (first, first + len(bits)))
    return bits[where[begin:end] - first].tobytes()


def to_float64(raw: bytes | memoryview, dtype: str) -> Values:
    """Return the values of raw bits; exact, NaN and infinities kept.

    A complex number gives its real and its imaginary part, one after the other.

    Raises:
        KeyError: ``dtype`` is none that the format names.
    """
    import numpy as np

    values: Values
    with np.errstate(invalid="ignore"):  # a signalling NaN is a value here, not an error
        if dtype == "BF16":
            wide = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << np.uint32(16)
            values = wide.view(np.float32).astype(np.float64)
        elif dtype in _FLOAT8:
            table = np.array(_FLOAT8[dtype](), dtype=np.float64)
            values = table[np.frombuffer(raw, dtype=np.uint8)]
        elif dtype == "BOOL":
            values = (np.frombuffer(raw, dtype=np.uint8) != 0).astype(np.float64)
        else:
            values = np.frombuffer(raw, dtype=_PLAIN_DTYPES[dtype]).astype(np.float64)
    return values


def _e4m3() -> list[float]:
    """Return the 256 values of float8 e4m3fn: no infinity, NaN is all ones but the sign."""
    magnitudes = [_small_float(code, mantissa_bits=3, bias=7) for code in range(0x80)]
    magnitudes[0x7F] = float("nan")
    return magnitudes + [-value for value in magnitudes]


def _e5m2() -> list[float]:
    """Return the 256 values of float8 e5m2: IEEE, with infinities and NaN."""
    magnitudes = [_small_float(code, mantissa_bits=2, bias=15) for code in range(0x7C)]
    magnitudes += [float("inf"), float("nan"), float("nan"), float("nan")]
    return magnitudes + [-value for value in magnitudes]


def _e8m0() -> list[float]:
    """Return the 256 values of the scale dtype e8m0: powers of two, the last is NaN."""
    return [*(2.0 ** (code - 127) for code in range(0xFF)), float("nan")]


def _small_float(code: int, *, mantissa_bits: int, bias: int) -> float:
    exponent, mantissa = divmod(code, 1 << mantissa_bits)
    if exponent == 0:
        return float(mantissa * 2.0 ** (1 - bias - mantissa_bits))
    return float((mantissa + (1 << mantissa_bits)) * 2.0 ** (exponent - bias - mantissa_bits))


_FLOAT8: dict[str, Any] = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2, "F8_E8M0": _e8m0}
