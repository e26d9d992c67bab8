"""The official ``.safelock`` files: exact values, every broken rule at once, and what a base must have.

The official files are read where they are; synthetic ones of the same form always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.locks import read_record
from support.refusals import refusal
from support.safelocks import NAME, NEMO, OFFICIAL, a_lock, layers_of, safelock, vectors
from support.tiny_models import llama_config, write_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from registry.checkpoint.geometry import Geometry
from registry.errors import GeometryError, SchemaViolationError
from registry.kinds.safety_lock._safelock import parse_imported, read_safelock
from registry.kinds.safety_lock.apply import apply, input_shifts, output_shifts, undo
from registry.kinds.safety_lock.verify import verify
from registry.live.capture import shifted_inputs
from registry.live.sites import attention_outputs, model_geometry

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Official:
    """What methods were published with a file: its table row and its head list."""

    layers: str
    order: tuple[int, ...]
    sigma: tuple[float, float, float]
    norms: tuple[float, float]


OFFICIALS = {
    "Meta-Llama-3-70B-Instruct_48.safelock": Official(
        "14:1; 21:42; 26:33,38,50; 27:27,59; 30:5,7; 31:57,62; 32:1,4; 33:31,58,60,62; "
        "34:3,24,30,46; 35:12; 36:0,33,38,39; 38:56,57,58,62,63; 60:11; 66:0,1; 70:24; 72:22,23; "
        "75:49,52; 76:4,32,45; 77:57,59,62; 78:10; 79:1,26",
        (66, 78, 38, 26, 77, 79, 36, 30, 70, 75, 72, 33, 21, 32, 34, 76, 31, 14, 35, 27, 60),
        (0.0307, 0.1918, 0.5171), (0.99935, 1.00053),
    ),
    "Meta-Llama-3-8B-Instruct.safelock": Official(
        "7:20; 10:9; 11:17,30; 12:0,15,21,23; 13:29,31; 14:9,11; 16:7,28,29,31; 24:13,14; 25:1; "
        "27:14; 30:6; 31:15,26,27",
        (12, 16, 13, 11, 24, 27, 7, 14, 31, 30, 25, 10),
        (0.0959, 0.3718, 0.7378), (0.99952, 1.00036),
    ),
    "Meta-Llama-3__1-8B-Instruct.safelock": Official(
        "7:20; 8:7; 10:9; 11:16,19; 12:15,20,21,23; 13:24,29; 14:8; 16:16,17,28,29; 24:13,29; "
        "27:14; 30:6,23; 31:12,15,26",
        (12, 13, 7, 8, 16, 31, 24, 11, 14, 27, 30, 10),
        (0.1456, 0.3789, 1.6514), (0.99959, 1.00036),
    ),
    "Mistral_Nemo_12B.safelock": Official(
        "12:5; 14:18; 15:23,25,26; 16:5,14,19; 17:17; 18:0,1,3,9,14,15,27; 21:0; 22:22; 30:25; "
        "36:25; 38:2; 39:0,12,13",
        (16, 39, 18, 22, 38, 12, 21, 36, 30, 15, 17, 14),
        (0.5571, 1.1416, 5.7969), (0.99952, 1.00041),
    ),
}  # fmt: skip


def official(name: str) -> bytes:
    path = OFFICIAL / name
    if not path.is_file():
        pytest.skip(f"no official file at {path}: set SAFELATCH_TEST_SAFELOCKS")
    return path.read_bytes()


@pytest.mark.parametrize("name", OFFICIALS)
def test_an_official_file_says_what_was_published_of_it(name: str) -> None:
    lock, told = read_safelock(official(name), what=name), OFFICIALS[name]
    said = lock.describe()
    assert said["layers"] == told.layers
    assert tuple(dict.fromkeys(layer for layer, _ in lock.heads)) == told.order
    assert said["head_count"] == len(lock.heads) == (48 if "_48" in name else 24)
    assert (lock.head_dim, lock.directions.dtype, lock.sigma.dtype) == (128, np.float32, np.float32)
    figures = [said[f"sigma_{which}"] for which in ("min", "median", "max")]
    assert figures == pytest.approx(told.sigma, abs=5.1e-5)
    assert [said["norm_min"], said["norm_max"]] == pytest.approx(told.norms, abs=5.1e-6)
    assert (lock.directions.astype(np.float16).astype(np.float32) == lock.directions).all()
    assert said["sign"] == "toward-refusal"


def test_nemo_of_the_tests_has_the_heads_of_the_official_one() -> None:
    assert read_safelock(official("Mistral_Nemo_12B.safelock"), what="x").heads == NEMO


def test_every_value_is_kept_exactly_in_the_order_of_the_file() -> None:
    heads = ((7, 3), (7, 5), (2, 9), (4, 0))
    directions, sigma = vectors(4, 32), np.array([0.1, 5.7969, 0.0307, 2], dtype=np.float16)
    lock = read_safelock(safelock(layers_of(heads, directions, sigma)), what="x")
    assert lock.heads == heads
    assert lock.directions.tobytes() == directions.astype(np.float32).tobytes()
    assert lock.sigma.tobytes() == sigma.astype(np.float32).tobytes()
    again = parse_imported(lock.to_tensors())
    assert again.heads == lock.heads
    assert again.describe() == lock.describe()


def broken(**changes: object) -> dict[str, list[object]]:
    """Return a lock whose only row of layer 0 has these parts changed."""
    parts = {"head": np.int64(2), "direction": vectors(1, 16)[0], "sigma": np.float16(1)} | changes
    return {NAME.format(0): [tuple(parts.values())]}


def long(factor: float) -> np.ndarray:
    return (vectors(1, 16)[0].astype(np.float64) * factor).astype(np.float16)


NAN = vectors(1, 16)[0]
NAN[3] = np.nan


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (broken(head=np.int32(2)), "layer 0, entry 0: head: expected int64 in no dimension, got another"),
        (broken(head=np.int64(-1)), "layer 0, entry 0: expected a head from 0 to 9999, got -1"),
        (broken(head=np.int64(2**40)), "expected a head from 0 to 9999, got 1099511627776"),
        (broken(direction=np.ones(16, np.float32) / 4), "direction: expected float16 in one dimension"),
        (broken(direction=np.float16(1)), "direction: expected float16 in one dimension, got float16 []"),
        (broken(direction=np.zeros((1, 16), np.float16)), "direction: expected float16 in one dim"),
        (broken(direction=long(1.01)), "head 0:2: expected a direction of length 1, got 1.01"),
        (broken(direction=long(-0.5)), "head 0:2: expected a direction of length 1, got 0.5"),
        (broken(direction=NAN), "head 0:2: expected a direction of finite values, got NaN or infinity"),
        (broken(sigma=np.float64(1)), "sigma: expected float16 in no dimension"),
        (broken(sigma=np.float16(0)), "head 0:2: expected a finite sigma above 0, got 0"),
        (broken(sigma=np.float16(-0.5)), "head 0:2: expected a finite sigma above 0, got -0.5"),
        (broken(sigma=np.float16(np.inf)), "head 0:2: expected a finite sigma above 0, got inf"),
        (broken(sigma=np.float16(np.nan)), "head 0:2: expected a finite sigma above 0, got nan"),
        ({"model.layers.01.self_attn.head_out": []}, "'model.layers.01.self_attn.head_out': expected"),
        ({"model.layers.1.mlp": []}, "expected model.layers.L.self_attn.head_out with a list of heads"),
        ({NAME.format("1\n"): []}, "expected model.layers.L.self_attn.head_out with a list of heads"),
        ({NAME.format(1): []}, "expected model.layers.L.self_attn.head_out with a list of heads"),
    ],
)  # fmt: skip
def test_a_value_that_is_no_lock_is_refused(value: dict[str, list[object]], said: str) -> None:
    refusal(SchemaViolationError, lambda: read_safelock(safelock(value), what="x"), said)


def test_all_findings_are_told_at_once() -> None:
    rows = [(np.int64(1), long(2), np.float16(0)), (np.int64(1), NAN, np.float16(1))]
    error = refusal(
        SchemaViolationError, lambda: read_safelock(safelock({NAME.format(3): rows}), what="x.safelock"),
        "x.safelock: expected the values of a lock, 4 rule(s) are broken; nothing of it was executed.",
        "head 3:1 appears 2 times", "length 1, got 2.00", "a finite sigma above 0, got 0", "NaN",
    )  # fmt: skip
    assert len(error.violations) == 4


def test_directions_of_two_lengths_are_refused() -> None:
    value = {**a_lock(((0, 1),), width=8), **a_lock(((1, 1),), width=16)}
    refusal(
        SchemaViolationError,
        lambda: read_safelock(safelock(value), what="x"),
        "expected directions of one length, got [8, 16]",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": np.zeros((2, 2), np.int64)}, "heads: expected ('int32', (2, 2)), got ('int64'"),
        ({"heads": np.zeros((2, 2), np.int32)}, "head 0:0 appears 2 times"),
        ({"heads": np.array([[0, 1], [-1, 2]], np.int32)}, "head -1:2: expected a layer and a head from"),
        ({"directions": np.ones(2, np.float32)}, "directions: expected"),
        ({"more": np.ones(2, np.float32)}, "more: expected None"),
        ({"directions": np.zeros((0, 0), np.float32)}, "heads: expected"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_imported_lock_are_refused(
    change: dict[str, np.ndarray], said: str
) -> None:
    tensors = {**read_safelock(safelock(a_lock()), what="x").to_tensors(), **change}
    refusal(SchemaViolationError, lambda: parse_imported(tensors), said)


def test_a_base_without_its_heads_is_refused_with_every_value() -> None:
    lock = read_safelock(safelock(a_lock(((1, 3), (5, 2), (0, 7)), width=32)), what="x")
    error = refusal(
        GeometryError, lambda: lock.bind(Geometry("llama", 2, 4, 2, 16, 48)),
        "expected a base that has the heads of this lock, got another geometry:",
        "head_dim: expected 32, got 16",
        "layers: expected at least 6 for head 5:2, got 2",
        "heads: expected at least 8 for head 0:7, got 4",
    )  # fmt: skip
    assert error.hint == (
        "Name the base that the file was made from: safelatch import FILE --base BASE --out DIR"
    )


def test_a_bound_lock_says_that_nobody_knows_how_it_was_made() -> None:
    body = read_safelock(safelock(a_lock()), what="x").bind(Geometry("llama", 2, 4, 2, 16, 48))
    assert (body.alpha, body.alpha_range, body.answer_tokens, body.holds) == (None,) * 4
    assert body.probe == {"method": "unknown: imported"}
    assert body.is_imported
    assert body.answer_window == 5
    assert body.describe()["origin"] == "imported, alpha uncalibrated"
    assert body.calibrated(1.0, (0.0, 1.0)).describe()["origin"] == "imported"


def nemo_model() -> Any:
    """Return a real model with the heads of Mistral Nemo, whose widths are not hidden_size."""
    config = AutoConfig.for_model(
        "mistral", hidden_size=6, intermediate_size=8, num_hidden_layers=40,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=64,
        max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("source", ["synthetic", "official"])
def test_the_lock_of_nemo_is_applied_where_its_authors_code_cannot(source: str) -> None:
    """Their code takes ``hidden_size / heads`` for a head's width, which here is not even whole."""
    sigma = np.linspace(0.5571, 5.7969, len(NEMO))
    data = (
        official("Mistral_Nemo_12B.safelock")
        if source == "official"
        else safelock(layers_of(NEMO, vectors(len(NEMO), 128), sigma))
    )
    model = nemo_model()
    geometry = model_geometry(model)
    assert geometry.hidden_size != geometry.heads * geometry.head_dim
    body = read_safelock(data, what="x").bind(geometry)
    application = apply(model, body, owner="nemo", alpha=0.5, allow_unsafe=True)
    hooks = input_shifts(model, body, geometry, alpha=0.5)
    biases = output_shifts(model, body, geometry, alpha=0.5)
    modules = attention_outputs(model, geometry)
    assert len(biases) == len(hooks) == 12
    for layer, bias in zip(body.layers, biases.values(), strict=True):
        module = modules[layer]
        hook = module.weight.detach() @ hooks[module]
        assert torch.allclose(bias, hook, rtol=1e-4, atol=1e-5)
        assert torch.allclose(module.bias, hook, rtol=1e-4, atol=1e-5)
        assert bias.norm() > 0
    assert verify(model, body, application).modules == 12
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        locked = model(ids).logits
        undo(model, application)
        with shifted_inputs(hooks):
            hooked = model(ids).logits
        assert torch.allclose(locked, hooked, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(locked, model(ids).logits, atol=1e-2)


def test_a_lock_for_more_layers_does_not_fit_a_small_base(tmp_path: Path) -> None:
    record = read_record(write_checkpoint(tmp_path / "base", llama_config()))
    lock = read_safelock(safelock(layers_of(NEMO, vectors(24, 128), np.ones(24))), what="x")
    refusal(
        GeometryError,
        lambda: lock.bind(record.geometry),
        "layers: expected at least 40 for head 39:0, got 2",
    )
