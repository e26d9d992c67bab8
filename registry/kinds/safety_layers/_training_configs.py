"""A range in the words of the tools that people train with, as text to paste.

Names of options were read in the tools: ``LoraConfig`` of peft 0.21 (an empty
``layers_to_transform`` adapts every layer, so it is never written), the ``unfrozen_parameters`` and
``peft_layers_to_transform`` of axolotl (not both; a dot of a pattern is a literal dot, and a
pattern fits from the start of a name), and ``callbacks`` of TRL's trainers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sites import Place
from registry.errors import GuardError, UsageError
from registry.kinds.safety_layers._protected import live_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.checkpoint.geometry import Geometry
    from registry.kinds.safety_layers.body import LayersBody

ENGINES = ("axolotl", "peft", "trl")
"""Tools that a range can be written for."""


def training_config(
    body: LayersBody, geometry: Geometry, engine: str, *, artifact: str = "NAME@VERSION"
) -> str:
    """Return what to paste into a training with ``engine`` so that the range is kept.

    Args:
        body: The range, read from a bundle.
        geometry: The base's.
        engine: One of ``ENGINES``.
        artifact: What the text calls the artifact.

    Raises:
        UsageError: there is no such engine, or the range is not of this base.
        GuardError: an adapter was asked for and the range is the whole model.
    """
    if engine not in ENGINES:
        raise UsageError(f"expected one of {', '.join(ENGINES)}, got {engine!r}.")
    if (geometry.family, geometry.layers) != (body.family, body.layers):
        raise UsageError(
            f"expected the geometry of {body.family} with {body.layers} layers, got "
            f"{geometry.family} with {geometry.layers}."
        )
    head = f"# {artifact}: layers {body.first} to {body.last} of 0 to {body.layers - 1} are kept\n"
    return head + {"peft": _peft, "axolotl": _axolotl, "trl": _trl}[engine](body, artifact)


def lora_hint(body: LayersBody) -> str:
    """Return the repair where an adapter acts inside the range."""
    if not body.outside:
        return "The range is the whole model: no layer is left for an adapter."
    modules = json.dumps(list(adapted_modules(body)))
    return (
        "Adapt the other layers alone, with the modules named one by one: "
        f"LoraConfig(..., target_modules={modules}, {_complement(body)})"
    )


def adapted_modules(body: LayersBody) -> tuple[str, ...]:
    """Return the last names of the linear modules of a layer, sorted."""
    sites = sites_for(body.family)
    return tuple(
        sorted(
            {
                entry.name.removesuffix(".weight").split(".")[-1]
                for entry in body.protected
                if len(entry.shape) == 2 and sites.place_of(entry.name) == Place(entry.name)
            }
        )
    )


def _complement(body: LayersBody) -> str:
    if not body.outside:
        raise GuardError(
            f"expected a layer outside the range for an adapter, layers {body.first} to "
            f"{body.last} are the whole model.",
            hint="Train the embeddings or the output head without an adapter.",
        )
    return f'layers_to_transform={list(body.outside)}, layers_pattern="{_list_of_layers(body)}"'


def _list_of_layers(body: LayersBody) -> str:
    """Return the name of the module that holds the layers."""
    return sites_for(body.family).layer.removesuffix(".{layer}").split(".")[-1]


def _lora(body: LayersBody) -> str:
    modules = json.dumps(list(adapted_modules(body)))
    return f"target_modules={modules},\n    {_complement(body)},\n"


def _peft(body: LayersBody, artifact: str) -> str:  # noqa: ARG001 -- one form for all engines
    return (
        "from peft import LoraConfig\n\n"
        f'config = LoraConfig(\n    task_type="CAUSAL_LM",\n    {_lora(body)})\n'
    )


def _trl(body: LayersBody, artifact: str) -> str:
    adapter = ""
    if body.outside:
        adapter = (
            (
                "# To train an adapter, and not all that is outside the range:\n"
                f"# SFTTrainer(..., peft_config=LoraConfig({_lora(body)}))\n"
            )
            .replace("\n    ", " ")
            .replace(",\n)", ")")
        )
    return (
        "from registry import SafetyCallback\n"
        "from trl import SFTTrainer\n\n"
        "trainer = SFTTrainer(\n"
        "    model=model,\n"
        "    train_dataset=dataset,\n"
        f"    callbacks=[SafetyCallback({json.dumps(artifact)})],\n"
        ")\n"
        "trainer.train()  # raises unless the range is bit for bit what it was\n"
        f"{adapter}"
    )


def _axolotl(body: LayersBody, artifact: str) -> str:  # noqa: ARG001
    patterns = "".join(f"  - '{pattern}'\n" for pattern in trainable_patterns(body))
    adapter = ""
    if body.outside:
        adapter = (
            "# With an adapter leave unfrozen_parameters out, and say instead:\n"
            "# adapter: lora\n"
            f"# lora_target_modules: [{', '.join(adapted_modules(body))}]\n"
            f"# peft_layers_to_transform: {list(body.outside)}\n"
            f"# peft_layers_pattern: [{_list_of_layers(body)}]\n"
        )
    return f"unfrozen_parameters:\n{patterns}{adapter}"


def trainable_patterns(body: LayersBody) -> tuple[str, ...]:
    """Return axolotl's patterns of every parameter that may be trained."""
    sites = sites_for(body.family)
    layers = sites.layer.removesuffix("{layer}")
    found = [f"^(?!{layers})"]
    if body.outside:
        found.append(f"^{layers}({_either(body.outside)}).")
    if body.norms == "trainable":
        kept = {
            name.removeprefix(layers).split(".")[1] for name in live_names(body.protected, sites)
        }
        found.append(f"^{layers}({_either(body.range)}).(?!({_either(sorted(kept))}).)")
    return tuple(found)


def _either(choices: Iterable[object]) -> str:
    return "|".join(str(choice) for choice in choices)
