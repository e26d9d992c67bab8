from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support.adapters import (
    CONFIG,
    DOWN1,
    EMBEDDING,
    PREFIX,
    Q0,
    WEIGHTS,
    factors,
    lora_config,
    product,
    write_adapter,
)
from support.tiny_models import (
    llama_config,
    make_tensors,
    qwen2_config,
    tensor,
    write_checkpoint,
    write_file,
)

from registry.checkpoint.adapter import Adapter, is_adapter
from registry.checkpoint.change import classify
from registry.checkpoint.effective import effective_record, misfits, touched
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.checkpoint.values import to_float64
from registry.errors import (
    CheckpointNotFoundError,
    CompatibilityError,
    EvidenceError,
    GeometryError,
    SchemaViolationError,
    UnsafeFormatError,
)

LLAMA = llama_config()
TENSORS = make_tensors(LLAMA)
TWO = factors(Q0, 64, 48) | factors(DOWN1, 48, 80, seed=1)
NORM = "model.layers.0.input_layernorm.weight"
Q0_WEIGHT, EMBEDDING_WEIGHT = f"{Q0}.weight", f"{EMBEDDING}.weight"


@pytest.fixture
def record(tmp_path):
    def write(tensors=TENSORS, config=LLAMA):
        folder = write_checkpoint(tmp_path / "model", config, tensors)
        with Checkpoint.open(folder) as checkpoint:
            measured = fingerprint(checkpoint)
        for file in folder.iterdir():
            file.unlink()
        return measured

    return write


@pytest.fixture
def merge(tmp_path):
    """Return the record of ``base`` with an adapter of these tensors and this config."""

    def merged(base, tensors, config=None):
        with Adapter.open(write_adapter(tmp_path / "lora", tensors, config)) as adapter:
            return effective_record(base, adapter)

    return merged


def changed(tensors, changes):
    """Return ``tensors`` with these float64 changes added."""
    return tensors | {
        name: tensor(tensors[name].values.astype(np.float64) + change)
        for name, change in changes.items()
    }


def require_same(effective, merged):
    """Check an effective record against that of the merged weights: every sampled value."""
    assert [e.name for e in effective.entries] == [e.name for e in merged.entries]
    for ours, truth in zip(effective.entries, merged.entries, strict=True):
        assert (ours.dtype, ours.shape) == (truth.dtype, truth.shape)
        values = to_float64(effective.samples[ours.name], ours.dtype)
        expected = to_float64(merged.samples[ours.name], truth.dtype)
        assert values == pytest.approx(expected, rel=1e-6, abs=1e-9), ours.name


def test_the_samples_are_those_of_the_merged_weights(record, merge):
    base = record()
    effective = merge(base, TWO)
    truth = {f"{name}.weight": 2 * product(TWO, name) for name in (Q0, DOWN1)}
    merged = record(changed(TENSORS, truth))
    require_same(effective, merged)
    got, expected = judge(base, effective), judge(base, merged)
    assert got.relation == "derived"
    assert got.distance == pytest.approx(expected.distance, rel=1e-6)
    assert got.changed == expected.changed == 2
    assert classify(base, effective).kind == classify(base, merged).kind


def test_the_scale_follows_the_patterns_and_rank_stabilisation(record, merge):
    tensors = factors(Q0, 64, 48, rank=4) | factors(DOWN1, 48, 80, seed=1)
    config = lora_config(
        use_rslora=True, rank_pattern={"q_proj": 4}, alpha_pattern={rf"^{Q0}": 16, "proj": 1}
    )
    truth = {
        f"{Q0}.weight": 16 / math.sqrt(4) * product(tensors, Q0),
        f"{DOWN1}.weight": 4 / math.sqrt(2) * product(tensors, DOWN1),
    }
    require_same(merge(record(), tensors, config), record(changed(TENSORS, truth)))


