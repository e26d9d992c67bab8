from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_models import llama_config, qwen2_config, tensor_shapes

from registry.checkpoint.architecture import SITES, model_names, sites_for
from registry.checkpoint.geometry import Geometry, read_geometry
from registry.checkpoint.sites import Place
from registry.errors import (
    GeometryError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedArchitectureError,
)


def test_unknown_family_is_refused_and_told_where_a_row_goes():
    with pytest.raises(UnsupportedArchitectureError) as caught:
        sites_for("opt")
    assert caught.value.message == (
        "expected one of gemma, gemma2, gemma3_text, gpt2, llama, mistral, mixtral, phi3, qwen2, "
        "qwen3, qwen3_moe, got model_type 'opt'."
    )
    assert "registry/checkpoint/architecture.py" in str(caught.value.hint)


def test_a_model_of_text_and_images_is_refused_and_told_of_its_text_model():
    with pytest.raises(UnsupportedArchitectureError, match="got model_type 'gemma3'") as caught:
        sites_for("gemma3")
    assert caught.value.hint == (
        "Only text models are supported: save its text model by itself, as gemma3_text."
    )


@pytest.mark.parametrize("model_type", [None, 3, ["llama"]])
def test_a_model_type_that_is_no_name_is_refused(model_type):
    with pytest.raises(UnsupportedArchitectureError):
        sites_for(model_type)


def test_names_of_the_attention_output():
    sites = sites_for("llama")
    assert sites.attn_out_weight(3) == "model.layers.3.self_attn.o_proj.weight"
    assert sites.attn_out_bias(3) == "model.layers.3.self_attn.o_proj.bias"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.0.mlp.up_proj.weight", 0),
        ("model.layers.41.self_attn.o_proj", 41),
        ("model.layers.4", None),
        ("model.layers.04.mlp.up_proj.weight", None),
        ("xmodel.layers.4.mlp.up_proj.weight", None),
        ("modelxlayers.4.mlp.up_proj.weight", None),
        ("model.layers.-1.mlp", None),
        ("model.layers." + "9" * 5000 + ".mlp", None),
        ("model.norm.weight", None),
    ],
)
def test_layer_of_a_name(name, layer):
    assert sites_for("llama").layer_of(name) == layer


def test_the_page_about_locks_lists_every_family():
    page = Path(__file__).parents[3] / "docs" / "safety-lock.md"
    families = page.read_text("utf-8").split("## Families")[1].split("## ")[0]
    assert [family for family in SITES if f"`{family}`" not in families] == []


def test_rows_cannot_be_changed():
    with pytest.raises(TypeError):
        sites_for("llama").defaults["vocab_size"] = 1
    with pytest.raises(TypeError):
        SITES["opt"] = sites_for("llama")


@pytest.mark.parametrize("family", sorted(SITES))
def test_a_loader_keeps_an_output_bias_never_always_or_when_the_config_says_so(family):
    kept = {"gpt2": (True, True), "mistral": (False, False), "mixtral": (False, False),
            "phi3": (False, False), "qwen2": (False, False)}.get(family, (False, True))  # fmt: skip
    row = sites_for(family)
    assert (row.loader_keeps_bias({}), row.loader_keeps_bias({"attention_bias": True})) == kept


MIXTURE = "model.layers.1.block_sparse_moe."
LIVE = "model.layers.1.mlp."


@pytest.mark.parametrize(
    ("stored", "place"),
    [
        ("experts.0.w1.weight", Place(f"{LIVE}experts.gate_up_proj", 0, 0, 2)),
        ("experts.12.w3.weight", Place(f"{LIVE}experts.gate_up_proj", 12, 1, 2)),
        ("experts.7.w2.weight", Place(f"{LIVE}experts.down_proj", 7, 0, 1)),
        ("gate.weight", Place(f"{LIVE}gate.weight")),
        ("experts.07.w2.weight", None),
        ("experts.7.w2.weight.x", None),
        ("experts.7.w4.weight", None),
        ("experts.x.w1.weight", None),
        ("gateXweight", None),
    ],
)
def test_where_a_loader_puts_what_files_keep_apart(stored, place):
    name = MIXTURE + stored
    assert sites_for("mixtral").place_of(name) == (place or Place(name))
    assert sites_for("llama").place_of(name) == Place(name)


def test_outside_the_layers_everything_stays_where_it_is():
    name = "block_sparse_moe.gate.weight"
    assert sites_for("mixtral").place_of(name) == Place(name)


