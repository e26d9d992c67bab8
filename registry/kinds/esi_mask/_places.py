"""Where selected weights are in the part of a parameter that this process holds.

A sharded parameter (DTensor, as FSDP2 makes them) is cut along dimensions of the whole; what is
here of it is a box. A flat index into the whole is in the box or it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import GuardError
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

_MOST_INT32 = 2**31
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Places:
    """Selected weights of one parameter that are in this process.

    Attributes:
        parameter: The parameter.
        flat: Flat indices into the local part, row-major, int32 where they fit; shape [here].
    """

    parameter: nn.Parameter
    flat: Tensor

    def take(self, tensor: Tensor) -> Tensor:
        """Return the selected values of the parameter, or of a gradient that is laid out alike."""
        return local(tensor).reshape(-1)[self.flat.long()]

    def put(self, tensor: Tensor, values: Tensor | float) -> None:
        """Write ``values`` [here], or one for all, to the selected places of such a tensor."""
        import torch

        here, flat = local(tensor), self.flat.long()
        if isinstance(values, torch.Tensor):
            values = values.to(device=here.device, dtype=here.dtype)
        if here.is_contiguous():
            here.view(-1)[flat] = values
        else:
            here[torch.unravel_index(flat, here.shape)] = values

    def spread(self, values: Tensor) -> Tensor:
        """Return ``values`` [here] at their places in zeros of the whole shape, on every rank."""
        import torch

        parameter: Any = self.parameter
        whole = torch.zeros_like(local(parameter), dtype=values.dtype)
        self.put(whole, values)
        if not is_sharded(parameter):
            return whole
        from torch.distributed.tensor import DTensor

        return gathered(
            DTensor.from_local(
                whole, parameter.device_mesh, parameter.placements, run_check=False,
                shape=parameter.shape, stride=parameter.stride(),
            )
        )  # fmt: skip


def places_of(name: str, parameter: nn.Parameter, flat: Tensor) -> tuple[Places, Any]:
    """Return where those of the ``flat`` indices into the whole parameter are that are here.

    Beside it which of ``flat`` those are, as an index into values in its order.

    Raises:
        GuardError: it is sharded in another way than along whole dimensions.
    """
    import torch

    flat = flat.to(parameter.device)
    if not is_sharded(parameter):
        return Places(parameter, _narrowed(flat, parameter.numel())), slice(None)
    box = _box(name, parameter)
    here = torch.ones_like(flat, dtype=torch.bool)
    moved, stride = torch.zeros_like(flat), 1
    for size, (low, high) in reversed(list(zip(parameter.shape, box, strict=True))):
        at = flat % size
        flat = flat // size
        here &= (low <= at) & (at < high)
        moved += (at - low) * stride
        stride *= high - low
    inside = here.nonzero().reshape(-1)
    return Places(parameter, _narrowed(moved[inside], stride)), inside


def require_bound(places: Mapping[str, Places], found: Mapping[str, nn.Parameter]) -> None:
    """Raise unless the parameters are the objects that the guard works on."""
    other = sorted(name for name, here in places.items() if found[name] is not here.parameter)
    if other:
        raise GuardError(
            "expected the parameters that were there when the optimizer was attached, "
            f"{len(other)} of {len(places)} were replaced since:{listed(other, _SHOWN)}",
            hint="Shard, wrap and cast the model first, build the optimizer, then attach it.",
        )


def index_bytes(parameter: nn.Parameter) -> int:
    """Return the bytes of one index into a parameter."""
    return 4 if parameter.numel() < _MOST_INT32 else 8


def require_own_gradients(found: dict[str, nn.Parameter]) -> None:
    """Refuse whole parameters in several processes: gradients would be taken before their mean."""
    import torch

    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    count = torch.distributed.get_world_size() if several else 1
    whole = sorted(name for name, parameter in found.items() if not is_sharded(parameter))
    if count > 1 and whole:
        raise GuardError(
            f"expected one process, or parameters sharded with FSDP2, got {count} processes with "
            "whole parameters: data parallelism takes the mean of gradients after the guard took "
            f"them:{listed(whole, _SHOWN)}",
            hint="Shard with FSDP2: torch.distributed.fsdp.fully_shard(model)",
        )


def require_trainable(found: Mapping[str, nn.Parameter]) -> None:
    """Refuse parameters that get no gradient any more."""
    frozen = sorted(name for name, p in found.items() if not p.requires_grad)
    if frozen:
        raise GuardError(
            f"expected gradients of the {len(found)} parameters with selected weights, "
            f"{len(frozen)} were frozen since the guard began:{listed(frozen, _SHOWN)}",
            hint="Leave them trainable; to give the guard up: g.release()",
        )


def require_reached(names: Collection[str], lost: Collection[str]) -> None:
    """Refuse a step before which the loss gave some parameters no gradient, now or earlier."""
    if lost:
        raise GuardError(
            f"expected gradients of the {len(names)} parameters with selected weights before the "
            f"step, {len(lost)} never had one and would stay as they are:"
            f"{listed(sorted(lost), _SHOWN)}",
            hint="Call loss.backward() before the step. Behind frozen embeddings, reentrant "
            "checkpointing makes no gradients: model.enable_input_require_grads()",
        )


def local(tensor: Any) -> Tensor:
    """Return what this process holds of a tensor; it shares its memory."""
    found = tensor.detach()
    here: Tensor = found.to_local() if is_sharded(found) else found
    return here


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    return hasattr(tensor, "placements")


def _narrowed(flat: Tensor, numel: int) -> Tensor:
    import torch

    return flat.to(torch.int32 if numel < _MOST_INT32 else torch.int64)


def _box(name: str, parameter: Any) -> list[tuple[int, int]]:
    """Return what is here, half-open in each dimension: equal chunks, as ``torch.chunk`` cuts."""
    from torch.distributed.tensor import Replicate, Shard

    box, mesh = [(0, size) for size in parameter.shape], parameter.device_mesh
    coordinate = mesh.get_coordinate()
    for along, placement in enumerate(parameter.placements):
        if type(placement) is Replicate:
            continue
        if type(placement) is not Shard or coordinate is None:
            raise GuardError(
                f"{name}: expected a parameter cut along whole dimensions, got {placement}.",
                hint="Shard with FSDP2 alone: torch.distributed.fsdp.fully_shard(module)",
            )
        low, high = box[placement.dim]
        step = -(-(high - low) // mesh.size(along))
        start = min(low + coordinate[along] * step, high)
        box[placement.dim] = (start, min(start + step, high))
    expected, got = [high - low for low, high in box], list(local(parameter).shape)
    if expected != got:
        raise GuardError(
            f"{name}: expected a part of shape {expected} in this process, got {got}.",
            hint="Shard with FSDP2 alone: torch.distributed.fsdp.fully_shard(module)",
        )
    return box


def vector_like(parameter: Any, values: Tensor, count: int) -> Tensor:
    """Return ``values`` [here] as a vector that is cut over the processes as ``parameter`` is.

    Norms of it, as clipping takes them, are over all processes; its parts are of unequal size.

    Args:
        parameter: A parameter; the vector of one that is not sharded is ``values``.
        values: What is here.
        count: How many values there are over all processes.
    """
    if not is_sharded(parameter):
        return values
    import torch
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [p if type(p) is Replicate else Shard(0) for p in parameter.placements]
    return DTensor.from_local(
        values, parameter.device_mesh, placements, run_check=False,
        shape=torch.Size([count]), stride=(1,),
    )  # fmt: skip