def test_the_first_pattern_that_matches_wins(record, merge):
    config = lora_config(alpha_pattern={"q.proj": 6, Q0: 100})
    truth = {f"{Q0}.weight": 3 * product(TWO, Q0)}
    effective = merge(record(), factors(Q0, 64, 48), config)
    require_same(effective, record(changed(TENSORS, truth)))


def test_factors_of_an_embedding_are_added_transposed(record, merge):
    random = np.random.default_rng(3)
    a, b = random.standard_normal((2, 96)), random.standard_normal((48, 2))
    tensors = {
        f"{PREFIX}{EMBEDDING}.lora_embedding_A": tensor(a),
        f"{PREFIX}{EMBEDDING}.lora_embedding_B": tensor(b),
        f"{PREFIX}{EMBEDDING}.base_layer.weight": TENSORS[EMBEDDING_WEIGHT],
    }
    a, b = (tensor(values).values.astype(np.float64) for values in (a, b))
    merged = record(changed(TENSORS, {EMBEDDING_WEIGHT: 2 * (b @ a).T}))
    require_same(merge(record(), tensors), merged)


def test_weights_that_are_stored_transposed_are_added_transposed(record, merge):
    config = {
        "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 32,
        "vocab_size": 96,
    }  # fmt: skip
    random = np.random.default_rng(4)
    shapes = {
        "wte.weight": (96, 64), "wpe.weight": (32, 64), "ln_f.weight": (64,), "ln_f.bias": (64,),
        "h.0.ln_1.weight": (64,), "h.0.ln_2.weight": (64,), "h.0.attn.c_attn.weight": (64, 192),
        "h.0.attn.c_attn.bias": (192,), "h.0.attn.c_proj.weight": (64, 64),
        "h.0.attn.c_proj.bias": (64,), "h.0.mlp.c_fc.weight": (64, 256),
        "h.0.mlp.c_fc.bias": (256,), "h.0.mlp.c_proj.weight": (256, 64),
        "h.0.mlp.c_proj.bias": (64,),
    }  # fmt: skip
    made = {
        f"transformer.{name}": tensor(0.02 * random.standard_normal(shape))
        for name, shape in shapes.items()
    }
    modules = {"transformer.h.0.attn.c_attn": (192, 64), "transformer.h.0.mlp.c_proj": (64, 256)}
    tensors = {k: v for name, shape in modules.items() for k, v in factors(name, *shape).items()}
    settings = lora_config(target_modules=["c_attn", "c_proj"], fan_in_fan_out=False)
    truth = {f"{name}.weight": 2 * product(tensors, name).T for name in modules}
    effective = merge(record(made, config), tensors, settings)
    require_same(effective, record(changed(made, truth), config))


def test_biases_are_added_and_replaced(record, merge):
    config = qwen2_config()
    made = make_tensors(config)
    made = {k: tensor(v.values + 0.1) if k.endswith("bias") else v for k, v in made.items()}
    bias, other = np.linspace(-1, 1, 64), np.linspace(-2, 2, 32)
    key = "model.layers.0.self_attn.k_proj.bias"
    tensors = factors(Q0, 64, 64) | {
        f"{PREFIX}{Q0}.lora_B.bias": tensor(bias),
        f"{PREFIX}{Q0}.base_layer.bias": made[f"{Q0}.bias"],
        f"{PREFIX}{key}": tensor(other),
    }
    truth = changed(made, {Q0_WEIGHT: 2 * product(tensors, Q0), f"{Q0}.bias": 2 * bias})
    effective = merge(record(made, config), tensors, lora_config(lora_bias=True, bias="all"))
    require_same(effective, record(truth | {key: tensor(other)}, config))