def test_names_without_the_start_that_loaders_add_get_it():
    stored = ["wte.weight", "h.0.ln_1.weight", "lm_head.weight", "h.0.attn.bias"]
    assert list(model_names(stored, "gpt2").items()) == [
        ("lm_head.weight", "lm_head.weight"),
        ("transformer.h.0.attn.bias", "h.0.attn.bias"),
        ("transformer.h.0.ln_1.weight", "h.0.ln_1.weight"),
        ("transformer.wte.weight", "wte.weight"),
    ]
    whole = [f"transformer.{name}" for name in ("h.0.ln_1.weight", "wte.weight")]
    assert model_names(whole, "gpt2") == {name: name for name in whole}


@pytest.mark.parametrize("model_type", ["llama", "opt", None, ["gpt2"]])
def test_names_of_every_other_family_stay_as_they_are_stored(model_type):
    stored = ["h.0.ln_1.weight", "a"]
    assert list(model_names(stored, model_type).items()) == [("a", "a"), (stored[0], stored[0])]


def test_one_tensor_under_two_names_is_refused_with_both():
    stored = ["h.0.ln_1.weight", "transformer.h.0.ln_1.weight"]
    with pytest.raises(UnsafeFormatError) as caught:
        model_names(stored, "gpt2")
    assert caught.value.message == (
        "expected each tensor under one name, got 1 under two:"
        "\n  'h.0.ln_1.weight' and 'transformer.h.0.ln_1.weight'"
    )


def test_head_dim_comes_from_the_output_projection_and_not_from_hidden_size():
    config = llama_config()
    geometry = read_geometry(tensor_shapes(config), config)
    assert geometry == Geometry("llama", 2, 4, 2, 16, 48)
    assert geometry.head_dim != geometry.hidden_size // geometry.heads
    assert geometry.heads * geometry.head_dim == 64


def test_qwen2_without_head_dim_in_its_config():
    config = qwen2_config()
    assert read_geometry(tensor_shapes(config), config) == Geometry("qwen2", 2, 4, 2, 16, 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"num_attention_heads": 8},
            "head_dim is 16, self_attn.o_proj.in_features 64 / num_attention_heads 8 makes 8",
        ),
        ({"num_attention_heads": 7}, "not a multiple of it"),
        (
            {"num_attention_heads": 8, "head_dim": None},
            "k_proj.weight: the config makes it [16, 48]",
        ),
        ({"num_key_value_heads": 4}, "k_proj.weight: the config makes it [64, 48], got [32, 48]"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the tensors make 2"),
        ({"hidden_size": 64}, "q_proj.weight: the config makes it [64, 64], got [64, 48]"),
        ({"head_dim": 12}, "config head_dim is 12"),
        (
            {"num_attention_heads": None},
            "num_attention_heads: expected a positive integer, got None",
        ),
        ({"num_attention_heads": True}, "got True"),
        ({"num_attention_heads": 0}, "got 0"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
    ],
)
def test_an_edited_config_is_refused_with_both_values(change, said):
    shapes = tensor_shapes(llama_config())
    with pytest.raises(GeometryError) as caught:
        read_geometry(shapes, llama_config(**change))
    assert said in caught.value.message


