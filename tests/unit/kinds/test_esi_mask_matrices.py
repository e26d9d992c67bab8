"""Logical matrices: the same weights under the same names, in files and live, however fused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import family_model
from support.locks import read_record
from support.refusals import refusal
from support.tiny_models import Tensor, llama_config, tensor_shapes, write_file
from transformers import AutoModelForCausalLM

from registry.checkpoint.architecture import SITES, sites_for
from registry.checkpoint.geometry import Geometry
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import Entry
from registry.digest import digest_bytes
from registry.errors import GeometryError, TargetModuleMissingError, UnsupportedArchitectureError
from registry.kinds.esi_mask._matrices import (
    held,
    in_parameter,
    matrices,
    parameter_of,
    selection_size,
)
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._topk import select

if TYPE_CHECKING:
    from pathlib import Path

    from registry.checkpoint.record import BaseRecord
    from registry.kinds.esi_mask._matrices import Matrix

MIXTURES = {"mixtral": "block_sparse_moe.experts", "qwen3_moe": "mlp.experts"}
NO_DIGEST = digest_bytes(b"")
LAYERS = "model.layers.{layer}."


@dataclass(frozen=True)
class Saved:
    """A tiny model, its folder, and what was read from there."""

    family: str
    model: Any
    folder: Path
    record: BaseRecord
    matrices: tuple[Matrix, ...]

    @property
    def sites(self) -> Any:
        return sites_for(self.family)

    @property
    def by_name(self) -> dict[str, Matrix]:
        return {matrix.name: matrix for matrix in self.matrices}

    @property
    def live(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    def stored(self, name: str) -> np.ndarray:
        with Checkpoint.open(self.folder) as checkpoint:
            return np.frombuffer(checkpoint.read(name), "<f4")


def saved(family: str, folder: Path, **changes: Any) -> Saved:
    model = family_model(family, **changes)
    model.save_pretrained(folder)
    return read(family, model, folder)


def read(family: str, model: Any, folder: Path) -> Saved:
    record = read_record(folder)
    found = matrices(record.entries, sites_for(family), record.geometry)
    return Saved(family, model, folder, record, found)


@pytest.fixture(scope="module", params=sorted(SITES))
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Return a saved model of each family."""
    return saved(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=sorted(MIXTURES))
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Return a saved mixture of experts."""
    return saved(request.param, tmp_path_factory.mktemp(request.param))


def fused(mixture: Saved, folder: Path) -> Saved:
    """Return the mixture, saved with the names and shapes of the live model."""
    folder.mkdir()
    (folder / "config.json").write_bytes((mixture.folder / "config.json").read_bytes())
    tensors = {
        name: Tensor("F32", tuple(value.shape), value.detach().numpy().tobytes())
        for name, value in mixture.live.items()
    }
    write_file(folder / "model.safetensors", tensors)
    return read(mixture.family, mixture.model, folder)


def entries(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> list[Entry]:
    return [Entry(name, dtype, shape, NO_DIGEST) for name, shape in sorted(shapes.items())]


LLAMA = Geometry("llama", layers=2, heads=4, kv_heads=2, head_dim=16, hidden_size=48)


def of_shapes(shapes: dict[str, tuple[int, ...]], family: str = "llama") -> dict[str, Matrix]:
    geometry = replace(LLAMA, family=family)
    return {m.name: m for m in matrices(entries(shapes), sites_for(family), geometry)}


# Which tensors are candidates


def test_the_candidates_are_the_matrices_of_the_layers_and_a_stored_head() -> None:
    shapes = tensor_shapes(llama_config(tie_word_embeddings=False))
    roles = [
        "mlp.down_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        *(f"self_attn.{x}_proj" for x in "kovq"),
    ]
    names = [f"model.layers.{layer}.{role}.weight" for layer in range(2) for role in sorted(roles)]
    found = of_shapes(shapes)
    assert list(found) == sorted(["lm_head.weight", *names])
    assert found["lm_head.weight"].layer is None
    assert {m.component for m in found.values()} == {"lm_head", *roles}
    for name, matrix in found.items():
        assert (matrix.tensor, matrix.shape) == (name, shapes[name])
        assert (matrix.row, matrix.rows, matrix.column, matrix.cols) == (
            0, shapes[name][0], 0, shapes[name][1]
        )  # fmt: skip


def test_a_head_that_is_tied_is_no_candidate(tmp_path: Path) -> None:
    tied = saved("llama", tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in tied.by_name
    assert len(tied.matrices) == 14


def test_grouped_keys_and_values_have_fewer_rows() -> None:
    found = of_shapes(tensor_shapes(llama_config()))
    rows = {role: found[f"model.layers.0.self_attn.{role}_proj.weight"].rows for role in "qkv"}
    assert rows == {"q": 64, "k": 32, "v": 32}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (64,)),
        ("model.layers.0.input_layernorm.weight", (48,)),
        ("model.embed_tokens.weight", (96, 48)),
        ("model.norm.weight", (48,)),
        ("model.layers.0.self_attn.q_proj.weight_scale", (64, 1)),  # of a quantised checkpoint
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (8,)),
        ("model.layers.0.mlp.experts.gate_up_proj", (3, 96, 48)),  # a llama has no experts
        ("score.weight", (2, 48)),
        ("lm_head.weight", (96,)),
        ("lm_head.weight", (3, 96, 48)),
        ("model.layers.0.conv.weight", (4, 3, 2, 2)),
    ],
)
def test_what_is_no_matrix_of_a_layer_is_no_candidate(name: str, shape: tuple[int, ...]) -> None:
    assert of_shapes({name: shape}) == {}


@pytest.mark.parametrize(
    ("family", "router"),
    [
        ("mixtral", "block_sparse_moe.gate.weight"),
        ("mixtral", "mlp.gate.weight"),
        ("qwen3_moe", "mlp.gate.weight"),
    ],
)
def test_a_router_is_no_candidate(family: str, router: str) -> None:
    found = of_shapes(
        {
            f"model.layers.0.{router}": (3, 48),
            "model.layers.0.mlp.gate_proj.weight": (80, 48),  # of a dense layer among others
        },
        family,
    )
    assert [matrix.component for matrix in found.values()] == ["mlp.gate_proj"]


@pytest.mark.parametrize("dtype", ["I8", "U8", "F8_E4M3"])
def test_a_base_that_is_quantised_is_refused(dtype: str) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    found = entries({name: (64, 48)}, dtype)
    error = refusal(
        UnsupportedArchitectureError, lambda: matrices(found, sites_for("llama"), LLAMA)
    )
    assert error.message == (
        f"expected weights out of BF16, F16, F32, F64, got 1 others:\n  '{name}': {dtype}"
    )


# Fused tensors


def test_fused_queries_keys_and_values_are_three_matrices(tmp_path: Path) -> None:
    phi = saved("phi3", tmp_path)
    name = "model.layers.1.self_attn.qkv_proj.weight"
    whole = phi.live[name]
    bounds = {"#q": (0, 64), "#k": (64, 96), "#v": (96, 128)}
    for label, (start, end) in bounds.items():
        matrix = phi.by_name[name + label]
        assert (matrix.tensor, matrix.row, matrix.rows, matrix.cols) == (
            name,
            start,
            end - start,
            48,
        )
        assert torch.equal(held(phi.live, phi.sites, matrix), whole[start:end])
    assert name not in phi.by_name


def test_a_fused_gate_and_up_projection_is_two_matrices(tmp_path: Path) -> None:
    phi = saved("phi3", tmp_path)
    name = "model.layers.0.mlp.gate_up_proj.weight"
    gate, up = (phi.by_name[f"{name}#{label}"] for label in ("gate", "up"))
    assert torch.equal(held(phi.live, phi.sites, gate), phi.live[name][:80])
    assert torch.equal(held(phi.live, phi.sites, up), phi.live[name][80:])
    assert (gate.component, up.component) == ("mlp.gate_up_proj#gate", "mlp.gate_up_proj#up")


def test_columns_are_split_where_weights_are_stored_transposed(tmp_path: Path) -> None:
    gpt2 = saved("gpt2", tmp_path)
    name = "transformer.h.0.attn.c_attn.weight"
    for place, label in enumerate(("#q", "#k", "#v")):
        matrix = gpt2.by_name[name + label]
        columns = slice(64 * place, 64 * (place + 1))
        assert (matrix.rows, matrix.column, matrix.cols) == (64, 64 * place, 64)
        assert torch.equal(held(gpt2.live, gpt2.sites, matrix), gpt2.live[name][:, columns])
        stored = gpt2.stored(name).reshape(64, 192)[:, columns].reshape(-1)
        every = np.arange(matrix.numel)
        assert np.array_equal(gpt2.stored(name)[matrix.in_tensor(every)], stored)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"model.layers.0.self_attn.qkv_proj.weight": (127, 48)},
            "model.layers.0.self_attn.qkv_proj.weight: expected 128 outputs, got 127.",
        ),
        (
            {"model.layers.0.mlp.gate_up_proj.weight": (161, 48)},
            (
                "model.layers.0.mlp.gate_up_proj.weight: expected 2 matrices of one size, "
                "got 161 outputs."
            ),
        ),
    ],
)
def test_a_fused_tensor_of_another_size_is_refused(shapes: Any, message: str) -> None:
    assert refusal(GeometryError, lambda: of_shapes(shapes, "phi3")).message == message


def test_fused_experts_of_an_odd_size_are_refused() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    error = refusal(GeometryError, lambda: of_shapes({name: (3, 47, 48)}, "mixtral"))
    assert error.message == f"{name}: expected 2 matrices of one size, got 47 outputs."


def test_a_shape_of_more_experts_than_there_can_be_is_refused_at_once() -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    error = refusal(GeometryError, lambda: of_shapes({name: (10**15, 2, 2)}, "mixtral"))
    assert error.message == (
        f"'{name}': expected at most 262,144 matrices in the model, got 1,000,000,000,000,000 "
        "or more."
    )


NAMES = (
    "lm_head.weight",
    "model.layers.0.self_attn.qkv_proj.weight",
    "model.layers.0.mlp.gate_up_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.0.mlp.experts.7.up_proj.weight",
    "model.layers.0.block_sparse_moe.experts.99999.w1.weight",
    "transformer.h.1.attn.c_attn.weight",
    "transformer.h.1.attn.bias",
)


@given(
    family=st.sampled_from(["gpt2", "llama", "mixtral", "phi3", "qwen3_moe"]),
    shapes=st.dictionaries(
        st.sampled_from(NAMES), st.lists(st.integers(0, 200), max_size=4).map(tuple)
    ),
    dtype=st.sampled_from(["F32", "BF16", "I8", "C64"]),
)
def test_any_shape_makes_matrices_within_their_tensor_or_is_refused(
    family: str, shapes: dict[str, tuple[int, ...]], dtype: str
) -> None:
    try:
        geometry = replace(LLAMA, family=family)
        found = matrices(entries(shapes, dtype), sites_for(family), geometry)
    except (GeometryError, UnsupportedArchitectureError):
        return
    for matrix in found:
        assert 0 <= matrix.row <= matrix.row + matrix.rows <= matrix.shape[0]
        assert 0 <= matrix.column <= matrix.column + matrix.cols <= matrix.shape[1]
        assert matrix.shape[0] * matrix.shape[1] == math.prod(shapes[matrix.tensor])


# Every family: files, live model and matrices say the same


def test_the_matrices_of_a_tensor_are_all_of_it_once(every: Saved) -> None:
    sizes = {entry.name: entry.numel for entry in every.record.entries}
    places: dict[str, list[np.ndarray]] = {}
    for matrix in every.matrices:
        places.setdefault(matrix.tensor, []).append(matrix.in_tensor(np.arange(matrix.numel)))
    for tensor, found in places.items():
        assert np.array_equal(np.sort(np.concatenate(found)), np.arange(sizes[tensor]))
        assert all(np.all(np.diff(flat) > 0) for flat in found)


def test_a_matrix_is_the_same_in_files_and_in_the_live_model(every: Saved) -> None:
    for matrix in every.matrices:
        flat = np.arange(matrix.numel)
        live = held(every.live, every.sites, matrix)
        assert tuple(live.shape) == (matrix.rows, matrix.cols)
        values = live.reshape(-1).numpy()
        assert np.array_equal(every.stored(matrix.tensor)[matrix.in_tensor(flat)], values)
        parameter = every.live[parameter_of(every.sites, matrix)].detach().reshape(-1).numpy()
        assert np.array_equal(parameter[in_parameter(every.sites, matrix, flat)], values)


def test_what_is_held_is_the_parameter_s_own_memory(every: Saved) -> None:
    model = family_model(every.family)
    live = dict(model.named_parameters())
    before = sum(float(p.detach().double().abs().sum()) for p in live.values())
    for matrix in every.matrices:
        view = held(live, every.sites, matrix)
        assert not view.requires_grad
        view.zero_()
    kept = {
        name for name in live if name not in {parameter_of(every.sites, m) for m in every.matrices}
    }
    after = sum(float(p.detach().double().abs().sum()) for p in live.values())
    assert after == sum(float(live[name].detach().double().abs().sum()) for name in kept) < before


def test_gradients_are_held_as_their_parameters_are(every: Saved) -> None:
    model = family_model(every.family)
    tokens = torch.arange(8)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for matrix in every.matrices:
        view = held(grads, every.sites, matrix)
        assert view.data_ptr() >= grads[parameter_of(every.sites, matrix)].data_ptr()
        assert tuple(view.shape) == (matrix.rows, matrix.cols)


def test_a_model_saved_and_loaded_again_holds_the_same_matrices(
    every: Saved, tmp_path: Path
) -> None:
    again = AutoModelForCausalLM.from_pretrained(every.folder)
    again.save_pretrained(tmp_path)
    second = read(every.family, again, tmp_path)
    assert second.matrices == every.matrices
    for matrix in every.matrices:
        ours, theirs = (held(one.live, one.sites, matrix) for one in (every, second))
        assert torch.equal(ours, theirs)


# Mixtures: experts one by one in files, or all in one tensor


def by_hand(mixture: Saved) -> dict[str, torch.Tensor]:
    """Return each expert's weights under the names of the files, sliced by hand."""
    gate, up, down = {
        "mixtral": ("w1", "w3", "w2"), "qwen3_moe": ("gate_proj", "up_proj", "down_proj"),
    }[mixture.family]  # fmt: skip
    found = {}
    for layer in range(2):
        both = mixture.live[f"model.layers.{layer}.mlp.experts.gate_up_proj"].detach()
        downs = mixture.live[f"model.layers.{layer}.mlp.experts.down_proj"].detach()
        wide = both.shape[1] // 2
        for expert in range(3):
            prefix = f"model.layers.{layer}.{MIXTURES[mixture.family]}.{expert}."
            found[f"{prefix}{gate}.weight"] = both[expert, :wide]
            found[f"{prefix}{up}.weight"] = both[expert, wide:]
            found[f"{prefix}{down}.weight"] = downs[expert]
    return found


