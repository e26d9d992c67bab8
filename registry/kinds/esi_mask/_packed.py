"""The mask of a whole model, packed: all tensors in one vector of zstd frames, and a table.

A mixture of experts has tens of thousands of matrices, a safetensors header of an artifact at
most 1 MiB, and each tensor in it takes about 120 bytes. So the number of stored tensors is fixed:

- ``table`` uint64 [tensors, 3], a row for each candidate in the order of names: how many weights
  are selected, how many bytes their gaps have, and how many bytes the frame has that begins with
  this tensor, 0 if the tensor goes on in the frame that was begun before it.
- ``frames`` uint8 [bytes]: the frames one after the other. Each tensor's gaps start anew at its
  index 0, and what is unpacked for one tensor is the one frame that holds it.

A frame is ended by the tensor that brings it to 64 KiB of gaps, some 6 million weights at 1 %:
a frame spends about 130 bytes on its own code table, 2.5 % of the gaps of 500,000 weights. One
stream over all tensors would have to be unpacked from its start for each, and one frame of a
hostile file would be all of them. Names and sizes are not stored here: they are the candidates,
which the caller knows from the record of the base.

The digest is of what is unpacked, so another release of zstd makes no other mask. It is computed,
and every rule checked, in pieces: a record that lies about sizes costs time, never memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.digest import digest_json, digest_pieces
from registry.errors import UnsafeFormatError, UsageError
from registry.kinds.esi_mask._gap8 import (
    SKIP,
    Followed,
    boolean,
    compress,
    decode,
    decompress,
    encode,
    most_unpacked,
    unpacked,
)
from registry.wording import REMAKE, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from registry.digest import Digest

FRAME_GAPS = 1 << 16
"""Bytes of gaps at which a frame is ended."""

_COLUMNS = 3
_MOST_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class _Row:
    """One tensor: its gaps are ``[begin, end)`` of what the frame of this number unpacks to."""

    numel: int
    count: int
    frame: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """``frames[begin:end]``, of ``size`` bytes when it is unpacked."""

    begin: int
    end: int
    size: int


class PackedMask:
    """Which weights of which tensors are selected; a tensor is unpacked when it is asked for.

    Attributes:
        table: uint64 [tensors, 3], see the module.
        frames: uint8 [bytes], see the module.
    """

    def __init__(
        self, table: np.ndarray, frames: np.ndarray, numels: Mapping[str, int], *, what: str
    ) -> None:
        """Read the table and check it against the candidates; no frame is unpacked yet.

        Args:
            table: See the module.
            frames: See the module.
            numels: How many weights each candidate tensor has.
            what: How to call the mask in an error.

        Raises:
            UnsafeFormatError: table and frames do not fit each other or the candidates.
        """
        self.table, self.frames, self._what = table, frames, what
        self._rows, self._frames = _parsed(table, frames, numels, what)
        self._unpacked = (-1, b"")  # number and bytes of the last frame: neighbours ask for it next
        self._digest: Digest | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The candidate tensors, sorted."""
        return tuple(self._rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many weights of each candidate tensor are selected."""
        return {name: row.count for name, row in self._rows.items()}

    def gaps(self, name: str) -> bytes:
        """Return the canonical gaps of one tensor.

        Raises:
            KeyError: the tensor is no candidate.
            UnsafeFormatError: the frame is not what the table says.
        """
        row = self._rows[name]
        number, gaps = self._unpacked
        if number != row.frame:
            gaps = decompress(*self._packed(row.frame), what=f"{self._what}: frame of {name}")
            self._unpacked = (row.frame, gaps)
        return gaps[row.begin : row.end]

    def indices(self, name: str) -> np.ndarray:
        """Return the sorted flat indices of one tensor, shape [count].

        Raises:
            UnsafeFormatError: the frame is not what the table says, or its gaps break the format.
        """
        row = self._rows[name]
        return decode(self.gaps(name), row.numel, row.count, what=f"{self._what}: {name}")

    def boolean(self, name: str) -> np.ndarray:
        """Return the mask of one tensor as booleans, shape [numel]."""
        return boolean(self.indices(name), self._rows[name].numel)

    def digest(self) -> Digest:
        """Return the digest of the mask: names, sizes, counts and canonical gaps.

        Raises:
            UnsafeFormatError: a frame is not what the table says, or gaps break the format; nothing
                can fail half-way after that.
        """
        if self._digest is None:
            rows = []
            for name, row, pieces in self._each():
                followed = Followed()
                digest = digest_pieces(followed.passing(pieces))
                followed.require(row.numel, row.count, what=f"{self._what}: {name}")
                rows.append([name, row.numel, row.count, digest])
            self._digest = digest_json(rows)
        return self._digest

    def _packed(self, number: int) -> tuple[memoryview, int]:
        frame = self._frames[number]
        return self.frames[frame.begin : frame.end].data, frame.size

    def _each(self) -> Iterator[tuple[str, _Row, Iterator[memoryview]]]:
        """Yield every tensor with the pieces of its gaps, each to be read before the next."""
        number, frame = -1, _Pieces(iter(()))
        for name, row in self._rows.items():
            if number != row.frame:
                frame.end()
                number = row.frame
                what = f"{self._what}: frame of {name}"
                frame = _Pieces(unpacked(*self._packed(number), what=what))
            yield name, row, frame.take(row.end - row.begin)
        frame.end()


class _Pieces:
    """What a frame unpacks to, taken bit by bit."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next ``size`` bytes, in pieces."""
        while size:
            if not self._left:
                self._left = memoryview(next(self._pieces))
            piece, self._left = self._left[:size], self._left[size:]
            size -= len(piece)
            yield piece

    def end(self) -> None:
        """Read what is left, so that a frame that goes on, or was cut off, is noticed."""
        for _ in self._pieces:
            pass


def pack(selected: Mapping[str, np.ndarray], numels: Mapping[str, int], *, what: str) -> PackedMask:
    """Return the mask that holds the ``selected`` indices of each candidate tensor.

    Args:
        selected: Sorted flat indices by tensor name; a tensor that is left out has none.
        numels: How many weights each candidate tensor has.
        what: How to call the mask in an error.

    Raises:
        UsageError: a tensor is no candidate.
        SchemaViolationError: indices are not sorted, not distinct or outside their tensor.
    """
    import numpy as np

    strangers = sorted(set(selected) - set(numels))
    if strangers:
        findings = [f"{name!r:.120}" for name in strangers]
        raise UsageError(
            f"{what}: expected indices of the {len(numels):,} candidate tensors, got "
            f"{len(findings):,} that are none:{listed(findings)}"
        )
    rows: list[list[int]] = []
    frames: list[bytes] = []
    held = bytearray()
    first = 0  # row of the tensor that begins the frame
    for number, name in enumerate(sorted(numels)):
        indices = selected.get(name, np.empty(0, dtype=np.uint32))
        gaps = encode(indices, numels[name], what=f"{what}: {name}")
        rows.append([indices.size, len(gaps), 0])
        if not held:
            first = number
        held += gaps
        if len(held) >= FRAME_GAPS or (held and number == len(numels) - 1):
            frames.append(compress(bytes(held)))
            rows[first][2] = len(frames[-1])
            held.clear()
    table = np.array(rows, dtype=np.uint64).reshape(-1, _COLUMNS)
    return PackedMask(table, np.frombuffer(b"".join(frames), np.uint8), numels, what=what)


def _parsed(
    table: np.ndarray, frames: np.ndarray, numels: Mapping[str, int], what: str
) -> tuple[dict[str, _Row], list[_Frame]]:
    """Return the rows by name and the frames, once all of the table is found to fit."""
    form = (table.dtype.name, table.shape, frames.dtype.name, frames.ndim)
    if form != ("uint64", (len(numels), _COLUMNS), "uint8", 1):
        raise UnsafeFormatError(
            f"{what}: expected uint64 ({len(numels)}, {_COLUMNS}) and uint8 in one dimension, "
            f"got {table.dtype.name} {table.shape} and {frames.dtype.name} {frames.shape}.",
            hint=REMAKE,
        )
    findings: list[str] = []
    rows: dict[str, _Row] = {}
    spans = [_Frame(0, 0, 0)]  # tensors in front of the first frame have no gaps
    for name, (count, size, packed) in zip(sorted(numels), table.tolist(), strict=True):
        found = _findings(numels[name], count, size)
        if size and not packed and (len(spans) == 1 or spans[-1].size >= FRAME_GAPS):
            found.append(f"expected a frame for {size:,} bytes of gaps, got none")
        if packed:
            spans.append(_Frame(spans[-1].end, spans[-1].end + packed, 0))
        span = spans[-1]
        rows[name] = _Row(numels[name], count, len(spans) - 1, span.size, span.size + size)
        spans[-1] = _Frame(span.begin, span.end, span.size + size)
        most = most_unpacked(span.end - span.begin)
        if span.size <= most < span.size + size:
            found.append(f"expected at most {most:,} bytes of gaps in its frame, got more")
        if len(findings) < _MOST_FINDINGS:
            findings += [f"{name!r:.120}: {finding}" for finding in found]
    if spans[-1].end != frames.size:
        findings.append(f"expected frames of {spans[-1].end:,} bytes, got {frames.size:,}")
    if findings:
        raise UnsafeFormatError(
            f"{what}: the table breaks the format:{listed(findings)}", hint=REMAKE
        )
    return rows, spans


def _findings(numel: int, count: int, size: int) -> list[str]:
    findings = []
    if count > numel:
        findings.append(f"expected at most {numel:,} selected weights, got {count:,}")
    most = count + numel // SKIP if count else 0
    if not count <= size <= most:
        findings.append(f"expected {count:,} to {most:,} bytes of gaps, got {size:,}")
    return findings
