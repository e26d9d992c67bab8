from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest
from support.tiny_models import (
    llama_config,
    make_tensors,
    qwen2_config,
    save_sharded,
    save_with_transformers,
    tensor,
    write_checkpoint,
)

from registry.checkpoint import fingerprint as module
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.geometry import Geometry
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.sketch import positions
from registry.digest import digest_bytes, digest_json
from registry.errors import EvidenceError, GeometryError, UnsupportedArchitectureError

CONFIG = llama_config()
EMBEDDING = "model.embed_tokens.weight"


def measure(path, **options):
    with Checkpoint.open(path) as checkpoint:
        return fingerprint(checkpoint, **options)


@pytest.fixture
def original(tmp_path):
    return measure(write_checkpoint(tmp_path / "original", CONFIG))


def test_identity_is_the_digest_of_the_sorted_list(original):
    rows = [
        [name, item.dtype, list(item.shape), digest_bytes(item.data)]
        for name, item in sorted(make_tensors(CONFIG).items())
    ]
    assert original.weights == digest_json(rows)
    assert original.geometry == Geometry("llama", 2, 4, 2, 16, 48)


def test_samples_are_the_bits_at_the_positions(original):
    for name, item in make_tensors(CONFIG).items():
        values = item.values.ravel()[positions(name, item.shape)]
        assert original.samples[name] == values.tobytes()


def test_sharding_file_names_order_and_metadata_make_no_difference(tmp_path, original):
    backwards = dict(reversed(make_tensors(CONFIG).items()))
    for folder in (
        save_sharded(tmp_path / "a", CONFIG),
        save_sharded(tmp_path / "b", CONFIG, shards=2),
        write_checkpoint(tmp_path / "c", CONFIG, file="renamed.safetensors"),
        write_checkpoint(tmp_path / "d", CONFIG, metadata={"format": "pt", "note": "x"}),
        write_checkpoint(tmp_path / "e", CONFIG, backwards),
    ):
        assert measure(folder) == original


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_the_result_does_not_depend_on_threads(tmp_path, original, threads):
    assert measure(write_checkpoint(tmp_path, CONFIG), threads=threads) == original


def test_a_tied_head_is_the_same_model_stored_or_not(tmp_path, original):
    tensors = make_tensors(CONFIG)
    stored = tensors | {"lm_head.weight": tensors[EMBEDDING]}
    assert measure(write_checkpoint(tmp_path, CONFIG, stored)) == original


def test_a_head_of_its_own_is_part_of_the_identity(tmp_path, original):
    tensors, config = make_tensors(CONFIG), CONFIG | {"tie_word_embeddings": False}
    embedding = tensors[EMBEDDING]
    for head in (embedding, embedding.flip_bit(), tensor(embedding.values, "BF16")):
        record = measure(write_checkpoint(tmp_path, config, tensors | {"lm_head.weight": head}))
        assert "lm_head.weight" in record.samples
        assert record.weights != original.weights


def test_a_tied_head_that_is_not_the_embedding_is_refused_with_both_digests(tmp_path):
    tensors = make_tensors(CONFIG)
    for head in (tensors[EMBEDDING].flip_bit(), tensor(tensors[EMBEDDING].values, "BF16")):
        folder = write_checkpoint(tmp_path, CONFIG, tensors | {"lm_head.weight": head})
        with pytest.raises(GeometryError, match="tie_word_embeddings is true: expected lm_head"):
            measure(folder)


def test_an_untied_head_that_is_missing_is_refused(tmp_path):
    config = llama_config(tie_word_embeddings=False)
    folder = write_checkpoint(tmp_path, config, make_tensors(CONFIG))
    with pytest.raises(GeometryError, match=r"lm_head\.weight is not stored"):
        measure(folder)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_cast_changes_the_identity(tmp_path, original, dtype):
    tensors = {k: tensor(v.values, dtype) for k, v in make_tensors(CONFIG).items()}
    assert measure(write_checkpoint(tmp_path, CONFIG, tensors)).weights != original.weights