def test_each_expert_is_a_matrix_of_its_own(mixture: Saved) -> None:
    expected = by_hand(mixture)
    found = {m.name: m for m in mixture.matrices if m.expert is not None}
    assert found.keys() == expected.keys()
    for name, matrix in found.items():
        assert torch.equal(held(mixture.live, mixture.sites, matrix), expected[name])
        assert matrix.expert == int(name.split(".")[5])
        assert matrix.layer == int(name.split(".")[2])
    prefix = MIXTURES[mixture.family]
    assert {m.component for m in found.values()} == {
        f"{prefix}.{name.split('.')[-2]}" for name in expected
    }


def test_fused_files_and_files_of_each_expert_name_the_same_matrices(
    mixture: Saved, tmp_path: Path
) -> None:
    together = fused(mixture, tmp_path / "fused")
    assert together.by_name.keys() == mixture.by_name.keys()
    assert {m.tensor for m in together.matrices} != {m.tensor for m in mixture.matrices}
    for name, matrix in together.by_name.items():
        apart = mixture.by_name[name]
        assert (matrix.rows, matrix.cols, matrix.layer, matrix.component, matrix.expert) == (
            apart.rows, apart.cols, apart.layer, apart.component, apart.expert
        )  # fmt: skip
        flat = np.arange(matrix.numel)
        ours = mixture.stored(apart.tensor)[apart.in_tensor(flat)]
        assert np.array_equal(ours, together.stored(matrix.tensor)[matrix.in_tensor(flat)])
        assert torch.equal(
            held(mixture.live, mixture.sites, apart), held(mixture.live, mixture.sites, matrix)
        )


