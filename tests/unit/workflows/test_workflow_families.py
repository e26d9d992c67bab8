"""Every family of the table of sites through the public doors: made, loaded, and refused.

A wrong head count is an error for each of them: where shapes do not show it, the geometry of the
base does.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import family_model, output_projection
from support.locks import bundle_of, edited, fine_tuned, make_lock, read_record, snapshot
from support.tiny_tokenizer import build_tokenizer
from transformers import AutoModelForCausalLM

from registry.artifact.bundle import write_bundle
from registry.checkpoint.architecture import SITES
from registry.errors import GeometryError, UnsafeFormatError, UsageError
from registry.measure.prompts import load_pairs
from registry.settings import Settings
from registry.workflows.check import check
from registry.workflows.identify import identify
from registry.workflows.inspect import inspect
from registry.workflows.load import load_protected
from registry.workflows.make import extract
from registry.workflows.open_model import open_model
from registry.workflows.protect import protect

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifact.bundle import Bundle

HEADS = {"gpt2": "n_head"}
"""What a family calls its head count, where it is not ``num_attention_heads``."""
NORMED = ("gemma3_text", "qwen3", "qwen3_moe")
"""Families with a norm over one head, so that every wrong count shows in the shapes."""


class Made(NamedTuple):
    """A tiny model in memory and on disk, and a lock for it."""

    family: str
    model: Any
    folder: Path
    bundle: Bundle
    lock: Path

    def with_config(self, to: Path, **changes: Any) -> Path:
        shutil.copytree(self.folder, to)
        path = to / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return to

    def halved(self) -> dict[str, int]:
        """Half as many heads, twice as wide: every projection keeps its shape."""
        if self.family in HEADS:
            return {HEADS[self.family]: 2}
        return {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


@pytest.fixture(scope="module", params=sorted(SITES))
def made(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make("gpt2", tmp_path_factory.mktemp("gpt2"))


def make(family, root):
    model = family_model(family)
    model.save_pretrained(root / "model")
    bundle = bundle_of(read_record(root / "model"), make_lock())
    return Made(family, model, root / "model", bundle, write_bundle(bundle, root / "lock"))


@pytest.mark.parametrize("heads", [2, 3, 8])
def test_an_edited_head_count_is_refused_with_both_values(made, heads, tmp_path):
    name = HEADS.get(made.family, "num_attention_heads")
    folder = made.with_config(tmp_path / "edited", **{name: heads})
    with pytest.raises(GeometryError) as caught:
        load_protected(folder, artifacts=[made.lock])
    if heads == 3:
        assert f"is {heads}, {SITES[made.family].attn_out_weight(0)} has in_features 64" in str(
            caught.value
        )
    elif made.family == "gpt2":  # nothing in the shapes says how many heads there are
        assert f"heads: expected 4, got {heads}." in str(caught.value)
    else:
        assert f"config head_dim is 16, self_attn.o_proj.in_features 64 / {name} {heads} " in str(
            caught.value
        )


def test_a_head_count_that_fits_every_projection_is_refused_with_both_values(made, tmp_path):
    folder = made.with_config(tmp_path / "edited", **made.halved())
    with pytest.raises(GeometryError) as caught:
        load_protected(folder, artifacts=[made.lock])
    if made.family in NORMED:
        assert "self_attn.q_norm.weight: the config makes it [32], got [16]" in str(caught.value)
        return
    assert "heads: expected 4, got 2." in str(caught.value)
    assert "head_dim: expected 16, got 32." in str(caught.value)
    report = check(made.bundle, read_record(folder))
    fields = {finding.field for finding in report.errors}
    assert {"num_attention_heads", "head_dim"} < fields
    assert report.lineage.relation == "identical", "the weights alone say nothing"


@pytest.mark.parametrize("family", sorted(SITES.keys() - set(NORMED)))
def test_a_model_in_memory_with_another_head_count_is_refused(family, tmp_path):
    made = make(family, tmp_path)
    model = family_model(family, **made.halved())
    before = snapshot(model)
    with pytest.raises(GeometryError, match=r"heads: expected 4, got 2"):
        protect(model, made.bundle)
    assert snapshot(model) == before


def test_a_second_name_of_the_head_count_is_refused_with_both_values(gpt2, tmp_path):
    folder = gpt2.with_config(tmp_path / "edited", num_attention_heads=2)
    with pytest.raises(UnsafeFormatError, match=r"n_head and num_attention_heads.* got 4 and 2"):
        load_protected(folder, artifacts=[gpt2.lock])


@pytest.mark.parametrize("name", ["n_head", "num_attention_heads", "n_inner"])
def test_a_config_field_under_any_of_its_names_is_no_argument_of_a_load(gpt2, name):
    with pytest.raises(UsageError, match=f"another value for {name}"):
        load_protected(gpt2.folder, artifacts=[gpt2.lock], **{name: 2})


# From the base to a protected fine-tune, with nothing made by hand

OPTIONS = {"heads": 3, "answer_tokens": 5, "folds": 2, "repeats": 1}


@pytest.fixture(scope="module")
def spoken():
    """A tokenizer of the packaged pairs' words, and some of the pairs.

    Not for qwen2: whatever tokenizer is in such a folder, transformers makes a Qwen2Tokenizer.
    """
    pairs = load_pairs()
    texts = [text for pair in pairs.rows for text in (pair.prompt, pair.refusing, pair.complying)]
    return build_tokenizer(texts), pairs.split("make").first(12)


@pytest.mark.parametrize("family", sorted(SITES.keys() - {"qwen2"}))  # see ``spoken``
def test_a_lock_is_made_from_the_base_and_loaded_onto_its_fine_tune(family, spoken, tmp_path):
    tokenizer, pairs = spoken
    sizes = {"vocab_size": len(tokenizer)}
    if family == "gpt2":
        sizes["n_positions"] = 256
    model = family_model(family, **sizes)
    for folder, live in (("base", model), ("tune", fine_tuned(model, relative=0.02))):
        live.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    base = identify(tmp_path / "base", settings=Settings.load())
    draft = extract(
        "safety-lock", base, model, tokenizer,
        base_name="tiny", seed=0, options=OPTIONS, data=pairs,
    )  # fmt: skip
    lock = write_bundle(edited(draft, alpha=1.0, alpha_range=(0.0, 1.5)), tmp_path / "lock")
    loaded = load_protected(tmp_path / "tune", artifacts=[lock])
    assert loaded.safelatch.verified
    assert loaded.safelatch.lineage["relation"] == "derived"
    (applied,) = loaded.safelatch.applied
    assert applied.precondition["heads_positive"] == OPTIONS["heads"]
    for layer in {layer for layer, _ in applied.body.heads}:
        module = output_projection(loaded, family, layer)
        assert float(module.bias.detach().norm()) > 0
    applied.undo()
    assert snapshot(loaded) == snapshot(AutoModelForCausalLM.from_pretrained(tmp_path / "tune"))


def test_a_published_gpt2_is_found_to_be_the_base_of_what_was_trained_from_it(gpt2, tmp_path):
    tensors = load_file(gpt2.folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    published = gpt2.with_config(tmp_path / "published")
    save_file(bare, published / "model.safetensors", {"format": "pt"})
    bundle = bundle_of(read_record(published), make_lock())
    assert check(bundle, read_record(gpt2.folder)).lineage.relation == "identical"
    for folder in (published, gpt2.folder):
        (found,) = inspect(identify(folder, settings=Settings.load()), [bundle])
        assert (found.stored, found.loader_keeps) == (False, True)
        assert found.found["layers_found"] == [0, 1]
    loaded = open_model(identify(published, settings=Settings.load()))
    assert protect(loaded, bundle).evidence["modules"] == 2


def test_a_lock_in_the_bytes_of_a_gpt2_is_found_and_no_config_field_explains_it(tmp_path):
    model = family_model("gpt2")
    with torch.no_grad():
        for layer in (0, 1):
            output_projection(model, "gpt2", layer).bias.zero_()
    model.save_pretrained(tmp_path / "base")
    bundle = bundle_of(read_record(tmp_path / "base"), make_lock())
    protect(model, bundle)
    stored = {name: value.detach() for name, value in model.named_parameters()}
    shutil.copytree(tmp_path / "base", tmp_path / "locked")
    save_file(stored, tmp_path / "locked" / "model.safetensors", {"format": "pt"})
    (found,) = inspect(identify(tmp_path / "locked", settings=Settings.load()), [bundle])
    assert (found.stored, found.loader_keeps, found.explains) == (True, True, ())
    assert found.found["alpha"] == pytest.approx(2.0, rel=1e-5)
