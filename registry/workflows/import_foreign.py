"""Import of what others published: a draft for its base, or unbound until the base is named.

A foreign file says nothing of the model it was made from. Whoever imports it says so, with a base;
what can be checked then is that the base has the heads that the file names. Whether the directions
mean anything in it shows when it is calibrated, and at every load. What a paper gives for one model
(``published:NAME``) is no file and says which model it is of; that one's geometry is asked for.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import __version__
from registry.artifact.bundle import make_bundle
from registry.artifact.foreign_file import opened
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.artifact.unbound import (
    IMPORT_AGAIN,
    UNBOUND,
    Source,
    Unbound,
    is_unbound,
    make_unbound,
    read_unbound,
)
from registry.checkpoint.reader import Checkpoint
from registry.digest import canonical_json, digest_bytes
from registry.errors import DigestMismatchError, SchemaViolationError, UsageError
from registry.kinds import KINDS, kind_of
from registry.kinds.foreign import BindableToWeights
from registry.moment import stamp

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.foreign import Bindable, Foreign, ForeignOfWeights, ForeignVerb
    from registry.workflows.identify import Identified

_TOOL = {"safelatch": __version__}


_PUBLISHED = "published:"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was read of a foreign file, or is known of what was published.

    Attributes:
        given: What was asked for: a file, the folder of an unbound import, ``published:NAME``.
        kind: Kind of artifact.
        source: The file it came from.
        contents: What it says.
        foreign: What an unbound import would hold; ``None`` where that says nothing more.
    """

    given: str
    kind: str
    source: Source
    contents: Bindable | BindableToWeights
    foreign: Foreign | ForeignOfWeights | None

    def unbound(self) -> Unbound:
        """Return the import without a base.

        Raises:
            UsageError: it is one already, or was published for a model.
        """
        if self.foreign is None:
            raise UsageError(
                f"expected a base for {self.given}, got none: without one there is nothing to "
                "make of it.",
                hint="Name the model that it is of: "
                f"safelatch import {shlex.quote(self.given)} --base BASE --out DIR",
            )
        contents = self.contents.describe()
        return make_unbound(self.kind, self.source, contents, self.foreign.to_tensors(), tool=_TOOL)

    def bound(self, base: Identified, base_name: str) -> Bundle:
        """Return the draft for ``base``; one with a strength is uncalibrated.

        Raises:
            GeometryError: the base has no such heads or parameters, or is not of the published
                geometry.
            DigestMismatchError: its files changed since they were identified.
        """
        record, created, origin = base.record, stamp(), self.source.to_dict()
        if isinstance(self.contents, BindableToWeights):
            with Checkpoint.open(base.path) as checkpoint:
                body = self.contents.bind_weights(record, _Weights(checkpoint, record))
        else:
            body = self.contents.bind(record.geometry)
        manifest = Manifest(
            kind=self.kind,
            created=created,
            base=BaseIdentity(
                name=base_name,
                weights=record.weights,
                config=record.config_digest,
                tokenizer=record.tokenizer,
                chat_template=record.chat_template,
            ),
            geometry=record.geometry.to_dict(),
            body=body.to_manifest(),
            files={},
            receipts=({"type": "import", "created": created, "source": origin},),
            provenance={"tool": _TOOL, "seed": None, "data": [], "imported": origin},
        )
        return make_bundle(manifest, body.to_tensors(), record.to_tensors())


class _Weights:
    """The weights of a base whose files were read just now."""

    def __init__(self, checkpoint: Checkpoint, record: BaseRecord) -> None:
        self._checkpoint = checkpoint
        self._digests = {entry.name: entry.digest for entry in record.entries}

    def read(self, name: str) -> bytes:
        """Return the bytes of a tensor, of the digest that the record states."""
        data = self._checkpoint.read(name)
        digest, expected = digest_bytes(data), self._digests[name]
        if digest != expected:
            raise DigestMismatchError(
                f"{self._checkpoint.path}: expected {name} of {expected}, got {digest}: the files "
                "changed since they were read.",
                hint="Import again once nobody writes to the base.",
            )
        return data


def import_file(
    path: Path, *, base: Identified | None = None, base_name: str = ""
) -> Bundle | Unbound:
    """Return what ``open_file`` reads at ``path``: a draft for ``base``, or unbound without one."""
    opened = open_file(path)
    return opened.unbound() if base is None else opened.bound(base, base_name)


