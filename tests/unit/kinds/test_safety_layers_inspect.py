"""Which layers of a range are untouched in a checkpoint's bytes, and how far the others drifted."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import factors, lora_config, product, write_adapter
from support.families import family_model
from support.guarded import layers_bundle, layers_model
from support.locks import read_record
from support.tiny_models import tensor

from registry.checkpoint.adapter import Adapter
from registry.checkpoint.architecture import SITES, sites_for
from registry.checkpoint.effective import effective_record
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.sketch import positions
from registry.kinds import parse_body
from registry.kinds.safety_layers.inspect import inspect, inspect_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from registry.kinds.safety_layers.body import LayersBody
    from registry.kinds.safety_layers.inspect import LayersInspection

INTS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
DOWN = "model.layers.2.mlp.down_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


class Made(NamedTuple):
    """A base on disk, the body of its layers 1 to 2, and a place for edited copies."""

    base: Path
    body: LayersBody
    root: Path

    def edited(self, edit: Any, name: str = "edited") -> Path:
        """Write the base with its tensors edited in place, or replaced by what is returned."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base, folder)
        tensors = load_file(folder / "model.safetensors")
        made = edit(tensors)
        kept = made if isinstance(made, dict) else tensors
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        return folder

    def inspect(self, folder: Path) -> LayersInspection:
        with Checkpoint.open(folder) as checkpoint:
            return inspect(checkpoint, self.body, sites_for(self.body.family))

    def states(self, folder: Path) -> list[str]:
        return [layer.state for layer in self.inspect(folder).layers]


def made_of(model: Any, root: Path, **options: Any) -> Made:
    return Made(root / "base", parse_body(layers_bundle(model, root / "base", **options)), root)