def test_a_mask_made_under_one_layout_selects_the_same_weights_under_the_other(
    mixture: Saved, tmp_path: Path
) -> None:
    """Selected by live magnitude; read from files of both layouts, and from a model of each."""
    together = fused(mixture, tmp_path / "fused")
    masks = []
    for base in (mixture, together):
        scores = [
            (m.name, held(base.live, base.sites, m).abs().reshape(-1).numpy())
            for m in base.matrices
        ]
        selected = select(lambda scores=scores: scores, selection_size(0.05, base.matrices))
        masks.append(pack(selected, {m.name: m.numel for m in base.matrices}, what="test"))
    assert masks[0].digest() == masks[1].digest()
    loaded = [AutoModelForCausalLM.from_pretrained(base.folder) for base in (mixture, together)]
    for name, count in masks[0].counts.items():
        indices = masks[0].indices(name)
        values = [
            base.stored(base.by_name[name].tensor)[base.by_name[name].in_tensor(indices)]
            for base in (mixture, together)
        ]
        for model in loaded:
            live = dict(model.named_parameters())
            matrix = mixture.by_name[name]
            values.append(held(live, mixture.sites, matrix).reshape(-1).numpy()[indices])
            whole = live[parameter_of(mixture.sites, matrix)].detach().reshape(-1).numpy()
            values.append(whole[in_parameter(mixture.sites, matrix, indices)])
        assert all(np.array_equal(values[0], other) for other in values[1:])
        assert values[0].size == count


