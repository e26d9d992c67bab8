"""Every kind of change, made by arithmetic on a small model; docs/lineage.md has real weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from support.tiny_models import llama_config, make_tensors, tensor, write_checkpoint

from registry.checkpoint.change import classify
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.levels import _NF4
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.sketch import positions

CONFIG = llama_config(
    hidden_size=192, intermediate_size=256, num_hidden_layers=4, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32, vocab_size=512,
)  # fmt: skip
EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.2.mlp.up_proj.weight"
BASE = make_tensors(CONFIG, dtype="BF16")
MATRICES = [name for name in BASE if "layers" in name and "norm" not in name]
WRITES = [name for name in MATRICES if "o_proj" in name or "down_proj" in name]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    def measure(tensors, config=CONFIG):
        folder = write_checkpoint(tmp_path_factory.mktemp("model"), config, tensors)
        with Checkpoint.open(folder) as checkpoint:
            return fingerprint(checkpoint)

    return measure


@pytest.fixture(scope="module")
def base(record):
    return record(BASE)


def noise(shape, seed, relative=1.0):
    return relative * 0.02 * np.random.default_rng(seed).standard_normal(shape)


def edited(change, names=MATRICES, dtype="BF16"):
    """Return the base with ``change(values, index)`` in each of ``names``."""
    return BASE | {
        name: tensor(change(BASE[name].values, index), dtype) for index, name in enumerate(names)
    }


def tuned(relative=0.01, seed=1, dtype="BF16"):
    return edited(lambda w, i: w + noise(w.shape, seed * 100 + i, relative), list(BASE), dtype)


def low_rank(rank, relative=0.03):
    def change(w, index):
        left, right = noise((w.shape[0], rank), index), noise((rank, w.shape[1]), index + 500)
        delta = left @ right
        return w + delta * relative * np.linalg.norm(w) / np.linalg.norm(delta)

    return change


def without(direction_of, share=1.0):
    def change(w, index):
        v = direction_of(index, w.shape[0])
        v /= np.linalg.norm(v)
        return w - share * np.outer(v, v @ w)

    return change


def by_rows(w, _):
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    return np.rint(w / step) * step


def in_blocks(size, levels):
    def change(w, _):
        blocks = w.reshape(-1, size)
        return levels(blocks).reshape(w.shape)

    return change


def nf4(blocks):
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    table = np.array(_NF4)
    return table[np.abs(blocks[:, :, None] / scale[:, :, None] - table).argmin(axis=2)] * scale


def symmetric(end):
    def levels(blocks):
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
        step = largest / end
        return np.clip(np.rint(blocks / step), -abs(end), abs(end)) * step

    return levels


def affine(count):
    def levels(blocks):
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        step = (high - low) / count
        return low + np.rint((blocks - low) / step) * step

    return levels


def sixteen(blocks):
    """A quantiser of 16 levels of its own, such as fp4."""
    scale, table = np.abs(blocks).max(axis=1, keepdims=True), np.linspace(-1, 1, 16) ** 3
    return table[np.abs(blocks[:, :, None] / scale[:, :, None] - table).argmin(axis=2)] * scale


def rare(share):
    def change(w, index):
        hit = np.random.default_rng(index).random(w.shape) < share
        return np.where(hit, w + noise(w.shape, index + 900), w)

    return change


KINDS = {
    "cast to fp16": ("cast", lambda: edited(lambda w, _: w, list(BASE), "F16")),
    "cast to fp32": ("cast", lambda: edited(lambda w, _: w, list(BASE), "F32")),
    "tuned": ("fine-tune", tuned),
    "tuned a little": ("fine-tune", lambda: tuned(3e-4)),
    "tuned, stored in fp32": ("fine-tune", lambda: tuned(dtype="F32")),
    "tuned and cast": ("fine-tune", lambda: tuned(dtype="F16")),
    "one layer tuned": (
        "fine-tune",
        lambda: edited(lambda w, i: w + noise(w.shape, i, 0.05), [n for n in MATRICES if "s.1" in n]),
    ),
    "a hundredth of the weights": ("sparse-edit", lambda: edited(rare(0.01))),
    "one matrix, rank one": ("sparse-edit", lambda: edited(low_rank(1), [UP])),
    "rank 1": ("merged-lora", lambda: edited(low_rank(1))),
    "rank 8": ("merged-lora", lambda: edited(low_rank(8))),
    "rank 8, fp32": ("merged-lora", lambda: edited(low_rank(8, 1e-3), dtype="F32")),
    "int8": ("quantised-int8", lambda: edited(by_rows)),
    "int8 in fp16": ("quantised-int8", lambda: edited(by_rows, dtype="F16")),
    "nf4": ("quantised-nf4", lambda: edited(in_blocks(64, nf4))),
    "sixteen levels": ("quantised-4bit", lambda: edited(in_blocks(64, sixteen))),
    "Q8_0": ("quantised-gguf", lambda: edited(in_blocks(32, symmetric(127)))),
    "Q4_0": ("quantised-gguf", lambda: edited(in_blocks(32, symmetric(-8)))),
    "Q5_0 in fp32": ("quantised-gguf", lambda: edited(in_blocks(32, symmetric(-16)), dtype="F32")),
    "Q4_1": ("quantised-gguf", lambda: edited(in_blocks(32, affine(15)))),
    "Q5_1": ("quantised-gguf", lambda: edited(in_blocks(32, affine(31)))),
    "Q6_K": ("quantised-gguf", lambda: edited(in_blocks(16, symmetric(-32)))),
    "one direction": ("abliterated", lambda: edited(without(lambda _, n: noise(n, 7)), WRITES)),
    "half of one direction": (
        "abliterated", lambda: edited(without(lambda _, n: noise(n, 7), 0.5), WRITES)
    ),
    "a direction per layer": (
        "abliterated",
        lambda: edited(without(lambda i, n: noise(n, 7 + i // 2)), sorted(WRITES)),
    ),
    "another model": ("unrelated", lambda: make_tensors(CONFIG, seed=9, dtype="BF16")),
    "far": ("unknown", lambda: tuned(0.6)),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_change_is_told(record, base, name):
    expected, make = KINDS[name]
    found = classify(base, record(make()))
    assert found.kind == expected, found.figures
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_cast_names_both_dtypes(record, base):
    found = classify(base, record(KINDS["cast to fp16"][1]()))
    assert found.figures == {"cast": "BF16 to F16"}
    assert found.layers == (0, 1, 2, 3)


def test_the_rank_of_a_merged_lora_is_told(record, base):
    for rank in (1, 4, 8):
        figures = classify(base, record(edited(low_rank(rank)))).figures
        assert figures["rank"] == rank
        assert figures["matrices"] == len(MATRICES)


def test_an_abliteration_on_top_of_a_fine_tune_is_told(record, base):
    child = tuned(0.02)
    removed = without(lambda _, n: noise(n, 7))
    child |= {name: tensor(removed(child[name].values, 0), "BF16") for name in WRITES}
    assert classify(base, record(child)).kind == "abliterated"


def test_one_flipped_bit_anywhere_is_found_and_named(record, base):
    shape = BASE[UP].shape
    unseen = min(set(range(shape[0] * shape[1])) - set(positions(UP, shape).tolist()))
    found = classify(base, record(BASE | {UP: BASE[UP].flip_bit(2 * unseen)}))
    assert (found.kind, found.changed, found.layers) == ("sparse-edit", (UP,), (2,))
    assert found.figures["matrices"] == 0  # of those that a sample met


@pytest.mark.parametrize("name", [UP, "model.norm.weight"])
def test_a_flipped_bit_of_an_exponent_is_named_however_far_it_leads(record, base, name):
    where = int(positions(name, BASE[name].shape)[0])
    data = bytearray(BASE[name].data)
    data[2 * where + 1] ^= 0x40
    found = classify(base, record(BASE | {name: replace(BASE[name], data=bytes(data))}))
    assert (found.kind, found.changed) == ("sparse-edit", (name,))
    json.dumps(found.to_dict(), allow_nan=False)


def test_more_embeddings_over_the_same_weights_extend_the_vocabulary(record, base):
    rows = np.concatenate([BASE[EMBEDDING].values, noise((64, 192), 3)])
    config = CONFIG | {"vocab_size": 576}
    found = classify(base, record(BASE | {EMBEDDING: tensor(rows, "BF16")}, config))
    assert (found.kind, found.added_tokens, found.changed) == (
        "vocabulary-extended", 64, (EMBEDDING,)
    )  # fmt: skip
    both = classify(base, record(tuned() | {EMBEDDING: tensor(rows, "BF16")}, config))
    assert (both.kind, both.added_tokens) == ("fine-tune", 64)


def test_other_first_rows_are_no_extension_of_the_vocabulary(record, base):
    rows = np.concatenate([BASE[EMBEDDING].values + noise((512, 192), 4, 0.1), noise((64, 192), 3)])
    found = classify(
        base, record(BASE | {EMBEDDING: tensor(rows, "BF16")}, CONFIG | {"vocab_size": 576})
    )
    assert found.kind == "unknown"
    fewer = tensor(BASE[EMBEDDING].values[:500], "BF16")
    cut = classify(base, record(BASE | {EMBEDDING: fewer}, CONFIG | {"vocab_size": 500}))
    assert (cut.kind, cut.added_tokens) == ("unknown", -12)


def test_a_merge_is_told_only_when_the_other_parent_is_known(record, base):
    one, two = tuned(0.05, seed=1), tuned(0.05, seed=2)
    mixed = {name: tensor(0.4 * one[name].values + 0.6 * two[name].values, "BF16") for name in BASE}
    child = record(mixed)
    known = classify(base, child, others=[("one", record(one)), ("two", record(two))])
    assert known.kind == "merge"
    assert known.figures["parents"] == pytest.approx({"one": 0.4, "two": 0.6}, abs=0.05)
    assert known.figures["merge_explained"] > 0.95
    assert classify(base, child, others=[("one", record(one))]).kind == "fine-tune"
    assert classify(base, child).kind == "fine-tune"
    assert classify(record(one), child, others=[("two", record(two))]).kind == "merge"


def test_a_copy_that_was_quantised_before_is_not_called_so_for_small_changes(record):
    """Runs that kept the base's levels say nothing about what was done to the child."""
    quantised = edited(in_blocks(32, affine(15)))
    base = record(quantised)
    nudged = quantised | {
        name: tensor(quantised[name].values + noise(quantised[name].shape, i, 1e-3), "BF16")
        for i, name in enumerate(MATRICES)
    }
    assert classify(base, record(nudged)).kind == "fine-tune"
    again = {
        name: tensor(in_blocks(32, symmetric(-8))(quantised[name].values, 0), "BF16")
        for name in MATRICES
    }
    assert classify(base, record(quantised | again)).kind == "quantised-gguf"


