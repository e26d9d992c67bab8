"""Everything measured about a checkpoint, in a form that travels.

A bundle carries the record of its base, so that lineage can be judged where the base never was.

- Three payloads: ``record`` (canonical JSON), ``entries`` (canonical JSON whose BLAKE3 *is* the
  weights digest) and ``samples`` (raw bits, concatenated in entry order).
- Reading refuses a record that contradicts itself: entries against the weights digest, fields
  against their digest, geometry against shapes, samples against their exact size and, where they
  are the whole tensor, against its digest.
- The bytes are canonical: one record has one encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint._payloads import Entry, parse_entries, parse_record, split_samples
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.config import config_digest
from registry.checkpoint.geometry import Geometry, read_geometry
from registry.checkpoint.sketch import VERSION, extent
from registry.digest import Digest, canonical_json, digest_bytes, digest_json
from registry.errors import DigestMismatchError, GeometryError, SchemaViolationError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCHEMA", "BaseRecord", "Entry", "entries_json"]

SCHEMA = "safelatch/base-record/v1"
"""Schema of the ``record`` payload."""

_HINT = "Get the bundle again from its publisher."


def entries_json(entries: tuple[Entry, ...]) -> bytes:
    """Return the canonical JSON of entries; its BLAKE3 is the weights digest."""
    return canonical_json([entry.to_list() for entry in entries])


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """What was measured about one checkpoint.

    Attributes:
        weights: The weights digest: the identity.
        entries: Every tensor, sorted by name.
        samples: Tensor name to the raw bits at ``sketch.positions``.
        config: The fields that change the computation, normalised.
        config_digest: Digest of ``config``.
        tokenizer: Digest of the tokenizer, ``None`` when the files had none.
        chat_template: Digest of the chat template, ``None`` when the files had none.
        geometry: Counts and widths.
    """

    weights: Digest
    entries: tuple[Entry, ...]
    samples: dict[str, bytes]
    config: dict[str, Any]
    config_digest: Digest
    tokenizer: Digest | None
    chat_template: Digest | None
    geometry: Geometry

    @property
    def numel(self) -> int:
        """Number of weights."""
        return sum(entry.numel for entry in self.entries)

    def layer_digests(self) -> tuple[Digest, ...]:
        """Return one digest per decoder layer: BLAKE3 of the canonical JSON of its entries."""
        sites = sites_for(self.geometry.family)
        rows: list[list[list[Any]]] = [[] for _ in range(self.geometry.layers)]
        for entry in self.entries:
            layer = sites.layer_of(entry.name)
            if layer is not None:
                rows[layer].append(entry.to_list())
        return tuple(digest_json(row) for row in rows)

    def to_tensors(self) -> dict[str, bytes]:
        """Return the three payloads, each the data of a one-dimensional U8 tensor."""
        record = {
            "schema": SCHEMA,
            "weights": self.weights,
            "config": self.config,
            "config_digest": self.config_digest,
            "tokenizer": self.tokenizer,
            "chat_template": self.chat_template,
            "geometry": self.geometry.to_dict(),
            "samples": {"version": VERSION},
        }
        return {
            "record": canonical_json(record),
            "entries": entries_json(self.entries),
            "samples": b"".join(self.samples[entry.name] for entry in self.entries),
        }

    @classmethod
    def from_tensors(cls, payloads: Mapping[str, bytes | memoryview]) -> BaseRecord:
        """Return the record of its three payloads.

        Raises:
            UnsupportedSchemaVersionError: the record is of a version this release does not read.
            UnsafeFormatError: a payload is not strict JSON.
            SchemaViolationError: a payload breaks its form, or two contradict each other.
            DigestMismatchError: entries or fields do not have the digest that is stated.
            UnsupportedArchitectureError: there is no row for the family.
        """
        names = ("entries", "record", "samples")
        if set(payloads) != set(names):
            wrong = [f"$.{name}: missing" for name in names if name not in payloads]
            wrong += [f"$.{name:.80}: unknown" for name in sorted(set(payloads) - set(names))]
            raise SchemaViolationError("base record: expected three payloads.", wrong, hint=_HINT)
        stated = parse_record(payloads["record"], schema=SCHEMA, sampling=VERSION)
        got = digest_bytes(payloads["entries"])
        if got != stated["weights"]:
            raise DigestMismatchError(
                f"base record: expected entries of digest {stated['weights']}, got {got}.",
                hint=_HINT,
            )
        entries = parse_entries(payloads["entries"])
        record = cls(
            weights=got,
            entries=entries,
            samples=split_samples(payloads["samples"], entries),
            config=stated["config"],
            config_digest=stated["config_digest"],
            tokenizer=stated["tokenizer"],
            chat_template=stated["chat_template"],
            geometry=Geometry.from_dict(stated["geometry"]),
        )
        record._require_consistent()
        return record

    def _require_consistent(self) -> None:
        wrong = [
            f"$[{index}]: samples of {entry.name!r:.120}, which are all of it, have another digest"
            for index, entry in enumerate(self.entries)
            if extent(entry.shape).is_whole
            and digest_bytes(self.samples[entry.name]) != entry.digest
        ]
        if wrong:
            raise DigestMismatchError(
                f"base record: expected samples of the tensors it lists, got {len(wrong)} of "
                f"others:{listed(wrong)}",
                hint=_HINT,
            )
        got = config_digest(self.config)
        if got != self.config_digest:
            raise DigestMismatchError(
                f"base record: expected config of digest {self.config_digest}, got {got}.",
                hint=_HINT,
            )
        try:
            geometry = read_geometry({item.name: item.shape for item in self.entries}, self.config)
        except GeometryError as error:
            raise SchemaViolationError(
                "base record: expected config and entries to agree.", [error.message], hint=_HINT
            ) from error
        if geometry != self.geometry:
            stated, made = self.geometry.to_dict(), geometry.to_dict()
            wrong = [
                f"$.geometry.{name}: stated {stated[name]!r:.80}, the entries make {made[name]!r}"
                for name in made
                if made[name] != stated[name]
            ]
            raise SchemaViolationError(
                "base record: expected geometry and entries to agree.", wrong, hint=_HINT
            )
