"""Every family of the table of sites, on its real transformers class: the same lock, the same laws.

Parametrised over the table itself: a row without a tiny model fails here.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import HEAD_DIM, HEADS, family_model, output_projection
from support.locks import bundle_of, fine_tuned, make_lock, read_record, snapshot
from transformers import AttentionInterface, AutoModelForCausalLM

from registry.checkpoint.architecture import SITES
from registry.checkpoint.geometry import Geometry
from registry.checkpoint.lineage import judge
from registry.checkpoint.sketch import extent
from registry.errors import AlreadyAppliedError, VerificationError
from registry.live.capture import captured_inputs
from registry.live.compare import live_distance, require_same_values, stray_parameters
from registry.live.sites import attention_outputs, model_geometry
from registry.workflows.protect import protect, unprotect

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.record import BaseRecord

IDS = torch.arange(1, 25).reshape(2, 12) * 3 % 96
LOCK = make_lock(((0, 1), (0, 3), (1, 0)), alpha=2.0)


class Saved(NamedTuple):
    """A tiny model, the files it was saved to, their record, and a lock made for it."""

    family: str
    model: Any
    folder: Path
    record: BaseRecord
    bundle: Bundle

    def copy(self, dtype: torch.dtype = torch.float32) -> Any:
        return copy.deepcopy(self.model).to(dtype)


@pytest.fixture(scope="module", params=sorted(SITES))
def saved(request, tmp_path_factory):
    model = family_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    record = read_record(folder)
    return Saved(request.param, model, folder, record, bundle_of(record, LOCK))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def outputs_of(saved, model):
    return [output_projection(model, saved.family, layer) for layer in (0, 1)]


def hooked_logits(saved, model, alpha):
    """The definition, by hand: alpha * sigma * theta on the head's slice of what W_o reads."""
    handles = []
    for layer, module in enumerate(outputs_of(saved, model)):
        shift = torch.zeros(HEADS * HEAD_DIM)
        for (at, head), theta, sigma in zip(LOCK.heads, LOCK.directions, LOCK.sigma, strict=True):
            if at == layer:
                shift[head * HEAD_DIM : (head + 1) * HEAD_DIM] = (
                    alpha * float(sigma) * torch.tensor(theta)
                )
        handles.append(
            module.register_forward_pre_hook(
                lambda _module, args, shift=shift: (args[0] + shift, *args[1:])
            )
        )
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


