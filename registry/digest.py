"""Digests and the one JSON form that is digested.

- A digest is printed ``blake3:<64 hex>``; the prefix keeps the algorithm replaceable.
- Canonical JSON is RFC 8785 (JCS): sorted members, no blanks, shortest round-trip numbers. What is
  hashed is always these bytes, never a pretty print.
- Parsing is strict, so that two readers can never see two documents in one file: duplicate
  members, NaN, Infinity, numbers beyond a double, ``-0`` (an integer to one reader, a float to
  another) and half a surrogate pair are refused. So is nesting deeper than 64: what walks a
  document later would run out of stack.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NewType

from registry.errors import DigestMismatchError, UnsafeFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

Digest = NewType("Digest", str)
"""``blake3:<64 lower-case hex digits>``; made only by the functions below."""

_DIGEST = re.compile(r"blake3:[0-9a-f]{64}")
_SAFE_INTEGER = 2**53 - 1  # the largest integer that every JSON reader keeps (RFC 7493)
_CONTAINERS = frozenset((dict, list))
_MOST_DEPTH = 64  # what libraries write nests less than 16
_MOST_DIGITS = 300  # 10**300 is still a double
_TOO_DEEP = f"nested deeper than {_MOST_DEPTH}"
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape that may be half a surrogate pair
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
        raise DigestMismatchError(
            f"expected blake3:<64 hex digits>, got {text[:80]!r}.",
            hint="Print one: safelatch fingerprint MODEL",
        )
    return Digest(text)


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """Return the BLAKE3 digest of ``data``."""
    from blake3 import blake3

    return Digest(f"blake3:{blake3(data).hexdigest()}")


def digest_pieces(pieces: Iterable[bytes | memoryview]) -> Digest:
    """Return the BLAKE3 digest of ``pieces`` one after the other."""
    from blake3 import blake3

    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return Digest(f"blake3:{hasher.hexdigest()}")


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


def parse_json(data: bytes | memoryview, *, what: str, limit: int, hint: str | None = None) -> Any:
    """Parse JSON strictly.

    Args:
        data: The UTF-8 bytes.
        what: How to call the document in an error.
        limit: The most bytes accepted.
        hint: What to do about a document that is refused.

    Raises:
        UnsafeFormatError: too long, not UTF-8, not JSON, or a rule of this module is broken.
    """
    if len(data) > limit:
        raise UnsafeFormatError(
            f"{what}: expected at most {limit:,} bytes, got {len(data):,}.", hint=hint
        )
    try:
        document = json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite_float,
            parse_int=_plain_int,
        )
        _require_shallow(document)
        if _HALF_PAIR.search(data):
            _require_whole_pairs(document)
    except RecursionError as error:
        raise UnsafeFormatError(f"{what}: {_TOO_DEEP}.", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UnsafeFormatError(f"{what}: not UTF-8 text: {error.reason}.", hint=hint) from error
    except ValueError as error:
        raise UnsafeFormatError(f"{what}: not strict JSON: {error}.", hint=hint) from error
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = sorted(key for key, count in counts.items() if count > 1)
        shown = ", ".join(f"{key[:80]!r}" for key in twice[:20])
        more = f" and {len(twice) - 20} more" if len(twice) > 20 else ""
        raise ValueError(f"member {shown}{more} appears twice")
    return members


def _require_shallow(document: Any) -> None:
    """Raise ``ValueError`` if ``document`` nests deeper than the limit; needs no stack itself."""
    level = [document] if type(document) in _CONTAINERS else []
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            items = value.values() if type(value) is dict else value
            if not _CONTAINERS.isdisjoint(map(type, items)):  # most hold nothing but texts
                below += [item for item in items if type(item) in _CONTAINERS]
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)


def _require_whole_pairs(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair, {error.object[error.start]!r}") from error


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond a double")
    return value


def _plain_int(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is an integer to one reader and a float to another")
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"expected a number of at most {_MOST_DIGITS} digits, got {len(text):,}")
    return int(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
