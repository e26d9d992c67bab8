from __future__ import annotations

import json
import os

import pytest
from support.tiny_models import (
    llama_config,
    make_tensors,
    save_sharded,
    tensor,
    write_checkpoint,
    write_file,
)

from registry.checkpoint.reader import PIECE, Checkpoint
from registry.errors import CheckpointNotFoundError, EvidenceError, UnsafeFormatError

CONFIG = llama_config()
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    return save_sharded(tmp_path / "sharded", CONFIG)


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_what_is_read_are_the_bytes_that_were_written(tmp_path, sharded):
    tensors = make_tensors(CONFIG)
    for folder in (write_checkpoint(tmp_path / "one", CONFIG), sharded):
        with Checkpoint.open(folder) as checkpoint:
            assert list(checkpoint.tensors) == sorted(tensors)
            for name, item in tensors.items():
                info = checkpoint.tensors[name]
                assert (info.dtype, info.shape) == (item.dtype, item.shape)
                assert checkpoint.read(name) == item.data
            assert checkpoint.config == CONFIG


def test_a_single_file_reads_the_config_beside_it_or_none(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)
    with Checkpoint.open(folder / "model.safetensors") as checkpoint:
        assert checkpoint.config == CONFIG
    (folder / "config.json").unlink()
    with Checkpoint.open(folder / "model.safetensors") as checkpoint:
        assert checkpoint.config == {}


def test_the_only_other_safetensors_file_of_a_folder_is_it(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG, file="weights.safetensors")
    with Checkpoint.open(str(folder)) as checkpoint:
        assert {info.path.name for info in checkpoint.tensors.values()} == {"weights.safetensors"}


def test_a_closed_checkpoint_gives_nothing(tmp_path):
    with Checkpoint.open(write_checkpoint(tmp_path, CONFIG)) as checkpoint:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        checkpoint.read("model.norm.weight")


@pytest.mark.parametrize("positioned", [True, False], ids=["preadv", "seek and read"])
def test_a_large_tensor_comes_in_pieces_in_order(tmp_path, monkeypatch, positioned):
    import numpy as np

    if not positioned:
        monkeypatch.delattr(os, "preadv")
    values = np.random.default_rng(0).integers(-128, 128, 2 * PIECE + 3)
    tensors = make_tensors(CONFIG) | {"large": tensor(values, "I8")}
    with Checkpoint.open(write_checkpoint(tmp_path, CONFIG, tensors)) as checkpoint:
        assert [len(piece) for piece in checkpoint.pieces("large")] == [PIECE, PIECE, 3]
        assert checkpoint.read("large") == tensors["large"].data


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("pytorch_model.bin", "Pickled weights are never opened"),
        ("model.gguf", "GGUF files are not read"),
        ("adapter_config.json", "merge_and_unload().save_pretrained("),
        ("README.md", "hf download NS/NAME --local-dir DIR"),
    ],
)
def test_a_folder_without_safetensors_is_told_what_to_do(tmp_path, found, said):
    (tmp_path / found).write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError) as caught:
        Checkpoint.open(tmp_path)
    assert said in str(caught.value.hint)


def test_a_pickled_adapter_is_not_told_to_be_merged_which_would_load_it(tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError) as caught:
        Checkpoint.open(tmp_path)
    assert str(caught.value.hint).startswith("Pickled weights are never opened.")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError) as caught:
        Checkpoint.open(tmp_path)
    assert "merge_and_unload" in str(caught.value.hint)


def test_an_adapter_is_no_checkpoint(tmp_path):
    write_checkpoint(tmp_path, CONFIG, file="adapter_model.safetensors")
    with pytest.raises(CheckpointNotFoundError):
        Checkpoint.open(tmp_path)


def test_a_hub_id_is_told_how_to_download():
    with pytest.raises(CheckpointNotFoundError) as caught:
        Checkpoint.open("some-org/some-model")
    hint = "hf download some-org/some-model --local-dir some-model"
    assert hint in str(caught.value.hint)


def test_a_pickle_that_is_named_is_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointNotFoundError, match="pytorch_model"):
        Checkpoint.open(tmp_path / "pytorch_model.bin")


def test_a_folder_without_config_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json"):
        Checkpoint.open(folder)


def test_two_checkpoints_in_one_folder_are_ambiguous(tmp_path, sharded):
    write_file(sharded / "model.safetensors", make_tensors(CONFIG))
    with pytest.raises(UnsafeFormatError, match="expected one checkpoint"):
        Checkpoint.open(sharded)
    other = write_checkpoint(tmp_path / "b", CONFIG, file="a.safetensors")
    write_file(other / "b.safetensors", make_tensors(CONFIG))
    with pytest.raises(UnsafeFormatError, match=r"a\.safetensors, b\.safetensors"):
        Checkpoint.open(other)


