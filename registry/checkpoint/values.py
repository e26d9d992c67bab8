"""Raw bits and the numbers they are: every dtype of safetensors, on every machine alike.

Values are float64, into which every dtype here is exact except 64-bit integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.tensorfile import ITEM_BITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_PLAIN_DTYPES = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<f4",
}  # fmt: skip
_MANTISSA = {"BF16": (7, -133), "F16": (10, -24), "F32": (23, -149), "F64": (52, -1074)}
"""Explicit bits of a float's mantissa, and the exponent of its smallest step."""


def item_size(dtype: str) -> int:
    """Return the bytes of one element of a safetensors dtype."""
    return ITEM_BITS[dtype] // 8


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


def rounded(values: Values, dtype: str) -> Values | None:
    """Return ``values`` as a cast to ``dtype`` leaves them: to nearest, ties to even.

    ``None`` for a dtype whose casts are not defined here (integers, 8-bit floats).
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "BF16":
            bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
            tie = (bits >> np.uint64(16)) & np.uint64(1)
            kept = (bits + np.uint64(0x7FFF) + tie) >> np.uint64(16) << np.uint64(16)
            cast = kept.astype(np.uint32).view(np.float32).astype(np.float64)
            return np.where(np.isnan(values), values, cast)
        if dtype in {"F16", "F32", "F64"}:
            return values.astype(_PLAIN_DTYPES[dtype]).astype(np.float64)
    return None


def steps(values: Values, dtype: str) -> Values:
    """Return the distance of each value to the next one that ``dtype`` has.

    Raises:
        KeyError: ``dtype`` is no float of 16 bits or more.
    """
    import numpy as np

    mantissa, smallest = _MANTISSA[dtype]
    exponents = np.frexp(values)[1].astype(np.int64) - 1  # |value| = m * 2**exponent, 1 <= m < 2
    step: Values = np.ldexp(1.0, np.maximum(exponents - mantissa, smallest))
    return np.where(values == 0, 2.0**smallest, step)


PRECISION = {dtype: 2.0 ** -(bits + 1) for dtype, (bits, _) in _MANTISSA.items()}
"""Largest relative error of a value rounded to a float dtype."""


def held_in(values: Values, dtype: str) -> str:
    """Return the smallest float dtype that holds every one of ``values``, read from ``dtype``."""
    import numpy as np

    for smaller in ("BF16", "F16", "F32"):
        cast = rounded(values, smaller)
        if cast is not None and np.array_equal(cast, values, equal_nan=True):
            return smaller
    return dtype


def holds(wider: str, dtype: str) -> bool:
    """Whether the float dtype ``wider`` has every value of the float ``dtype``."""
    (bits, smallest), (wanted, least) = _MANTISSA[wider], _MANTISSA[dtype]
    return bits >= wanted and smallest <= least


def exact_bits(values: Values, dtype: str) -> bytes | None:
    """Return ``values`` as raw bits of a float ``dtype``; ``None`` where one is not a value of it.

    Raises:
        KeyError: ``dtype`` is no float of 16 bits or more.
    """
    import numpy as np

    cast = rounded(values, dtype)
    if cast is None or not np.array_equal(cast, values, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        if dtype != "BF16":
            return bytes(cast.astype(_PLAIN_DTYPES[dtype]).tobytes())
        wide = cast.astype(np.float32).view(np.uint32) >> np.uint32(16)
        return bytes(wide.astype("<u2").tobytes())


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a float of 16 bits or more."""
    return dtype in _MANTISSA


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
