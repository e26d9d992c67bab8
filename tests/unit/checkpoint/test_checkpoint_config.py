from __future__ import annotations

import copy
import json

import pytest
from support.tiny_models import FAMILIES, llama_config, qwen2_config, tensor_shapes

from registry.checkpoint.architecture import SITES
from registry.checkpoint.config import computation_fields, config_digest, differing_fields
from registry.checkpoint.geometry import Geometry, read_geometry
from registry.errors import UnsafeFormatError

LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def fields_of(config):
    return computation_fields(config, read_geometry(tensor_shapes(config), config))


def as_transformers_4(config, **changes):
    """Return ``config`` in the spelling of transformers 4."""
    old = {name: value for name, value in config.items() if name != "rope_parameters"}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    old |= {"torch_dtype": "bfloat16", "transformers_version": "4.44.2", "use_cache": True}
    return old | changes


def saved_by_transformers(config, folder):
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name != "model_type"}
    fields = copy.deepcopy(fields)  # the library writes into what it is given
    AutoConfig.for_model(config["model_type"], **fields).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    "config",
    [
        llama_config(),
        llama_config(rope_parameters=LLAMA3 | {"rope_theta": 500000.0}),
        llama_config(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        llama_config(attention_bias=True, tie_word_embeddings=False),
        qwen2_config(),
        qwen2_config(use_sliding_window=True, sliding_window=32, max_window_layers=1),
    ],
    ids=["llama", "llama3-rope", "linear-rope", "biases", "qwen2", "qwen2-windows"],
)
def test_files_of_transformers_4_and_5_make_the_same_fields(config, tmp_path):
    new = saved_by_transformers(config, tmp_path)
    assert "rope_parameters" in new
    old = as_transformers_4(config)
    assert differing_fields(fields_of(new), fields_of(old)) == []
    assert config_digest(fields_of(new)) == config_digest(fields_of(old))


def test_the_spelling_type_of_old_rope_scaling_is_read():
    scaling = {"type": "linear", "factor": 2.0}
    old = as_transformers_4(llama_config(), rope_scaling=scaling)
    new = llama_config(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    )
    assert fields_of(old) == fields_of(new)
    assert fields_of(new)["max_position_embeddings"] == 128


def test_defaults_that_are_left_out_are_filled_in():
    short = {
        "model_type": "llama",
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "vocab_size": 96,
    }
    shapes = tensor_shapes(llama_config(num_key_value_heads=4))
    fields = computation_fields(short, read_geometry(shapes, short))
    assert fields == {
        "attention_bias": False,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 80,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "quantization_config": None,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "vocab_size": 96,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"torch_dtype": "float16"},
        {"transformers_version": "4.0.0"},
        {"_name_or_path": "x"},
        {"use_cache": False},
        {"eos_token_id": [1, 2]},
        {"architectures": None},
        {"initializer_range": 0.5},
        {"attention_dropout": 0.1},
        {"max_position_embeddings": 4096},
        {"rope_scaling": None},
        {"rms_norm_eps": 9.999999747378752e-06},
        {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}},
    ],
)
def test_what_changes_no_computation_changes_no_field(change):
    assert differing_fields(fields_of(llama_config()), fields_of(llama_config(**change))) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_parameters"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters"),
        ({"vocab_size": 97}, "vocab_size"),
    ],
)
def test_what_changes_the_computation_is_a_difference(change, field):
    expected, got = fields_of(llama_config()), fields_of(llama_config(**change))
    rows = differing_fields(expected, got)
    assert (field, expected[field], got[field]) in rows
    assert config_digest(expected) != config_digest(got)


def test_a_window_that_no_layer_uses_is_no_window():
    none = fields_of(qwen2_config())
    assert (none["sliding_window"], none["layer_types"]) == (None, None)
    full = ["full_attention"] * 2
    for change in (
        {"sliding_window": 7},
        {"use_sliding_window": True, "sliding_window": 7},  # max_window_layers is 28
        {"use_sliding_window": True, "sliding_window": 7, "layer_types": full},
        {"use_sliding_window": False, "layer_types": full},
    ):
        assert fields_of(qwen2_config(**change)) == none


