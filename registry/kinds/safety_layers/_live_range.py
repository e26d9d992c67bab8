"""The parameters of a live model that a range protects, and what makes it impossible to keep them.

Looked up by name every time: sharding and casting put new parameters into their places. Refused is
what acts inside the range beside the base's own weights: adapters, trained copies of modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.errors import GuardError
from registry.kinds.safety_layers._protected import live_names, strays
from registry.kinds.safety_layers._training_configs import lora_hint
from registry.live.wrapped import look_under
from registry.wording import listed

if TYPE_CHECKING:
    from torch import nn

    from registry.kinds.safety_layers.body import LayersBody
    from registry.live.wrapped import Wrapped

_INPUT_ONLY = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"}
"""Kinds of prompt learning that put vectors beside the input embeddings, and nowhere else."""
_SHOWN = 5


def range_of(model: nn.Module, body: LayersBody) -> tuple[Wrapped, dict[str, nn.Parameter]]:
    """Return the model under its wrappers and its protected parameters, by the base's names.

    Raises:
        GuardError: the weights cannot be read (``live.wrapped``), parameters are missing, or
            something else acts inside the range.
    """
    wrapped = look_under(model)
    _require_no_prefixes(wrapped, body)
    expected = live_names(body.protected, sites_for(body.family))
    _require_own_weights_only(wrapped, body)
    missing = [name for name in expected if name not in wrapped.own]
    if missing:
        raise GuardError(
            f"expected the parameters of layers {body.first} to {body.last} under their own "
            f"names, {len(missing)} of {len(expected)} are not in the model:"
            f"{listed(missing, _SHOWN)}",
            hint="Give the model as its family's own class: AutoModelForCausalLM.from_pretrained"
            "(DIR), then wrap it.",
        )
    return wrapped, {name: wrapped.own[name] for name in expected}


def _require_no_prefixes(wrapped: Wrapped, body: LayersBody) -> None:
    for name, config in sorted(wrapped.adapters.items()):
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if getattr(config, "is_prompt_learning", False) and kind not in _INPUT_ONLY:
            raise GuardError(
                f"expected nothing trained inside layers {body.first} to {body.last}, adapter "
                f"{name!r} is {kind}: it puts trained vectors into the attention of every layer.",
                hint=lora_hint(body),
            )


def _require_own_weights_only(wrapped: Wrapped, body: LayersBody) -> None:
    inside = sorted(name for name in wrapped.brought if body.protects(name))
    if inside:
        raise GuardError(
            f"expected no adapter inside layers {body.first} to {body.last}: it changes what they "
            f"compute although their weights are kept. Got {len(inside)} of its parameters "
            f"there:{listed(inside, _SHOWN)}",
            hint=lora_hint(body),
        )
    stray = strays(wrapped.own, dict(wrapped.model.named_buffers()), body)
    if stray:
        raise GuardError(
            f"expected only the base's parameters inside layers {body.first} to {body.last}, got "
            f"{len(stray)} more:{listed(stray, _SHOWN)}",
            hint="Take off what was added first (an artifact: registry.unprotect(model)), or load "
            "the model as its own class.",
        )
