"""Hostile safety layers: bodies that lie, exchanged bases, silent changes of the range.

docs/hostile-inputs.md is the list. Whoever may write to the process can do what they like: what
is here is what files can say, and what a training does without meaning to.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import factors, lora_config, write_adapter
from support.command_line import safelatch
from support.families import family_model
from support.guarded import layers_bundle, layers_model, steps, trained
from support.locks import read_record
from support.planted_layers import build_planted_layers
from support.ranges import a_base, a_body, range_bundle
from support.refusals import refusal
from torch.nn.utils import parametrize

import registry
from registry.artifact.bundle import make_bundle, write_bundle
from registry.artifact.presentation import Verbatim
from registry.checkpoint.sketch import positions
from registry.errors import (
    ApplyError,
    CheckpointNotFoundError,
    CompatibilityError,
    DigestMismatchError,
    GeometryError,
    GuardError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
    VerificationError,
)
from registry.kinds import parse_body, present
from registry.kinds.safety_layers.extract import extract
from registry.kinds.safety_layers.guard import guard as guard_layers
from registry.report.markdown import words
from registry.settings import Settings
from registry.workflows.base_tensors import BaseTensors
from registry.workflows.identify import identify
from registry.workflows.inspect import inspect, inspect_adapter
from registry.workflows.unfinished import Unfinished

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    layers_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(base):
    return layers_bundle(None, base)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return range_bundle(read_record(a_base(tmp_path_factory.mktemp("m") / "base")), a_body())


@pytest.fixture
def model():
    return layers_model()


def violations(bundle):
    return refusal(SchemaViolationError, lambda: parse_body(bundle)).violations


def said(bundle, tensors=None, **members):
    """Return the bundle with these members of its body, and these tensors."""
    body = {**bundle.manifest.body, **members}
    tensors = bundle.tensors() if tensors is None else tensors
    return make_bundle(replace(bundle.manifest, body=body), tensors, bundle.base_tensors())


def measuring(bundle, tensors=None, **members):
    measurement = copy.deepcopy(dict(bundle.manifest.body["measurement"])) | members
    return said(bundle, tensors, measurement=measurement)


def without(bundle, is_left_out):
    """Return the bundle without the points of its sweep that are left out."""
    points = bundle.manifest.body["measurement"]["points"]
    kept = [index for index, point in enumerate(points) if not is_left_out(point)]
    assert len(kept) < len(points)
    tensors = {**bundle.tensors(), "refused": bundle.tensors()["refused"][kept]}
    return measuring(bundle, tensors, points=[dict(points[index]) for index in kept])


def edited(base, folder, edit):
    """Write the base with its stored tensors edited."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def seen(folder, bundle):
    (found,) = inspect(identify(folder, settings=Settings.load()), [bundle])
    return found


# What a body says


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_record_of_another_model_in_which_the_range_protects_nothing(
    family, base, bundle, tmp_path
):
    """Under the names of a gpt2 no tensor of a llama is protected: all of it is untouched."""
    sizes = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4, "vocab_size": 32}
    other = layers_bundle(family_model(family, **sizes), tmp_path / "other")
    lie = make_bundle(
        replace(other.manifest, base=bundle.manifest.base, geometry=bundle.manifest.geometry),
        other.tensors(), other.base_tensors(),
    )  # fmt: skip
    lines = violations(lie)
    assert ("base record: expected family llama, got gpt2" in lines) == (family == "gpt2")
    assert lines[-1].startswith(f"base record: expected weights {bundle.manifest.base.weights}")
    refusal(SchemaViolationError, lambda: seen(base, lie), "the base record of the base")


@pytest.mark.parametrize(
    ("first", "last", "tensor"), [(2, 1, [2, 1]), (0, 4, [0, 4]), (1, 2, [0, 3])]
)
def test_range_that_is_empty_beyond_the_model_or_another_one_in_its_tensor(
    bundle, first, last, tensor
):
    lie = said(bundle, {"range": np.array(tensor, np.int32)}, first=first, last=last)
    assert all(line.startswith("range: expected") for line in violations(lie))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_range_of_another_dtype(bundle, dtype):
    lie = said(bundle, {"range": np.array([1, 2], dtype)})
    (line,) = violations(lie)
    assert line.startswith("range: expected int32 [2]")