FUSED = {
    "model_type": "phi3", "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
FUSED_SHAPES = {
    "model.embed_tokens.weight": (96, 48),
    "model.layers.0.self_attn.qkv_proj.weight": (128, 48),
    "model.layers.0.self_attn.o_proj.weight": (48, 64),
}


def test_queries_keys_and_values_in_one_projection():
    assert read_geometry(FUSED_SHAPES, FUSED) == Geometry("phi3", 1, 4, 2, 16, 48)


@pytest.mark.parametrize(
    ("change", "made"), [({"num_attention_heads": 8}, 96), ({"num_key_value_heads": 1}, 96),
                         ({"num_key_value_heads": None}, 192)]
)  # fmt: skip
def test_a_wrong_count_shows_in_the_sum_of_the_three(change, made):
    with pytest.raises(GeometryError) as caught:
        read_geometry(FUSED_SHAPES, FUSED | change)
    assert f"qkv_proj.weight: the config makes it [{made}, 48], got [128, 48]" in str(caught.value)


def test_a_norm_over_one_head_says_how_wide_it_is():
    config = {
        "model_type": "qwen3", "hidden_size": 48, "num_hidden_layers": 1, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    attention = {
        "q_proj": (64, 48), "k_proj": (32, 48), "v_proj": (32, 48), "o_proj": (48, 64),
        "q_norm": (16,), "k_norm": (16,),
    }  # fmt: skip
    shapes = {f"model.layers.0.self_attn.{name}.weight": got for name, got in attention.items()}
    with pytest.raises(GeometryError) as caught:
        read_geometry(shapes | {"model.embed_tokens.weight": (96, 48)}, config)
    assert caught.value.message.splitlines()[1:] == [
        f"  model.layers.0.self_attn.{name}.weight: the config makes it [32], got [16]"
        for name in ("q_norm", "k_norm")
    ]


def test_weights_that_are_stored_transposed_and_fields_with_other_names():
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4}
    shapes = {
        "transformer.wte.weight": (96, 64),
        "transformer.h.0.attn.c_attn.weight": (64, 192),
        "transformer.h.0.attn.c_proj.weight": (64, 64),
    }
    assert read_geometry(shapes, config) == Geometry("gpt2", 1, 4, 4, 16, 64)
    with pytest.raises(GeometryError, match=r"config num_attention_heads \(n_head\) is 3, .* 64"):
        read_geometry(shapes, config | {"n_head": 3})
    with pytest.raises(GeometryError, match=r"makes it \[64, 192\], got \[192, 64\]"):
        read_geometry(shapes | {"transformer.h.0.attn.c_attn.weight": (192, 64)}, config)
    with pytest.raises(UnsafeFormatError, match=r"n_head and num_attention_heads, .* got 4 and 2"):
        read_geometry(shapes, config | {"num_attention_heads": 2})


def test_what_the_loader_fills_in_counts_as_stated():
    config = llama_config(model_type="mistral", num_key_value_heads=None)
    shapes = tensor_shapes(llama_config(num_key_value_heads=4))
    assert read_geometry(shapes, config).kv_heads == 4
    del config["num_key_value_heads"]  # eight, where Mistral's class is not told
    with pytest.raises(GeometryError, match="not a multiple of num_key_value_heads 8"):
        read_geometry(shapes, config)


def test_every_conflict_is_listed():
    shapes = tensor_shapes(llama_config())
    with pytest.raises(GeometryError) as caught:
        read_geometry(shapes, llama_config(hidden_size=None, num_attention_heads=-4))
    assert "shapes to agree, they do not:\n" in caught.value.message
    assert "hidden_size" in caught.value.message
    assert "num_attention_heads" in caught.value.message


def test_one_layer_of_another_width_is_refused():
    shapes = tensor_shapes(llama_config(head_dim=None, hidden_size=64))
    shapes["model.layers.1.self_attn.o_proj.weight"] = (64, 128)
    with pytest.raises(GeometryError, match="got 16 in layer 0, 32 in layer 1"):
        read_geometry(shapes, llama_config(head_dim=None, hidden_size=64))


def test_a_missing_layer_is_refused():
    config = llama_config(num_hidden_layers=3)
    shapes = {k: v for k, v in tensor_shapes(config).items() if "layers.1." not in k}
    with pytest.raises(GeometryError, match=r"without a hole, got \[0, 2\]"):
        read_geometry(shapes, config)


@pytest.mark.parametrize("shape", [None, (48,), (48, 63), (48, 0)])
def test_an_output_projection_that_is_no_matrix_of_heads_is_refused(shape):
    shapes = tensor_shapes(llama_config())
    del shapes["model.layers.0.self_attn.o_proj.weight"]
    if shape is not None:
        shapes["model.layers.0.self_attn.o_proj.weight"] = shape
    with pytest.raises(GeometryError, match=r"layers\.0\.self_attn\.o_proj"):
        read_geometry(shapes, llama_config())


def test_geometry_round_trips():
    geometry = Geometry("llama", 2, 4, 2, 16, 48)
    assert Geometry.from_dict(geometry.to_dict()) == geometry


@pytest.mark.parametrize(
    "change", [{"layers": 0}, {"layers": 2.0}, {"heads": True}, {"family": 1}, {"extra": 1}]
)
def test_geometry_of_a_wrong_document_is_refused(change):
    document = Geometry("llama", 2, 4, 2, 16, 48).to_dict() | change
    with pytest.raises(SchemaViolationError) as caught:
        Geometry.from_dict(document)
    assert len(caught.value.violations) == 1


def test_geometry_with_a_missing_member_is_refused():
    with pytest.raises(SchemaViolationError, match=r"\$\.heads: missing"):
        Geometry.from_dict({"family": "llama"})
    with pytest.raises(SchemaViolationError):
        Geometry.from_dict([])
