"""The safetensors wire format: a strict reader of headers, without torch and without a library.

A file is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes. The
common readers accept duplicate names, holes and headers of any size; this one accepts what the
format's own text allows and nothing else:

- the header is strict JSON from ``{`` to ``}``, blanks behind it, at most ``limit`` bytes;
- every tensor is named once, printably, in the one Unicode spelling (NFC) that no other looks like;
- dtype is known, shape is at most 64 non-negative integers with fewer than 2**60 elements, sizes of
  0 set aside (what every reader can multiply), and the byte range is exactly
  ``prod(shape) * itemsize``;
- ranges cover the data from its first to its last byte without overlap or hole.

See docs/decisions/0002-tensorfile.md for why both rooms that read tensors share this wall.
"""

from __future__ import annotations

import math
import struct
import unicodedata
from dataclasses import dataclass
from typing import Any

from registry.digest import parse_json
from registry.errors import UnsafeFormatError
from registry.wording import listed

HEADER_LIMIT = 16 << 20
"""Most bytes of a checkpoint's header. The format allows 100 MB, of which hostile JSON makes more
than 2 GB of Python objects. A tensor takes about 120 bytes: this is room for more than 100,000 in
one file, and writers begin another file every few gigabytes."""

ARTIFACT_HEADER_LIMIT = 1 << 20
"""Most bytes of an artifact's header: ours hold a handful of tensors."""

ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of each dtype the format names and this project reads."""

_MOST_DIMENSIONS = 64  # of an array in NumPy, and of a tensor in torch
_MOST_SIZE = (1 << 53) - 1  # beyond it canonical JSON has no number, and a record no shape
_MOST_ELEMENTS = 1 << 60  # times 8 bytes still fits the signed 64 bits that readers multiply in
_MOST_OFFSET = (1 << 63) - 1
_MOST_FINDINGS = 1000  # a hostile header can hold millions; nobody reads more


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: ``data[begin:end]`` after the header, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        entries: The tensors, sorted by name.
        metadata: The free text of ``__metadata__``; never part of an identity.
        data_start: Offset in the file at which the tensors' bytes begin.
    """

    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    data_start: int


def header_length(
    prefix: bytes, *, file_size: int, what: str, limit: int, hint: str | None = None
) -> int:
    """Return the length of the JSON header from the first 8 bytes of a file.

    Args:
        prefix: The first 8 bytes.
        file_size: Size of the whole file in bytes.
        what: How to call the file in an error.
        limit: Most bytes of a header.
        hint: What to do about a file that is refused.

    Raises:
        UnsafeFormatError: fewer than 8 bytes, a header over ``limit``, or one that is cut off.
    """
    if len(prefix) < 8:
        raise UnsafeFormatError(
            f"{what}: expected a safetensors file, got {len(prefix)} bytes.", hint=hint
        )
    (length,) = struct.unpack_from("<Q", prefix)
    if length > limit:
        raise UnsafeFormatError(
            f"{what}: expected a header of at most {limit:,} bytes, got {length:,}.", hint=hint
        )
    if 8 + length > file_size:
        raise UnsafeFormatError(
            f"{what}: expected a header of {length:,} bytes, the file has {file_size:,}.", hint=hint
        )
    return int(length)


def parse_header(
    header: bytes,
    *,
    file_size: int,
    what: str,
    limit: int = HEADER_LIMIT,
    hint: str | None = None,
) -> Header:
    """Parse the JSON ``header`` (without its 8-byte length) of a file of ``file_size`` bytes.

    Raises:
        UnsafeFormatError: any rule of this module is broken; every broken rule is listed.
    """
    document = parse_json(header, what=f"{what} header", limit=limit, hint=hint)
    if not isinstance(document, dict):
        raise UnsafeFormatError(f"{what}: expected a JSON object as header.", hint=hint)
    data_start = 8 + len(header)
    findings: list[str] = []
    if not header.startswith(b"{") or not header.rstrip(b" ").endswith(b"}"):
        findings.append("expected a header from { to } with blanks behind it alone")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        findings.append("__metadata__ is not an object of strings")
        metadata = {}
    entries = []
    for name, fields in document.items():
        entry = _entry(name, fields, findings)
        if entry is not None:
            entries.append(entry)
        if len(findings) >= _MOST_FINDINGS:
            break
    if len(entries) == len(document):  # a range that was not read would look like a hole
        _check_coverage(entries, file_size - data_start, findings)
    if findings:
        raise UnsafeFormatError(
            f"{what}: the header breaks the safetensors format:{listed(findings)}", hint=hint
        )
    return Header(tuple(sorted(entries, key=lambda e: e.name)), metadata, data_start)


def is_tensor_name(name: Any) -> bool:
    """Return whether ``name`` is text that can be printed and is in Unicode's composed form."""
    return (
        isinstance(name, str)
        and name != ""
        and name.isprintable()
        and unicodedata.is_normalized("NFC", name)
    )


def is_shape(value: Any) -> bool:
    """Return whether ``value`` is a list of sizes that every reader can multiply."""
    if not _whole_numbers(value) or len(value) > _MOST_DIMENSIONS:
        return False
    if any(size > _MOST_SIZE for size in value):  # beside a 0 the elements would not tell
        return False
    elements: int = math.prod(size for size in value if size)
    return elements < _MOST_ELEMENTS


def _entry(name: str, fields: Any, findings: list[str]) -> TensorEntry | None:
    """Return the tensor that ``fields`` describe, ``None`` and every broken rule otherwise."""
    label, before = repr(name[:120]), len(findings)
    if not is_tensor_name(name):
        findings.append(f"{label}: expected a printable name in Unicode NFC")
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        findings.append(f"{label}: expected exactly dtype, shape and data_offsets")
        return None
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        findings.append(f"{label}: unknown dtype {str(dtype)[:40]!r}")
    if not is_shape(shape):
        findings.append(
            f"{label}: shape: expected at most {_MOST_DIMENSIONS} non-negative integers below "
            f"2^53 and fewer than 2^60 elements, got {shape!r:.80}"
        )
    if not _whole_numbers(offsets) or len(offsets) != 2 or max(offsets) > _MOST_OFFSET:
        findings.append(
            f"{label}: data_offsets: expected two non-negative integers below 2^63, "
            f"got {offsets!r:.80}"
        )
    if len(findings) > before:
        return None
    entry = TensorEntry(name, dtype, tuple(shape), offsets[0], offsets[1])
    expected = entry.numel * ITEM_BITS[dtype] // 8
    if entry.nbytes != expected:
        findings.append(
            f"{label}: {dtype} {list(shape)} takes {expected:,} bytes, "
            f"data_offsets span {entry.nbytes:,}"
        )
        return None
    return entry


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_coverage(entries: list[TensorEntry], data_size: int, findings: list[str]) -> None:
    position = 0
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            word = "overlaps the tensor before it" if entry.begin < position else "leaves a hole"
            findings.append(
                f"{entry.name[:120]!r}: begins at {entry.begin:,}, {word} ({position:,})"
            )
        position = max(position, entry.end)
        if len(findings) >= _MOST_FINDINGS:
            return
    if position != data_size:
        findings.append(f"tensors end at byte {position:,} of the data, the file has {data_size:,}")