def test_published_range_that_says_it_was_measured(bundle, measured):
    assert violations(said(bundle, origin="measured"))
    assert violations(said(measured, origin="published"))


def test_control_that_was_left_out_of_a_sweep(measured):
    lie = without(measured, lambda p: (p["step"], p["first"]) == ("control", 0))
    effect = {**lie.manifest.body["measurement"]["effect"]}
    effect["control"] = {"first": 8, "last": 11, "refused": 0}
    (line,) = violations(measuring(lie, effect=effect))
    assert line == ("points: expected control [0, 3], which decides about the range, found none")


def test_bound_that_was_left_out_of_a_sweep(measured):
    """The best bound left out makes its neighbour the best, and a hole beside it."""
    lines = violations(without(measured, lambda p: (p["step"], p["last"]) == ("upper", 8)))
    assert lines == ["points: expected upper [5, 8], which decides about the range, found none"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], "resampled.last: expected shares that sum to 1, got 0"),
        ([{"value": 11, "share": 1.0}], "resampled.last: expected bounds of the sweep, each once"),
        ([{"value": 7, "share": 1.0}] * 2, "resampled.last: expected shares that sum to 1, got 2"),
    ],
)
def test_firmness_that_cannot_have_come_out_of_the_sweep(measured, rows, line):
    resampled = {**measured.manifest.body["measurement"]["resampled"], "last": rows}
    assert line in violations(measuring(measured, resampled=resampled))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1e300"])
def test_curve_of_numbers_that_are_none(measured, tmp_path, number):
    folder = write_bundle(measured, tmp_path / "bundle")
    document = json.loads((folder / "manifest.json").read_bytes())
    document["body"]["measurement"]["gap"]["degrees"][0] = "HERE"
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    (folder / "manifest.json").write_text(text.replace('"HERE"', number))
    outcome = safelatch("show", folder)
    assert outcome.status != 0
    assert "Traceback" not in outcome.err


def test_source_with_terminal_escapes_and_links(bundle, tmp_path):
    links = "[click](http://evil) <img src=x> `# measured` **measured**"
    source = {**bundle.manifest.body["source"], "where": links, "model": links, "paper": links}
    lie = said(bundle, source=source)
    assert safelatch("show", write_bundle(lie, tmp_path / "links")).status == 0
    cells = [cell for _, cell in present(lie).facts if "evil" in str(cell)]
    assert len(cells) == 3
    for cell in cells:
        assert isinstance(cell, Verbatim)
        assert words((cell,)).startswith("`")
        assert words((cell,)).count("`") == 2
    folder = write_bundle(lie, tmp_path / "escapes")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("[click]", "\\u001b[2J\\u202e"))
    outcome = safelatch("show", folder)
    assert outcome.status != 0
    assert "expected text that can be printed" in outcome.err
    assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n"))


# Notes of a search that was interrupted


class Noted(dict):
    """Notes that were written by somebody else."""

    recall = dict.get

    def keep(self, key, _value):
        raise AssertionError(f"measured {key}")


@cache
def planted():
    return build_planted_layers(range(3, 5), layers=6)


def located(notes):
    options = {
        "alpha": 1.3, "answer_tokens": 4, "limit": 0, "attention_output": False, "norms": "frozen",
    }  # fmt: skip
    model = planted()
    return extract(
        model.model, model.tokenizer, model.scary, seed=0, options=options, notes=Noted(notes)
    )


def curves(layers=6):
    row = [float(layer) for layer in range(layers)]
    angles = {"degrees": row, "low": row, "high": row}
    pair = {"mean": row, "std": row}
    return {
        "curves": {"harmless": pair, "harmful": pair, "between": pair},
        "gap": {**angles, "paper": row},
        "controls": {"form": angles, "scary": angles},
    }


@pytest.mark.parametrize(
    "notes",
    [[], "1", {}, curves(5), {**curves(), "n": 9, "scorer": "mine"},
     {**curves(), "gap": {**curves()["gap"], "degrees": ["9"] * 6}},
     {**curves(), "controls": {**curves()["controls"], "scary": None}}],
)  # fmt: skip
def test_notes_whose_curves_are_none_or_say_more(notes):
    refusal(UsageError, lambda: located({"curves": notes}), "something else under 'curves'")


