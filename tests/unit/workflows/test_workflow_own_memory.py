"""A live model and the file it came from go separate ways."""

from __future__ import annotations

import os
import shutil

import torch
from support.locks import snapshot

from registry.settings import Settings
from registry.workflows.identify import identify
from registry.workflows.open_model import open_model


def test_who_writes_to_the_file_of_a_model_does_not_change_the_model(world, tmp_path):
    folder = shutil.copytree(world.base, tmp_path / "base")
    model = open_model(identify(folder, settings=Settings.load()))
    before = snapshot(model)
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(bytes(4096))
    assert snapshot(model) == before
    os.truncate(file, 4096)
    assert snapshot(model) == before  # read from the file this would end the process
    with torch.no_grad():
        assert model(torch.arange(5)[None]).logits.isfinite().all()


def test_weights_that_are_tied_stay_one(world, tmp_path):
    folder = tmp_path / "tied"
    tied = type(world.planted.model)(
        type(world.planted.model.config).from_dict(
            world.planted.model.config.to_dict() | {"tie_word_embeddings": True}
        )
    )
    tied.save_pretrained(folder)
    world.planted.tokenizer.save_pretrained(folder)
    model = open_model(identify(folder, settings=Settings.load()))
    assert model.lm_head.weight is model.model.embed_tokens.weight
