"""What is loaded is what was read, and stays that when its files change or fail."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from support.locks import snapshot

from registry.errors import VerificationError
from registry.settings import Settings
from registry.workflows.identify import identify
from registry.workflows.open_model import open_model, open_tokenizer


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


def test_a_chat_template_that_could_not_be_looked_at_is_missed(world, monkeypatch):
    identified = identify(world.base, settings=Settings.load())
    assert open_tokenizer(identified).chat_template
    isfile = os.path.isfile

    def failing(path):  # what the library makes of an error of the disk
        return "chat_template" not in str(path) and isfile(path)

    monkeypatch.setattr(os.path, "isfile", failing)
    with pytest.raises(VerificationError, match=r"expected the chat template, got none\."):
        open_tokenizer(identified)
