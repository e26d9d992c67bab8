"""Digests and the one JSON form that is digested.

- A digest is printed ``blake3:<64 hex>``; the prefix keeps the algorithm replaceable.
- Canonical JSON is RFC 8785 (JCS): sorted members, no blanks, shortest round-trip numbers. What is
  hashed is always these bytes, never a pretty print.
- Parsing is strict: duplicate members, NaN, Infinity and numbers beyond a double are refused, so
  two readers can never see two documents in one file.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NewType

from registry.errors import DigestMismatchError, UnsafeFormatError

Digest = NewType("Digest", str)
"""``blake3:<64 lower-case hex digits>``; made only by the functions below."""

_DIGEST = re.compile(r"blake3:[0-9a-f]{64}")
_SAFE_INTEGER = 2**53 - 1  # the largest integer that every JSON reader keeps (RFC 7493)
_ESCAPE = re.compile(r'[\x00-\x1f"\\]')
_SHORT = {
    "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"
}  # fmt: skip


def is_digest(text: str) -> bool:
    """Return whether ``text`` is ``blake3:`` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str) -> Digest:
    """Return ``text`` as a digest.

    Raises:
        DigestMismatchError: it is not ``blake3:`` and 64 lower-case hex digits.
    """
    if not is_digest(text):
        raise DigestMismatchError(f"expected blake3:<64 hex digits>, got {text[:80]!r}.")
    return Digest(text)


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """Return the BLAKE3 digest of ``data``."""
    from blake3 import blake3

    return Digest(f"blake3:{blake3(data).hexdigest()}")


def digest_json(value: Any) -> Digest:
    """Return the BLAKE3 digest of the canonical JSON of ``value``."""
    return digest_bytes(canonical_json(value))


def require_digest(data: bytes | memoryview, expected: str, *, what: str, hint: str) -> None:
    """Raise ``DigestMismatchError`` unless ``data`` has the ``expected`` digest."""
    got = digest_bytes(data)
    if got != expected:
        raise DigestMismatchError(
            f"{what}: expected {expected}, got {got} ({len(data):,} bytes).", hint=hint
        )


def short(digest: str, digits: int = 12) -> str:
    """Return the digest cut for people: ``blake3:0f2a…``."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:digits]}…"


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 bytes of ``value`` (dicts, lists, str, int, float, bool, None).

    Raises:
        ValueError: a number is not finite or not exact in every reader, a key is not a string,
            text holds a lone surrogate, or the type has no JSON form.
    """
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode("utf-8")


def _write(value: Any, out: list[str]) -> None:  # noqa: C901, PLR0912 -- a branch per JSON type
    if value is None:
        out.append("null")
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, str):
        out.append(_string(value))
    elif isinstance(value, int):
        if abs(value) > _SAFE_INTEGER:
            raise ValueError(f"integer {value} is beyond ±(2^53-1)")
        out.append(str(int(value)))
    elif isinstance(value, float):
        out.append(_number(value))
    elif isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("every member name must be a string")
        out.append("{")
        for index, key in enumerate(sorted(value, key=_utf16)):
            out.append(("," if index else "") + _string(key) + ":")
            _write(value[key], out)
        out.append("}")
    elif isinstance(value, list | tuple):
        out.append("[")
        for index, item in enumerate(value):
            if index:
                out.append(",")
            _write(item, out)
        out.append("]")
    else:
        raise ValueError(f"{type(value).__name__} has no JSON form")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _string(text: str) -> str:
    return '"' + _ESCAPE.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return _SHORT.get(char) or f"\\u{ord(char):04x}"


def _number(value: float) -> str:
    """Return ``value`` as ECMAScript prints it (RFC 8785 section 3.2.2.3)."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent_text or 0)  # the value is 0.DIGITS * 10**point
    digits = whole + fraction
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0")
    return sign + _ecmascript(digits, point)


def _ecmascript(digits: str, point: int) -> str:
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    mantissa = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def parse_json(data: bytes | memoryview, *, what: str, limit: int) -> Any:
    """Parse JSON strictly.

    Args:
        data: The UTF-8 bytes.
        what: How to call the document in an error.
        limit: The most bytes accepted.

    Raises:
        UnsafeFormatError: too long, not UTF-8, not JSON, a duplicate member, or NaN/Infinity.
    """
    if len(data) > limit:
        raise UnsafeFormatError(f"{what}: expected at most {limit:,} bytes, got {len(data):,}.")
    try:
        return json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise UnsafeFormatError(f"{what}: nested too deeply to be read.") from error
    except ValueError as error:
        raise UnsafeFormatError(f"{what}: not strict JSON: {error}.") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"member {key[:80]!r} appears twice")
        members[key] = value
    return members


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond a double")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
