"""What each tensor of an adapter's file does; none is left over, and none contradicts the config.

A loader ignores tensors that it finds no place for, and takes others that the config never named.
What is judged must be what is loaded: both are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.checkpoint._adapter_config import CONFIG, SAVE_AGAIN
from registry.checkpoint._module_names import LONGEST_NAME
from registry.checkpoint.values import is_float
from registry.errors import UnsafeFormatError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint._adapter_config import LoraSettings
    from registry.checkpoint.reader import TensorInfo

WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_MOST_ELEMENTS = 1 << 26  # of a factor, which takes 512 MiB in float64
_MOST_MATCHES = 1 << 20  # of a name with one of the config: some seconds
_FACTORS = {
    ".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_B.bias": "bias of B",
    ".lora_embedding_A": "embedding A", ".lora_embedding_B": "embedding B",
}  # fmt: skip
_WRAPPED = {".base_layer.weight": ".weight", ".base_layer.bias": ".bias"}
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
"""PEFT saves these too where the vocabulary was resized or they have factors."""


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """The tensors of an adapter by what they do.

    Attributes:
        factors: Module to its factors: ``A`` and ``B``, or ``embedding A`` and ``embedding B``;
            ``bias of B``.
        whole: Tensor of the base to the one that replaces it.
    """

    factors: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)
    whole: dict[str, TensorInfo] = field(default_factory=dict)


def account(infos: Mapping[str, TensorInfo], settings: LoraSettings) -> AdapterTensors:
    """Return what the tensors do, by their stored names.

    Raises:
        UnsafeFormatError: one is of no use, or contradicts another or the config; all are listed.
    """
    wrong: list[str] = []
    found = _by_use(infos, wrong)
    if _matches(found, settings) > _MOST_MATCHES:
        count = len(found.factors) + len(found.whole)
        wrong.append(f"{CONFIG}: too many patterns for {count:,} modules")
    else:
        for module, roles in found.factors.items():
            wrong += _wrong_factors(module, roles, settings)
        for tensor, info in found.whole.items():
            wrong += _wrong_replacement(tensor, info, found, settings)
    if not found.factors:
        wrong.append("no factors at all")
    if wrong:
        raise UnsafeFormatError(
            f"{WEIGHTS}: expected the tensors that {CONFIG} describes, got {len(wrong)} "
            f"contradictions:{listed(sorted(wrong))}",
            hint=SAVE_AGAIN,
        )
    return found


def _by_use(infos: Mapping[str, TensorInfo], wrong: list[str]) -> AdapterTensors:
    found = AdapterTensors()
    for stored, info in infos.items():
        name = stored.removeprefix(_PREFIX)
        end = next((end for end in _FACTORS if name.endswith(end)), None)
        if len(stored) > LONGEST_NAME:
            wrong.append(
                f"{stored[:40]!r}...: expected a name of at most {LONGEST_NAME} characters, "
                f"got {len(stored):,}"
            )
        elif name == stored:
            wrong.append(f"{stored!r:.160}: expected a name that begins with {_PREFIX}")
        elif end is not None:
            found.factors.setdefault(name.removesuffix(end), {})[_FACTORS[end]] = info
        else:
            tensor = _replaced_tensor(name)
            if tensor in found.whole:
                wrong.append(f"{stored!r:.160}: a second tensor that replaces {tensor:.120}")
            found.whole[tensor] = info
    return found


def _matches(found: AdapterTensors, settings: LoraSettings) -> int:
    """Return how many names of tensors and of the config are held against each other, at most."""
    of_factors = len(settings.ranks) + len(settings.alphas) + len(settings.saved)
    holders = sum(tensor.count(".") + 1 for tensor in found.whole)
    return len(found.factors) * of_factors + holders * len(settings.saved)


def _replaced_tensor(name: str) -> str:
    for end, tensor in _WRAPPED.items():
        if name.endswith(end):
            return name.removesuffix(end) + tensor
    return name


def _wrong_replacement(
    tensor: str, info: TensorInfo, found: AdapterTensors, settings: LoraSettings
) -> list[str]:
    label = f"{info.name!r:.160}"
    module, _, part = tensor.rpartition(".")
    if ".lora_" in tensor:
        return [f"{label}: a tensor that no plain LoRA has"]
    is_wrapped = info.name.endswith(tuple(_WRAPPED))
    if is_wrapped != (module in found.factors):  # a loader looks inside what has factors
        said = "has no factors" if is_wrapped else "has factors"
        return [f"{label}: {module:.120} {said}, so no loader finds the tensor there"]
    is_declared = (
        settings.is_replaced(module)
        or tensor.endswith(_EMBEDDINGS)
        or (part == "bias" and (settings.bias == "all" or (settings.bias != "none" and is_wrapped)))
    )
    if is_declared:
        return []
    return [f"{label}: {CONFIG} names it neither in modules_to_save nor as a bias"]


def _wrong_factors(
    module: str, roles: Mapping[str, TensorInfo], settings: LoraSettings
) -> list[str]:
    label = f"{module!r:.160}"
    kind = "embedding " if any(role.startswith("embedding") for role in roles) else ""
    expected = [f"{kind}A", f"{kind}B"]
    if settings.has_lora_bias:
        expected.append("bias of B")
    if sorted(roles) != sorted(expected):
        return [f"{label}: expected {' and '.join(expected)}, got {' and '.join(sorted(roles))}"]
    wrong = [
        f"{info.name!r:.160}: expected a float of 16 bits or more, got {info.dtype}"
        for info in roles.values()
        if not is_float(info.dtype)
    ]
    if not settings.is_target(module) or (kind and settings.targets is None):
        wrong.append(f"{label}: {CONFIG} does not name it in target_modules")
    a, b = roles[f"{kind}A"].shape, roles[f"{kind}B"].shape
    rank = settings.rank_of(module)
    if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == rank:
        wrong.append(
            f"{label}: expected A of [{rank}, inputs] and B of [outputs, {rank}], as {CONFIG} "
            f"says, got {list(a)} and {list(b)}"
        )
        return wrong
    if max(math.prod(a), math.prod(b)) > _MOST_ELEMENTS:
        wrong.append(f"{label}: expected factors of at most {_MOST_ELEMENTS:,} elements")
    bias = roles.get("bias of B")
    if bias is not None and bias.shape != b[:1]:
        wrong.append(f"{label}: expected a bias of {list(b[:1])}, got {list(bias.shape)}")
    return wrong
