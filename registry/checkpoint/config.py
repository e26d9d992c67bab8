"""The part of a config that changes the computation, in one form whatever wrote the file.

Rules:

- Which fields count is the row of sites: every default it names is one, under the name it has
  there. Defaults that a file leaves out are filled in, widths come from the geometry.
- The two spellings of rotary embeddings are one: ``rope_theta``, ``rope_local_base_freq`` and
  ``rope_scaling`` (written by transformers 4) become ``rope_parameters`` (transformers 5), with
  that release's precedence.
- A window that no layer uses is no window. An inner width that is left out is four times the
  hidden one.
- Names, dtypes, token ids, dropout, caches and initialisation change no forward pass and are left
  out. ``quantization_config`` is kept as it is.
- The epsilon of a norm is used in float32: two decimal spellings of one float32 are one value.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.digest import Digest, canonical_json, digest_bytes
from registry.errors import UnsafeFormatError
from registry.wording import RESTORE_CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.sites import Windows

_EXTENDED_ROPE = ("llama3", "yarn", "longrope")  # these read the length before the extension
_FLOAT32_DIGITS = range(1, 10)  # nine significant digits name every float32
_LENGTHS = frozenset({"max_position_embeddings", "original_max_position_embeddings"})
_FLOAT32_FIELDS = ("layer_norm_epsilon", "rms_norm_eps")
_NULL_SAYS_NONE = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
"""Fields whose ``null`` switches something off; that of all others is the default."""
_BY_RULE = _LENGTHS | {
    "head_dim", "max_window_layers", "num_key_value_heads", "partial_rotary_factor",
    "rope_local_base_freq", "rope_theta", "sliding_window", "sliding_window_pattern",
    "use_sliding_window",
}  # fmt: skip
"""Defaults that a rule turns into something else; the others are copied."""


def computation_fields(config: Mapping[str, Any], geometry: Geometry) -> dict[str, Any]:
    """Return the fields of ``config`` that change the computation, normalised.

    Args:
        config: A parsed ``config.json``, or fields that this function returned.
        geometry: The geometry that was read from the same checkpoint.

    Raises:
        UnsupportedArchitectureError: there is no row for the family.
        UnsafeFormatError: ``rope_parameters`` or ``layer_types`` has another type than transformers
            writes, one field has two values, or a value has no JSON form that every reader
            understands alike.
    """
    sites = sites_for(config.get("model_type"))
    config = sites.with_one_name(config)
    fields: dict[str, Any] = {
        "head_dim": geometry.head_dim,
        "hidden_size": geometry.hidden_size,
        "model_type": sites.family,
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "quantization_config": config.get("quantization_config"),
    }
    for name in sites.defaults.keys() - _BY_RULE:
        fields[name] = _stated(config, sites, name)
    for name in fields.keys() & set(_FLOAT32_FIELDS):
        fields[name] = _shortest_float32(fields[name])
    if "n_inner" in fields and fields["n_inner"] is None:
        fields["n_inner"] = 4 * geometry.hidden_size
    if "rope_theta" in sites.defaults:
        fields["rope_parameters"] = _rope_parameters(config, sites)
    if not _is_default_rope(fields.get("rope_parameters")):
        for name in _LENGTHS & sites.defaults.keys():
            fields[name] = _stated(config, sites, name)
    if sites.windows is not None:
        fields |= _windows(config, sites, sites.windows, geometry.layers)
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
    return [
        (name, expected.get(name), got.get(name))
        for name in sorted(set(expected) | set(got))
        if (name in expected) != (name in got)
        or _canonical(expected[name]) != _canonical(got[name])
    ]


def _canonical(value: Any) -> bytes:
    try:
        return canonical_json(dict(value) if hasattr(value, "keys") else value)
    except ValueError as error:
        raise UnsafeFormatError(f"config.json: {error}.", hint=RESTORE_CONFIG) from error


def _stated(config: Mapping[str, Any], sites: Sites, name: str) -> Any:
    value = config.get(name)
    if value is None and not (name in config and name in _NULL_SAYS_NONE):
        return sites.defaults[name]
    return next((new for field, old, new in sites.read_as if (field, old) == (name, value)), value)


def _shortest_float32(value: Any) -> Any:
    if not isinstance(value, float) or not math.isfinite(value) or abs(value) > 1:
        return value
    bits = struct.pack("<f", value)
    candidates = (float(f"{value:.{digits}g}") for digits in _FLOAT32_DIGITS)
    return next((item for item in candidates if struct.pack("<f", item) == bits), value)


def _is_default_rope(rope: Mapping[str, Any] | None) -> bool:
    """Whether positions are rotary, of a type for which no length is read."""
    if rope is None:
        return False
    kinds = [rope] if "rope_type" in rope else rope.values()
    return all(kind["rope_type"] == "default" for kind in kinds)


def _rope_parameters(config: Mapping[str, Any], sites: Sites) -> dict[str, Any]:
    """Return the rotary embedding of all layers, or one for each type of layer."""
    stated, scaling = _member(config, "rope_parameters"), _member(config, "rope_scaling")
    theta = _stated(config, sites, "rope_theta")
    if "rope_local_base_freq" not in sites.defaults:
        return _rope(scaling or stated, theta, config, sites)
    local = _stated(config, sites, "rope_local_base_freq")
    full = _member(stated, "full_attention") | scaling
    return {
        "full_attention": _rope(full, theta, config, sites),
        "sliding_attention": _rope(_member(stated, "sliding_attention"), local, config, sites),
    }


def _member(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise UnsafeFormatError(
            f"config.json: expected {name} to be an object, got {value!r:.80}.", hint=RESTORE_CONFIG
        )
    return value


def _rope(
    stated: Mapping[str, Any], theta: Any, config: Mapping[str, Any], sites: Sites
) -> dict[str, Any]:
    """Return one rotary embedding with what was left out filled in."""
    rope_type = stated.get("rope_type") or stated.get("type") or "default"
    rope_type = next((name for old, name in sites.rope_types if old == rope_type), rope_type)
    read = {"partial_rotary_factor"} & sites.defaults.keys()
    if rope_type == "default":  # no other member is read
        stated = {name: stated[name] for name in (read | {"rope_theta"}) & stated.keys()}
    rope = {name: value for name, value in stated.items() if name != "type" and value is not None}
    rope["rope_type"] = rope_type
    rope.setdefault("rope_theta", theta)
    for name in read:
        rope.setdefault(name, _stated(config, sites, name))
    partial = config.get("partial_rotary_factor")
    if rope_type != "default" and partial is not None:
        rope.setdefault("partial_rotary_factor", partial)
    if rope_type in _EXTENDED_ROPE:
        before = config.get("original_max_position_embeddings")
        if before is None:
            before = sites.defaults.get("original_max_position_embeddings")
        if before is not None:
            rope["original_max_position_embeddings"] = before
        else:
            after = _stated(config, sites, "max_position_embeddings")
            rope.setdefault("original_max_position_embeddings", after)
    return dict(sorted(rope.items()))


def _unusual(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return switches that any class may obey, where they are on; most families have none.

    A causal mask that is off, a window, chunks, or another config for one layer change the
    computation of a class whose own config never names them.
    """
    found: dict[str, Any] = {}
    if config.get("is_causal", True) is not True:  # null, 0 and [] switch the mask off too
        found["is_causal"] = False
    for name in ("attention_chunk_size", "per_layer_config"):
        if config.get(name) is not None:
            found[name] = config[name]
    if "sliding_window" not in fields and config.get("sliding_window") is not None:
        found["sliding_window"] = config["sliding_window"]
    if "layer_types" not in fields:
        types = config.get("layer_types")
        plain = isinstance(types, list) and all(item == "full_attention" for item in types)
        if types is not None and not plain:
            found["layer_types"] = types
    return found


