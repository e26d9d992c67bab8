"""Which artifacts do these bytes carry? Read from files alone; nothing is loaded.

Where a kind can tell more beside the base's weights (``inspect_beside``) and these are at hand, it
is asked with them. Where they are not, what it tells without them stands, and ``alone`` says why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from registry.checkpoint.adapter import Adapter
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.effective import effective_record
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.errors import CheckpointNotFoundError, GeometryError, SafelatchError
from registry.kinds import kind_of, parse_body
from registry.workflows.base_tensors import BaseTensors

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.sites import Sites
    from registry.store.catalog import Registry
    from registry.workflows.identify import Identified


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint's bytes say about one artifact.

    Attributes:
        stored: Whether the bytes carry it.
        loader_keeps: Whether the stock loader reads what is stored.
        explains: Config fields that differ from the base's because it is stored.
        tensors: Tensors in the bytes that are the artifact.
        found: Everything the kind found.
        shown: What people are shown in place of it, where the kind says that.
        alone: Why the base's weights were not read although they would tell more; ``None`` where
            they were, or were not needed.
    """

    model: str
    weights: str
    artifact: str
    digest: str
    kind: str
    stored: bool
    loader_keeps: bool
    explains: tuple[str, ...]
    tensors: tuple[str, ...]
    found: dict[str, Any]
    shown: dict[str, Any] | None = field(default=None, compare=False)
    alone: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, for programs: without what is for people alone."""
        members = asdict(self) | {"explains": list(self.explains), "tensors": list(self.tensors)}
        return {name: value for name, value in members.items() if name not in {"shown", "alone"}}


def inspect(
    model: Identified, bundles: Sequence[Bundle], *, bases: Registry | str | None = None
) -> list[Inspection]:
    """Look for each of ``bundles`` in the bytes of ``model``; nothing is loaded.

    Args:
        model: What was read.
        bundles: The artifacts.
        bases: The registry that knows where the files of bases are; none are read by default.

    Raises:
        GeometryError: a bundle is for models of other widths, so nothing can be compared.
    """
    for bundle in bundles:
        _require_same_geometry(bundle, model)
    with Checkpoint.open(model.path) as checkpoint:
        sites = sites_for(model.record.geometry.family)
        found = []
        for bundle in bundles:
            result, alone = _beside(bundle, checkpoint, sites, bases)
            made = _inspection(bundle, model.locator, model.record.weights, result)
            found.append(replace(made, alone=alone))
        return found


def speaks_of_adapters(bundle: Bundle) -> bool:
    """Return whether the kind of ``bundle`` can say what an adapter leaves of it."""
    return hasattr(_verb(bundle), "inspect_adapter")


def inspect_adapter(folder: str | os.PathLike[str], bundles: Sequence[Bundle]) -> list[Inspection]:
    """Look for each of ``bundles`` in its own base with the adapter in ``folder`` merged into it.

    An adapter's bytes do not say which base it was trained on: ``merged_into`` in what was found
    names the one that was taken. ``weights`` is the adapter's digest.

    Args:
        folder: The adapter.
        bundles: Of kinds that can tell (``speaks_of_adapters``).

    Raises:
        GeometryError: the adapter is not for the base of a bundle.
        CheckpointNotFoundError, UnsafeFormatError, SchemaViolationError, CompatibilityError,
        EvidenceError: see ``Adapter.open``.
    """
    found = []
    with Adapter.open(folder) as adapter:
        for bundle in bundles:
            record = effective_record(BaseRecord.from_tensors(bundle.base_tensors()), adapter)
            sites = sites_for(record.geometry.family)
            result = _verb(bundle).inspect_adapter(record, parse_body(bundle), sites)
            made = _inspection(bundle, str(folder), adapter.digest, result)
            base = bundle.manifest.base.name
            shown = None if made.shown is None else {"merged into": base, **made.shown}
            found.append(replace(made, found={"merged_into": base, **made.found}, shown=shown))
    return found


def _beside(
    bundle: Bundle, checkpoint: Checkpoint, sites: Sites, bases: Registry | str | None
) -> tuple[Any, str | None]:
    """Return what the kind finds, beside the base's weights if it can; and why not."""
    verb, body, alone = _verb(bundle), parse_body(bundle), None
    if bases is not None and hasattr(verb, "inspect_beside"):
        try:
            with BaseTensors(bundle, None, bases) as base:
                return verb.inspect_beside(checkpoint, body, sites, base), None
        except SafelatchError as error:  # if it is about the model, it is raised once more below
            alone = error.message
            if isinstance(error, CheckpointNotFoundError):
                alone += " Say where they are: safelatch base add MODEL"
    return verb.inspect(checkpoint, body, sites), alone


def _verb(bundle: Bundle) -> Any:
    return kind_of(bundle.manifest.kind).verb("inspect")


def _inspection(bundle: Bundle, model: str, weights: str, result: Any) -> Inspection:
    manifest = bundle.manifest
    return Inspection(
        model=model,
        weights=weights,
        artifact=manifest.label,
        digest=manifest.digest,
        kind=manifest.kind,
        stored=result.stored,
        loader_keeps=result.loader_keeps,
        explains=result.explains,
        tensors=result.tensors,
        found=result.to_dict(),
        shown=result.describe() if hasattr(result, "describe") else None,
    )


def _require_same_geometry(bundle: Bundle, model: Identified) -> None:
    expected, got = dict(bundle.manifest.geometry), model.record.geometry.to_dict()
    if expected != got:
        differing = sorted(name for name in got if got[name] != expected.get(name))
        listed = ", ".join(f"{n}: expected {expected.get(n)}, got {got[n]}" for n in differing)
        raise GeometryError(
            f"{bundle.manifest.label} is not for {model.locator}: {listed}.",
            hint="See what there is for its base: safelatch inspect MODEL",
        )