def test_fields_are_a_fixed_point():
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    for config in (
        llama_config(rope_parameters=yarn),
        qwen2_config(),
        qwen2_config(**windows),
    ):
        fields = fields_of(config)
        assert computation_fields(fields, read_geometry(tensor_shapes(config), config)) == fields
    assert fields["layer_types"] == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    "config",
    [
        llama_config(rope_parameters=[1]),
        qwen2_config(layer_types="full_attention"),
        qwen2_config(layer_types=[1, 2]),
        qwen2_config(max_window_layers="1"),
        llama_config(vocab_size=2**60),
        llama_config(rms_norm_eps=float("inf")),
    ],
)
def test_values_that_readers_would_understand_differently_are_refused(config):
    geometry = read_geometry(tensor_shapes(config | {"vocab_size": 96}), config)
    with pytest.raises(UnsafeFormatError, match=r"config\.json"):
        computation_fields(config, geometry)


def test_true_and_one_are_different_values():
    assert differing_fields({"a": 1}, {"a": True}) == [("a", 1, True)]
    assert differing_fields({"a": 1}, {"a": 1.0}) == []


# Every family of the table

HARMLESS = {
    "attention_dropout", "attn_pdrop", "bos_token_id", "embd_pdrop", "eos_token_id",
    "initializer_range", "output_router_logits", "pad_token_id", "pretraining_tp", "resid_pdrop",
    "router_aux_loss_coef", "router_jitter_noise", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "use_cache",
}  # fmt: skip
"""Fields of config classes that change no forward pass of a loaded model."""
LINEAR = {"rope_type": "linear", "factor": 2.0}
LONG = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
ROPES = {"gpt2": {}, "phi3": {"rope_scaling": LONG}}


def family_fields(family, config, **geometry):
    """Return the fields of a config of which no weights are there."""
    layers = config.get("num_hidden_layers", 2)
    widths = {"layers": layers, "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden_size": 64}
    return computation_fields(
        {"model_type": family, **config}, Geometry(family, **(widths | geometry))
    )


def everything_on(family):
    """Return a config in which every field of the row has its effect."""
    rope = ROPES.get(family, {"rope_scaling": LINEAR})
    return FAMILIES[family] | {"hidden_size": 64} | rope


def config_class(family):
    from transformers import AutoConfig

    return type(AutoConfig.for_model(family))


@pytest.mark.parametrize("family", sorted(SITES))
def test_the_defaults_of_the_table_are_those_of_transformers(family):
    from dataclasses import fields

    row, config = SITES[family], config_class(family)()
    stated = {field.name: field.default for field in fields(config)}
    stated |= {name: stated[alias] for alias, name in row.aliases if alias in stated}
    rope = getattr(config, "rope_parameters", None) or {}
    full = rope.get("full_attention", rope)
    local = rope.get("sliding_attention", {})
    expected = stated | {
        "rope_theta": full.get("rope_theta"),
        "rope_local_base_freq": local.get("rope_theta"),
        "partial_rotary_factor": full.get("partial_rotary_factor"),
        "sliding_window_pattern": getattr(config, "_sliding_window_pattern", None),
        "use_bidirectional_attention": bool(stated.get("use_bidirectional_attention")),
        "mlp_only_layers": getattr(config, "mlp_only_layers", None),  # null is none of them
    }
    assert dict(row.defaults) == {name: expected[name] for name in row.defaults}


@pytest.mark.parametrize("family", sorted(SITES))
def test_no_field_of_the_config_class_is_forgotten(family):
    from dataclasses import fields

    from transformers import PreTrainedConfig

    row = SITES[family]
    general = {field.name for field in fields(PreTrainedConfig)}
    known = {*row.defaults, "rope_parameters", "hidden_size", "num_hidden_layers"}
    known |= {"num_attention_heads", *dict(row.aliases)}
    if row.windows is not None and row.windows.per_layer:
        known.add("layer_types")
    own = {field.name for field in fields(config_class(family))}
    assert own - general - HARMLESS - known == set()


@pytest.mark.parametrize("family", sorted(SITES))
def test_the_two_names_of_a_field_are_those_of_the_config_class(family):
    expected = {frozenset(pair) for pair in config_class(family).attribute_map.items()}
    assert {frozenset(pair) for pair in SITES[family].aliases} == expected


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "relu"
    if isinstance(value, list):
        return [*value, 0]
    return 7 if value is None else 2 * value + 1


@pytest.mark.parametrize(
    ("family", "field"),
    [
        (family, field)
        for family, row in sorted(SITES.items())
        for field in sorted(row.defaults.keys() - {"head_dim", "num_key_value_heads"})
    ],
)
def test_every_field_of_a_row_changes_the_digest(family, field):
    config = SITES[family].with_one_name(everything_on(family))
    value = config.get(field, SITES[family].defaults[field])
    expected = family_fields(family, config)
    got = family_fields(family, config | {field: other(value)})
    assert differing_fields(expected, got)
    assert config_digest(expected) != config_digest(got)


