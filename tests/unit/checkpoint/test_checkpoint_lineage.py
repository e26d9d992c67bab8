from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from support.tiny_models import (
    fine_tune,
    llama_config,
    make_tensors,
    qwen2_config,
    tensor,
    write_checkpoint,
)

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import Checkpoint

CONFIG = llama_config()
TENSORS = make_tensors(CONFIG)
EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def record(tmp_path):
    def write(tensors=None, config=CONFIG, texts=None):
        folder = write_checkpoint(tmp_path / "model", config, tensors)
        for name, text in ({"tokenizer.json": "{}"} if texts is None else texts).items():
            (folder / name).write_text(text)
        with Checkpoint.open(folder) as checkpoint:
            measured = fingerprint(checkpoint)
        for file in folder.iterdir():
            file.unlink()
        return measured

    return write


def test_the_same_weights_are_identical(record):
    found = judge(record(), record())
    assert (found.relation, found.level, found.distance, found.changed) == ("identical", 4, 0.0, 0)
    assert found.per_layer == (0.0, 0.0)
    assert found.tokenizer_agrees is True
    assert found.template_agrees is None


def test_identical_weights_under_an_edited_config_are_told(record):
    edited = record(config=llama_config(rms_norm_eps=0.5), texts={"tokenizer.json": '{"a": 1}'})
    found = judge(record(), edited)
    assert found.relation == "identical"
    assert found.config_differences == (("rms_norm_eps", 1e-05, 0.5),)
    assert found.tokenizer_agrees is False


