"""The base's weights are opened when they are asked for, and are the base's or refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from support.guarded import layers_bundle, layers_model
from support.locks import read_record

from registry import Registry
from registry.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    DigestMismatchError,
    UnsafeFormatError,
)
from registry.settings import Settings
from registry.workflows.base_tensors import BaseTensors
from registry.workflows.bases import add_base
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifact.bundle import Bundle

DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    layers_model().save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def bundle(base: Path) -> Bundle:
    return layers_bundle(None, base)


def expected(base: Path) -> bytes:
    (file,) = [file for file in base.glob("*.safetensors") if DOWN in load_file(file)]
    return load_file(file)[DOWN].numpy().tobytes()


def other(base: Path, folder: Path, **changes: Any) -> Path:
    layers_model(**changes).save_pretrained(folder)
    return folder


def test_nothing_is_opened_before_a_tensor_is_asked_for(bundle, tmp_path):
    with BaseTensors(bundle, tmp_path / "nowhere") as tensors:
        pass
    with (
        BaseTensors(bundle, tmp_path / "nowhere") as tensors,
        pytest.raises(CheckpointNotFoundError, match="nowhere"),
    ):
        tensors.read(DOWN)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_tensor_is_read_from_the_folder_that_is_named(base, bundle, as_text):
    with BaseTensors(bundle, str(base) if as_text else base) as tensors:
        assert tensors.read(DOWN) == expected(base)
        assert len(tensors.read("model.norm.weight")) == 48 * 4


def test_the_files_are_closed_behind_it(base, bundle):
    with BaseTensors(bundle, base) as tensors:
        tensors.read(DOWN)
        opened = tensors._checkpoint
        assert opened is not None
        opened.read(DOWN)
    with pytest.raises(RuntimeError, match="closed"):
        opened.read(DOWN)
    assert tensors.read(DOWN) == expected(base)  # asked again, it opens them again
    tensors.__exit__(None, None, None)


@pytest.mark.parametrize("named", [False, True])
def test_by_default_it_is_what_the_registry_knows_of_this_base(
    base, bundle, empty_registry, tmp_path, named
):
    moved = shutil.copytree(base, tmp_path / "registered")
    add_base(empty_registry, identify(moved, settings=Settings.load()), "tiny")
    place = empty_registry if named else None  # the default registry is this one
    with BaseTensors(bundle, None, place) as tensors:
        assert tensors.read(DOWN) == expected(base)
    moved.rename(tmp_path / "elsewhere")
    with (
        BaseTensors(bundle, None, place) as tensors,
        pytest.raises(CheckpointNotFoundError, match="none are known here"),
    ):
        tensors.read(DOWN)
    with BaseTensors(bundle, tmp_path / "elsewhere", place) as tensors:
        assert tensors.read(DOWN) == expected(base)


def test_no_registry_and_one_without_the_base_say_how_to_name_it(bundle, home):
    for _ in range(2):
        with (
            BaseTensors(bundle) as tensors,
            pytest.raises(CheckpointNotFoundError) as caught,
        ):
            tensors.read(DOWN)
        weights = bundle.manifest.base_weights.removeprefix("blake3:")
        assert caught.value.message.startswith(
            f"expected the weights of the base tiny-base (blake3:{weights[:12]}"
        )
        assert caught.value.message.endswith("), got neither base= nor a registry that has it.")
        assert caught.value.hint == (
            "Say where it is (base=DIR; --base DIR on the command line), or register it: "
            "safelatch base add MODEL"
        )
        if not home.exists():
            Registry.create().close()


def test_other_bytes_are_refused_with_both_digests(base, bundle, tmp_path):
    model = layers_model()
    with torch.no_grad():
        model.get_parameter(DOWN)[0, 0] += 1
    model.save_pretrained(tmp_path)
    entries = {entry.name: entry.digest for entry in read_record(tmp_path).entries}
    promised = {entry.name: entry.digest for entry in read_record(base).entries}
    with BaseTensors(bundle, tmp_path) as tensors:
        with pytest.raises(DigestMismatchError) as caught:
            tensors.read(DOWN)
        assert tensors.read("model.norm.weight")  # this one is the base's
    assert caught.value.message == (
        f"{tmp_path}: expected {DOWN} of {promised[DOWN]} as in the base tiny-base, got "
        f"{entries[DOWN]}."
    )
    weights = bundle.manifest.base_weights
    assert caught.value.hint == (
        f"Name the base itself, whose weights are {weights}. What a folder holds: "
        "safelatch fingerprint DIR"
    )


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"intermediate_size": 64}, r"got F32 \[48, 64\]"),
        ({"family": "mixtral"}, "got none"),
    ],
    ids=["another shape", "another family"],
)
def test_another_model_is_refused_with_what_it_has(base, bundle, tmp_path, changes, got):
    folder = other(base, tmp_path, **changes)
    with (
        BaseTensors(bundle, folder) as tensors,
        pytest.raises(BaseModelMismatchError, match=rf"expected {DOWN} of F32 \[48, 80\].* {got}"),
    ):
        tensors.read(DOWN)


def test_a_copy_in_another_dtype_is_not_the_base(base, bundle, tmp_path):
    folder = other(base, tmp_path, dtype=torch.bfloat16)
    with (
        BaseTensors(bundle, folder) as tensors,
        pytest.raises(BaseModelMismatchError, match=r"got BF16 \[48, 80\]"),
    ):
        tensors.read(DOWN)


def test_files_that_break_their_format_are_refused(base, bundle, tmp_path):
    folder = shutil.copytree(base, tmp_path / "cut")
    file = min(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    with BaseTensors(bundle, folder) as tensors, pytest.raises(UnsafeFormatError):
        tensors.read(DOWN)