@pytest.mark.parametrize("family", sorted(SITES))
def test_another_width_or_count_changes_the_digest(family):
    digests = {config_digest(family_fields(family, everything_on(family)))}
    for change in ({"heads": 2}, {"kv_heads": 1}, {"head_dim": 8}, {"hidden_size": 32}):
        digests.add(config_digest(family_fields(family, everything_on(family), **change)))
    assert len(digests) == 5


@pytest.mark.parametrize("family", sorted(SITES))
@pytest.mark.parametrize(
    "change",
    [
        {"attention_chunk_size": 8},
        {"per_layer_config": {"0": {"skip": ["mlp"]}}},
    ],
)
def test_a_switch_that_any_class_may_obey_is_a_difference(family, change):
    config = everything_on(family)
    got = family_fields(family, config | change)
    (name,) = change
    assert differing_fields(family_fields(family, config), got) == [(name, None, change[name])]


@pytest.mark.parametrize("family", sorted(SITES))
@pytest.mark.parametrize("off", [False, None, 0, [], {}, ""], ids=repr)
def test_a_causal_mask_that_is_off_in_whatever_way_is_a_difference(family, off):
    config = everything_on(family)
    got = family_fields(family, config | {"is_causal": off})
    assert differing_fields(family_fields(family, config), got) == [("is_causal", None, False)]
    assert family_fields(family, config | {"is_causal": True}) == family_fields(family, config)


def test_a_member_that_is_null_is_not_one_that_is_absent():
    assert differing_fields({}, {"is_causal": None}) == [("is_causal", None, None)]


def test_an_epsilon_that_no_short_decimal_names_is_kept_as_it_is():
    fields = family_fields("llama", everything_on("llama") | {"rms_norm_eps": 0.02181647624820471})
    assert fields["rms_norm_eps"] == 0.02181647624820471


OLD = {
    "llama": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": {"rope_theta": 1e6, "sliding_window": None, "head_dim": None},
    "mixtral": {"rope_theta": 1e6, "sliding_window": None, "rms_norm_eps": 1e-05},
    "qwen2": {"rope_theta": 1e6, "rope_scaling": None},
    "qwen3": {"rope_theta": 1e6, "use_sliding_window": False, "max_window_layers": 28},
    "qwen3_moe": {
        "rope_theta": 1e6, "rope_scaling": None, "use_sliding_window": False, "num_experts": 3,
        "max_window_layers": 48, "mlp_only_layers": [], "decoder_sparse_step": 1,
    },
    "gemma": {"rope_theta": 1e4, "hidden_act": "gelu", "hidden_activation": None},
    "gemma2": {
        "rope_theta": 1e4, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid",
    },
    "gemma3_text": {
        "rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": LINEAR | {"factor": 8.0},
    },
    "phi3": {
        "rope_theta": 1e4, "rope_scaling": LONG, "original_max_position_embeddings": 64,
        "attention_bias": False, "head_dim": 16,
    },
    "gpt2": {"n_ctx": 128, "n_inner": None, "task_specific_params": {}},
}  # fmt: skip
"""What each family's published files of transformers 4 say."""


@pytest.mark.parametrize("family", sorted(SITES))
def test_a_published_file_and_what_transformers_makes_of_it_are_one_config(family, tmp_path):
    config = FAMILIES[family] | {"hidden_size": 64} | OLD[family]
    old = config | {"model_type": family, "torch_dtype": "bfloat16", "transformers_version": "4.4"}
    new = saved_by_transformers(old, tmp_path)
    assert ("rope_parameters" in new) == (family != "gpt2")
    expected, got = family_fields(family, old), family_fields(family, new)
    assert differing_fields(expected, got) == []
    assert config_digest(expected) == config_digest(got)
    assert family_fields(family, got) == got


@pytest.mark.parametrize("family", sorted(SITES))
def test_what_a_file_leaves_out_is_what_the_class_fills_in(family, tmp_path):
    new = saved_by_transformers({"model_type": family}, tmp_path)
    layers = new.get("num_hidden_layers", new.get("n_layer"))
    short = family_fields(family, {}, layers=layers)
    assert differing_fields(short, family_fields(family, new, layers=layers)) == []