@pytest.mark.parametrize(
    "flags",
    ["", "1" * 71, "1" * 73, "2" * 72, [1] * 72, 72, True, "\u0661" * 72],
    ids=["none", "one less", "one more", "twos", "list", "number", "true", "other digits"],
)
def test_notes_whose_flags_are_of_another_length_or_none(flags):
    notes = {"curves": curves(), "refused": flags}
    refusal(UsageError, lambda: located(notes), "something else under 'refused'")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "terabyte", "deep", "twice"])
def test_notes_that_are_no_file_of_notes(tmp_path, kind):
    path, run = tmp_path / "out.unfinished", {"seed": 0}
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "terabyte":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        text = {"deep": "[" * 100 + "]" * 100, "twice": '{"run": {}, "run": {"seed": 0}}'}[kind]
        path.write_text(text)
    what = "not strict JSON" if kind in {"deep", "twice"} else "expected"
    refusal(UnsafeFormatError, lambda: Unfinished(tmp_path / "out", run), what)


def test_notes_that_are_a_link_are_replaced_and_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    Unfinished(tmp_path / "first", {"seed": 0}).keep("a", 1)
    (tmp_path / "first.unfinished").rename(elsewhere)
    before = elsewhere.read_bytes()
    (tmp_path / "out.unfinished").symlink_to(elsewhere)
    notes = Unfinished(tmp_path / "out", {"seed": 0})
    notes.keep("b", 2)
    assert elsewhere.read_bytes() == before
    assert not notes.path.is_symlink()


# A base that is none


