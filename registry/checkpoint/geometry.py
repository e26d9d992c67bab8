"""Counts and widths, from config and shapes together; what the two disagree about.

- The head count comes from the config, the width of a head from the output projection:
  ``head_dim = o_proj.in_features / heads``, in every layer. Never ``hidden_size / heads``.
- Shapes need not show a wrong head count: where queries, keys and values have as many heads and no
  norm is over one head, any count that divides the width fits (GPT-2). The geometry is therefore
  compared with the base's before anything is applied.
- Every conflict is reported with both values, not the first: each check appends its line and
  returns what the rest needs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.errors import GeometryError, SchemaViolationError
from registry.wording import REMAKE, RESTORE_CONFIG, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.architecture import Sites

    Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Geometry:
    """The counts and widths that artifacts depend on.

    Attributes:
        family: ``model_type`` of the config.
        layers: Number of decoder layers.
        heads: Attention heads per layer.
        kv_heads: Key and value heads per layer.
        head_dim: Width of one head, from the output projection.
        hidden_size: Width of the residual stream.
    """

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Geometry:
        """Return the geometry of its JSON form.

        Raises:
            SchemaViolationError: a member is missing, unknown or of the wrong type.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise SchemaViolationError(
                "geometry: expected an object.", ["$: not an object"], hint=REMAKE
            )
        wrong = [f"$.{name}: missing" for name in names if name not in value]
        wrong += [f"$.{str(name)[:80]}: unknown" for name in sorted(value) if name not in names]
        if not isinstance(value.get("family", ""), str):
            wrong.append("$.family: expected text")
        for name in names[1:]:
            if name in value and not _is_count(value[name]):
                wrong.append(f"$.{name}: expected a positive integer, got {value[name]!r:.80}")
        if wrong:
            raise SchemaViolationError(
                "geometry: the document breaks its form.", wrong, hint=REMAKE
            )
        return cls(**value)


def read_geometry(shapes: Shapes, config: Mapping[str, Any]) -> Geometry:
    """Return the geometry that the tensors' shapes and the config agree on.

    Args:
        shapes: Tensor name to shape, of the whole checkpoint.
        config: The parsed ``config.json``, of any transformers version.

    Raises:
        UnsupportedArchitectureError: there is no row for ``model_type``.
        UnsafeFormatError: the config holds two values of one field.
        GeometryError: they disagree; every conflict is listed with both values.
    """
    sites = sites_for(config.get("model_type"))
    config = {**sites.defaults, **sites.with_one_name(config)}
    conflicts: list[str] = []
    heads = _read_count(config, sites, "num_attention_heads", conflicts)
    layers = _read_count(config, sites, "num_hidden_layers", conflicts)
    hidden_size = _read_count(config, sites, "hidden_size", conflicts)
    kv_heads = heads
    if "num_key_value_heads" in sites.defaults and config["num_key_value_heads"] is not None:
        kv_heads = _read_count(config, sites, "num_key_value_heads", conflicts)
    _check_layers(shapes, sites, layers, conflicts)
    if not conflicts:
        head_dim = _read_head_dim(shapes, sites, config, conflicts)
        geometry = Geometry(sites.family, layers, heads, kv_heads, head_dim, hidden_size)
        if not conflicts:
            _check_projections(shapes, sites, geometry, conflicts)
        if not conflicts:
            return geometry
    raise GeometryError(
        f"expected config and tensor shapes to agree, they do not:{listed(conflicts, _SHOWN)}",
        hint=RESTORE_CONFIG,
    )


def _is_count(value: Any) -> bool:
    """Whether ``value`` is a positive integer and not a boolean."""
    return type(value) is int and value > 0


def _read_count(config: Mapping[str, Any], sites: Sites, name: str, conflicts: list[str]) -> int:
    """Return the positive integer at ``name``; 1 and a conflict when it is none."""
    value = config.get(name)
    if type(value) is not int or value <= 0:
        conflicts.append(
            f"config {sites.spelling(name)}: expected a positive integer, got {value!r:.80}"
        )
        return 1
    return value


def _check_layers(shapes: Shapes, sites: Sites, expected: int, conflicts: list[str]) -> None:
    """Compare the decoder layers that are there with the config's number of them."""
    present = sorted({layer for name in shapes if (layer := sites.layer_of(name)) is not None})
    if present != list(range(len(present))):
        conflicts.append(
            f"layers: expected 0 to {len(present) - 1} without a hole, got {present[:_SHOWN]}"
        )
    if len(present) != expected:
        name = sites.spelling("num_hidden_layers")
        conflicts.append(f"config {name} is {expected}, the tensors make {len(present)}")


def _read_head_dim(
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
                f"config {sites.spelling('num_attention_heads')} is {heads}, "
                f"{name} has in_features {width}, not a multiple of it"
            )
            continue
        widths.setdefault(width // heads, layer)
    if len(widths) > 1:
        got = ", ".join(f"{width} in layer {layer}" for width, layer in widths.items())
        conflicts.append(f"head_dim: expected one value in all layers, got {got}")
    head_dim = next(iter(widths), 1)
    stated = config.get("head_dim")
    if widths and stated is not None and stated != head_dim:
        conflicts.append(
            f"config head_dim is {stated!r:.80}, {sites.attn_out}.in_features {head_dim * heads} / "
            f"{sites.spelling('num_attention_heads')} {heads} makes {head_dim}"
        )
    return head_dim


def _check_projections(
    shapes: Shapes, sites: Sites, geometry: Geometry, conflicts: list[str]
) -> None:
    """Compare q, k, v, o, norms and the embedding with the widths that the geometry gives them."""
    hidden = geometry.hidden_size
    if geometry.heads % geometry.kv_heads:
        conflicts.append(
            f"config {sites.spelling('num_attention_heads')} is {geometry.heads}, "
            f"not a multiple of num_key_value_heads {geometry.kv_heads}"
        )
    wanted = _wanted_shapes(sites, geometry)
    for layer in range(geometry.layers):
        for module, expected in wanted.items():
            name = f"{sites.layer_prefix(layer)}.{module}.weight"
            got = shapes.get(name)
            if got != expected:
                shown = "nothing" if got is None else f"{list(got)}"
                conflicts.append(f"{name}: the config makes it {list(expected)}, got {shown}")
    embedding = shapes.get(sites.embedding)
    if embedding is None or len(embedding) != 2 or embedding[1] != hidden:
        shown = "nothing" if embedding is None else f"{list(embedding)}"
        field = sites.spelling("hidden_size")
        conflicts.append(f"{sites.embedding}: expected width {hidden} ({field}), got {shown}")


def _wanted_shapes(sites: Sites, geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Return the shape that the weight of each module of a layer's attention must have."""
    width, kv_width = geometry.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    outputs: dict[str, int] = {}
    for module, size in ((sites.query, width), (sites.key, kv_width), (sites.value, kv_width)):
        outputs[module] = outputs.get(module, 0) + size  # one module may hold all three
    linear = {module: (size, geometry.hidden_size) for module, size in outputs.items()}
    linear[sites.attn_out] = (geometry.hidden_size, width)
    wanted: dict[str, tuple[int, ...]] = {
        module: shape[::-1] if sites.transposed else shape for module, shape in linear.items()
    }
    return wanted | dict.fromkeys(sites.head_norms, (geometry.head_dim,))