def test_a_fine_tune_with_loud_dimensions_is_not_abliterated(record):
    """Some dimensions of the residual stream have large weights; every change follows them."""
    loud = np.ones((192, 1))
    loud[[5, 77, 130]] = 30.0
    scaled = BASE | {name: tensor(BASE[name].values * loud, "BF16") for name in WRITES}
    child = scaled | {
        name: tensor(v.values * (1 + noise(v.values.shape, i, 2.0)), "BF16")
        for i, (name, v) in enumerate(scaled.items())
    }
    found = classify(record(scaled), record(child))
    assert found.kind == "fine-tune"
    assert found.figures["ruled_out"]["abliterated"]["shared_direction"] < 0.5


# What hides a change, or makes it look like another


def abliterated():
    return edited(without(lambda _, n: noise(n, 7)), WRITES)


@pytest.mark.parametrize("levels", [by_rows, in_blocks(32, symmetric(127))])
def test_an_abliterated_copy_that_was_quantised_is_still_abliterated(record, base, levels):
    hidden = {
        name: tensor(levels(item.values, 0), "BF16")
        for name, item in abliterated().items()
        if name in MATRICES
    }
    assert classify(base, record(abliterated() | hidden)).kind == "abliterated"


def test_an_abliteration_under_a_rescaling_without_effect_is_still_abliterated(record, base):
    """Up-projections divided by what the down-projections are multiplied by: the same function."""
    child = abliterated()
    for name in MATRICES:
        factor = np.exp(noise((BASE[name].shape[1],), len(name), 7.5))  # a deviation of 0.15
        if name in WRITES:
            child[name] = tensor(child[name].values * factor * 1.12, "BF16")
        elif "up_proj" in name or "v_proj" in name:
            child[name] = tensor(child[name].values / 1.12, "BF16")
    assert classify(base, record(child)).kind == "abliterated"