def _windows(
    config: Mapping[str, Any], sites: Sites, windows: Windows, layers: int
) -> dict[str, Any]:
    is_on = windows.switch is None or bool(_stated(config, sites, windows.switch))
    window = _stated(config, sites, "sliding_window") if is_on else None
    if not windows.per_layer:
        return {"sliding_window": window}
    types = config.get("layer_types")
    if types is None:
        types = [
            "sliding_attention" if window is not None and is_windowed else "full_attention"
            for is_windowed in _windowed(config, sites, windows, layers)
        ]
    if not isinstance(types, list) or not all(isinstance(item, str) for item in types):
        raise UnsafeFormatError(
            f"config.json: expected layer_types to be a list of names, got {types!r:.80}.",
            hint=RESTORE_CONFIG,
        )
    if all(item == "full_attention" for item in types):
        is_on, window, types = False, None, None
    switch = {} if windows.switch is None else {windows.switch: is_on}
    return {"layer_types": types, "sliding_window": window, **switch}


def _windowed(config: Mapping[str, Any], sites: Sites, windows: Windows, layers: int) -> list[bool]:
    """Return whether each layer has a window where the config does not say it layer by layer."""
    first = 0 if windows.first is None else _integer(config, sites, windows.first)
    every = windows.full_every
    if isinstance(every, str):
        every = _integer(config, sites, every)
    return [layer >= first and not (every and (layer + 1) % every == 0) for layer in range(layers)]


def _integer(config: Mapping[str, Any], sites: Sites, name: str) -> int:
    value = _stated(config, sites, name)
    if type(value) is not int:
        raise UnsafeFormatError(
            f"config.json: expected {name} to be an integer, got {value!r:.80}.",
            hint=RESTORE_CONFIG,
        )
    return value