def test_a_model_whose_modules_keep_experts_apart_is_read_by_the_files_names(
    mixture: Saved,
) -> None:
    """As transformers 4 had them: parameters are called what files call them."""
    apart = by_hand(mixture)
    for name, expected in apart.items():
        assert torch.equal(held(apart, mixture.sites, mixture.by_name[name]), expected)


def test_layers_without_experts_stand_beside_layers_with_them(tmp_path: Path) -> None:
    mixed = saved("qwen3_moe", tmp_path, mlp_only_layers=[0])
    assert {m.layer for m in mixed.matrices if m.expert is not None} == {1}
    dense = [m.name for m in mixed.matrices if m.layer == 0 and ".mlp." in m.name]
    assert dense == [f"model.layers.0.mlp.{x}_proj.weight" for x in ("down", "gate", "up")]


def test_experts_that_are_there_in_both_layouts_are_refused() -> None:
    one, all_of_them = "mlp.experts.1.down_proj.weight", "mlp.experts.down_proj"
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.0.{one}": (48, 24), f"model.layers.0.{all_of_them}": (3, 48, 24),
    }  # fmt: skip
    error = refusal(GeometryError, lambda: of_shapes(shapes, "qwen3_moe"))
    assert error.message == (
        "expected each matrix in one tensor, got 1 in two:\n"
        f"  'model.layers.0.{one}': in 'model.layers.0.{one}' and 'model.layers.0.{all_of_them}'"
    )


