"""The payloads of a record, read strictly; record.py judges what they say about each other."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from registry.checkpoint.sketch import extent
from registry.checkpoint.values import item_size
from registry.digest import Digest, canonical_json, parse_digest, parse_json
from registry.errors import (
    DigestMismatchError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)
from registry.tensorfile import ITEM_BITS, is_shape, is_tensor_name
from registry.wording import INSTALL_NEWER, REMAKE

_RECORD_LIMIT = 1 << 20
_ENTRIES_LIMIT = 32 << 20  # a tensor takes about 150 bytes: room for 200,000
_MOST_FINDINGS = 1000  # a hostile payload can hold millions; nobody reads more
_FAMILY = "safelatch/base-record/"
_MEMBERS = {
    "schema", "weights", "config", "config_digest", "tokenizer", "chat_template", "geometry",
    "samples",
}  # fmt: skip
_MEASURE_ANEW = (
    "It was measured before the first release. Measure the base again, in a registry of its own: "
    "safelatch --db NEW init, then safelatch --db NEW base add MODEL. Artifacts are made again"
)
_OPTIONAL_DIGESTS = ("tokenizer", "chat_template")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a checkpoint: what it is called, what it looks like, what it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return prod(self.shape)

    @property
    def sample_bytes(self) -> int:
        """Size of this tensor's samples."""
        return extent(self.shape).count * item_size(self.dtype)

    def to_list(self) -> list[Any]:
        """Return the JSON form: [name, dtype, shape, digest]."""
        return [self.name, self.dtype, list(self.shape), self.digest]


def parse_record(data: bytes | memoryview, *, schema: str, sampling: int) -> dict[str, Any]:
    """Return the members of the ``record`` payload, with digests and sampling checked.

    Raises:
        UnsupportedSchemaVersionError: it is of another schema, or of another sampling version.
        UnsafeFormatError: it is not strict JSON.
        SchemaViolationError: a member is missing, unknown, of the wrong type, or not canonical.
    """
    document = parse_json(data, what="base record", limit=_RECORD_LIMIT, hint=REMAKE)
    if not isinstance(document, dict):
        raise SchemaViolationError(
            "base record: expected an object.", ["$: not an object"], hint=REMAKE
        )
    samples = {"version": sampling}
    for name, supported in (("schema", schema), ("samples", samples)):
        got = document.get(name)
        if got != supported and _is_other_version(name, got):
            raise UnsupportedSchemaVersionError(
                f"base record: expected {name} {supported}, got {got!r:.120}.",
                hint=_MEASURE_ANEW if name == "samples" and _is_old(got) else INSTALL_NEWER,
            )
    wrong = [f"$.{name}: missing" for name in sorted(_MEMBERS - set(document))]
    wrong += [f"$.{name:.80}: unknown" for name in sorted(set(document) - _MEMBERS)]
    for name, supported in (("schema", schema), ("samples", samples)):
        if name in document and not _is_same(document[name], supported):
            wrong.append(f"$.{name}: expected {supported}, got {document[name]!r:.80}")
    for name in ("weights", "config_digest", *_OPTIONAL_DIGESTS):
        value = document.get(name)
        if name in document and not (value is None and name in _OPTIONAL_DIGESTS):
            _check_digest(value, f"$.{name}", wrong)
    if not isinstance(document.get("config", {}), dict):
        wrong.append("$.config: expected an object")
    if not wrong:
        _check_canonical(data, document, wrong)
    _require(wrong, "base record")
    return document


def parse_entries(data: bytes | memoryview) -> tuple[Entry, ...]:
    """Return the entries of the ``entries`` payload.

    Raises:
        UnsafeFormatError: it is not strict JSON.
        SchemaViolationError: a row breaks its form, names are not sorted and unique, or the bytes
            are not canonical.
    """
    rows = parse_json(data, what="base record entries", limit=_ENTRIES_LIMIT, hint=REMAKE)
    if not isinstance(rows, list):
        raise SchemaViolationError(
            "base record entries: expected a list.", ["$: not a list"], hint=REMAKE
        )
    wrong: list[str] = []
    entries = []
    for index, row in enumerate(rows):
        entries.append(_entry(row, f"$[{index}]", wrong))
        if len(wrong) >= _MOST_FINDINGS:
            break
    kept = tuple(entry for entry in entries if entry is not None)
    names = [entry.name for entry in kept]
    if names != sorted(set(names)):
        wrong.append("$: expected names sorted and each once")
    if not wrong:
        _check_canonical(data, rows, wrong)
    _require(wrong, "base record entries")
    return kept


def split_samples(data: bytes | memoryview, entries: tuple[Entry, ...]) -> dict[str, bytes]:
    """Return the samples of each entry from the ``samples`` payload.

    Raises:
        SchemaViolationError: the payload is not exactly as long as the entries make it.
    """
    expected = sum(entry.sample_bytes for entry in entries)
    if len(data) != expected:
        raise SchemaViolationError(
            "base record samples: the payload does not fit the entries.",
            [f"$: expected {expected:,} bytes, got {len(data):,}"],
            hint=REMAKE,
        )
    samples, position = {}, 0
    for entry in entries:
        samples[entry.name] = bytes(data[position : position + entry.sample_bytes])
        position += entry.sample_bytes
    return samples


def _is_same(got: Any, supported: Any) -> bool:
    """Whether two JSON values are one; ``true`` is not 1, although Python calls them equal."""
    members = got.values() if isinstance(got, dict) else ()
    return bool(got == supported) and not any(isinstance(item, bool) for item in members)


def _is_other_version(name: str, value: Any) -> bool:
    if name == "schema":
        return isinstance(value, str) and value.startswith(_FAMILY)
    return isinstance(value, dict) and type(value.get("version")) is int


def _is_old(samples: Any) -> bool:
    return isinstance(samples, dict) and samples.get("version") == 1


def _entry(row: Any, where: str, wrong: list[str]) -> Entry | None:
    if not isinstance(row, list) or len(row) != 4:
        wrong.append(f"{where}: expected [name, dtype, shape, digest]")
        return None
    name, dtype, shape, digest = row
    before = len(wrong)
    if not is_tensor_name(name):
        wrong.append(f"{where}[0]: expected a printable name in Unicode NFC, got {name!r:.80}")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        wrong.append(f"{where}[1]: expected a dtype, got {dtype!r:.80}")
    if not is_shape(shape):
        wrong.append(f"{where}[2]: expected a shape, got {shape!r:.80}")
    _check_digest(digest, f"{where}[3]", wrong)
    return None if len(wrong) > before else Entry(name, dtype, tuple(shape), digest)


def _check_digest(value: Any, where: str, wrong: list[str]) -> None:
    try:
        parse_digest(value if isinstance(value, str) else "")
    except DigestMismatchError:
        wrong.append(f"{where}: expected blake3:<64 hex digits>, got {value!r:.80}")


def _check_canonical(data: bytes | memoryview, document: Any, wrong: list[str]) -> None:
    try:
        is_canonical = canonical_json(document) == bytes(data)
    except ValueError as error:
        raise UnsafeFormatError(f"base record: {error}.", hint=REMAKE) from error
    if not is_canonical:
        wrong.append("$: expected canonical JSON")


def _require(wrong: list[str], what: str) -> None:
    if wrong:
        raise SchemaViolationError(
            f"{what}: the document breaks its form.",
            wrong,
            hint=REMAKE,
        )
