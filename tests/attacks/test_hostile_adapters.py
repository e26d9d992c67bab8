"""Hostile adapters: each is refused whole, by one error of ours, before its factors are read.

docs/hostile-inputs.md is the list; headers are those of checkpoints and refused like them.
"""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import pytest
from support.adapters import CONFIG, PREFIX, Q0, WEIGHTS, factors, lora_config, write_adapter
from support.refusals import refusal
from support.tiny_models import llama_config, tensor, write_checkpoint

from registry.checkpoint.adapter import Adapter, is_adapter
from registry.checkpoint.effective import effective_record
from registry.checkpoint.fingerprint import fingerprint
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
    assert not is_adapter(folder)
    refused(folder, "found adapter_model.bin, a pickle", kind=CheckpointNotFoundError)
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
    refused(folder, "expected factors of at most 268,435,456 elements")


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
    assert not is_adapter(folder)
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
