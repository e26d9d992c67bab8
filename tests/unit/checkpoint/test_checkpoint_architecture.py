from __future__ import annotations

import pytest
from support.tiny_models import llama_config, qwen2_config, tensor_shapes

from registry.checkpoint.architecture import SITES, sites_for
from registry.checkpoint.geometry import Geometry, read_geometry
from registry.errors import GeometryError, SchemaViolationError, UnsupportedArchitectureError


def test_unknown_family_is_refused_and_told_where_a_row_goes():
    with pytest.raises(UnsupportedArchitectureError) as caught:
        sites_for("phi3")
    assert "llama, qwen2" in caught.value.message
    assert "phi3" in caught.value.message
    assert "registry/checkpoint/architecture.py" in str(caught.value.hint)


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


def test_only_llama_can_switch_an_output_bias_on():
    assert {family: row.o_proj_has_bias for family, row in SITES.items()} == {
        "llama": "attention_bias",
        "qwen2": None,
    }


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
        ({"num_attention_heads": 8}, "config head_dim is 16, o_proj.in_features / heads makes 8"),
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


def test_every_conflict_is_listed():
    shapes = tensor_shapes(llama_config())
    with pytest.raises(GeometryError) as caught:
        read_geometry(shapes, llama_config(hidden_size=None, num_attention_heads=-4))
    assert "got 2 conflicts" in caught.value.message
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
