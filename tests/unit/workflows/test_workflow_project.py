"""A projected copy carries the artifact, and differs from its model at the artifact's places alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.adapters import factors, lora_config, product, write_adapter
from support.guarded import layers_bundle
from support.mask_worlds import FAMILIES, INTS, Masked, gathered, masked, saved
from support.masked import mask_bundle
from support.tiny_models import tensor

from registry import Registry
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.copied import Copy
from registry.checkpoint.reader import Checkpoint
from registry.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    CompatibilityError,
    EvidenceError,
    GeometryError,
    HostError,
    UsageError,
    VerificationError,
)
from registry.kinds.esi_mask.inspect import patches
from registry.settings import Settings
from registry.wholefile import write_folder
from registry.workflows import project as workflow
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.project import project

if TYPE_CHECKING:
    from pathlib import Path

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("llama"), with_values=True)


@pytest.fixture(scope="module")
def tuned(llama: Masked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(llama.tuned(), tmp_path_factory.mktemp("tuned"))


def others(made: Masked, one: Path, other: Path) -> tuple[int, int]:
    """Return how many weights differ at selected places, and how many elsewhere."""
    inside = outside = 0
    places = made.places()
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        changed = (value.view(INTS[value.dtype]) != second[name].view(INTS[value.dtype])).numpy()
        mask = places.get(name, np.zeros(value.shape, dtype=bool))
        inside, outside = inside + changed[mask].sum(), outside + changed[~mask].sum()
    return int(inside), int(outside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_projected_fine_tune_carries_the_mask_and_is_itself_everywhere_else(
    family, dtype, tmp_path
):
    made = masked(family, tmp_path / "base", dtype, with_values=dtype == torch.bfloat16)
    source = saved(made.tuned(), tmp_path / "tuned")
    done = project(source, made.bundle, tmp_path / "out", base=made.folder)
    changed, outside = others(made, source, tmp_path / "out")
    assert (done.changed, outside) == (changed, 0)
    assert changed > made.body.selected / 2
    assert others(made, made.folder, tmp_path / "out")[0] == 0
    assert done.stored
    assert made.inspect(tmp_path / "out").stored
    assert not made.inspect(source).stored
    assert done.to_dict()["found"]["share"] == 1.0
    again = project(tmp_path / "out", made.bundle, tmp_path / "again", base=made.folder)
    assert again.changed == 0


def test_the_files_are_the_same_but_for_the_bytes_of_selected_weights(llama, tuned, tmp_path):
    """Headers and metadata too: two files of one size, compared byte by byte."""
    source = tmp_path / "source"
    shutil.copytree(tuned, source)
    tensors = load_file(source / "model.safetensors")
    save_file(tensors, source / "model.safetensors", {"format": "pt", "note": "kept"})
    project(source, llama.bundle, tmp_path / "out")
    ours, theirs = (
        np.frombuffer((folder / "model.safetensors").read_bytes(), np.uint8)
        for folder in (source, tmp_path / "out")
    )
    assert ours.size == theirs.size
    allowed = np.zeros(ours.size, dtype=bool)
    with Checkpoint.open(source) as checkpoint:
        for name, mask in llama.places().items():
            info = checkpoint.tensors[name]
            spread = np.repeat(mask.reshape(-1), 4)
            allowed[info.offset : info.offset + info.nbytes] = spread
    differing = ours != theirs
    assert differing.any()
    assert not differing[~allowed].any()
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "kept"}


def test_tensors_that_are_read_in_many_pieces_are_written_and_found_alike(
    llama, tuned, tmp_path, monkeypatch
):
    project(tuned, llama.bundle, tmp_path / "whole")
    monkeypatch.setattr("registry.checkpoint.reader.PIECE", 64)
    done = project(tuned, llama.bundle, tmp_path / "out")
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (done.stored, done.found["equal"]) == (True, llama.body.selected)
    found = llama.inspect(tuned)
    assert found.equal == llama.body.selected - done.changed


def test_shards_keep_their_names_and_texts_come_along_but_no_code_and_no_pickle(llama, tmp_path):
    source = tmp_path / "source"
    llama.tuned().save_pretrained(source, max_shard_size="40KB")
    (source / "additional_chat_templates").mkdir()
    kept = {
        "tokenizer.json": b"{}", "tokenizer.model": b"\x00\x01", "LICENSE.txt": b"text",
        "README.md": b"# A model", "additional_chat_templates/tool.jinja": b"{{ 1 }}",
    }  # fmt: skip
    left = ("modeling.py", "optimizer.pt", "pytorch_model.bin", "pytorch_model.bin.index.json",
            "adapter_config.json", ".gitattributes")  # fmt: skip
    for name, data in kept.items():
        (source / name).write_bytes(data)
    for name in left:
        (source / name).write_bytes(b"{}")
    shards = {path.name for path in source.glob("*.safetensors")}
    assert len(shards) > 2
    done = project(source, llama.bundle, tmp_path / "out")
    out = tmp_path / "out"
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert shards | kept.keys() | {"config.json", "model.safetensors.index.json"} <= there
    assert not there.intersection(left)
    assert done.files == tuple(sorted(there))
    for name in there - shards:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert llama.inspect(out).stored


def test_a_single_file_is_copied_under_its_name(llama, tuned, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tuned, source)
    (source / "model.safetensors").rename(source / "mine.safetensors")
    done = project(source / "mine.safetensors", llama.bundle, tmp_path / "out")
    assert "mine.safetensors" in done.files
    assert llama.inspect(tmp_path / "out").stored


def test_a_delta_puts_its_values_there(llama, tuned, tmp_path):
    made = llama.as_delta()
    done = project(tuned, made.bundle, tmp_path / "out")
    assert done.found["form"] == "delta"
    assert made.inspect(tmp_path / "out").stored
    assert others(made, tuned, tmp_path / "out") == (done.changed, 0)


def test_experts_in_one_tensor_are_written_where_they_are(tmp_path):
    """Lineage does not compare such files with their base yet, so that ``project`` refuses them."""
    made = masked("mixtral", tmp_path / "base", with_values=True)
    model = made.tuned()
    source = saved(model, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        for name in ("gate_up_proj", "down_proj"):
            kept[f"{experts}.{name}"] = model.get_parameter(f"{experts}.{name}").detach()
    save_file(kept, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelMismatchError, match="another structure"):
        project(source, made.bundle, tmp_path / "out")
    sites = sites_for("mixtral")
    with Checkpoint.open(source) as checkpoint:
        found = patches(checkpoint, made.body, sites, None)
        copy = Copy(checkpoint, found, None, sites)
        write_folder(tmp_path / "out", copy.files())
    assert made.inspect(tmp_path / "out").stored
    before, after = (
        load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out")
    )
    differing = sum(int((before[name] != after[name]).sum()) for name in before)
    assert made.body.selected / 2 < copy.changed == differing


@pytest.mark.parametrize("with_values", [True, False])
def test_a_narrower_model_gets_the_values_rounded_and_is_not_called_stored(
    llama, tmp_path, with_values
):
    bundle = mask_bundle(llama.model, llama.folder, with_values=with_values)
    source = saved(llama.tuned(torch.bfloat16), tmp_path / "source")
    done = project(source, bundle, tmp_path / "out", base=llama.folder)
    assert (done.stored, done.found["drifted"]) == (False, 0)
    assert done.found["rounded"] > 0
    base, out = (
        load_file(folder / "model.safetensors") for folder in (llama.folder, tmp_path / "out")
    )
    mask = torch.from_numpy(llama.places()[f"{DOWN}.weight"])
    wanted = base[f"{DOWN}.weight"][mask].to(torch.bfloat16)
    assert torch.equal(out[f"{DOWN}.weight"][mask], wanted)


# Adapters


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_outside_the_mask(family, dtype, tmp_path):
    made = masked(family, tmp_path / "base", dtype)
    module, outputs, inputs = {
        "gpt2": ("transformer.h.1.attn.c_attn", 192, 64), "llama": (DOWN, 48, 80),
    }[family]  # fmt: skip
    given = factors(module, outputs, inputs)
    config = lora_config(
        target_modules=[module.rpartition(".")[2]], fan_in_fan_out=family == "gpt2"
    )
    folder = write_adapter(tmp_path / "adapter", given, config)
    done = project(folder, made.bundle, tmp_path / "out", base=made.folder)
    assert done.stored
    base, out = (load_file(each / "model.safetensors") for each in (made.folder, tmp_path / "out"))
    change = 2 * product(given, module)
    change = change.T if family == "gpt2" else change
    name = f"{module}.weight"
    merged = torch.from_numpy(base[name].double().numpy() + change).to(dtype)
    mask = torch.from_numpy(made.places()[name])
    wanted = torch.where(mask, base[name], merged)
    assert torch.equal(out[name], wanted)
    assert done.changed == int((merged != base[name])[mask].sum())
    assert mask.any()
    assert {n for n in base if not torch.equal(base[n], out[n])} == {name}


def test_an_adapter_without_its_base_or_with_another_is_refused(llama, tuned, tmp_path):
    folder = write_adapter(
        tmp_path / "adapter", factors(DOWN, 48, 80), lora_config(target_modules=["down_proj"])
    )
    with pytest.raises(CheckpointNotFoundError, match="got neither base= nor a registry"):
        project(folder, llama.bundle, tmp_path / "out")
    with pytest.raises(BaseModelMismatchError, match="to be the base tiny-base"):
        project(folder, llama.bundle, tmp_path / "out", base=tuned)
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_merged_into_the_files_that_the_registry_knows(llama, tmp_path):
    folder = write_adapter(
        tmp_path / "adapter", factors(DOWN, 48, 80), lora_config(target_modules=["down_proj"])
    )
    with Registry.create(str(tmp_path / "registry.db")) as registry:
        add_base(registry, identify(llama.folder, settings=Settings.load()))
        assert project(folder, llama.bundle, tmp_path / "out", registry=registry).stored


@pytest.mark.parametrize("is_adapter", [False, True])
def test_progress_counts_every_byte_of_the_copy(llama, tuned, tmp_path, is_adapter):
    source, told = tuned, {}
    if is_adapter:
        config = lora_config(target_modules=["down_proj"])
        source = write_adapter(tmp_path / "adapter", factors(DOWN, 48, 80), config)
    done = project(
        source, llama.bundle, tmp_path / "out", base=llama.folder,
        progress=lambda stage, *done: told.setdefault(stage, []).append(done),
    )  # fmt: skip
    written = sum((tmp_path / "out" / name).stat().st_size for name in done.files)
    assert told["writing the copy"][-1] == (written, written)
    assert told["writing the copy"] == sorted(told["writing the copy"])
    assert "reading weights" in told


def test_an_adapter_that_holds_a_whole_tensor_is_refused_with_the_repair(llama, tmp_path):
    given = factors(DOWN, 48, 80)
    head = load_file(llama.folder / "model.safetensors")["lm_head.weight"].numpy()
    given["base_model.model.lm_head.weight"] = tensor(head + 1)
    config = lora_config(target_modules=["down_proj"], modules_to_save=["lm_head"])
    folder = write_adapter(tmp_path / "adapter", given, config)
    with pytest.raises(CompatibilityError, match=r"got 1 .*:\n  lm_head\.weight") as caught:
        project(folder, llama.bundle, tmp_path / "out", base=llama.folder)
    assert "model.merge_and_unload().save_pretrained(DIR)" in caught.value.hint


# All or nothing


def test_factors_of_an_embedding_that_is_also_stored_as_the_head_are_refused(tmp_path):
    made = masked("gemma2", tmp_path / "base")
    source = tmp_path / "both"
    shutil.copytree(made.folder, source)
    tensors = load_file(source / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding.clone()}, source / "model.safetensors")
    rows, width = embedding.shape
    given = {
        "base_model.model.model.embed_tokens.lora_embedding_A": tensor(np.full((2, rows), 0.01)),
        "base_model.model.model.embed_tokens.lora_embedding_B": tensor(np.full((width, 2), 0.01)),
    }
    config = lora_config(target_modules=["embed_tokens"])
    folder = write_adapter(tmp_path / "adapter", given, config)
    with pytest.raises(CompatibilityError) as refused:
        project(folder, made.bundle, tmp_path / "out", base=source)
    assert refused.value.message == (
        "expected an adapter of layers alone, got factors of model.embed_tokens.weight: this base "
        "ties lm_head.weight to model.embed_tokens.weight and stores both, and a merge into one "
        "would part them."
    )
    assert "merge_and_unload" in str(refused.value.hint)
    assert not (tmp_path / "out").exists()
    assert project(folder, made.bundle, tmp_path / "out", base=made.folder).stored


def test_a_taken_place_another_kind_and_another_model_are_refused(llama, tuned, tmp_path):
    with pytest.raises(UsageError, match="exists and is not empty"):
        project(tuned, llama.bundle, tuned)
    layers = layers_bundle(llama.model, llama.folder, first=0, last=0)
    with pytest.raises(UsageError, match="which values must be where, got a safety-layers"):
        project(tuned, layers, tmp_path / "out")
    stranger = saved(llama.tuned(relative=5.0), tmp_path / "stranger")
    with pytest.raises(BaseModelMismatchError):
        project(stranger, llama.bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_without_values_needs_the_base(tuned, tmp_path):
    made = masked("llama", tmp_path / "base")
    with pytest.raises(CheckpointNotFoundError, match="got neither base= nor a registry"):
        project(tuned, made.bundle, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "cache"]


def test_a_model_without_a_matrix_of_the_mask_is_refused_by_name(llama, tuned, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tuned, source)
    tensors = load_file(source / "model.safetensors")
    tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"].to(torch.int8)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises((CompatibilityError, GeometryError)):
        project(source, llama.bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_full_disk_leaves_nothing(llama, tuned, tmp_path, monkeypatch, fails):
    project(tuned, llama.bundle, tmp_path / "warm")  # what is cached is cached
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match="No space left on device"):
        project(tuned, llama.bundle, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_model_that_is_written_to_meanwhile_leaves_nothing(llama, tuned, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(tuned, source)
    real = workflow.write_folder

    def meddled(folder: Path, files: Any) -> None:
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"note": 1}))
        real(folder, files)

    monkeypatch.setattr(workflow, "write_folder", meddled)
    with pytest.raises(EvidenceError, match="expected the files to stay as they were"):
        project(source, llama.bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_reads_back_otherwise_does_not_stay(llama, tuned, tmp_path, monkeypatch):
    real = workflow.write_folder
    place = int(np.flatnonzero(llama.places()[f"{DOWN}.weight"])[0])

    def broken(folder: Path, files: Any) -> None:
        real(folder, files)
        with Checkpoint.open(folder) as checkpoint:
            offset = checkpoint.tensors[f"{DOWN}.weight"].offset
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(offset + 4 * place)
            file.write(b"\xff")

    monkeypatch.setattr(workflow, "write_folder", broken)
    with pytest.raises(VerificationError, match="read back it does not"):
        project(tuned, llama.bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_base_s_own_values_are_what_is_written(llama, tuned, tmp_path):
    project(tuned, llama.bundle, tmp_path / "out", settings=Settings.load())
    out = Masked(tmp_path / "out", llama.model, llama.bundle, llama.body)
    ours, theirs = gathered(llama), gathered(out)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