# Live models that do not hold a matrix


def test_a_model_without_the_parameter_is_refused() -> None:
    (matrix,) = of_shapes({"model.layers.0.self_attn.q_proj.weight": (64, 48)}).values()
    error = refusal(TargetModuleMissingError, lambda: held({}, sites_for("llama"), matrix))
    assert (
        error.message == f"{matrix.name}: expected a parameter {matrix.name}, the model has none."
    )


@pytest.mark.parametrize("shape", [(64, 47), (63, 48), (48, 64), (64 * 48,), (1, 64, 48)])
def test_a_parameter_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    (matrix,) = of_shapes({"model.layers.0.self_attn.q_proj.weight": (64, 48)}).values()
    live = {matrix.name: torch.zeros(shape)}
    error = refusal(TargetModuleMissingError, lambda: held(live, sites_for("llama"), matrix))
    assert error.message == (
        f"{matrix.name}: expected [64, 48] as in the base, the model has {matrix.name} of shape "
        f"{list(shape)}."
    )


@pytest.mark.parametrize("shape", [(2, 48, 24), (3, 48, 25), (3, 96, 24), (144, 24)])
def test_fused_experts_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    name = "model.layers.0.mlp.experts.2.down_proj.weight"
    (matrix,) = of_shapes({name: (48, 24)}, "qwen3_moe").values()
    live = {"model.layers.0.mlp.experts.down_proj": torch.zeros(shape)}
    refusal(TargetModuleMissingError, lambda: held(live, sites_for("qwen3_moe"), matrix), name)


# How many are selected


@pytest.mark.parametrize(
    ("rho", "weights", "expected"),
    [
        (0.29, 100, 29),
        (0.07, 100, 7),
        (0.01, 46_080, 460),
        (1.0, 48, 48),
        (1, 48, 48),
        (1e-9, 48, 0),
    ],
)
def test_the_share_is_taken_exactly(rho: float, weights: int, expected: int) -> None:
    (matrix,) = of_shapes({"model.layers.0.mlp.up_proj.weight": (weights, 1)}).values()
    assert selection_size(rho, [matrix]) == expected


@given(percent=st.integers(1, 10_000), rows=st.integers(1, 10**6))
def test_a_share_in_hundredths_of_a_percent_is_the_whole_number_below(
    percent: int, rows: int
) -> None:
    (matrix,) = of_shapes({"model.layers.0.mlp.up_proj.weight": (rows, 1)}).values()
    assert selection_size(percent / 10_000, [matrix]) == percent * rows // 10_000
    assert selection_size(percent / 10_000, [matrix]) <= Fraction(percent, 10_000) * rows
