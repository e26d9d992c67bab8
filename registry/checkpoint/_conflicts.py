"""How a config and the shapes of the tensors can disagree; one line per conflict, both values.

Each function appends to ``conflicts`` and returns what the rest needs, so that a reader sees
every conflict of a file at once. Nothing here raises on the content of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.architecture import Geometry, Sites

    Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 20


def is_count(value: Any) -> bool:
    """Whether ``value`` is a positive integer and not a boolean."""
    return type(value) is int and value > 0


def read_count(config: Mapping[str, Any], name: str, conflicts: list[str]) -> int:
    """Return the positive integer at ``name``; 1 and a conflict when it is none."""
    value = config.get(name)
    if type(value) is not int or value <= 0:
        conflicts.append(f"config {name}: expected a positive integer, got {value!r:.80}")
        return 1
    return value


def check_layers(shapes: Shapes, sites: Sites, expected: int, conflicts: list[str]) -> None:
    """Compare the decoder layers that are there with the config's number of them."""
    present = sorted({layer for name in shapes if (layer := sites.layer_of(name)) is not None})
    if present != list(range(len(present))):
        conflicts.append(
            f"layers: expected 0 to {len(present) - 1} without a hole, got {present[:_SHOWN]}"
        )
    if len(present) != expected:
        conflicts.append(f"config num_hidden_layers is {expected}, the tensors make {len(present)}")


def read_head_dim(
    shapes: Shapes, sites: Sites, config: Mapping[str, Any], conflicts: list[str]
) -> int:
    """Return ``o_proj.in_features / heads``, the same in every layer; 1 when there is none."""
    heads = config["num_attention_heads"]
    widths: dict[int, int] = {}
    for layer in range(config["num_hidden_layers"]):
        name = sites.attn_out_weight(layer)
        shape = shapes.get(name)
        if shape is None or len(shape) != 2:
            got = "nothing" if shape is None else f"shape {list(shape)}"
            conflicts.append(f"{name}: expected a matrix, got {got}")
            continue
        width = sites.in_features(shape)
        if width % heads or not width:
            conflicts.append(
                f"config num_attention_heads is {heads}, "
                f"{name} has in_features {width}, not a multiple of it"
            )
            continue
        widths.setdefault(width // heads, layer)
    if len(widths) > 1:
        listed = ", ".join(f"{width} in layer {layer}" for width, layer in widths.items())
        conflicts.append(f"head_dim: expected one value in all layers, got {listed}")
    head_dim = next(iter(widths), 1)
    stated = config.get("head_dim")
    if widths and stated is not None and stated != head_dim:
        conflicts.append(
            f"config head_dim is {stated!r:.80}, o_proj.in_features / heads makes {head_dim}"
        )
    return head_dim


def check_projections(
    shapes: Shapes, sites: Sites, geometry: Geometry, conflicts: list[str]
) -> None:
    """Compare q, k, v, o and the embedding with the widths that the geometry gives them."""
    width, kv_width = geometry.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    hidden = geometry.hidden_size
    if geometry.heads % geometry.kv_heads:
        conflicts.append(
            f"config num_attention_heads is {geometry.heads}, "
            f"not a multiple of num_key_value_heads {geometry.kv_heads}"
        )
    wanted = {  # out_features, in_features
        sites.query: (width, hidden),
        sites.key: (kv_width, hidden),
        sites.value: (kv_width, hidden),
        sites.attn_out: (hidden, width),
    }
    for layer in range(geometry.layers):
        for module, (out_features, in_features) in wanted.items():
            name = f"{sites.layer_prefix(layer)}.{module}.weight"
            linear = (out_features, in_features)
            expected = linear[::-1] if sites.transposed else linear
            got = shapes.get(name)
            if got != expected:
                shown = "nothing" if got is None else f"{list(got)}"
                conflicts.append(f"{name}: the config makes it {list(expected)}, got {shown}")
    embedding = shapes.get(sites.embedding)
    if embedding is None or len(embedding) != 2 or embedding[1] != hidden:
        shown = "nothing" if embedding is None else f"{list(embedding)}"
        conflicts.append(f"{sites.embedding}: expected width {hidden} (hidden_size), got {shown}")
