"""Hostile adapters: each is refused whole, by one error of ours, before its factors are read.

docs/hostile-inputs.md is the list; headers are those of checkpoints and refused like them.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct

import numpy as np
import pytest
from support.adapters import CONFIG, PREFIX, Q0, WEIGHTS, factors, lora_config, write_adapter
from support.refusals import refusal
from support.tiny_models import llama_config, qwen2_config, tensor, write_checkpoint

from registry.checkpoint.adapter import Adapter, is_adapter
from registry.checkpoint.effective import effective_record, touched
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import Checkpoint
from registry.errors import (
    CheckpointNotFoundError,
    CompatibilityError,
    GeometryError,
    SchemaViolationError,
    UnsafeFormatError,
)

ONE = factors(Q0, 64, 48)


def refused(folder, *said, kind=UnsafeFormatError):
    return refusal(kind, lambda: Adapter.open(folder).close(), *said)


def test_rank_of_a_thousand_million(tmp_path):
    for change in ({"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}):
        folder = write_adapter(tmp_path, ONE, lora_config(**change))
        said = "expected a rank of 1 to 4,096, got 1000000000"
        refused(folder, said, kind=SchemaViolationError)


def test_factors_that_are_swapped(tmp_path):
    a, b = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"
    folder = write_adapter(tmp_path, {a: ONE[b], b: ONE[a]})
    refused(folder, "expected A of [2, inputs] and B of [outputs, 2]", "got [64, 2] and [2, 48]")


def test_pickled_adapter(tmp_path):
    folder = write_adapter(tmp_path, ONE)
    (folder / WEIGHTS).unlink()

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert is_adapter(folder)
    refused(folder, "found adapter_model.bin, a pickle", kind=CheckpointNotFoundError)
    with pytest.raises(CheckpointNotFoundError) as caught:
        Checkpoint.open(folder)
    assert str(caught.value.hint).startswith("Pickled weights are never opened.")
    assert not (tmp_path / "ran").exists()


def test_adapter_for_another_model(tmp_path):
    with Checkpoint.open(write_checkpoint(tmp_path / "model", llama_config())) as checkpoint:
        base = fingerprint(checkpoint)
    with Adapter.open(write_adapter(tmp_path / "lora", factors(Q0, 4096, 4096))) as adapter:
        said = "the base has [64, 48], the adapter is for [4096, 4096]"
        refusal(GeometryError, lambda: effective_record(base, adapter), said)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": "(([a-z_.0-9]+)+)+!"},
        {"exclude_modules": "(([a-z_.0-9]+)+)+!"},
        {"rank_pattern": {"(([a-z_.0-9]+)+)+!": 2}},
        {"alpha_pattern": {"(([a-z_.0-9]+)+)+!": 2}},
    ],
)
def test_expression_that_runs_for_ever(tmp_path, change):
    folder = write_adapter(tmp_path, ONE, lora_config(**change))
    refused(folder, "expected names, got a regular expression", kind=CompatibilityError)


@pytest.mark.timeout(60)
def test_thousand_patterns_for_thousands_of_modules(tmp_path):
    one = tensor(np.ones((1, 1)))
    modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2000)]
    names = [f"{PREFIX}{name}.lora_{letter}.weight" for name in modules for letter in "AB"]
    config = lora_config(r=1, rank_pattern={f"x{number}": 1 for number in range(1024)})
    folder = write_adapter(tmp_path, dict.fromkeys(names, one), config)
    refused(folder, "too many patterns for 2,000 modules")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_pattern_of_dots_against_a_name_of_dots(tmp_path, field):
    key, module = "." * 500_000 + "x", "." * 1_000_000
    folder = write_adapter(tmp_path, factors(module, 64, 48), lora_config(**{field: {key: 2}}))
    said = "expected the fields of a LoRA, got 1 of another form"
    error = refused(folder, said, kind=SchemaViolationError)
    assert error.violations == [
        f"$.{field}: expected names of at most 512 characters, got one of 500,001"
    ]


@pytest.mark.timeout(20)
def test_names_of_dots_that_are_just_short_enough(tmp_path):
    one = tensor(np.ones((1, 1)))
    modules = [f"{'.' * 470}{number}" for number in range(1000)]
    names = [f"{PREFIX}{name}.lora_{letter}.weight" for name in modules for letter in "AB"]
    patterns = {f"{'.' * 250}{number}x": 1 for number in range(1000)}
    folder = write_adapter(
        tmp_path, dict.fromkeys(names, one), lora_config(r=1, rank_pattern=patterns)
    )
    refused(folder, "got 1000 contradictions", "does not name it in target_modules")


@pytest.mark.timeout(20)
def test_tensor_name_of_40000_parts(tmp_path):
    long = f"{PREFIX}{'a.' * 40_000}weight"
    config = lora_config(modules_to_save=["norm"])
    folder = write_adapter(tmp_path, ONE | {long: tensor(np.ones(1))}, config)
    refused(folder, "got 1 contradictions", "expected a name of at most 512 characters, got 80,023")


@pytest.mark.timeout(60)
def test_hundred_thousand_targets_for_thousands_of_modules(tmp_path):
    one = tensor(np.ones((1, 1)))
    modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(5000)]
    names = [f"{PREFIX}{name}.lora_{letter}.weight" for name in modules for letter in "AB"]
    many = [f"x{number}" for number in range(50_000)]
    config = lora_config(r=1, target_modules=[*many, "q_proj"], exclude_modules=many)
    folder = write_adapter(tmp_path, dict.fromkeys(names, one), config)
    with Adapter.open(folder) as adapter:
        assert len(adapter.modules) == 5000
    (folder / CONFIG).write_text(json.dumps(lora_config(r=1, modules_to_save=many)))
    refused(folder, "too many patterns for 5,000 modules")


def test_adapter_that_fits_nothing_has_its_factors_left_alone(tmp_path, monkeypatch):
    with Checkpoint.open(write_checkpoint(tmp_path / "model", llama_config())) as checkpoint:
        base = fingerprint(checkpoint)
    monkeypatch.delattr(Adapter, "factors")
    with Adapter.open(write_adapter(tmp_path / "lora", factors(Q0, 4096, 4096))) as adapter:
        refusal(GeometryError, lambda: effective_record(base, adapter), "4096")


def cancelling(size):
    """Return factors that cancel to 2^-40 of what they are, in float64, and that times size."""
    a, b = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"
    rows = np.array([[1.0], [-1.0 - 2.0**-40]]) @ np.ones((1, 48))
    return {a: tensor(size * rows, "F64"), b: tensor(size * np.ones((64, 2)), "F64")}


@pytest.mark.parametrize(("size", "alpha"), [(1.0, 2.0**41), (2.0**-300, 2.0**641)])
def test_change_that_hides_in_the_rounding_of_its_norm(tmp_path, size, alpha):
    with Checkpoint.open(write_checkpoint(tmp_path / "model", llama_config())) as checkpoint:
        base = fingerprint(checkpoint)
    folder = write_adapter(tmp_path / "lora", cancelling(size), lora_config(lora_alpha=alpha))
    with Adapter.open(folder) as adapter:
        assert adapter.norm(adapter.modules[0]) > 0
        changed = effective_record(base, adapter)
    assert judge(base, changed).relation != "identical"
    assert changed.samples[f"{Q0}.weight"] != base.samples[f"{Q0}.weight"]


def test_all_linear_that_is_said_to_hold_the_embedding_or_the_head(tmp_path):
    config = lora_config(target_modules="all-linear")
    a, b = tensor(np.ones((2, 96))), tensor(np.ones((48, 2)))
    tables = [{f"{PREFIX}{name}.lora_embedding_A": a, f"{PREFIX}{name}.lora_embedding_B": b}
              for name in ("model.embed_tokens", "transformer.wpe")]  # fmt: skip
    linear = [
        factors(name, 96, 48) for name in ("lm_head", "model.embed_tokens", "transformer.wte")
    ]
    for decoy in (*tables, *linear):
        folder = write_adapter(tmp_path, ONE | decoy, config)
        refused(folder, "got 1 contradictions", "does not name it in target_modules")
    with Adapter.open(write_adapter(tmp_path, ONE, config)) as adapter:
        assert [module.name for module in adapter.modules] == [Q0]


@pytest.mark.filterwarnings("error")
def test_scale_beyond_every_number(tmp_path):
    model = write_checkpoint(tmp_path / "model", qwen2_config())
    with Checkpoint.open(model) as checkpoint:
        base = fingerprint(checkpoint)
    tensors = factors(Q0, 64, 64, size=50.0) | {
        f"{PREFIX}{Q0}.lora_B.bias": tensor(np.full(64, 50.0))
    }
    config = lora_config(lora_alpha=1e308, lora_bias=True)
    with Adapter.open(write_adapter(tmp_path / "lora", tensors, config)) as adapter:
        found = judge(base, effective_record(base, adapter))
        (item,) = touched(base, adapter)
    assert (found.is_descendant, found.distance) == (False, math.inf)
    assert (item.norm, item.to_dict()["norm"]) == (math.inf, None)


@pytest.mark.timeout(20)
def test_factor_of_a_terabyte(tmp_path):
    folder = write_adapter(tmp_path, ONE)
    width, size = 1 << 37, 1 << 40
    header = {
        f"{PREFIX}{Q0}.lora_A.weight": ("F32", [2, width], 0, size),
        f"{PREFIX}{Q0}.lora_B.weight": ("F32", [64, 2], size, size + 512),
    }
    text = json.dumps(
        {
            name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
            for name, (dtype, shape, begin, end) in header.items()
        }
    ).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(folder / WEIGHTS, 8 + len(text) + size + 512)
    refused(folder, "expected factors of at most 67,108,864 elements")


def test_weight_that_the_config_does_not_tell_of(tmp_path):
    other = f"{PREFIX}model.layers.1.mlp.down_proj.weight"
    folder = write_adapter(tmp_path, ONE | {other: tensor(np.ones((48, 80)))})
    refused(folder, "neither in modules_to_save nor as a bias")


def test_factors_that_no_loader_would_use(tmp_path):
    decoy = factors("model.layers.1.mlp.up_proj", 80, 48)
    refused(write_adapter(tmp_path, ONE | decoy), "does not name it in target_modules")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.timeout(20)
def test_file_of_an_adapter_that_is_no_file(tmp_path, name):
    folder = write_adapter(tmp_path, ONE)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert is_adapter(folder) == (name == WEIGHTS)
    kind = UnsafeFormatError if name == CONFIG else CheckpointNotFoundError
    refused(folder, "expected", name, kind=kind)


@pytest.mark.timeout(20)
def test_adapter_config_of_a_terabyte(tmp_path):
    folder = write_adapter(tmp_path, ONE)
    os.truncate(folder / CONFIG, 1 << 40)
    refused(folder, "expected at most 1,048,576 bytes")


@pytest.mark.parametrize("text", ['{"r": 2, "r": 4}', '{"r": NaN}', "[" * 100 + "]" * 100, "[]"])
def test_adapter_config_that_is_not_strict_json(tmp_path, text):
    folder = write_adapter(tmp_path, ONE)
    (folder / CONFIG).write_text(text)
    kind = SchemaViolationError if text == "[]" else UnsafeFormatError
    refused(folder, CONFIG, kind=kind)
