"""The candidates of a live model, and whether they are those of the base that was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.record import Entry
from registry.digest import digest_bytes
from registry.errors import ApplyError
from registry.kinds.esi_mask._matrices import matrices, parameter_of
from registry.kinds.esi_mask._shards import shards_of
from registry.live.sites import model_geometry
from registry.wording import listed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._shards import Shards


@dataclass(frozen=True, slots=True)
class Candidates:
    """What can be selected in a live model.

    Attributes:
        live: The model's parameters by name.
        sites: The row of its family.
        matrices: The candidates, sorted by name, in the dtype that the model has them in.
        routers: Modules that choose experts.
        shards: Which rows of them this process holds.
    """

    live: dict[str, Tensor]
    sites: Sites
    matrices: tuple[Matrix, ...]
    routers: tuple[str, ...]
    shards: Shards

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that hold candidates."""
        names = {parameter_of(self.sites, matrix): matrix.tensor for matrix in self.matrices}
        return {name if name in self.live else tensor for name, tensor in names.items()}


def live_candidates(model: nn.Module) -> Candidates:
    """Return the candidates of ``model``.

    Raises:
        UnsupportedArchitectureError, GeometryError, ApplyError: they cannot be told.
        ApplyError: they are sharded in a way that is not supported.
    """
    shards = shards_of(model)
    geometry = model_geometry(model)
    sites = sites_for(geometry.family)
    live: dict[str, Tensor] = dict(model.named_parameters())
    routers = [
        f"{sites.layer_prefix(layer)}.{router}"
        for layer in range(geometry.layers)
        for router in sites.routers
    ]
    found = matrices(_entries(live, sites, shards), sites, geometry)
    return Candidates(live, sites, found, tuple(routers), shards)


def require_base(model: nn.Module, record: BaseRecord) -> None:
    """Check that ``model`` holds the base's candidates in the dtype that its files have.

    Values that were cast while loading are not the base's: a digest of them is of no file.

    Raises:
        ApplyError: with every matrix that differs.
        UnsupportedArchitectureError, GeometryError: the candidates cannot be told.
    """
    sites = sites_for(record.geometry.family)
    expected = _forms(matrices(record.entries, sites, record.geometry))
    got = _forms(live_candidates(model).matrices)
    findings = [
        f"{name}: expected {expected.get(name, 'no candidate')}, got {got.get(name, 'none')}"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]
    if findings:
        raise ApplyError(
            f"expected the matrices of the base as its files have them, got {len(findings)} "
            f"others:{listed(findings)}",
            hint="Load the base in the dtype that it is stored in: from_pretrained(DIR, dtype=...)",
        )


def _forms(found: tuple[Matrix, ...]) -> dict[str, str]:
    return {matrix.name: f"{matrix.dtype} {[matrix.rows, matrix.cols]}" for matrix in found}


def _entries(live: dict[str, Tensor], sites: Sites, shards: Shards) -> list[Entry]:
    """Return what a record would say of the live model's tensors, but for their digests.

    As in a record, a head that equals the input embedding is left out.
    """
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
    names[torch.bfloat16] = "BF16"
    unknown = digest_bytes(b"")
    head, embedding = live.get(sites.head), live.get(sites.embedding)
    is_tied = head is not None and embedding is not None and shards.equal(head, embedding)
    return [
        Entry(name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), unknown)
        for name, tensor in live.items()
        if not (is_tied and name == sites.head)
    ]