@pytest.mark.parametrize(
    ("family", "field"), [("mistral", "sliding_window"), ("gemma2", "attn_logit_softcapping"),
                          ("gemma2", "final_logit_softcapping")]
)  # fmt: skip
def test_null_is_none_where_a_default_is_on(family, field):
    absent = {name: value for name, value in FAMILIES[family].items() if name != field}
    assert family_fields(family, absent)[field] == SITES[family].defaults[field]
    assert family_fields(family, absent | {field: None})[field] is None


def test_windows_of_each_kind_of_family():
    six = {"num_hidden_layers": 6, "sliding_window": 8}
    sliding, full = "sliding_attention", "full_attention"
    assert "layer_types" not in family_fields("mistral", six)
    assert family_fields("gemma2", six)["layer_types"] == [sliding, full] * 3
    assert family_fields("gemma3_text", six)["layer_types"] == [sliding] * 5 + [full]
    pattern = six | {"sliding_window_pattern": 3}
    assert family_fields("gemma3_text", pattern)["layer_types"] == [sliding, sliding, full] * 2
    assert family_fields("gemma2", pattern)["layer_types"] == [sliding, full] * 3
    qwen = six | {"use_sliding_window": True, "max_window_layers": 4}
    assert family_fields("qwen3", qwen)["layer_types"] == [full] * 4 + [sliding] * 2
    none = family_fields("gemma2", six | {"layer_types": [full] * 6})
    assert (none["sliding_window"], none["layer_types"]) == (None, None)
    unread = family_fields("mistral", six | {"layer_types": [sliding] * 6})
    assert unread["layer_types"] == [sliding] * 6


def test_layers_with_and_without_a_window_have_a_rotary_base_of_their_own():
    assert family_fields("gemma3_text", {"rope_theta": 5e5})["rope_parameters"] == {
        "full_attention": {"rope_theta": 5e5, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }


@pytest.mark.parametrize("family", sorted(SITES.keys() - {"gpt2"}))
def test_a_rotary_type_that_is_no_name_is_a_difference(family):
    got = family_fields(family, FAMILIES[family] | {"rope_scaling": {"rope_type": ["linear"]}})
    assert differing_fields(family_fields(family, FAMILIES[family]), got)


def test_the_length_before_an_extension_is_the_default_of_the_class(tmp_path):
    config = everything_on("phi3") | {"model_type": "phi3", "head_dim": 16}
    fields = family_fields("phi3", config)
    assert fields["rope_parameters"]["original_max_position_embeddings"] == 4096
    assert family_fields("phi3", saved_by_transformers(config, tmp_path)) == fields


@pytest.mark.parametrize("name", ["su", "yarn"])
def test_an_old_name_of_a_rotary_type_is_read_as_the_loader_reads_it(name, tmp_path):
    long = LONG | {"original_max_position_embeddings": 64}
    config = FAMILIES["phi3"] | {
        "model_type": "phi3", "hidden_size": 64, "original_max_position_embeddings": 64
    }  # fmt: skip
    old = config | {"rope_scaling": long | {"type": name}}
    new = saved_by_transformers(old, tmp_path)
    expected = family_fields("phi3", config | {"rope_scaling": long})
    assert family_fields("phi3", old) == family_fields("phi3", new) == expected
    assert expected["rope_parameters"]["rope_type"] == "longrope"


def test_an_inner_width_that_is_left_out_is_four_times_the_hidden_one():
    assert family_fields("gpt2", {}) == family_fields("gpt2", {"n_inner": 256})
    assert family_fields("gpt2", {}) != family_fields("gpt2", {"n_inner": 255})


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("gpt2", {"n_positions": 64, "max_position_embeddings": 32}, "n_positions and max_pos"),
        ("mixtral", {"num_experts": 8, "num_local_experts": 4}, "num_experts and num_local"),
    ],
)
def test_two_values_of_one_field_are_refused_with_both(family, config, said):
    with pytest.raises(UnsafeFormatError, match=said) as caught:
        family_fields(family, config)
    first, second = config.values()
    assert f"got {first} and {second}" in caught.value.message
    assert family_fields(family, dict.fromkeys(config, 4))


@pytest.mark.parametrize("pattern", ["2", 2.0, True])
def test_a_pattern_that_is_no_integer_is_refused(pattern):
    with pytest.raises(UnsafeFormatError, match="sliding_window_pattern to be an integer"):
        family_fields("gemma3_text", {"sliding_window_pattern": pattern})