@pytest.mark.parametrize("relative", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_distance_of_a_fine_tune_is_within_a_tenth(record, relative, seed):
    found = judge(record(), record(fine_tune(TENSORS, relative, seed=seed)))
    assert (found.relation, found.level) == ("derived", 3)
    assert found.distance == pytest.approx(relative, rel=0.1)
    assert found.per_layer == pytest.approx([relative] * 2, rel=0.1)
    assert found.changed == len(TENSORS)


def test_another_model_of_the_same_shapes_is_unrelated(record):
    found = judge(record(), record(make_tensors(CONFIG, seed=9)))
    assert (found.relation, found.level) == ("unrelated", 2)
    assert found.distance == pytest.approx(math.sqrt(2), rel=0.05)
    assert found.per_layer == pytest.approx([math.sqrt(2)] * 2, rel=0.1)


def test_large_vectors_do_not_hide_another_models_matrices(record):
    def loud(seed):
        made = make_tensors(CONFIG, seed=seed)
        return {k: tensor(v.values * 1e3 if "norm" in k else v.values) for k, v in made.items()}

    found = judge(record(loud(0)), record(loud(9)))
    assert found.relation == "unrelated"
    assert found.distance == pytest.approx(math.sqrt(2), rel=0.05)


def test_the_bound_is_the_callers(record):
    tuned = record(fine_tune(TENSORS, 1e-2))
    assert judge(record(), tuned, max_distance=1e-3).relation == "distant"
    assert judge(record(), tuned, max_distance=0.1).relation == "derived"


@pytest.mark.parametrize(("relative", "relation"), [(0.5, "distant"), (4.0, "unrelated")])
def test_weights_beyond_the_bound_are_related_while_they_are_correlated(record, relative, relation):
    found = judge(record(), record(fine_tune(TENSORS, relative)))
    assert (found.relation, found.level, found.is_descendant) == (relation, 2, False)
    expected = 1 / math.sqrt(1 + relative**2)  # noise of this size, independent of the base
    assert found.correlation == pytest.approx(expected, abs=0.05)


def test_other_words_under_a_larger_vocabulary_are_no_extension(record):
    rows = np.concatenate([make_tensors(CONFIG, seed=9)[EMBEDDING].values, np.zeros((8, 48))])
    extended = TENSORS | {EMBEDDING: tensor(rows)}
    found = judge(record(), record(extended, llama_config(vocab_size=104)))
    assert found.relation == "distant"
    assert found.distance > 0.25


def test_a_cast_is_derived_and_near(record):
    cast = record({k: tensor(v.values, "BF16") for k, v in TENSORS.items()})
    found = judge(record(), cast)
    assert found.relation == "derived"
    assert 1e-4 < found.distance < 1e-2
    assert found.changed == len(TENSORS)


def test_an_edit_that_no_sample_meets_is_still_counted(record):
    from registry.checkpoint.sketch import positions

    unsampled = min(set(range(80 * 48)) - set(positions(UP, (80, 48)).tolist()))
    found = judge(record(), record(TENSORS | {UP: TENSORS[UP].flip_bit(4 * unsampled)}))
    assert (found.relation, found.distance, found.changed) == ("derived", 0.0, 1)


def test_a_change_of_one_layer_shows_in_that_layer(record):
    tuned = fine_tune(TENSORS, 1e-2)
    found = judge(record(), record(TENSORS | {UP: tuned[UP]}))
    assert found.per_layer[0] == 0.0
    assert found.per_layer[1] > 0.0


@pytest.mark.parametrize("name", [UP, "model.layers.1.input_layernorm.weight"])
def test_a_value_that_is_not_finite_makes_the_distance_infinite(record, name):
    values = TENSORS[name].values.copy()
    values[:] = np.nan
    found = judge(record(), record(TENSORS | {name: tensor(values)}))
    assert (found.relation, found.distance) == ("distant", math.inf)
    assert found.correlation > 0.8, "one tensor hides what the others show"
    assert found.per_layer == (0.0, math.inf)
    assert found.to_dict()["distance"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_base_with_nan_knows_itself_and_nothing_else(record):
    values = TENSORS[UP].values.copy()
    values[:] = np.nan
    broken = TENSORS | {UP: tensor(values)}
    assert judge(record(broken), record(broken)).distance == 0.0
    assert judge(record(broken), record(fine_tune(broken, 1e-3))).distance == math.inf


def test_an_extended_vocabulary_is_listed_and_allowed(record):
    rows = np.concatenate([TENSORS[EMBEDDING].values, np.zeros((8, 48))])
    extended = TENSORS | {EMBEDDING: tensor(rows)}
    found = judge(record(), record(extended, llama_config(vocab_size=104)))
    assert (found.relation, found.level, found.distance) == ("derived", 3, 0.0)
    assert found.reshaped == (EMBEDDING,)
    assert found.config_differences == (("vocab_size", 96, 104),)


def test_additional_tensors_are_listed_and_allowed(record):
    bias = "model.layers.0.self_attn.o_proj.bias"
    found = judge(record(), record(TENSORS | {bias: tensor(np.ones(48))}))
    assert (found.relation, found.changed) == ("derived", 0)
    assert found.unexpected == (bias,)


def test_an_output_head_that_only_one_of_the_two_has_is_another_structure(record):
    own = {"lm_head.weight": TENSORS[EMBEDDING].flip_bit()}
    tied, untied = record(), record(TENSORS | own, llama_config(tie_word_embeddings=False))
    there, back = judge(tied, untied), judge(untied, tied)
    assert (there.relation, there.unexpected) == ("other-structure", ("lm_head.weight",))
    assert (back.relation, back.missing) == ("other-structure", ("lm_head.weight",))


def test_a_missing_layer_is_another_structure(record):
    fewer = {k: v for k, v in TENSORS.items() if "layers.1." not in k}
    found = judge(record(), record(fewer, llama_config(num_hidden_layers=1)))
    assert (found.relation, found.level) == ("other-structure", 0)
    assert len(found.missing) == 9
    assert found.per_layer == (0.0, math.inf)


def test_a_reshaped_layer_with_equal_config_and_tokenizer_is_level_one(record):
    flat = tensor(TENSORS[UP].values.reshape(-1))
    for texts, level in ((None, 1), ({}, 0), ({"tokenizer.json": '{"a":1}'}, 0)):
        found = judge(record(), record(TENSORS | {UP: flat}, texts=texts))
        assert (found.relation, found.level) == ("other-structure", level)
        assert found.reshaped == (UP,)


def test_buffers_that_loaders_recompute_are_no_structure(record):
    old = TENSORS | {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": tensor(np.ones(8))
        for layer in (0, 1)
    }
    found = judge(record(old), record())
    assert (found.relation, found.distance) == ("derived", 0.0)
    assert len(found.missing) == 2


def test_another_family_is_told_by_its_tensors(record):
    found = judge(record(config=qwen2_config()), record())
    assert found.relation == "other-structure"
    assert ("model_type", "qwen2", "llama") in found.config_differences


def test_the_json_form_names_every_field(record):
    document = judge(record(), record(fine_tune(TENSORS, 1e-2))).to_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["relation"] == "derived"
    assert document["config_differences"] == []


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("identical", True), ("derived", True), ("unrelated", False), ("other-structure", False)],
)
def test_only_the_base_and_its_fine_tunes_are_descendants(record, relation, expected):
    assert replace(judge(record(), record()), relation=relation).is_descendant is expected
