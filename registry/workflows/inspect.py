"""Which artifacts do these bytes carry? Read from the checkpoint alone; nothing is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.errors import GeometryError
from registry.kinds import kind_of, parse_body

if TYPE_CHECKING:
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
    found = []
    for bundle in bundles:
        _require_same_geometry(bundle, model)
    with Checkpoint.open(model.path) as checkpoint:
        sites = sites_for(model.record.geometry.family)
        for bundle in bundles:
            manifest = bundle.manifest
            verb = kind_of(manifest.kind).verb("inspect")
            result = verb.inspect(checkpoint, parse_body(bundle), sites)
            found.append(
                Inspection(
                    model=model.locator,
                    weights=model.record.weights,
                    artifact=manifest.label,
                    digest=manifest.digest,
                    kind=manifest.kind,
                    stored=result.stored,
                    loader_keeps=result.loader_keeps,
                    explains=result.explains,
                    tensors=result.tensors,
                    found=result.to_dict(),
                )
            )
    return found


def _require_same_geometry(bundle: Bundle, model: Identified) -> None:
    expected, got = dict(bundle.manifest.geometry), model.record.geometry.to_dict()
    if expected != got:
        differing = sorted(name for name in got if got[name] != expected.get(name))
        listed = ", ".join(f"{n}: expected {expected.get(n)}, got {got[n]}" for n in differing)
        raise GeometryError(
            f"{bundle.manifest.label} is not for {model.locator}: {listed}.",
            hint="See what there is for its base: safelatch inspect MODEL",
        )
