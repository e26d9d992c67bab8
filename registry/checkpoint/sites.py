"""The form of a row in the table of sites: what is said about a model family, and in which words.

Owns the form alone; the rows are in ``architecture``. Nothing here knows a family by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.errors import UnsafeFormatError
from registry.wording import RESTORE_CONFIG, listed

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

_NUMBER = r"(0|[1-9]\d{0,4})"


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers of a family see only a window of the tokens before them.

    Without any of these, every layer does as soon as ``sliding_window`` is set.

    Attributes:
        per_layer: Whether the config's ``layer_types`` says it layer by layer; what follows says
            what holds when that is absent.
        switch: Config field that must be true for any window.
        first: Config field with the first layer that has one.
        full_every: Every how many layers one sees everything: a number, or the config field
            with it.
    """

    per_layer: bool = False
    switch: str | None = None
    first: str | None = None
    full_every: int | str | None = None


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A role of tensors that files keep in another place than the live model does.

    Attributes:
        stored: Name in the files, under the layer; ``{index}`` stands for a number.
        live: Parameter of the same layer that holds them, at ``[index]`` where there is an index.
        part: Which slice along the first dimension of that place, 0-based.
        parts: Of how many slices of one size.
    """

    stored: str
    live: str
    part: int = 0
    parts: int = 1


def grouped_experts(stored: str, gate: str, up: str, down: str) -> tuple[Regrouped, ...]:
    """Return the rows of a mixture whose files keep the projections of each expert by themselves.

    Args:
        stored: Module that has the experts, under the layer, as files name it.
        gate: Name of an expert's gate projection in files.
        up: Name of its up projection.
        down: Name of its down projection.
    """
    names = ((gate, "gate_up_proj", 0, 2), (up, "gate_up_proj", 1, 2), (down, "down_proj", 0, 1))
    return tuple(
        Regrouped(f"{stored}.{{index}}.{name}.weight", f"mlp.experts.{live}", part, parts)
        for name, live, part, parts in names
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a live model keeps a stored tensor: slice ``part`` of ``parts`` of ``name[index]``."""

    name: str
    index: int | None = None
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of one model family.

    Attributes:
        family: ``model_type`` of the config.
        layer: Name of decoder layer ``{layer}``, 0-based.
        attn_out: Output projection of attention, under the layer.
        mlp_out: Output projection of the MLP, under the layer; ``{index}`` stands for a number.
        query: Query projection, under the layer.
        key: Key projection, under the layer.
        value: Value projection, under the layer. One name for two or three of these is one module
            whose outputs are theirs one after the other, in this order.
        embedding: Tensor of the input embedding.
        head: Tensor of the output head; absent from the file when tied.
        o_proj_has_bias: Whether ``attn_out`` has a bias in transformers: always, never, or the
            config field that switches it on.
        transposed: Whether weights are stored [in_features, out_features] (Conv1D).
        recomputed: Endings of tensor names that old files store and every loader recomputes.
        defaults: Config fields that change the computation, with their value when absent.
            ``rope_theta`` among them says that positions are rotary, ``rope_local_base_freq`` that
            windowed layers have a base of their own, ``partial_rotary_factor`` that every rotary
            type reads it; ``None`` for a width says that it follows from the others.
        windows: Which layers have a window; ``None`` where no layer can.
        head_norms: Norms over one head, under the layer: their weight is [head_dim].
        post_norms: Norms, under the layer, whose output is what is added to the residual stream.
        routers: Live modules, under the layer, that choose which experts a token goes to, or how
            much of one it gets.
        fused: Modules, under the layer, whose outputs are those of several in equal parts one after
            the other, with what each part is called; queries, keys and values are not among them.
        aliases: Second names of config fields, with the name used here.
        rope_types: Old names of rotary types, with the one they are read as.
        read_as: Config values that this family's class takes for another one: (field, old, new).
        bare_prefix: Start of all names that files of the model without its head leave out and
            loaders add; empty where it is part of the names.
        regrouped: Tensors that a loader puts in another place.
    """

    family: str
    layer: str
    attn_out: str
    mlp_out: str
    query: str
    key: str
    value: str
    embedding: str
    head: str
    o_proj_has_bias: bool | str
    transposed: bool
    recomputed: tuple[str, ...]
    defaults: Mapping[str, Any]
    windows: Windows | None = None
    head_norms: tuple[str, ...] = ()
    post_norms: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    rope_types: tuple[tuple[str, str], ...] = ()
    read_as: tuple[tuple[str, str, str], ...] = ()
    bare_prefix: str = ""
    regrouped: tuple[Regrouped, ...] = ()

    def __post_init__(self) -> None:
        """Make the defaults read-only, as the row is."""
        object.__setattr__(self, "defaults", MappingProxyType(dict(self.defaults)))

    def layer_prefix(self, layer: int) -> str:
        """Return the module name of decoder layer ``layer``."""
        return self.layer.format(layer=layer)

    def attn_out_module(self, layer: int) -> str:
        """Return the module name of the attention output projection of ``layer``."""
        return f"{self.layer_prefix(layer)}.{self.attn_out}"

    def attn_out_weight(self, layer: int) -> str:
        """Return the tensor name of the output projection's weight of ``layer``."""
        return f"{self.attn_out_module(layer)}.weight"

    def attn_out_bias(self, layer: int) -> str:
        """Return the tensor name of the output projection's bias of ``layer``."""
        return f"{self.attn_out_module(layer)}.bias"

    def loader_keeps_bias(self, config: Mapping[str, Any]) -> bool:
        """Return whether a loader of this family reads a stored bias of ``attn_out``."""
        if isinstance(self.o_proj_has_bias, bool):
            return self.o_proj_has_bias
        return bool(config.get(self.o_proj_has_bias, False))

    def layer_of(self, tensor_name: str) -> int | None:
        """Return the 0-based decoder layer of a tensor or module, ``None`` outside the layers."""
        before, after = self.layer.split("{layer}")
        match = re.match(rf"{re.escape(before)}{_NUMBER}{re.escape(after)}\.", tensor_name)
        return None if match is None else int(match[1])

    def in_features(self, shape: tuple[int, ...]) -> int:
        """Return the input width of a weight of this ``shape``."""
        return shape[0 if self.transposed else 1]

    def out_features(self, shape: tuple[int, ...]) -> int:
        """Return the output width of a weight of this ``shape``."""
        return shape[1 if self.transposed else 0]

    def writes_residual(self, tensor_name: str) -> bool:
        """Return whether it is a weight whose outputs are added to the residual stream."""
        layer = self.layer_of(tensor_name)
        if layer is None:
            return False
        ends = "|".join(re.escape(end) for end in (self.attn_out, self.mlp_out))
        pattern = rf"{re.escape(self.layer_prefix(layer))}\.({ends})\.weight"
        return re.fullmatch(pattern.replace(r"\{index\}", _NUMBER), tensor_name) is not None

    def place_of(self, tensor_name: str) -> Place:
        """Return where a live model keeps the stored tensor; most are kept under their own name."""
        layer = self.layer_of(tensor_name)
        if layer is None:
            return Place(tensor_name)
        prefix = self.layer_prefix(layer)
        for row in self.regrouped:
            pattern = re.escape(f"{prefix}.{row.stored}").replace(r"\{index\}", _NUMBER)
            match = re.fullmatch(pattern, tensor_name)
            if match is not None:
                index = int(match[1]) if match.groups() else None
                return Place(f"{prefix}.{row.live}", index, row.part, row.parts)
        return Place(tensor_name)

    def strays(
        self, live: Iterable[str], stored: Iterable[str], layers: Container[int] | None = None
    ) -> list[str]:
        """Return the live names in ``layers``, all by default, that hold none of ``stored``."""
        known = {self.place_of(name).name for name in stored}
        return sorted(
            name
            for name in live
            if name not in known
            and (layer := self.layer_of(name)) is not None
            and (layers is None or layer in layers)
        )

    def model_names(self, stored: Iterable[str]) -> dict[str, str]:
        """Return the name that the whole model gives each tensor, with its stored name; sorted.

        Files of the model without its head leave ``bare_prefix`` out (``h.0.ln_1.weight`` is
        ``transformer.h.0.ln_1.weight``); every loader adds it, name by name.

        Raises:
            UnsafeFormatError: two stored names are one name in the model.
        """
        names: dict[str, str] = {}
        twice = []
        for name in sorted(stored):
            is_whole = name == self.head or name.startswith(self.bare_prefix)
            whole = name if is_whole else self.bare_prefix + name
            if whole in names:
                twice.append(f"{names[whole]!r:.120} and {name!r:.120}")
            names[whole] = name
        if twice:
            raise UnsafeFormatError(
                f"expected each tensor under one name, got {len(twice)} under two:{listed(twice)}",
                hint="Save the model again with transformers: model.save_pretrained(DIR)",
            )
        return dict(sorted(names.items()))

    def spelling(self, field: str) -> str:
        """Return a config field for a message, with its other name where it has one."""
        return next((f"{name} ({alias})" for alias, name in self.aliases if name == field), field)

    def with_one_name(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``config`` with every field under the name used here.

        Raises:
            UnsafeFormatError: the two names of one field hold different values: a reader may take
                either.
        """
        fields = dict(config)
        for alias, name in self.aliases:
            if alias not in fields:
                continue
            value = fields.pop(alias)
            if fields.setdefault(name, value) != value:
                raise UnsafeFormatError(
                    f"config.json: expected {alias} and {name}, two names of one field, to agree, "
                    f"got {value!r:.80} and {fields[name]!r:.80}.",
                    hint=RESTORE_CONFIG,
                )
        return fields
