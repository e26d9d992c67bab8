"""Where a live model holds the selected weights, and whether they are what they must be.

The same answers as in the bytes of a file (``_judged``): *same*, by the digest of the values in the
base's dtype; *rounded*, where the model's dtype is narrower, by every value; or neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import GeometryError, TargetModuleMissingError
from registry.kinds.esi_mask._matrices import held, parameter_of
from registry.kinds.esi_mask._targets import in_tensor_order
from registry.live.attach import attached_shifts
from registry.live.bits import digest_as
from registry.live.compare import torch_dtype
from registry.live.sites import model_geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._targets import Targets
    from registry.kinds.esi_mask.body import MaskBody


@dataclass(frozen=True, slots=True)
class LiveMatrix:
    """One matrix with selected weights in a live model.

    Attributes:
        matrix: The matrix.
        held: The view [rows, cols] of the parameter that holds it; ``None`` where no plain weights
            of its shape do.
        fact: What is there instead, for people; empty otherwise.
    """

    matrix: Matrix
    held: Tensor | None
    fact: str


def require_same_family(model: nn.Module, body: MaskBody) -> None:
    """Check that the model is of the body's family and depth.

    Raises:
        GeometryError: with both values; or see ``model_geometry``.
        ApplyError: adapters are in place.
    """
    geometry = model_geometry(model)
    layers = 1 + max(matrix.layer for matrix in body.matrices if matrix.layer is not None)
    expected, got = (body.family, layers), (geometry.family, geometry.layers)
    if expected != got:
        raise GeometryError(
            f"expected a {expected[0]} of {expected[1]} layers as the base, got a {got[0]} of "
            f"{got[1]}.",
            hint="See which base this model descends from: safelatch lineage MODEL",
        )


def live_matrices(model: nn.Module, body: MaskBody) -> Iterator[LiveMatrix]:
    """Yield every matrix with selected weights as the model holds it, by stored tensor."""
    import torch

    sites = body.sites
    live: dict[str, Tensor] = dict(model.named_parameters())
    for matrix in in_tensor_order(body):
        try:
            view = held(live, sites, matrix)
        except TargetModuleMissingError as error:
            yield LiveMatrix(matrix, None, error.message.removeprefix(f"{matrix.name}: "))
            continue
        parameter = live.get(parameter_of(sites, matrix), live.get(matrix.tensor))
        fact = ""
        if type(parameter) is not torch.nn.Parameter or type(view) is not torch.Tensor:
            fact = f"expected a plain parameter, got {type(parameter).__name__}"
        elif view.device.type == "meta":
            fact = "expected weights on a device, they are offloaded"
        elif not view.is_floating_point():
            fact = f"expected a float, got {view.dtype}"
        yield LiveMatrix(matrix, None if fact else view, fact)


def indices_on(body: MaskBody, matrix: Matrix, view: Tensor) -> Tensor:
    """Return the flat indices of the selected weights of ``matrix`` on the device of ``view``."""
    import numpy as np
    import torch

    return torch.from_numpy(body.indices(matrix.name).astype(np.int64)).to(view.device)


def is_same(values: Tensor, matrix: Matrix, targets: Targets) -> bool:
    """Return whether selected ``values`` are what they must be, bit for bit in the base's dtype."""
    return digest_as(values, torch_dtype(matrix.dtype)) == targets.digest(matrix)


def is_narrower(values: Tensor, matrix: Matrix) -> bool:
    """Return whether the dtype of ``values`` cannot hold those of the base."""
    import torch

    wanted = torch_dtype(matrix.dtype)
    return torch.promote_types(values.dtype, wanted) != values.dtype


def carried(model: nn.Module, body: MaskBody, matrices: Iterable[Matrix]) -> list[str]:
    """Return who attached something to a module that holds one of ``matrices``, sorted."""
    sites = body.sites
    modules = {parameter_of(sites, each).removesuffix(".weight") for each in matrices}
    return sorted({owner for name in modules for owner in attached_shifts(model, name)})