@pytest.mark.parametrize(
    "file",
    [
        "../model-00001-of-00003.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..safetensors",
        "C:model.safetensors",
        "a\0.safetensors",
        "pytorch_model.bin",
        "",
        7,
        None,
    ],
)
def test_an_index_that_names_no_plain_file_is_refused(sharded, file):
    edit_index(sharded, lambda weight_map: weight_map.update({"model.norm.weight": file}))
    with pytest.raises(UnsafeFormatError, match="plain name"):
        Checkpoint.open(sharded)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(sharded):
    other = "model-00001-of-00003.safetensors"

    def move(weight_map):
        name = next(name for name, file in weight_map.items() if file != other)
        weight_map[name] = other

    edit_index(sharded, move)
    with pytest.raises(UnsafeFormatError, match=f"the index says {other}"):
        Checkpoint.open(sharded)


def test_a_stray_tensor_is_refused(sharded):
    edit_index(sharded, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(UnsafeFormatError, match=r"model\.norm\.weight.*the index says no file"):
        Checkpoint.open(sharded)


def test_a_tensor_that_no_shard_has_is_refused(sharded):
    file = "model-00002-of-00003.safetensors"
    edit_index(sharded, lambda weight_map: weight_map.update({"model.extra": file}))
    with pytest.raises(UnsafeFormatError, match=r"model\.extra.*in no file"):
        Checkpoint.open(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    tensors = make_tensors(CONFIG)
    names = [*sorted(tensors)[0::3], sorted(tensors)[1]]
    shard = sharded / "model-00001-of-00003.safetensors"
    write_file(shard, {name: tensors[name] for name in names})
    with pytest.raises(UnsafeFormatError, match=r"in model-00001.* and model-00002"):
        Checkpoint.open(sharded)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match="model-00002-of-00003"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {}, "weight_map": {}}',
        "x",
    ],
)
def test_a_malformed_index_is_refused(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(UnsafeFormatError):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["[]", '{"a": 1, "a": 2}', '{"a": NaN}', ""])
def test_a_malformed_config_is_refused(tmp_path, text):
    folder = write_checkpoint(tmp_path, CONFIG)
    (folder / "config.json").write_text(text)
    with pytest.raises(UnsafeFormatError, match=r"config\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    folder = write_checkpoint(tmp_path, CONFIG)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:kept])
    with pytest.raises(UnsafeFormatError):
        Checkpoint.open(folder)


def test_a_file_cut_after_opening_is_refused_and_does_not_crash(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)
    with Checkpoint.open(folder) as checkpoint:
        os.truncate(folder / "model.safetensors", 2000)
        with pytest.raises(UnsafeFormatError, match="got 2,000"):
            checkpoint.read("model.norm.weight")
        with pytest.raises(EvidenceError, match="got a change"):
            checkpoint.require_unchanged()


def test_a_name_that_cannot_be_printed_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, CONFIG)
    header = b'{"a\\u001b[31m":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UnsafeFormatError, match="printable name"):
        Checkpoint.open(folder)


def test_a_tensor_without_elements_has_no_bytes(tmp_path):
    import numpy as np

    tensors = make_tensors(CONFIG) | {"empty": tensor(np.zeros((0, 4)))}
    with Checkpoint.open(write_checkpoint(tmp_path, CONFIG, tensors)) as checkpoint:
        assert checkpoint.read("empty") == b""


def test_stat_key_changes_with_every_file_that_matters_and_with_nothing_else(sharded):
    def key():
        with Checkpoint.open(sharded) as checkpoint:
            return checkpoint.stat_key()

    seen = [key()]
    assert key() == seen[0]
    (sharded / "README.md").write_text("x")
    assert key() == seen[0]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (sharded / name).write_text("{}")
        seen.append(key())
    (sharded / "additional_chat_templates").mkdir()
    (sharded / "additional_chat_templates" / "rag.jinja").write_text("{}")
    seen.append(key())
    for name in ("config.json", INDEX, "model-00002-of-00003.safetensors"):
        os.utime(sharded / name, ns=(1, 1))
        seen.append(key())
    assert len(set(seen)) == 8


@pytest.mark.parametrize("shards", [False, True])
def test_a_git_lfs_pointer_is_told_from_broken_weights(tmp_path, sharded, shards):
    folder = sharded if shards else write_checkpoint(tmp_path / "one", CONFIG)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UnsafeFormatError, match="got a git-lfs pointer, not weights") as caught:
        Checkpoint.open(folder)
    assert "git lfs pull" in str(caught.value.hint)


def test_a_bundle_in_place_of_a_model_is_called_a_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lock").mkdir()
    for name in ("manifest.json", "base.safetensors", "tensors.safetensors"):
        (tmp_path / "lock" / name).touch()
    with pytest.raises(CheckpointNotFoundError, match="got a bundle") as caught:
        Checkpoint.open("lock")
    assert str(caught.value.hint).endswith("safelatch show ./lock")
