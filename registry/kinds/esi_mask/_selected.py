"""Which parameters of a live model hold selected weights, and what makes it impossible to guard.

Parameters are looked up by name every time: sharding and casting put new ones into their places.
A parameter may hold several matrices: a fused qkv, the experts of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import GuardError, TargetModuleMissingError
from registry.kinds.esi_mask._matrices import held, in_parameter, parameter_of
from registry.live.wrapped import look_under
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from torch import Tensor, nn

    from registry.checkpoint.architecture import Sites
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.body import MaskBody
    from registry.live.wrapped import Wrapped

_SHOWN = 5
_INPUT_ONLY = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"}
"""Kinds of prompt learning that put vectors beside the input embeddings, and nowhere else."""
_OWN_CLASS = (
    "Give the model as its family's own class: AutoModelForCausalLM.from_pretrained(DIR), then "
    "wrap it."
)
AT_MERGE = (
    "Train the adapter without the guard, then write a merged copy with the selected weights of "
    "the base: registry.project(ADAPTER, ARTIFACT, OUT, base=BASE)"
)
"""The way out where an adapter acts on selected weights."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected weights of one parameter of a live model: matrix after matrix, by name.

    Attributes:
        sites: The row of the base's family.
        name: Name of the parameter.
        matrices: The matrices with selected weights that it holds, sorted by name.
        counts: How many weights are selected in each.
    """

    sites: Sites
    name: str
    matrices: tuple[Matrix, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many weights are selected in the parameter."""
        return sum(self.counts)

    def by_matrix(self, values: Tensor) -> dict[str, Tensor]:
        """Return the part of each matrix of ``values`` [count], by name."""
        found, begin = {}, 0
        for matrix, count in zip(self.matrices, self.counts, strict=True):
            found[matrix.name] = values[begin : begin + count]
            begin += count
        return found


def selections(body: MaskBody) -> tuple[Selection, ...]:
    """Return the parameters of a live model that hold selected weights, sorted by name."""
    sites, counts = body.sites, body.counts
    grouped: dict[str, list[Matrix]] = {}
    for matrix in body.matrices:
        if counts[matrix.name]:
            grouped.setdefault(parameter_of(sites, matrix), []).append(matrix)
    return tuple(
        Selection(
            sites, name, tuple(grouped[name]), tuple(counts[each.name] for each in grouped[name])
        )
        for name in sorted(grouped)
    )


def flat_indices(body: MaskBody, selection: Selection) -> np.ndarray:
    """Return flat indices into the parameter, row-major, matrix after matrix: int64 [count]."""
    import numpy as np

    return np.concatenate(
        [
            in_parameter(selection.sites, each, body.indices(each.name))
            for each in selection.matrices
        ]
    )


def look_up(
    model: nn.Module, chosen: Iterable[Selection], *, adapters: bool = True
) -> tuple[Wrapped, dict[str, nn.Parameter]]:
    """Return the model under its wrappers, and its parameters with selected weights, by name.

    Args:
        model: A transformers model, wrapped or not.
        chosen: The parameters that are looked for.
        adapters: Whether adapters on other modules than these pass.

    Raises:
        GuardError: the weights cannot be read (``live.wrapped``), parameters are missing, or there
            are adapters that do not pass.
    """
    wrapped = look_under(model)
    _require_no_prefixes(wrapped)
    if not adapters:
        _require_none(wrapped)
    names = [selection.name for selection in chosen]
    missing = [name for name in names if name not in wrapped.own]
    if missing:
        raise GuardError(
            f"expected the parameters of the mask under their own names, {len(missing)} of "
            f"{len(names)} are not in the model:{listed(missing, _SHOWN)}",
            hint=_OWN_CLASS,
        )
    _require_no_adapter(wrapped, names)
    return wrapped, {name: wrapped.own[name] for name in names}


def require_shapes(parameters: Mapping[str, nn.Parameter], chosen: Iterable[Selection]) -> None:
    """Raise ``GuardError`` unless every parameter holds its matrices as the base has them."""
    lines = [
        line
        for selection in chosen
        for matrix in selection.matrices
        if (line := _misfit(parameters[selection.name], selection, matrix))
    ]
    if lines:
        raise GuardError(
            f"expected the matrices of the mask as its base has them, {len(lines)} are not:"
            f"{listed(lines, _SHOWN)}",
            hint=_OWN_CLASS,
        )


def _misfit(parameter: Tensor, selection: Selection, matrix: Matrix) -> str | None:
    import torch

    whole = torch.empty(parameter.shape, device="meta")
    try:
        held({selection.name: whole}, selection.sites, matrix)
    except TargetModuleMissingError as error:
        return error.message
    return None


def _require_none(wrapped: Wrapped) -> None:
    """Raise ``GuardError`` where the model has adapters at all."""
    got = sorted(wrapped.brought) or [f"adapter {name!r}" for name in sorted(wrapped.adapters)]
    if got:
        raise GuardError(
            "expected a model without adapters, where selected weights alone are trained, got "
            f"{len(got)} of theirs:{listed(got, _SHOWN)}",
            hint="Give the model under them: model.unload(), or of a prompt model.get_base_model()",
        )


def _require_no_prefixes(wrapped: Wrapped) -> None:
    """Refuse what acts in every layer, beside all weights."""
    for name, config in sorted(wrapped.adapters.items()):
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if getattr(config, "is_prompt_learning", False) and kind not in _INPUT_ONLY:
            raise GuardError(
                f"expected no adapter that acts in every layer, {name!r} is {kind}: it puts "
                "trained vectors beside what the selected weights compute.",
                hint="Train the weights themselves, or a LoRA that is merged by "
                "registry.project(ADAPTER, ARTIFACT, OUT, base=BASE).",
            )


def _require_no_adapter(wrapped: Wrapped, found: Iterable[str]) -> None:
    """Refuse what acts beside selected weights: it changes what they compute, not their bits."""
    modules = {name.rpartition(".")[0] for name in found}
    inside = sorted(
        name for name in wrapped.brought if any(step in modules for step in _above(name))
    )
    if inside:
        raise GuardError(
            "expected no adapter on a module with selected weights: it changes what they compute "
            f"although their bits are kept. Got {len(inside)} of its parameters there:"
            f"{listed(inside, _SHOWN)}",
            hint=AT_MERGE,
        )


def _above(name: str) -> Iterable[str]:
    steps = name.split(".")
    return (".".join(steps[:depth]) for depth in range(1, len(steps)))