def test_the_same_bytes_in_another_shape_or_dtype_are_another_identity(tmp_path, original):
    tensors = make_tensors(CONFIG)
    norm = tensors["model.norm.weight"]
    for change in (
        dataclasses.replace(norm, shape=(24, 2)),
        dataclasses.replace(norm, dtype="I32"),
    ):
        folder = write_checkpoint(tmp_path, CONFIG, tensors | {"model.norm.weight": change})
        assert measure(folder).weights != original.weights


def test_one_flipped_bit_is_found_and_its_tensor_and_layer_are_named(tmp_path, original):
    tensors = make_tensors(CONFIG)
    name = "model.layers.1.mlp.up_proj.weight"
    unsampled = sorted(set(range(80 * 48)) - set(positions(name, (80, 48)).tolist()))[7]
    tensors[name] = tensors[name].flip_bit(4 * unsampled)
    record = measure(write_checkpoint(tmp_path, CONFIG, tensors))
    assert record.weights != original.weights
    assert record.samples == original.samples
    differing = [a.name for a, b in zip(record.entries, original.entries, strict=True) if a != b]
    assert differing == [name]
    pairs = zip(record.layer_digests(), original.layer_digests(), strict=True)
    assert [a == b for a, b in pairs] == [True, False]


def test_weights_that_are_not_finite_are_bits_like_any_others(tmp_path, original):
    tensors = make_tensors(CONFIG)
    values = tensors["model.norm.weight"].values.copy()
    values[:3] = np.nan, np.inf, -np.inf
    tensors["model.norm.weight"] = tensor(values)
    assert measure(write_checkpoint(tmp_path, CONFIG, tensors)).weights != original.weights


def test_edited_heads_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path, llama_config(num_attention_heads=8), make_tensors(CONFIG))
    with pytest.raises(GeometryError, match="head_dim"):
        measure(folder)


def test_a_file_without_config_is_no_known_family(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedArchitectureError, match="no model_type"):
        measure(folder / "model.safetensors")


def test_config_tokenizer_and_template_are_beside_the_identity(tmp_path, original):
    folder = write_checkpoint(tmp_path, llama_config(rms_norm_eps=1e-3))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    record = measure(folder)
    assert record.weights == original.weights
    assert record.config_digest != original.config_digest
    assert (original.tokenizer, original.chat_template) == (None, None)
    assert None not in {record.tokenizer, record.chat_template}


def test_progress_counts_every_byte_once(tmp_path):
    seen = []
    measure(
        write_checkpoint(tmp_path, CONFIG), progress=lambda done, total: seen.append((done, total))
    )
    total = sum(len(item.data) for item in make_tensors(CONFIG).values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == len(make_tensors(CONFIG))


def test_an_interrupt_drops_the_queue(tmp_path, monkeypatch):
    started = []
    whole = module._measure

    def slow(checkpoint, name):
        started.append(name)
        time.sleep(0.02)
        return whole(checkpoint, name)

    monkeypatch.setattr(module, "_measure", slow)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(save_sharded(tmp_path, CONFIG), threads=1, progress=interrupt)
    assert 0 < len(started) < len(make_tensors(CONFIG)) // 2


def test_a_file_replaced_while_it_is_read_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)

    def replace(done, total):
        write_checkpoint(tmp_path / "new", CONFIG)
        (tmp_path / "new" / "model.safetensors").replace(folder / "model.safetensors")
        write_checkpoint(tmp_path / "new", CONFIG)

    with pytest.raises(EvidenceError, match="got a change"):
        measure(folder, progress=replace)


@pytest.mark.parametrize(
    "config", [CONFIG, qwen2_config(), llama_config(tie_word_embeddings=False)]
)
def test_what_transformers_saves_is_read(tmp_path, config):
    folder = save_with_transformers(tmp_path / "saved", config)
    record = measure(folder)
    ours = measure(write_checkpoint(tmp_path / "ours", config))
    assert [(e.name, e.shape) for e in record.entries] == [(e.name, e.shape) for e in ours.entries]
    assert record.geometry == ours.geometry
    assert record.config == ours.config
    saved = json.loads((folder / "config.json").read_text())
    assert saved["transformers_version"] not in record.to_tensors()["record"].decode()