@pytest.mark.parametrize("kind", ["cast to fp16", "vocabulary"])
def test_a_copy_with_added_biases_is_no_mere_copy(record, base, kind):
    copy, config = dict(BASE), dict(CONFIG)
    if kind == "vocabulary":
        rows = np.concatenate([BASE[EMBEDDING].values, noise((1, 192), 3)])
        copy[EMBEDDING], config["vocab_size"] = tensor(rows, "BF16"), 513
    else:
        copy = KINDS[kind][1]()
    bias = {f"model.layers.{i}.self_attn.o_proj.bias": tensor(noise((192,), i)) for i in range(4)}
    found = classify(base, record(copy | bias, config))
    assert found.kind == "unknown"


def test_changes_in_a_dtype_that_is_not_reckoned_with_are_no_cast(record):
    """8-bit floats are compared by their bits alone."""

    def coarse(flip):
        codes = ((np.frombuffer(BASE[name].data, np.uint8)[::2] & 0x37) ^ flip for name in MATRICES)
        return {
            name: replace(BASE[name], dtype="F8_E4M3", data=code.tobytes())
            for name, code in zip(MATRICES, codes, strict=True)
        }

    cast = {n: tensor(BASE[n].values, "F32") for n in BASE if n not in MATRICES}
    found = classify(record(BASE | coarse(0)), record(cast | coarse(1)))
    assert found.kind == "unknown"


