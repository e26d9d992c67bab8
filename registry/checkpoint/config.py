"""The part of a config that changes the computation, in one form whatever wrote the file.

Rules:

- Defaults that a file leaves out are filled in from the row of sites, widths from the geometry.
- The two spellings of rotary embeddings are one: ``rope_theta`` and ``rope_scaling`` (written by
  transformers 4) become ``rope_parameters`` (transformers 5), with that release's precedence.
- A window that no layer uses is no window.
- Names, dtypes, token ids, dropout, caches and initialisation change no forward pass and are left
  out. ``quantization_config`` is kept as it is.
- ``rms_norm_eps`` is used in float32: two decimal spellings of one float32 are one value.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.digest import Digest, canonical_json, digest_bytes
from registry.errors import UnsafeFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry

_EXTENDED_ROPE = ("llama3", "yarn", "longrope")  # these read the length before the extension
_FLOAT32_DIGITS = range(1, 10)  # nine significant digits name every float32


def computation_fields(config: Mapping[str, Any], geometry: Geometry) -> dict[str, Any]:
    """Return the fields of ``config`` that change the computation, normalised.

    Args:
        config: A parsed ``config.json``, or fields that this function returned.
        geometry: The geometry that was read from the same checkpoint.

    Raises:
        UnsupportedArchitectureError: there is no row for the family.
        UnsafeFormatError: ``rope_parameters`` or ``layer_types`` has another type than transformers
            writes, or a value has no JSON form that every reader understands alike.
    """
    sites = sites_for(config.get("model_type"))
    fields: dict[str, Any] = {
        "head_dim": geometry.head_dim,
        "hidden_size": geometry.hidden_size,
        "model_type": sites.family,
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "quantization_config": config.get("quantization_config"),
    }
    for name in ("attention_bias", "hidden_act", "intermediate_size", "mlp_bias", "vocab_size"):
        if name in sites.defaults:
            fields[name] = _stated(config, sites, name)
    fields["tie_word_embeddings"] = _stated(config, sites, "tie_word_embeddings")
    fields["rms_norm_eps"] = _shortest_float32(_stated(config, sites, "rms_norm_eps"))
    rope = _rope_parameters(config, sites)
    fields["rope_parameters"] = rope
    if rope["rope_type"] != "default":
        fields["max_position_embeddings"] = _stated(config, sites, "max_position_embeddings")
    if "sliding_window" in sites.defaults:
        fields |= _windows(config, sites, geometry.layers)
    fields |= _unusual(config, fields)
    _canonical(fields)
    return dict(sorted(fields.items()))


def config_digest(fields: Mapping[str, Any]) -> Digest:
    """Return the digest of normalised fields.

    Raises:
        UnsafeFormatError: a value has no JSON form that every reader understands alike.
    """
    return digest_bytes(_canonical(fields))


def differing_fields(
    expected: Mapping[str, Any], got: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Return (field, expected, got) for each normalised field that differs, sorted by name."""
    names = sorted(set(expected) | set(got))
    rows = [(name, expected.get(name), got.get(name)) for name in names]
    return [row for row in rows if _canonical(row[1]) != _canonical(row[2])]


def _canonical(value: Any) -> bytes:
    try:
        return canonical_json(dict(value) if hasattr(value, "keys") else value)
    except ValueError as error:
        raise UnsafeFormatError(f"config.json: {error}.") from error


def _stated(config: Mapping[str, Any], sites: Sites, name: str) -> Any:
    value = config.get(name)
    return sites.defaults[name] if value is None else value


def _shortest_float32(value: Any) -> Any:
    if not isinstance(value, float) or not math.isfinite(value) or abs(value) > 1:
        return value
    bits = struct.pack("<f", value)
    candidates = (float(f"{value:.{digits}g}") for digits in _FLOAT32_DIGITS)
    return next(item for item in candidates if struct.pack("<f", item) == bits)


def _rope_parameters(config: Mapping[str, Any], sites: Sites) -> dict[str, Any]:
    stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(stated, dict):
        raise UnsafeFormatError(
            f"config.json: expected rope_parameters to be an object, got {stated!r:.80}."
        )
    rope_type = stated.get("rope_type") or stated.get("type") or "default"
    theta = stated.get("rope_theta")
    if theta is None:
        theta = _stated(config, sites, "rope_theta")
    if rope_type == "default":  # no other member is read
        return {"rope_theta": theta, "rope_type": rope_type}
    rope = {name: value for name, value in stated.items() if name != "type" and value is not None}
    rope |= {"rope_theta": theta, "rope_type": rope_type}
    partial = config.get("partial_rotary_factor")
    if partial is not None:
        rope.setdefault("partial_rotary_factor", partial)
    if rope_type in _EXTENDED_ROPE:
        before = config.get("original_max_position_embeddings")
        if before is not None:
            rope["original_max_position_embeddings"] = before
        else:
            after = _stated(config, sites, "max_position_embeddings")
            rope.setdefault("original_max_position_embeddings", after)
    return dict(sorted(rope.items()))


def _unusual(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return attention switches that any class obeys, where they are on; most families have none.

    A causal mask that is off, a window, or chunks change the computation of a class whose own
    config never names them.
    """
    found: dict[str, Any] = {}
    if config.get("is_causal") is False:
        found["is_causal"] = False
    if config.get("attention_chunk_size") is not None:
        found["attention_chunk_size"] = config["attention_chunk_size"]
    if "sliding_window" not in fields:
        if config.get("sliding_window") is not None:
            found["sliding_window"] = config["sliding_window"]
        types = config.get("layer_types")
        if types is not None and set(map(str, types)) != {"full_attention"}:
            found["layer_types"] = types
    return found


def _windows(config: Mapping[str, Any], sites: Sites, layers: int) -> dict[str, Any]:
    is_on = bool(_stated(config, sites, "use_sliding_window"))
    window = config.get("sliding_window", sites.defaults["sliding_window"]) if is_on else None
    types = config.get("layer_types")
    if types is None:
        first = _stated(config, sites, "max_window_layers")
        if type(first) is not int:
            raise UnsafeFormatError(
                f"config.json: expected max_window_layers to be an integer, got {first!r:.80}."
            )
        types = [
            "sliding_attention" if window is not None and layer >= first else "full_attention"
            for layer in range(layers)
        ]
    if not isinstance(types, list) or not all(isinstance(item, str) for item in types):
        raise UnsafeFormatError(
            f"config.json: expected layer_types to be a list of names, got {types!r:.80}."
        )
    if all(item == "full_attention" for item in types):
        is_on, window, types = False, None, None
    return {"layer_types": types, "sliding_window": window, "use_sliding_window": is_on}