@pytest.mark.parametrize("name", [UP, "model.layers.2.input_layernorm.weight"])
def test_base_with_one_other_bit(base, bundle, model, tmp_path, name):
    def flip(tensors):
        tensors[name].view(-1).view(torch.int32)[-1] ^= 1

    lie = edited(base, tmp_path / "lie", flip)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.01)
        model.get_parameter(DOWN).mul_(1.01)
    before = copy.deepcopy(model.state_dict())
    refusal(
        DigestMismatchError,
        lambda: registry.protect(model, bundle, base=lie),
        f"expected {name} of",
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_base_that_is_exchanged_between_two_tensors(base, bundle, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    other = edited(base, tmp_path / "other", lambda tensors: tensors[DOWN].mul_(2))
    with BaseTensors(bundle, folder) as tensors:
        tensors.read(UP)
        (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        refusal(DigestMismatchError, lambda: tensors.read(DOWN), f"expected {DOWN} of")


def test_base_that_is_pickled(bundle, model, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with torch.no_grad():
        model.get_parameter(UP).mul_(1.01)
    with pytest.raises(CheckpointNotFoundError) as caught:
        registry.protect(model, bundle, base=tmp_path / "base")
    assert "Pickled weights are never opened." in str(caught.value.hint)
    assert not (tmp_path / "ran").exists()


def test_base_without_one_of_its_shards(bundle, model, tmp_path):
    layers_model().save_pretrained(tmp_path / "base", max_shard_size="100KB")
    min((tmp_path / "base").glob("*.safetensors")).unlink()
    with torch.no_grad():
        model.get_parameter(UP).mul_(1.01)
    refusal(
        CheckpointNotFoundError,
        lambda: registry.protect(model, bundle, base=tmp_path / "base"),
        "no file for 1 of",
    )


def test_edit_that_spares_every_sampled_value_of_a_narrower_model(base, bundle):
    """Where values are sampled is no secret; with the base at hand every value is compared."""
    narrow = layers_model(dtype=torch.bfloat16)
    weight = narrow.get_parameter(UP)
    right, spared = weight.detach().clone(), torch.ones(weight.numel(), dtype=torch.bool)
    spared[torch.from_numpy(positions(UP, tuple(weight.shape)))] = False
    with torch.no_grad():
        weight.view(-1)[spared] *= -1
    assert registry.guard(narrow, bundle).verify()["base_tensors_by_samples"] == 18
    assert registry.protect(copy.deepcopy(narrow), bundle).evidence["level"] == "samples"
    handle = registry.protect(narrow, bundle, base=base)
    assert handle.evidence["restored"] == 1
    assert torch.equal(narrow.get_parameter(UP), right)


# What files of a fine-tune hold


@pytest.mark.parametrize("prefix", ["", "model.model."])
def test_range_that_is_stored_again_under_a_name_that_a_loader_takes(
    base, bundle, tmp_path, prefix
):
    again = prefix + UP.removeprefix("model.")
    lie = edited(base, tmp_path / "lie", lambda t: t.update({again: torch.zeros_like(t[UP])}))
    found = seen(lie, bundle)
    assert not found.stored
    assert found.found["layers"][0]["unexpected"] == [again]


@pytest.mark.parametrize(
    "name", ["model.layers.01.mlp.up_proj.weight", "model.layers.1.mlp.up.weight"]
)
def test_tensor_of_the_range_under_another_name(base, bundle, tmp_path, name):
    lie = edited(base, tmp_path / "lie", lambda tensors: tensors.update({name: tensors.pop(UP)}))
    found = seen(lie, bundle)
    assert found.found["layers"][0]["missing"] == [UP]
    assert not found.stored


@pytest.mark.parametrize(("before", "after"), [(0, -(2**31)), (0x7FC00000, 0x7FC00001)])
def test_zero_of_another_sign_and_another_nan(tmp_path, before, after):
    """Equal as numbers, or both none: not the base's bits."""
    model = layers_model()
    with torch.no_grad():
        model.get_parameter(UP).view(-1).view(torch.int32)[7] = before
    bundle = layers_bundle(model, tmp_path / "base")
    body = parse_body(bundle)

    def flip(tensors):
        tensors[UP].view(-1).view(torch.int32)[7] = after

    found = seen(edited(tmp_path / "base", tmp_path / "lie", flip), bundle)
    assert found.found["layers"][0]["changed"] == [UP]
    held = guard_layers(model, body)
    held.verify()
    with torch.no_grad():
        model.get_parameter(UP).view(-1).view(torch.int32)[7] = after
    refusal(VerificationError, held.verify, "1 of 18 protected parameters changed")


def test_adapter_beside_weights_whose_range_is_the_bases(base, bundle, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    assert seen(folder, bundle).loader_keeps
    adapter = write_adapter(
        tmp_path / "adapter", factors(UP.removesuffix(".weight"), 80, 48), lora_config()
    )
    for file in adapter.iterdir():
        shutil.copy(file, folder)
    found = seen(folder, bundle)
    assert found.stored
    assert not found.loader_keeps
    refusal(
        UnsafeFormatError,
        lambda: registry.load_protected(folder, artifacts=[write_bundle(bundle, tmp_path / "b")]),
        "the loader would add the adapter",
    )


@pytest.mark.parametrize("change", [{"init_lora_weights": False}, {"init_lora_weights": None},
                                    {"init_lora_weights": "orthogonal"}])  # fmt: skip
def test_adapter_whose_missing_factors_a_loader_draws_at_random(bundle, tmp_path, change):
    """It names the query of every layer and holds factors of layer 0 alone."""
    whole = factors("model.layers.0.self_attn.q_proj", 64, 48)
    config = lora_config(target_modules=["q_proj"])
    folder = write_adapter(tmp_path / "plain", whole, {**config, "init_lora_weights": True})
    assert inspect_adapter(folder, [bundle])[0].stored
    folder = write_adapter(tmp_path / "random", whole, config | change)
    refusal(
        GeometryError,
        lambda: inspect_adapter(folder, [bundle]),
        "model.layers.1.self_attn.q_proj.weight: its factors are drawn at random at every load",
    )


@pytest.mark.parametrize(
    "change",
    [{"use_dora": True}, {"target_parameters": ["mlp.up_proj.weight"]}, {"layer_replication": [[0, 4]]},
     {"trainable_token_indices": [1]}, {"init_lora_weights": "pissa"}],
)  # fmt: skip
def test_adapter_that_changes_the_range_in_another_way(bundle, tmp_path, change):
    whole = factors("model.layers.0.self_attn.q_proj", 64, 48)
    config = lora_config(target_modules=["q_proj"]) | change
    folder = write_adapter(tmp_path, whole, config)
    refusal(CompatibilityError, lambda: inspect_adapter(folder, [bundle]), "expected a plain LoRA")


@pytest.mark.parametrize(
    "change",
    [{"alpha_pattern": {"layers.1.self_attn.q_proj": 0}}, {"use_rslora": True},
     {"alpha_pattern": {"k_proj": 0}}, {"layers_to_transform": [11], "layers_pattern": "layers"}],
)  # fmt: skip
def test_adapter_in_layer_11_is_not_taken_for_one_in_layer_1(tmp_path, change):
    """Its factors count, whatever the config says of layer 1 or of other modules."""
    model = family_model("llama", num_hidden_layers=12)
    whole = factors("model.layers.11.self_attn.q_proj", 64, 48)
    folder = write_adapter(tmp_path / "a", whole, lora_config(target_modules=["q_proj"]) | change)
    for layer in (1, 11):
        bundle = layers_bundle(model, tmp_path / "base", first=layer, last=layer)
        assert inspect_adapter(folder, [bundle])[0].stored == (layer == 1)


# What a training does


@pytest.fixture
def held(model, bundle):
    return registry.guard(model, bundle)


def attached(model, held):
    optimizer = torch.optim.SGD(trained(model), lr=0.1)
    held.attach(optimizer)
    return optimizer


def changed(held, count=1):
    error = refusal(VerificationError, held.verify, f"{count} of 18 protected parameters changed")
    assert held.verified_at is None
    return error


def test_copy_that_is_trained_in_place_of_the_guarded_model(model, held):
    twin = copy.deepcopy(model)
    twin.requires_grad_(True)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2)
    refusal(GuardError, lambda: held.attach(optimizer), "none of its 39 parameters is that model's")
    assert not held.is_on(twin)


def test_buffer_that_acts_inside_the_range(model, held, bundle):
    """A linear layer adds what it finds as its bias, parameter or not."""
    module = model.model.layers[1].self_attn.o_proj
    del module._parameters["bias"]
    module.register_buffer("bias", torch.ones(48))
    refusal(GuardError, held.verify, "model.layers.1.self_attn.o_proj.bias")
    held.release()
    refusal(ApplyError, lambda: registry.protect(model, bundle), "only the base's parameters")


def test_trained_parameter_in_the_memory_of_a_protected_one(model, held):
    model.model.layers[3].mlp.up_proj.weight = torch.nn.Parameter(model.get_parameter(UP).data)
    steps(model, attached(model, held), 1)
    changed(held)


def test_optimizer_that_was_never_attached(model, held):
    steps(model, attached(model, held), 1)
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, 1)
    model.requires_grad_(False)
    model.zero_grad()
    changed(held, 18)


def test_write_inside_a_closure_or_past_the_graph(model, held):
    optimizer, weight = attached(model, held), model.get_parameter(UP)

    def closure():
        weight.requires_grad_(True)
        weight.data[0, 0] += 1
        weight.requires_grad_(False)
        return torch.zeros(())

    optimizer.step(closure)
    assert UP in changed(held).message


def test_module_or_parameter_that_is_put_in_place_of_a_protected_one(model, held):
    layer = model.model.layers[1]
    layer.mlp.up_proj = torch.nn.Linear(48, 80, bias=False)
    optimizer = torch.optim.SGD(model.lm_head.parameters(), lr=0.1)
    refusal(GuardError, lambda: held.attach(optimizer), "require gradients again", UP)
    layer.mlp.up_proj.requires_grad_(False)
    changed(held)


def test_parametrization_of_a_protected_weight(model, held):
    parametrize.register_parametrization(
        model.model.layers[1].mlp.up_proj, "weight", torch.nn.Dropout(0.5)
    )
    refusal(GuardError, held.verify, "up_proj.parametrizations.weight.original")


def test_state_that_is_loaded_midway(model, held):
    state = {name: 2 * value for name, value in model.state_dict().items()}
    for assign in (False, True):
        model.load_state_dict(state, assign=assign)
        changed(held, 18)


def test_cast_that_rounds_the_range(model, held):
    model.half()
    changed(held, 18)


def test_best_model_that_is_not_the_bases(model, bundle):
    """The Trainer loads its best checkpoint before the last reading."""
    callback = registry.SafetyCallback(bundle)
    callback.on_init_end(None, None, None, model=model)
    optimizer = torch.optim.SGD(trained(model), lr=0.1)
    callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)
    model.load_state_dict({**model.state_dict(), UP: torch.zeros(80, 48)})
    refusal(VerificationError, lambda: callback.on_train_end(None, None, None), UP)
    assert callback.report is None