def test_pruned_weights_are_a_sparse_edit(record, base):
    def prune(w, _):
        return np.where(np.abs(w) < np.quantile(np.abs(w), 0.03), 0.0, w)

    assert classify(base, record(edited(prune))).kind == "sparse-edit"


def test_a_change_at_grid_positions_alone_is_counted(record, base):
    def hit(w, _):
        flat = w.reshape(-1).copy()
        where = positions(UP, w.shape)
        flat[np.setdiff1d(where[1024:], where[:1024])] += 0.05
        return flat.reshape(w.shape)

    figures = classify(base, record(edited(hit, [UP]))).figures
    assert figures["changed_share"] > 0.5


def test_one_value_that_is_not_finite_anywhere_in_the_sketch_is_never_near(record, base):
    values = BASE[UP].values.reshape(-1).copy()
    values[positions(UP, BASE[UP].shape)[1024 + 7]] = np.nan
    found = judge(base, record(BASE | {UP: tensor(values.reshape(BASE[UP].shape), "BF16")}))
    assert (found.relation, found.distance) == ("distant", math.inf)


def test_matrices_of_another_width_that_write_nowhere_do_not_stop_the_judgement(record):
    narrow = BASE | {"model.layers.0.mlp.down_proj.weight": tensor(noise((10, 256), 1), "BF16")}
    moved = {n: tensor(t.values + noise(t.values.shape, 2, 0.01)) for n, t in narrow.items()}
    assert classify(record(narrow), record(moved)).kind == "fine-tune"


def test_extreme_values_are_left_to_digests(record):
    huge = {n: tensor(t.values.astype("<f8") * 1e200, "F64") for n, t in BASE.items()}
    found = classify(record(huge), record(huge | {UP: tensor(huge[UP].values * 2, "F64")}))
    assert found.changed == (UP,)
    json.dumps(found.to_dict(), allow_nan=False)
