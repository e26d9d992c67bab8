"""A range of layers scaled for a while, and given back bit for bit.

Three ways, chosen by the family and by what holds the weights:

- ``weights``: every linear weight below attention and MLP is multiplied by alpha, in fp32, cast
  once. Biases, norms, embeddings and routers are not; the attention's output projection only when
  it is asked for, since the code that made the paper's table never scaled it.
- ``contribution``: norms over queries and keys, or behind attention and MLP, take a factor on the
  weights out again, so what the layer adds to the residual stream is multiplied instead.
- ``activation``: a linear without a plain weight (quantised) has its output multiplied, less its
  bias: the same as its weight times alpha.

What has none of these is refused before anything is touched. Originals are kept and copied back
(multiplying by 1/alpha would change one weight in ten at bf16), then read again: digests before
and after must be equal.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes
from registry.errors import (
    ApplyError,
    NonFiniteResultError,
    TargetModuleMissingError,
    UsageError,
    VerificationError,
)
from registry.live.layers import live_layers
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from registry.digest import Digest
    from registry.live.layers import LiveLayer, LiveLayers

WEIGHTS, CONTRIBUTION, ACTIVATION = "weights", "contribution", "activation"
_RELOAD = (
    "Load the model whole and as its family's own class: AutoModelForCausalLM.from_pretrained(DIR)"
)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the layers of a model are scaled.

    Attributes:
        mode: ``contribution``; else ``activation`` where any linear needs it, else ``weights``.
        modules: Module under the layer to how it is scaled, over all layers.
        attention_output: Whether the attention's output projection is scaled; with
            ``contribution`` all that attention adds is.
    """

    mode: str
    modules: dict[str, str]
    attention_output: bool


@dataclass(frozen=True, slots=True)
class _Site:
    """A module that is scaled: its parameters, or its output where there are none of them."""

    path: str
    module: Any
    mode: str
    parameters: tuple[str, ...] = ()


def plan_scaling(model: nn.Module, *, attention_output: bool) -> Scaling:
    """Return how every layer of ``model`` would be scaled; nothing is touched.

    Raises:
        UnsupportedArchitectureError, TargetModuleMissingError: the layers are not known.
        ApplyError: a layer holds something that no way of scaling fits.
    """
    found = live_layers(model)
    sites = [_sites(found, layer, attention_output) for layer in found.layers]
    return _described(sites, attention_output)


@contextmanager
def scaled(
    model: nn.Module, first: int, last: int, alpha: float, *, attention_output: bool
) -> Iterator[Scaling]:
    """Scale the layers ``first`` to ``last``, both included, inside the block.

    Source: Safety Layers, section 3.4 (progressive localisation by scaling).

    Args:
        model: A live model of transformers.
        first: First layer, 0-based.
        last: Last layer, included.
        alpha: Factor, dimensionless; 1 changes nothing.
        attention_output: Whether the attention's output projection is scaled too.

    Raises:
        UsageError: not ``0 <= first <= last < layers``, or alpha is not a number above 0.
        UnsupportedArchitectureError, TargetModuleMissingError: the layers are not known.
        ApplyError: a layer holds something that no way of scaling fits.
        NonFiniteResultError: a weight times alpha is beyond its dtype.
        VerificationError: a weight is not what it was, after it was given back.
    """
    found = live_layers(model)
    if not 0 <= first <= last < len(found):
        raise UsageError(
            f"expected 0 <= first <= last < {len(found)}, the model's layers, got first {first} "
            f"and last {last}."
        )
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(f"expected a finite alpha above 0, got {alpha}.")
    chosen = found.layers[first : last + 1]
    sites = [_sites(found, layer, attention_output) for layer in chosen]
    weights = [
        (f"{layer.name}.{site.path}.{name}", getattr(site.module, name))
        for layer, group in zip(chosen, sites, strict=True)
        for site in group
        for name in site.parameters
    ]
    with ExitStack() as stack:
        for site in (site for group in sites for site in group if site.mode != WEIGHTS):
            hook = _contribution if site.mode == CONTRIBUTION else _activation
            stack.callback(site.module.register_forward_hook(hook(alpha)).remove)
        stack.enter_context(_scaled_weights(weights, alpha))
        yield _described(sites, attention_output)


def _described(sites: Sequence[Sequence[_Site]], attention_output: bool) -> Scaling:
    modules: dict[str, str] = {}
    for site in (site for group in sites for site in group):
        if modules.get(site.path) != ACTIVATION:
            modules[site.path] = site.mode
    modes = set(modules.values())
    mode = next(mode for mode in (CONTRIBUTION, ACTIVATION, WEIGHTS) if mode in modes)
    return Scaling(mode, dict(sorted(modules.items())), attention_output)