def four_layers(family: str, dtype: torch.dtype = torch.float32) -> Any:
    sizes = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}
    return family_model(family, dtype=dtype, **sizes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of(layers_model(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of(layers_model(dtype=torch.bfloat16), tmp_path_factory.mktemp("bf16"))


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of(layers_model("mixtral"), tmp_path_factory.mktemp("mixtral"))


def nudge(value: torch.Tensor, index: int = 5) -> None:
    """Change the last bit of one element."""
    value.view(-1).view(INTS[value.dtype])[index] ^= 1


def noise(value: torch.Tensor, relative: float, seed: int = 0) -> None:
    drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    value += (drawn * (relative * value.float().norm() / drawn.norm())).to(value.dtype)


def unsampled(name: str, shape: tuple[int, ...]) -> int:
    return min(set(range(math.prod(shape))) - set(positions(name, shape).tolist()))


# Every family, to the bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(SITES))
def test_one_bit_in_one_tensor_makes_its_layer_drift_and_no_other(family, dtype, tmp_path):
    made = made_of(four_layers(family, dtype), tmp_path)
    names = [entry.name for entry in made.body.protected]
    assert made.inspect(made.base).stored
    in_second = [name for name in names if ".2." in name.partition("experts")[0]]
    assert 0 < len(in_second) < len(names)
    for name in in_second:
        found = made.inspect(made.edited(lambda tensors, name=name: nudge(tensors[name])))
        assert [layer.state for layer in found.layers] == ["untouched", "drifted"]
        assert found.layers[1].changed == (name,)
        assert (found.stored, found.tensors) == (False, ())


@pytest.mark.parametrize("family", sorted(SITES))
def test_whatever_happens_outside_the_range_leaves_it_untouched(family, tmp_path):
    made = made_of(four_layers(family), tmp_path)
    inside = {entry.name for entry in made.body.protected}

    def edit(tensors):
        for name, value in tensors.items():
            if name not in inside:
                noise(value, 0.5)

    found = made.inspect(made.edited(edit))
    assert found.stored
    assert found.tensors == tuple(sorted(inside))
    assert [layer.drift for layer in found.layers] == [0.0, 0.0]
    assert found.to_dict()["range"] == "1..2"


# How far


@pytest.mark.parametrize("relative", [0.01, 0.2])
def test_drift_is_the_relative_distance_of_the_layers_matrices(llama, relative):
    def edit(tensors):
        for seed, name in enumerate(sorted(tensors)):
            if ".layers.2." in name and tensors[name].ndim > 1:
                noise(tensors[name], relative, seed)

    first, second = llama.inspect(llama.edited(edit)).layers
    assert (first.state, first.drift) == ("untouched", 0.0)
    assert second.drift == pytest.approx(relative, rel=0.1)
    assert len(second.changed) == 7
    assert second.tensors == 9


def test_a_norm_that_is_rewritten_is_not_hidden_by_the_matrices(llama):
    name = "model.layers.1.input_layernorm.weight"
    first, _ = llama.inspect(llama.edited(lambda tensors: tensors[name].mul_(3))).layers
    assert first.drift == pytest.approx(2.0)
    assert first.changed == (name,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_edit_that_no_sample_meets_is_drift_by_its_digest(llama, dtype):
    def edit(tensors):
        value = tensors[DOWN]
        where = unsampled(DOWN, tuple(value.shape))
        value.view(-1)[where] += 1
        return cast_to(dtype)(tensors)

    found = llama.inspect(llama.edited(edit)).layers[1]
    assert (found.state, found.drift, found.changed) == ("drifted", 0.0, (DOWN,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_drift_without_a_figure(llama, value):
    document = llama.inspect(llama.edited(lambda tensors: tensors[QUERY].fill_(value))).to_dict()[
        "layers"
    ][0]
    assert (document["state"], document["drift"]) == ("drifted", None)


# Another dtype


def cast_to(dtype):
    return lambda tensors: {name: value.to(dtype) for name, value in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wider_copy_is_untouched_and_one_bit_below_the_base_s_precision_is_not(bf16, dtype):
    assert bf16.states(bf16.edited(cast_to(dtype))) == ["untouched", "untouched"]

    def edit(tensors):
        wide = cast_to(torch.float32)(tensors)
        nudge(wide[DOWN])
        return cast_to(dtype)(wide)

    found = bf16.inspect(bf16.edited(edit))
    assert [layer.state for layer in found.layers] == ["untouched", "drifted"]
    assert found.layers[1].changed == (DOWN,)


def test_a_wider_copy_with_another_value_of_the_base_s_dtype_is_drift(bf16):
    def edit(tensors):
        nudge(tensors[DOWN])
        return cast_to(torch.float32)(tensors)

    assert bf16.states(bf16.edited(edit)) == ["untouched", "drifted"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_copy_is_rounded_which_is_not_stored(llama, dtype):
    found = llama.inspect(llama.edited(cast_to(dtype)))
    document = found.to_dict()
    assert [layer.state for layer in found.layers] == ["rounded", "rounded"]
    assert [layer.drift for layer in found.layers] == [0.0, 0.0]
    assert (document["stored"], document["rounded"], document["drifted"]) == (False, 2, 0)


def test_a_narrower_copy_with_another_sampled_value_is_drift(llama):
    def edit(tensors):
        narrow = cast_to(torch.bfloat16)(tensors)
        value = narrow[DOWN]
        nudge(value, int(positions(DOWN, tuple(value.shape))[3]))
        return narrow

    assert llama.states(llama.edited(edit)) == ["rounded", "drifted"]


def test_a_narrower_copy_that_lost_nothing_is_untouched(tmp_path):
    model = layers_model(dtype=torch.bfloat16).float()
    made = made_of(model, tmp_path)
    assert made.body.protected[0].dtype == "F32"
    assert made.states(made.edited(cast_to(torch.bfloat16))) == ["untouched", "untouched"]


def test_a_bf16_base_in_fp16_is_judged_by_its_values(bf16):
    """Neither dtype holds the other: what came through is proof, what did not is rounded."""

    def small(tensors):
        for value in tensors.values():
            value.mul_(1e-6)  # below what fp16 holds with 8 bits

    rounded = made_like(bf16, small)
    assert rounded.states(rounded.edited(cast_to(torch.float16))) == ["rounded", "rounded"]


def made_like(made: Made, edit: Any) -> Made:
    folder = made.edited(edit, "base-like")
    record = read_record(folder)
    body = made.body
    entries = {entry.name: entry for entry in record.entries}
    protected = tuple(entries[entry.name] for entry in body.protected)
    samples = {entry.name: record.samples[entry.name] for entry in protected}
    return Made(folder, replace(body, protected=protected, samples=samples), made.root)


# Tensors that are not as in the base


def test_missing_reshaped_and_additional_tensors_are_drift_and_are_named(llama):
    up, bias = "model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.o_proj.bias"

    def edit(tensors):
        del tensors[QUERY]
        tensors[up] = tensors[up].reshape(-1, 2).contiguous()
        tensors[bias] = torch.zeros(48)

    first, second = llama.inspect(llama.edited(edit)).layers
    assert (first.state, first.missing, first.reshaped) == ("drifted", (QUERY,), (up,))
    assert first.to_dict()["drift"] is None
    assert (second.state, second.unexpected, second.changed) == ("drifted", (bias,), ())
    assert second.drift == 0.0


def test_a_tensor_that_every_loader_recomputes_is_no_drift(llama):
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    assert llama.inspect(llama.edited(lambda t: t.update({name: torch.ones(8)}))).stored


@pytest.mark.parametrize(("norms", "state"), [("frozen", "drifted"), ("trainable", "untouched")])
def test_norms_count_where_they_are_protected(norms, state, tmp_path):
    made = made_of(layers_model("gemma2"), tmp_path, norms=norms)
    name = "model.layers.1.post_feedforward_layernorm.weight"
    found = made.inspect(made.edited(lambda tensors: nudge(tensors[name])))
    assert [layer.state for layer in found.layers] == [state, "untouched"]
    assert found.to_dict()["norms"] == norms


def test_an_attention_s_own_norm_counts_where_layer_norms_are_trainable(tmp_path):
    made = made_of(layers_model("qwen3"), tmp_path, norms="trainable")
    name = "model.layers.1.self_attn.q_norm.weight"
    assert made.states(made.edited(lambda t: nudge(t[name]))) == ["drifted", "untouched"]


# Experts, one by one or together


def fused(tensors):
    """Return a mixture's tensors as a live model holds them."""
    made = {name: value for name, value in tensors.items() if "block_sparse_moe" not in name}
    for layer in range(4):
        old, new = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        parts = [
            [tensors[f"{old}.experts.{index}.w{n}.weight"] for n in (1, 3, 2)] for index in range(3)
        ]
        made[f"{new}.gate.weight"] = tensors[f"{old}.gate.weight"]
        made[f"{new}.experts.gate_up_proj"] = torch.stack([torch.cat(p[:2]) for p in parts])
        made[f"{new}.experts.down_proj"] = torch.stack([p[2] for p in parts])
    return made


def test_experts_that_are_stored_together_are_found_one_by_one(mixtral):
    assert mixtral.states(mixtral.edited(fused)) == ["untouched", "untouched"]

    def edit(tensors):
        together = fused(tensors)
        nudge(together["model.layers.2.mlp.experts.gate_up_proj"][1, 80:])  # expert 1, w3
        return together

    found = mixtral.inspect(mixtral.edited(edit))
    assert [layer.state for layer in found.layers] == ["untouched", "drifted"]
    assert found.layers[1].changed == ("model.layers.2.block_sparse_moe.experts.1.w3.weight",)


def test_experts_that_are_stored_one_by_one_make_up_a_base_that_has_them_together(
    mixtral, tmp_path
):
    base = mixtral.edited(fused, "fused-base")
    made = Made(base, parse_body(layers_bundle(None, base)), tmp_path)
    name = "model.layers.2.mlp.experts.gate_up_proj"
    assert name in {entry.name for entry in made.body.protected}
    assert made.states(mixtral.base) == ["untouched", "untouched"]
    stored = "model.layers.2.block_sparse_moe.experts.1.w3.weight"
    found = made.inspect(mixtral.edited(lambda tensors: nudge(tensors[stored])))
    assert [layer.state for layer in found.layers] == ["untouched", "drifted"]
    assert found.layers[1].changed == (name,)
    lost = made.inspect(mixtral.edited(lambda tensors: tensors.pop(stored)))
    assert lost.layers[1].missing == (name,)


def test_one_expert_more_than_the_base_has_is_drift(mixtral):
    def edit(tensors):
        together = fused(tensors)
        for name in ("gate_up_proj", "down_proj"):
            whole = together[f"model.layers.1.mlp.experts.{name}"]
            together[f"model.layers.1.mlp.experts.{name}"] = torch.cat([whole, whole[:1]])
        return together

    first, second = mixtral.inspect(mixtral.edited(edit)).layers
    assert (first.state, second.state) == ("drifted", "untouched")
    assert first.unexpected == (
        "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts.gate_up_proj",
    )  # fmt: skip


# Adapters


def adapter_in(made: Made, tensors: Any, **config: Any) -> LayersInspection:
    folder = write_adapter(made.root / "adapter", tensors, lora_config(**config))
    with Adapter.open(folder) as adapter:
        record = effective_record(read_record(made.base), adapter)
    return inspect_adapter(record, made.body, sites_for(made.body.family))


def test_an_adapter_in_the_range_is_drift_of_the_layers_that_it_touches(llama):
    module = DOWN.removesuffix(".weight")
    tensors = factors(module, 48, 80, size=0.3)
    first, second = adapter_in(llama, tensors).layers
    assert (first.state, first.drift) == ("untouched", 0.0)
    assert (second.state, second.changed) == ("drifted", (DOWN,))
    base = load_file(llama.base / "model.safetensors").items()
    matrices = [value for name, value in base if ".layers.2." in name and value.ndim > 1]
    size = sum(float((value.double() ** 2).sum()) for value in matrices)
    change = float(np.linalg.norm(2 * product(tensors, module)))  # alpha 4, rank 2
    assert second.drift == pytest.approx(change / math.sqrt(size), rel=0.1)


def test_an_adapter_outside_the_range_leaves_it_untouched(llama):
    found = adapter_in(llama, factors("model.layers.3.self_attn.q_proj", 64, 48))
    assert found.stored
    assert found.to_dict()["untouched"] == 2


def test_an_adapter_whose_factors_are_zero_leaves_the_layer_untouched(llama):
    tensors = factors("model.layers.1.self_attn.q_proj", 64, 48)
    tensors = {
        name: tensor(np.zeros(item.shape)) if "lora_B" in name else item
        for name, item in tensors.items()
    }
    assert adapter_in(llama, tensors).stored


def test_a_tensor_that_an_adapter_holds_whole_is_the_base_s_or_drift(llama):
    name = "model.layers.1.input_layernorm.weight"
    base = load_file(llama.base / "model.safetensors")[name].numpy()
    for value, stored in ((base, True), (base * 2, False)):
        tensors = factors("model.layers.3.self_attn.q_proj", 64, 48)
        tensors[f"base_model.model.{name}"] = tensor(value)
        found = adapter_in(llama, tensors, modules_to_save=["input_layernorm"])
        assert found.stored is stored
    assert found.layers[0].changed == (name,)
    assert found.layers[0].drift == pytest.approx(1.0)
