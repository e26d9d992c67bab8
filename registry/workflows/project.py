"""Write a copy of a model in which the bytes carry an artifact, whatever engine trained the model.

Hooks keep what an artifact protects while one trainer runs; this is the guarantee that needs none.

- The copy has the files of the model, name by name and byte by byte, but for the places that the
  artifact speaks of: what is there now is what must be there. Nothing else can differ, since
  nothing else is made anew: no header, no order, no metadata.
- An adapter is merged into its base outside these places: W + (1 - m) * scale * B @ A.
- One tensor at a time is in memory. The folder appears whole or not at all, and is read back.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.adapter import Adapter, is_adapter
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.copied import Copy
from registry.checkpoint.effective import effective_record
from registry.checkpoint.reader import Checkpoint
from registry.errors import (
    BaseModelMismatchError,
    CompatibilityError,
    HostError,
    UsageError,
    VerificationError,
)
from registry.kinds import kind_of, parse_body
from registry.plainfile import expanded
from registry.settings import Settings
from registry.wholefile import write_folder
from registry.wording import listed
from registry.workflows.base_tensors import BaseTensors, base_files
from registry.workflows.check import check
from registry.workflows.identify import identify
from registry.workflows.trust import vouched_bundle

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.sites import Sites
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.identify import Identified
    from registry.workflows.trust import TrustArgument

    Pieces = Iterable[bytes | memoryview]
    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Projection:
    """A model that was written.

    Attributes:
        model: What was copied.
        out: The new folder.
        artifact: ``name@version`` of the artifact that it carries.
        digest: Its identity.
        kind: Its kind.
        files: Names of the files that were written, sorted.
        changed: Weights that were not what they must be, and are now; of an adapter, in what it
            makes of its base.
        stored: Whether the new files carry the artifact bit for bit; not where the model's dtype is
            too narrow for the base's values.
        found: What the kind found when the new files were read back.
        signed_by: Trusted keys that signed the artifact.
    """

    model: str
    out: str
    artifact: str
    digest: str
    kind: str
    files: tuple[str, ...]
    changed: int
    stored: bool
    found: dict[str, Any]
    signed_by: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"files": list(self.files), "signed_by": list(self.signed_by)}


def project(
    model: str | os.PathLike[str],
    artifact: Bundle | Reference | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Projection:
    """Write a copy of ``model`` that carries ``artifact`` to the new folder ``out``.

    Args:
        model: Folder, ``.safetensors`` file or Hub id of a fine-tune of the artifact's base; or the
            folder of a LoRA adapter for it.
        artifact: A bundle, its folder, or a reference; of a kind that can be projected.
        out: A folder that is not there, or empty.
        base: Folder or Hub id of the artifact's base: for an adapter, and where the artifact does
            not have the values itself; by default the files of it that the registry knows.
        revision: Branch, tag or commit of a model on the Hub.
        registry: Where references and the base are looked up; the default registry, if there is
            one.
        trust: Public keys of which one must have signed it, see ``protect``.
        settings: For the cache of what was read.
        progress: Called with (stage, bytes done, all).

    Raises:
        UsageError: ``out`` is taken, or the kind cannot be projected.
        CompatibilityError: the model is not of the artifact's base, has other dtypes than floats,
            or the adapter holds whole tensors or biases.
        CheckpointNotFoundError: the base is needed and not at hand.
        EvidenceError: see ``workflows.trust``; files break a rule, or changed meanwhile.
        HostError: the disk refuses.
        VerificationError: what was written does not carry the artifact.
    """
    folder = expanded(out)
    _require_free(folder, expanded(model))
    bundle, said = vouched_bundle(artifact, trust, registry)
    verb = kind_of(bundle.manifest.kind).verb("inspect")
    if not hasattr(verb, "patches"):
        raise UsageError(
            "expected an artifact that says which values must be where, got a "
            f"{bundle.manifest.kind}.",
            hint="Name an esi-mask: safelatch list",
        )
    body = parse_body(bundle)
    with ExitStack() as stack:
        adapter, place = None, model
        if is_adapter(expanded(model)):
            place, revision = base_files(bundle, base, registry), None
            adapter = stack.enter_context(Adapter.open(model))
        source = identify(
            place,
            revision=revision,
            settings=settings or Settings.load(),
            progress=_stage(progress, "reading weights"),
        )
        _require_related(bundle, source, adapter)
        checkpoint = stack.enter_context(Checkpoint.open(source.path))
        tensors = stack.enter_context(BaseTensors(bundle, base, registry))
        sites = sites_for(source.record.geometry.family)
        _require_one_table(checkpoint, source, adapter, sites)
        patches = verb.patches(checkpoint, body, sites, tensors)
        copy = Copy(checkpoint, patches, adapter, sites)
        total = sum((checkpoint.folder / name).stat().st_size for name in copy.names)
        files = _counted(copy.files(), total, _stage(progress, "writing the copy"))
        try:
            write_folder(folder, files)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            with Checkpoint.open(folder / source.path.name if copy.is_file else folder) as written:
                found = verb.inspect_beside(written, body, sites, tensors)
            _require_kept(found, folder, bundle)
        except BaseException:  # what was not verified does not stay
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Projection(
        model=str(model),
        out=str(folder),
        artifact=bundle.manifest.label,
        digest=bundle.manifest.digest,
        kind=bundle.manifest.kind,
        files=tuple(sorted(copy.names)),
        changed=copy.changed,
        stored=found.stored,
        found=found.to_dict(),
        signed_by=() if said is None else said.signers,
    )


def _require_free(folder: Path, model: Path) -> None:
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        is_inside = model.is_dir() and model.resolve() in folder.resolve().parents
    except OSError as error:
        raise _unwritable(folder, error) from error
    if is_inside:
        raise UsageError(
            f"expected a new folder outside of {model}, which is copied, got {folder}.",
            hint="Choose another place: --out DIR",
        )
    if is_taken:
        raise UsageError(
            f"expected a new folder for the copy, {folder} exists and is not empty.",
            hint="Choose another place: --out DIR",
        )


def _require_related(bundle: Bundle, source: Identified, adapter: Adapter | None) -> None:
    """Raise unless the files are a model of the artifact's base, or its base where they must be."""
    if adapter is None:
        check(bundle, source.record).require()
        return
    expected, got = bundle.manifest.base_weights, source.record.weights
    if expected != got:
        raise BaseModelMismatchError(
            f"expected {source.locator} to be the base {bundle.manifest.base.name} ({expected}), "
            f"got {got}.",
            hint="Name the base itself. What a folder holds: safelatch fingerprint DIR",
        )
    effective_record(source.record, adapter)  # raises unless it fits
    beside = [*adapter.replaced, *(f"{m.name}.bias" for m in adapter.modules if m.has_bias)]
    if beside:
        raise CompatibilityError(
            f"expected an adapter of factors alone, got {len(beside)} tensors that it holds whole "
            f"or adds to biases:{listed(beside)}",
            hint=_MERGE_FIRST,
        )