def test_a_tensor_that_is_held_whole_has_its_own_entry(record, merge):
    norm = tensor(np.linspace(0.5, 1.5, 48), "F16")
    tensors = TWO | {f"{PREFIX}{NORM}": norm}
    effective = merge(record(), tensors, lora_config(modules_to_save=["input_layernorm"]))
    merged = record(TENSORS | {NORM: norm})
    found = {entry.name: entry for entry in effective.entries}
    assert found[NORM] == {entry.name: entry for entry in merged.entries}[NORM]
    assert effective.samples[NORM] == merged.samples[NORM]


def test_an_embedding_that_was_resized_is_reshaped(record, merge):
    rows = np.concatenate([TENSORS[EMBEDDING_WEIGHT].values, np.ones((8, 48))])
    tensors = factors(Q0, 64, 48) | {f"{PREFIX}{EMBEDDING_WEIGHT}": tensor(rows)}
    tensors[f"{PREFIX}lm_head.weight"] = tensor(rows)
    base = record()
    found = judge(base, merge(base, tensors))
    assert (found.relation, found.reshaped) == ("derived", (EMBEDDING_WEIGHT,))


def test_factors_of_zero_change_nothing(record, merge):
    base = record()
    zero = {k: tensor(0 * v.values) if "lora_B" in k else v for k, v in TWO.items()}
    assert merge(base, zero) == base


def test_an_effective_record_agrees_with_itself(record, merge):
    small = llama_config(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, vocab_size=40,
    )  # fmt: skip
    effective = merge(record(make_tensors(small), small), factors(Q0, 16, 16))
    assert BaseRecord.from_tensors(effective.to_tensors()) == effective


def test_a_sample_that_is_not_finite_is_never_near(record, merge):
    a = f"{PREFIX}{Q0}.lora_A.weight"
    tensors = TWO | {a: tensor(np.full((2, 48), np.nan))}
    base = record()
    assert judge(base, merge(base, tensors)).distance == math.inf


