"""Which artifacts do these bytes carry? Read from the files alone; nothing is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.checkpoint.adapter import Adapter
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.effective import effective_record
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.errors import GeometryError
from registry.kinds import kind_of, parse_body

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from registry.artifact.bundle import Bundle
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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"explains": list(self.explains), "tensors": list(self.tensors)}


def inspect(model: Identified, bundles: Sequence[Bundle]) -> list[Inspection]:
    """Look for each of ``bundles`` in the bytes of ``model``; nothing is loaded.

    Raises:
        GeometryError: a bundle is for models of other widths, so nothing can be compared.
    """
    for bundle in bundles:
        _require_same_geometry(bundle, model)
    with Checkpoint.open(model.path) as checkpoint:
        sites = sites_for(model.record.geometry.family)
        return [
            _inspection(
                bundle,
                model.locator,
                model.record.weights,
                _verb(bundle).inspect(checkpoint, parse_body(bundle), sites),
            )
            for bundle in bundles
        ]


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
            base = {"merged_into": bundle.manifest.base.name}
            found.append(replace(made, found={**base, **made.found}))
    return found


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
