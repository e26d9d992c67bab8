from __future__ import annotations

import json

import pytest
from support.tiny_models import llama_config, qwen2_config, tensor_shapes

from registry.checkpoint.config import computation_fields, config_digest, differing_fields
from registry.checkpoint.geometry import read_geometry
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


@pytest.mark.parametrize("family", [llama_config, qwen2_config])
def test_the_defaults_of_the_table_are_those_of_transformers(family):
    from transformers import AutoConfig

    from registry.checkpoint.architecture import sites_for

    config = AutoConfig.for_model(family()["model_type"])
    for name, value in sites_for(family()["model_type"]).defaults.items():
        if name == "rope_theta":
            assert config.rope_parameters["rope_theta"] == value
        elif name == "sliding_window":  # set to None where windows are off
            assert type(config)(use_sliding_window=True).sliding_window == value
        else:
            assert getattr(config, name) == value, name


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