def test_norms_ranks_and_layers_of_what_is_touched(record, tmp_path):
    base = record()
    with Adapter.open(write_adapter(tmp_path / "lora", TWO)) as adapter:
        found = touched(base, adapter)
    assert [(item.weight, item.layer, item.rank) for item in found] == [
        (Q0_WEIGHT, 0, 2),
        (f"{DOWN1}.weight", 1, 2),
    ]
    for item, name in zip(found, (Q0, DOWN1), strict=True):
        norm = np.linalg.norm(2 * product(TWO, name))
        assert item.norm == pytest.approx(norm, rel=1e-12)
        size = np.linalg.norm(TENSORS[item.weight].values.astype(np.float64))
        assert item.relative == pytest.approx(norm / size, rel=0.05)


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("size", [1e-200, 1e-3, 1.0, 1e100])
def test_a_norm_is_that_of_orthogonal_factors_to_a_millionth(tmp_path, rank, size):
    random = np.random.default_rng(rank)
    a, b = size * random.standard_normal((rank, 48)), random.standard_normal((64, rank)) / size
    b[:, -1] *= 1e-3  # columns of other sizes, and rows that are much alike
    a[1:] = a[:1] + 1e-2 * a[1:]
    names = (f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight")
    tensors = dict(zip(names, (tensor(a, "F64"), tensor(b, "F64")), strict=True))
    outer, inner = np.linalg.qr(b / 4, mode="r"), np.linalg.qr(a.T, mode="r")
    config = lora_config(r=rank, lora_alpha=rank)
    with Adapter.open(write_adapter(tmp_path, tensors, config)) as adapter:
        norm = adapter.norm(adapter.modules[0])
    assert norm == pytest.approx(4 * np.linalg.norm(outer @ inner.T), rel=1e-6)


def test_a_norm_is_0_only_where_no_column_meets_a_row(tmp_path):
    a, b = (f"{PREFIX}{Q0}.lora_{letter}.weight" for letter in "AB")
    low, high = np.array([[0.0], [1.0]]), np.array([[1.0, 0.0]])
    apart = {a: tensor(low @ np.ones((1, 48))), b: tensor(np.ones((64, 1)) @ high)}
    beside = apart | {b: tensor(np.ones((64, 1)) @ (high + 1e-30))}
    for tensors, expected in ((apart, 0.0), (beside, 2e-30 * math.sqrt(64 * 48))):
        with Adapter.open(write_adapter(tmp_path, tensors)) as adapter:
            assert adapter.norm(adapter.modules[0]) == pytest.approx(expected, rel=1e-6)


def test_an_abliteration_is_called_one(record, merge):
    config = llama_config(num_hidden_layers=6)
    made = make_tensors(config)
    direction = np.random.default_rng(5).standard_normal(48)
    direction /= np.linalg.norm(direction)
    tensors = {}
    for layer in range(6):
        for role in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{role}"
            weight = made[f"{name}.weight"].values
            tensors[f"{PREFIX}{name}.lora_A.weight"] = tensor((direction @ weight)[None])
            tensors[f"{PREFIX}{name}.lora_B.weight"] = tensor(-direction[:, None])
    base = record(made, config)
    effective = merge(base, tensors, lora_config(r=1, lora_alpha=1))
    assert classify(base, effective).kind == "abliterated"


def digest_of(folder, tensors=TWO, config=None):
    with Adapter.open(write_adapter(folder, tensors, config)) as adapter:
        return adapter.digest


def test_the_digest_is_that_of_what_it_does(tmp_path):
    digest = digest_of(tmp_path)
    assert digest_of(tmp_path, TWO, lora_config(r=2, lora_alpha=4.0, lora_dropout=0.5)) == digest
    assert digest_of(tmp_path, TWO, lora_config(alpha_pattern={"q_proj": 4})) == digest
    assert digest_of(tmp_path, TWO, lora_config(lora_alpha=5)) != digest
    name = f"{PREFIX}{Q0}.lora_A.weight"
    assert digest_of(tmp_path, TWO | {name: TWO[name].flip_bit(7)}) != digest


def test_a_folder_with_a_models_weights_is_no_adapter(tmp_path):
    folder = write_adapter(tmp_path / "lora", TWO)
    assert is_adapter(folder)
    write_file(folder / "model-00001-of-00002.safetensors", {})
    assert not is_adapter(folder)
    assert not is_adapter(tmp_path)


def test_a_config_beside_an_adapter_does_not_rename_its_tensors(tmp_path):
    folder = write_adapter(tmp_path / "lora", TWO)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with Adapter.open(folder) as adapter:
        assert [module.name for module in adapter.modules] == [Q0, DOWN1]


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=rf"expected {CONFIG} in .*, found none"):
        Adapter.open(tmp_path)
    folder = write_adapter(tmp_path / "lora", TWO)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointNotFoundError, match=rf"expected {WEIGHTS} in .*, found none"):
        Adapter.open(folder)