def _sites(found: LiveLayers, layer: LiveLayer, attention_output: bool) -> list[_Site]:
    """Return what is scaled in one layer."""
    row = found.sites
    if row.head_norms or row.post_norms:
        paths = row.post_norms or (layer.attention, layer.mlp)
        return [
            _Site(path, module, CONTRIBUTION)
            for path, module in zip(paths, layer.added, strict=True)
        ]
    sites: list[_Site] = []
    for part in (layer.attention, layer.mlp):
        sites += _linears(layer, part, row.routers)
    wanted = {row.query, row.key, row.value, row.attn_out, row.mlp_out}
    missing = {path for path in wanted if "{index}" not in path} - {site.path for site in sites}
    if missing:
        raise TargetModuleMissingError(
            f"{layer.name}: expected linear layers {', '.join(sorted(missing))}, it has none.",
            hint=_RELOAD,
        )
    return [site for site in sites if attention_output or site.path != row.attn_out]


def _linears(layer: LiveLayer, path: str, routers: tuple[str, ...]) -> list[_Site]:
    """Return every linear at or below ``path``; anything else that holds numbers is refused."""
    if path in routers:
        return []
    module: Any = layer.module.get_submodule(path)
    if hasattr(module, "in_features") or type(module).__name__ == "Conv1D":
        return [_linear(layer, path, module)]
    own = dict(module.named_parameters(recurse=False))
    below = [name for name, _ in module.named_children()]
    if not below:
        own |= dict(module.named_buffers(recurse=False))
    sites: list[_Site] = []
    if own:
        if not all(_is_plain(value) and value.ndim == 3 for value in own.values()):
            raise _unknown(layer, path, module)
        for name, value in own.items():
            _require_here(f"{layer.name}.{path}.{name}", module, value)
        sites.append(_Site(path, module, WEIGHTS, tuple(own)))  # experts in one parameter
    for name in below:
        sites += _linears(layer, f"{path}.{name}", routers)
    return sites


def _linear(layer: LiveLayer, path: str, module: Any) -> _Site:
    weight: Any = getattr(module, "weight", None)
    if hasattr(module, "base_layer") or hasattr(weight, "device_mesh"):
        raise _unknown(layer, path, module)
    if type(module).__name__ in {"Linear", "Conv1D"} and _is_plain(weight):
        _require_here(f"{layer.name}.{path}.weight", module, weight)
        return _Site(path, module, WEIGHTS, ("weight",))
    return _Site(path, module, ACTIVATION)


def _is_plain(value: Any) -> bool:
    import torch

    return type(value) is torch.nn.Parameter and value.is_floating_point()


def _require_here(name: str, module: Any, weight: Tensor) -> None:
    if weight.device.type == "meta" or getattr(getattr(module, "_hf_hook", None), "offload", False):
        raise ApplyError(f"{name}: expected weights on a device, they are offloaded.", hint=_RELOAD)


def _unknown(layer: LiveLayer, path: str, module: Any) -> ApplyError:
    return ApplyError(
        f"{layer.name}.{path}: expected linear layers, experts in one parameter or a router, "
        f"got {type(module).__name__}, whose scaling is not known.",
        hint=_RELOAD,
    )


def _contribution(alpha: float) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (_times(output[0], alpha), *output[1:])
        return _times(output, alpha)

    return hook


def _activation(alpha: float) -> Any:
    def hook(module: Any, _args: Any, output: Tensor) -> Tensor:
        bias = getattr(module, "bias", None)
        bias = bias() if callable(bias) else bias  # a method in torch's own quantised linear
        if bias is None:
            return _times(output, alpha)
        own = bias.detach().float()
        shifted: Tensor = (output.float() - own) * alpha + own
        return shifted.to(output.dtype)

    return hook


def _times(value: Tensor, alpha: float) -> Tensor:
    import torch

    wide = value if value.dtype == torch.float64 else value.float()
    found: Tensor = (wide * alpha).to(value.dtype)
    return found


@contextmanager
def _scaled_weights(weights: Sequence[tuple[str, Any]], alpha: float) -> Iterator[None]:
    import torch

    kept: list[tuple[str, Any, Tensor, Digest]] = []
    try:
        with torch.no_grad():
            for name, weight in weights:
                kept.append((name, weight, weight.detach().clone(), _digest(weight)))
                changed = _times(weight, alpha)
                if not bool(torch.isfinite(changed).all()):
                    raise NonFiniteResultError(
                        f"{name}: expected finite weights times {alpha:g}, got some beyond "
                        f"{weight.dtype}.",
                        hint="Take an alpha nearer 1, or load in bfloat16.",
                    )
                weight.copy_(changed)
        yield
    finally:
        with torch.no_grad():
            for _, weight, original, _ in kept:
                weight.copy_(original)
        changed_for_good = [
            f"{name}: expected {before}, got {after}"
            for name, weight, _, before in kept
            if (after := _digest(weight)) != before
        ]
        if changed_for_good:
            raise VerificationError(
                f"expected {len(kept)} weights as they were before scaling, "
                f"{len(changed_for_good)} differ:{listed(changed_for_good)}",
                hint="Load the model again; do not use this one.",
            )


def _digest(weight: Tensor) -> Digest:
    import torch

    bits: Any = weight.detach().contiguous().cpu().view(torch.uint8).numpy()
    return digest_bytes(memoryview(bits).cast("B"))