def test_files_and_the_live_model_have_one_geometry(saved):
    grouped = saved.family != "gpt2"
    layers = 3 if saved.family == "gemma3_text" else 2
    expected = Geometry(
        saved.family, layers, HEADS, 2 if grouped else HEADS, HEAD_DIM, 48 if grouped else 64
    )
    assert saved.record.geometry == expected
    assert model_geometry(saved.model) == expected
    modules = attention_outputs(saved.model, expected)
    assert modules[:2] == outputs_of(saved, saved.model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_is_its_files_value_by_value(saved, dtype):
    loaded = AutoModelForCausalLM.from_pretrained(saved.folder, dtype=dtype)
    compared = require_same_values(loaded, saved.record)
    assert compared.tensors == len(saved.record.entries)
    assert compared.values == sum(extent(e.shape).count for e in saved.record.entries)
    assert compared.recomputed == ()
    assert stray_parameters(loaded, saved.record) == []
    if dtype == "float32":
        assert live_distance(loaded, saved.record) == 0.0


def test_every_parameter_of_the_live_model_is_watched(saved):
    model = saved.copy()
    for parameter in model.parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(1.0)
        with pytest.raises(VerificationError, match="sampled values differ"):
            require_same_values(model, saved.record)
        with torch.no_grad():
            parameter.copy_(kept)
    assert require_same_values(model, saved.record).tensors == len(saved.record.entries)


@pytest.mark.parametrize("relative", [0.01, 0.5])
def test_the_distance_of_a_live_model_is_that_of_its_files(saved, tmp_path, relative):
    tuned = fine_tuned(saved.model, relative=relative)
    tuned.save_pretrained(tmp_path)
    expected = judge(saved.record, read_record(tmp_path), max_distance=10).distance
    assert live_distance(tuned, saved.record) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(relative, rel=0.1)


@pytest.mark.parametrize("switched", [False, True])
def test_an_output_projection_has_a_bias_where_the_row_says_so(saved, switched):
    model = family_model(saved.family, attention_bias=switched)
    expected = SITES[saved.family].loader_keeps_bias(model.config.to_dict())
    assert [module.bias is not None for module in outputs_of(saved, model)] == [expected] * 2


def test_the_bias_form_is_the_hook_form(saved):
    model = saved.copy()
    before = logits(model)
    hooked = hooked_logits(saved, model, alpha=2.0)
    protect(model, saved.bundle)
    biased = logits(model)
    assert float((biased - hooked).abs().max()) < 1e-5 * float(hooked.abs().max())
    assert float((hooked - before).abs().max()) > 0.01 * float(before.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_undo_gives_every_bit_back(saved, dtype):
    model = saved.copy(dtype)
    before, keys, output = snapshot(model), list(model.state_dict()), logits(model)
    own = [module.bias for module in outputs_of(saved, model)]
    handle = protect(model, saved.bundle)
    assert snapshot(model) != before
    assert not torch.equal(logits(model), output)
    handle.undo()
    assert snapshot(model) == before
    assert list(model.state_dict()) == keys
    assert all(now.bias is then for now, then in zip(outputs_of(saved, model), own, strict=True))
    assert torch.equal(logits(model), output)


def test_applying_twice_is_refused_and_changes_nothing(saved):
    model = saved.copy()
    protect(model, saved.bundle)
    once, output = snapshot(model), logits(model)
    with pytest.raises(AlreadyAppliedError):
        protect(model, saved.bundle)
    assert snapshot(model) == once
    assert torch.equal(logits(model), output)
    assert unprotect(model) == 1
    assert snapshot(model) == snapshot(saved.model)


def test_a_protected_model_shows_and_saves_the_weights_it_had(saved, tmp_path):
    model = saved.copy()
    protect(model, saved.bundle)
    shown, own = model.state_dict(), saved.model.state_dict()
    assert list(shown) == list(own)
    assert all(torch.equal(shown[name], own[name]) for name in own)
    model.save_pretrained(tmp_path)
    assert read_record(tmp_path).weights == saved.record.weights


def code_of(layer, batch, token, head, place):
    """Return a number of its own for each value that a head puts out, exact in float32."""
    return (((layer * 2 + batch) * 12 + token) * HEADS + head) * HEAD_DIM + place


def planted_attention(module, query, _key, value, _mask, **_options):
    """Attention whose heads say who they are, [batch, tokens, heads, head_dim]."""
    batch, heads, tokens, width = query.shape
    assert value.shape[-1] == width
    axes = [torch.arange(size) for size in (batch, tokens, heads, width)]
    return code_of(module.layer_idx, *torch.meshgrid(*axes, indexing="ij")).to(query.dtype), None


AttentionInterface.register("planted", planted_attention)


def test_what_is_captured_is_what_each_head_put_out(saved):
    model = saved.copy()
    model.set_attn_implementation("planted")
    geometry = model_geometry(model)
    with captured_inputs(attention_outputs(model, geometry)) as seen:
        logits(model)
    for layer, hidden in enumerate(seen):
        heads = hidden.reshape(2, 12, geometry.heads, geometry.head_dim)
        for at in ((0, 0, 0, 0), (1, 11, 3, 15), (0, 7, 2, 4)):
            assert int(heads[at]) == code_of(layer, *at)


# Mixtures: a file keeps expert by expert what the model keeps in one parameter


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    model = family_model("mixtral")
    folder = tmp_path_factory.mktemp("mixture")
    model.save_pretrained(folder)
    return model, read_record(folder), folder


@pytest.mark.parametrize(
    ("parameter", "rows", "stored"),
    [
        ("gate_up_proj", slice(0, 80), "w1"),
        ("gate_up_proj", slice(80, 160), "w3"),
        ("down_proj", slice(0, 48), "w2"),
    ],
)
def test_one_expert_that_differs_is_named_as_the_file_names_it(mixture, parameter, rows, stored):
    model, record, _ = mixture
    changed = copy.deepcopy(model)
    with torch.no_grad():
        getattr(changed.model.layers[1].mlp.experts, parameter)[2, rows] += 1.0
    with pytest.raises(VerificationError) as caught:
        require_same_values(changed, record)
    name = f"model.layers.1.block_sparse_moe.experts.2.{stored}.weight"
    said = "3840 of 3840 sampled values differ from the file that was checked"
    assert caught.value.message.splitlines()[1:] == [f"  {name}: {said}"]


def test_experts_that_are_exchanged_are_found(mixture):
    model, record, _ = mixture
    changed = copy.deepcopy(model)
    with torch.no_grad():
        experts = changed.model.layers[0].mlp.experts.down_proj
        experts.copy_(experts[[1, 0, 2]])
    with pytest.raises(VerificationError, match=r"experts\.0\.w2.*\n.*experts\.1\.w2"):
        require_same_values(changed, record)


def test_an_expert_that_no_file_holds_is_found(mixture):
    model, record, _ = mixture
    more = copy.deepcopy(model)
    experts = more.model.layers[0].mlp.experts
    experts.down_proj = torch.nn.Parameter(torch.zeros(4, 48, 80))
    with pytest.raises(VerificationError, match=r"experts\.down_proj: .*made it up"):
        require_same_values(more, record)
    experts.down_proj = torch.nn.Parameter(model.model.layers[0].mlp.experts.down_proj[:2].detach())
    with pytest.raises(VerificationError, match=r"experts\.2\.w2\.weight: .*no such tensor"):
        require_same_values(more, record)
    assert live_distance(more, record) == math.inf


def test_a_file_that_keeps_experts_together_is_compared_too(mixture, tmp_path):
    model, apart, _ = mixture
    model.save_pretrained(tmp_path, save_original_format=False)
    record = read_record(tmp_path)
    assert any(entry.name.endswith("experts.gate_up_proj") for entry in record.entries)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert require_same_values(loaded, record).tensors == len(record.entries)
    assert live_distance(loaded, record) == live_distance(loaded, apart) == 0.0
    assert judge(apart, record).relation == "other-structure"


# GPT-2 as it was first published: names without their start, and buffers that loaders compute

BUFFERS = (".attn.bias", ".attn.masked_bias")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A GPT-2, its files as transformers writes them, and as they were first published."""
    model = family_model("gpt2")
    whole, bare = (tmp_path_factory.mktemp(name) for name in ("whole", "bare"))
    model.save_pretrained(whole)
    (bare / "config.json").write_bytes((whole / "config.json").read_bytes())
    tensors = {
        name.removeprefix("transformer."): value
        for name, value in load_file(whole / "model.safetensors").items()
    }
    for layer in (0, 1):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, bare / "model.safetensors", {"format": "pt"})
    return model, whole, bare


def test_names_without_their_start_are_the_same_weights(bare, tmp_path):
    _, whole, published = bare
    tensors = load_file(published / "model.safetensors")
    plain = {name: value for name, value in tensors.items() if not name.endswith(BUFFERS)}
    save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    assert "h.0.ln_1.weight" in plain
    record, expected = read_record(tmp_path), read_record(whole)
    assert (record.weights, record.entries) == (expected.weights, expected.entries)
    assert record.samples == expected.samples


def test_buffers_that_loaders_compute_are_counted_and_weigh_nothing(bare):
    model, whole, published = bare
    record, saved_again = read_record(published), read_record(whole)
    loaded = AutoModelForCausalLM.from_pretrained(published)
    compared = require_same_values(loaded, record)
    assert compared.recomputed == tuple(
        f"transformer.h.{layer}.attn.{name}" for layer in (0, 1) for name in ("bias", "masked_bias")
    )
    assert compared.tensors == len(saved_again.entries)
    assert live_distance(model, record) == 0.0
    again = judge(record, saved_again)
    assert (again.relation, again.distance, again.unexpected) == ("derived", 0.0, ())
    assert again.missing == compared.recomputed


def test_a_mask_in_both_files_does_not_make_a_model_look_closer(bare, tmp_path):
    model, whole, published = bare
    tuned = fine_tuned(model, relative=0.1)
    tuned.save_pretrained(tmp_path)
    expected = judge(read_record(whole), read_record(tmp_path)).distance
    masks = {
        name: value
        for name, value in load_file(published / "model.safetensors").items()
        if name.endswith(".attn.bias")
    }
    bare_tuned = load_file(tmp_path / "model.safetensors")
    bare_tuned = {name.removeprefix("transformer."): value for name, value in bare_tuned.items()}
    save_file(bare_tuned | masks, tmp_path / "model.safetensors", {"format": "pt"})
    got = judge(read_record(published), read_record(tmp_path)).distance
    assert got == pytest.approx(expected, rel=1e-12)


def test_a_lock_made_for_the_published_file_fits_what_is_loaded_from_it(bare):
    _, _, published = bare
    loaded = AutoModelForCausalLM.from_pretrained(published)
    before = snapshot(loaded)
    handle = protect(loaded, bundle_of(read_record(published), LOCK))
    assert handle.evidence["modules"] == 2
    handle.undo()
    assert snapshot(loaded) == before