def test_a_config_that_changes_meanwhile_is_refused(record, tmp_path):
    base = record()
    folder = write_adapter(tmp_path / "lora", TWO)
    with Adapter.open(folder) as adapter:
        (folder / CONFIG).write_text("{}")
        with pytest.raises(EvidenceError, match="expected it to stay as it was"):
            effective_record(base, adapter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type: expected LORA, got 'LOHA'"),
        ({"use_dora": True}, "use_dora: expected it to be off, got True"),
        ({"layer_replication": [[0, 1]]}, "layer_replication: expected it to be off"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: expected it to be off"),
        ({"target_parameters": ["x"]}, "target_parameters: expected it to be off"),
        ({"something_new": {"a": 1}}, "something_new: expected it to be off, got {'a': 1}"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' edits the base"),
        ({"target_modules": ".*_proj"}, "target_modules: expected names, got a regular"),
        ({"exclude_modules": "(a+)+"}, "exclude_modules: expected names, got a regular"),
        ({"rank_pattern": {"(a+)+": 1}}, "rank_pattern: expected names, got a regular"),
    ],
)  # fmt: skip
def test_another_method_than_a_plain_lora_is_refused(tmp_path, change, said):
    folder = write_adapter(tmp_path / "lora", TWO, lora_config(**change))
    with pytest.raises(CompatibilityError) as caught:
        Adapter.open(folder)
    assert type(caught.value) is CompatibilityError
    assert "expected a plain LoRA, got 1 settings of another kind:" in caught.value.message
    assert said in caught.value.message
    assert "merge_and_unload()" in caught.value.hint


def test_every_field_of_another_form_is_told(tmp_path):
    config = lora_config(
        r=0, lora_alpha="4", bias="some", use_rslora=1, target_modules=[1], lora_bias="no",
        layers_to_transform=[-1], rank_pattern={"q_proj": 2.5}, alpha_pattern=[1],
        modules_to_save="norm",
    )  # fmt: skip
    with pytest.raises(SchemaViolationError) as caught:
        Adapter.open(write_adapter(tmp_path / "lora", TWO, config))
    assert caught.value.violations == [
        "$.alpha_pattern: expected an object of at most 1,024 members",
        "$.bias: expected none, all or lora_only, got 'some'",
        "$.layers_to_transform: expected layers, got [-1]",
        "$.lora_alpha: expected a number, got '4'",
        "$.lora_bias: expected true or false, got 'no'",
        "$.modules_to_save: expected a list of names, got 'norm'",
        "$.r: expected a rank of 1 to 4,096, got 0",
        "$.rank_pattern['q_proj']: expected a rank of 1 to 4,096, got 2.5",
        "$.target_modules: expected a list of names, got [1]",
        "$.use_rslora: expected true or false, got 1",
    ]


def without(tensors, end):
    return {name: item for name, item in tensors.items() if not name.endswith(end)}


ONE = factors(Q0, 64, 48)
ZERO = tensor(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("tensors", "change", "said"),
    [
        (without(ONE, "lora_B.weight"), {}, f"'{Q0}': expected A and B, got A"),
        ({}, {}, "no factors at all"),
        (ONE | {"model.norm.weight": ZERO}, {}, "expected a name that begins with base_model"),
        (ONE | {f"{PREFIX}{Q0}.lora_magnitude_vector": ZERO}, {}, "a tensor that no plain LoRA"),
        (ONE | {f"{PREFIX}{Q0}.lora_A.default.weight": ZERO}, {}, "a tensor that no plain LoRA"),
        (ONE | {f"{PREFIX}model.norm.weight": ZERO}, {}, "neither in modules_to_save nor as a"),
        (ONE | {f"{PREFIX}{Q0}.weight": ZERO}, {}, "has factors, so no loader finds the tensor"),
        (
            ONE | {f"{PREFIX}{DOWN1}.base_layer.weight": ZERO},
            {},
            "has no factors, so no loader finds the tensor",
        ),
        (ONE | {f"{PREFIX}{Q0}.lora_B.bias": ZERO}, {}, "expected A and B, got A and B and bias"),
        (
            ONE
            | {f"{PREFIX}{EMBEDDING}.base_layer.weight": ZERO}
            | {f"{PREFIX}{EMBEDDING_WEIGHT}": ZERO},
            {},
            f"a second tensor that replaces {EMBEDDING_WEIGHT}",
        ),
        (
            ONE | {f"{PREFIX}{Q0}.lora_B.bias": ZERO},
            {"lora_bias": True},
            "expected a bias of [64], got [2, 2]",
        ),
        (ONE, {"lora_bias": True}, "expected A and B and bias of B, got A and B"),
        (ONE | {f"{PREFIX}{Q0}.base_layer.bias": ZERO}, {}, "neither in modules_to_save nor as a"),
        (ONE, {"r": 3}, "expected A of [3, inputs] and B of [outputs, 3], as adapter_config"),
        (ONE, {"rank_pattern": {"q_proj": 1}}, "expected A of [1, inputs] and B of [outputs, 1]"),
        (ONE, {"target_modules": ["k_proj"]}, "does not name it in target_modules"),
        (ONE, {"target_modules": ["proj"]}, "does not name it in target_modules"),
        (ONE, {"exclude_modules": ["q_proj"]}, "does not name it in target_modules"),
        (ONE, {"modules_to_save": ["self_attn"]}, "does not name it in target_modules"),
        (ONE, {"layers_to_transform": 1}, "does not name it in target_modules"),
        (ONE, {"layers_to_transform": [0], "layers_pattern": "h"}, "does not name it in target"),
        (
            ONE | {f"{PREFIX}{Q0}.lora_A.weight": replace(ZERO, dtype="I32")},
            {},
            "expected a float of 16 bits or more, got I32",
        ),
    ],
)
def test_a_tensor_that_the_config_does_not_describe_is_refused(tmp_path, tensors, change, said):
    folder = write_adapter(tmp_path / "lora", tensors, lora_config(**change))
    with pytest.raises(UnsafeFormatError) as caught:
        Adapter.open(folder)
    message = caught.value.message
    assert f"{WEIGHTS}: expected the tensors that {CONFIG} describes" in message
    assert said in message


def test_layers_are_counted_as_peft_counts_them(tmp_path):
    for change in ({"layers_to_transform": [0]}, {"layers_pattern": ["layers"]}):
        config = lora_config(**{"layers_to_transform": 0} | change)
        assert digest_of(tmp_path, ONE, config) == digest_of(tmp_path, ONE)
    assert digest_of(tmp_path, ONE, lora_config(target_modules="all-linear"))


def test_an_adapter_for_another_base_is_refused_with_every_tensor(record, tmp_path):
    base = record()
    tensors = factors(Q0, 64, 64) | factors("model.layers.9.mlp.up_proj", 80, 48)
    config = lora_config(target_modules=["q_proj", "up_proj"])
    with Adapter.open(write_adapter(tmp_path / "lora", tensors, config)) as adapter:
        expected = [
            f"{Q0}.weight: the base has [64, 48], the adapter is for [64, 64]",
            "model.layers.9.mlp.up_proj.weight: expected it in the base, found none",
        ]
        assert misfits(base, adapter) == expected
        with pytest.raises(GeometryError) as caught:
            effective_record(base, adapter)
    assert caught.value.message == (
        "expected an adapter for this base (llama, 2 layers, width 48), got 2 tensors that do not "
        "fit:\n  " + "\n  ".join(expected)
    )


def test_a_tied_head_cannot_change_alone(record, tmp_path):
    base = record()
    head = tensor(np.ones((96, 48)))
    for tensors in (factors("lm_head", 96, 48), ONE | {f"{PREFIX}lm_head.weight": head}):
        with Adapter.open(write_adapter(tmp_path / "lora", tensors)) as adapter:
            assert misfits(base, adapter) == ["lm_head.weight: expected it in the base, found none"]


def test_factors_of_the_wrong_kind_are_refused(record, tmp_path):
    base = record()
    a, b = tensor(np.ones((2, 64))), tensor(np.ones((48, 2)))
    square = {f"{PREFIX}{Q0}.lora_embedding_A": a, f"{PREFIX}{Q0}.lora_embedding_B": b}
    with Adapter.open(write_adapter(tmp_path / "lora", square)) as adapter:
        assert misfits(base, adapter) == [
            f"{Q0}.weight: factors of a matrix and of an embedding are mixed up"
        ]


def test_an_integer_weight_of_the_base_is_refused(record, tmp_path):
    whole = tensor(np.ones((64, 48)), "I8")
    base = record(TENSORS | {Q0_WEIGHT: whole})
    with Adapter.open(write_adapter(tmp_path / "lora", ONE)) as adapter:
        assert misfits(base, adapter) == [f"{Q0}.weight: the base holds I8, which is no float"]