def open_source(given: str) -> Opened:
    """Return what ``given`` names: ``published:NAME``, or what ``open_file`` reads at a path.

    Raises:
        UsageError: nothing was published under this name.
        UsageError, ArtifactNotFoundError, EvidenceError, HostError: see ``open_file``.
    """
    if not given.startswith(_PUBLISHED):
        return open_file(Path(given))
    name = given.removeprefix(_PUBLISHED)
    kind = next((kind for kind in KINDS.values() if name.lower() in kind.published), None)
    if kind is None:
        known = [name for kind in KINDS.values() for name in kind.published]
        raise UsageError(
            f"expected one of {', '.join(known)} after {_PUBLISHED}, got {name!r:.200}.",
            hint=f"What was published for a model: safelatch import {_PUBLISHED}{known[0]} "
            "--base BASE --out DIR",
        )
    contents: Bindable | BindableToWeights = kind.verb("extract").PUBLISHED[name.lower()]
    source = Source.of(
        canonical_json(contents.describe()),
        name=_PUBLISHED + name.lower(),
        format=f"what the paper gives for one model: {kind.paper}",
    )
    return Opened(given, kind.name, source, contents, None)


def open_file(path: Path) -> Opened:
    """Read a foreign file, or the unbound import in a folder; nothing of theirs is run.

    Raises:
        UsageError: files of this suffix are not imported.
        ArtifactNotFoundError: there is nothing at ``path``.
        UnsafeFormatError, SchemaViolationError, DigestMismatchError: it is not what it must be,
            with every finding.
        HostError: no process with limits can be had here.
    """
    if path.is_dir():
        return Opened(str(path), *_of_folder(path), None)
    kind, source, foreign = _of_file(path)
    return Opened(str(path), kind, source, foreign, foreign)


def describe_unbound(folder: Path) -> dict[str, Any]:
    """Return what an unbound import says, the JSON form.

    Raises:
        ArtifactNotFoundError, EvidenceError: see ``read_unbound``; or what it says of its tensors
            is not what they hold.
    """
    unbound = read_unbound(folder)
    contents = _parsed(unbound).describe()
    state = {"artifact": "(unbound)", "digest": unbound.digest, "state": "unbound"}
    return {**state, **unbound.to_dict(), "contents": contents}


def _of_file(path: Path) -> tuple[str, Source, Foreign | ForeignOfWeights]:
    suffix = path.suffix.lower()
    kinds = [kind for kind in KINDS.values() if suffix in kind.imports]
    if not kinds:
        known = ", ".join(sorted({suffix for kind in KINDS.values() for suffix in kind.imports}))
        raise UsageError(
            f"expected a file that ends in {known}, got {path.name!r:.200}.",
            hint="What can be imported is the official files of a method: safelatch import --help",
        )
    verb = kinds[0].verb("extract")
    with opened(path) as file:
        foreign = verb.read_foreign(file)
        return kinds[0].name, file.source(verb.FOREIGN_FORMAT), foreign


def _of_folder(folder: Path) -> tuple[str, Source, Foreign | ForeignOfWeights]:
    if not is_unbound(folder):
        raise UsageError(
            f"expected a file, or a folder that an import without a base made, got {folder}.",
            hint="Name the file: safelatch import FILE --base BASE --out DIR",
        )
    unbound = read_unbound(folder)
    return unbound.kind, unbound.source, _parsed(unbound)


def _parsed(unbound: Unbound) -> Foreign | ForeignOfWeights:
    """Return what the tensors of ``unbound`` say, which is what its document says of them."""
    verb: ForeignVerb = kind_of(unbound.kind).verb("extract")
    foreign = verb.parse_foreign(unbound.tensors())
    stated, found = dict(unbound.contents), foreign.describe()
    if stated != found:
        raise SchemaViolationError(
            f"{UNBOUND}: expected what its tensors hold.",
            [
                f"$.contents.{name}: stated {stated.get(name)!r:.80}, found {found.get(name)!r:.80}"
                for name in sorted({*stated, *found})
                if stated.get(name) != found.get(name)
            ],
            hint=IMPORT_AGAIN,
        )
    return foreign