def _require_one_table(
    checkpoint: Checkpoint, source: Identified, adapter: Adapter | None, sites: Sites
) -> None:
    """Refuse factors of an embedding that is the output head too where the files hold both."""
    tables = {sites.embedding, sites.head}
    named = sorted(tables & {module.weight for module in adapter.modules} if adapter else ())
    is_tied = all(entry.name != sites.head for entry in source.record.entries)
    if named and is_tied and sites.head in checkpoint.tensors:
        raise CompatibilityError(
            f"expected an adapter of layers alone, got factors of {', '.join(named)}: this base "
            f"ties {sites.head} to {sites.embedding} and stores both, and a merge into one would "
            "part them.",
            hint=_MERGE_FIRST,
        )


_MERGE_FIRST = (
    "Merge it with PEFT, save the model, and project that: "
    "model.merge_and_unload().save_pretrained(DIR)"
)


def _require_kept(found: Any, folder: Path, bundle: Bundle) -> None:
    if not found.kept:
        raise VerificationError(
            f"{folder}: expected a model that carries {bundle.manifest.label}, read back it does "
            "not.",
            hint="See whether the disk fails, then run this again.",
        )


def _unwritable(folder: Path, error: OSError) -> HostError:
    return HostError(
        f"expected a place where a model can be written at {folder}, got: {error.strerror}.",
        hint="Make room and allow writing there, or choose another place: --out DIR",
    )


def _counted(
    files: Mapping[str, Pieces], total: int, tell: Callable[[int, int], None] | None
) -> Mapping[str, Pieces]:
    """Return ``files``, which tell how many bytes of all of them were read."""
    if tell is None:
        return files
    done = 0

    def told(pieces: Pieces) -> Iterator[bytes | memoryview]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += len(piece)
            tell(done, total)

    return {name: told(pieces) for name, pieces in files.items()}


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)
