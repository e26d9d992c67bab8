"""Layers are put back from the base: bit for bit, all or none, and undo gives the drift back."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from support.families import family_model, output_projection
from support.guarded import layers_bundle, layers_model
from support.locks import make_lock, snapshot
from transformers import AutoModelForCausalLM

from registry.checkpoint.architecture import SITES, sites_for
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.sketch import positions
from registry.errors import (
    AlreadyAppliedError,
    ApplyError,
    CheckpointNotFoundError,
    DigestMismatchError,
    GeometryError,
    HubError,
    UsageError,
    VerificationError,
)
from registry.kinds import parse_body
from registry.kinds.safety_layers.apply import apply, undo
from registry.kinds.safety_layers.inspect import inspect
from registry.kinds.safety_layers.verify import verify
from registry.kinds.safety_lock import apply as lock
from registry.workflows.base_tensors import BaseTensors

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.kinds.safety_layers.body import LayersBody

DOWN = "model.layers.2.mlp.down_proj.weight"


class Base:
    """The base's tensors in a folder, and which were asked for; the one that is named is gone."""

    def __init__(
        self, bundle: Bundle, folder: Path, absent: str | None, error: type[Exception]
    ) -> None:
        self.bundle, self.folder, self.absent, self.error = bundle, folder, absent, error
        self.asked: list[str] = []

    def read(self, name: str) -> bytes:
        self.asked.append(name)
        if name == self.absent:
            raise self.error("gone")
        with BaseTensors(self.bundle, self.folder) as tensors:
            return tensors.read(name)


class Made(NamedTuple):
    """A base, its bundle and body, and the same model in memory."""

    family: str
    folder: Path
    bundle: Bundle
    body: LayersBody
    model: Any

    def tuned(self, dtype: torch.dtype | None = None) -> Any:
        """Return a copy in which every parameter has drifted."""
        model = copy.deepcopy(self.model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.01 * drawn).to(parameter.dtype))
        return model if dtype is None else model.to(dtype)

    def base(
        self,
        folder: Path | None = None,
        absent: str | None = None,
        error: type[Exception] = CheckpointNotFoundError,
    ) -> Base:
        return Base(self.bundle, folder or self.folder, absent, error)

    def stored(self, folder: Path) -> bool:
        with Checkpoint.open(folder) as checkpoint:
            return inspect(checkpoint, self.body, sites_for(self.family)).stored


def made_of(family: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Made:
    sizes = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}
    model = family_model(family, dtype=dtype, **sizes)
    bundle = layers_bundle(model, folder, **options)
    return Made(family, folder, bundle, parse_body(bundle), model)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of("llama", tmp_path_factory.mktemp("bf16"), torch.bfloat16)


# Put back, read back, given back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(SITES))
def test_drifted_layers_are_the_base_s_again_and_undo_restores_every_bit(family, dtype, tmp_path):
    made = made_of(family, tmp_path / "base", dtype)
    model = made.tuned()
    before, base = snapshot(model), snapshot(made.model)
    parameters = dict(model.named_parameters())
    pointers = {name: value.data_ptr() for name, value in parameters.items()}
    application = apply(model, made.body, base=made.base(), owner="one")
    after = snapshot(model)
    inside = {name for name in after if ".1." in name or ".2." in name}
    assert inside < parameters.keys()
    assert {name for name in parameters if after[name] == base[name]} == inside
    assert {name for name in after if after[name] == before[name]} == after.keys() - inside
    evidence = verify(model, made.body, application).to_dict()
    assert evidence == {
        "tensors": len(made.body.protected), "level": "digest", "layers": [1, 2],
        "restored": len(made.body.protected),
    }  # fmt: skip
    model.save_pretrained(tmp_path / "saved")
    assert made.stored(tmp_path / "saved")
    undo(model, application)
    assert snapshot(model) == before
    assert not made.stored(saved(model, tmp_path / "undone"))
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert {n: value.data_ptr() for n, value in model.named_parameters()} == pointers
    with torch.no_grad():
        parameters[min(inside)].zero_()
    trained = snapshot(model)
    undo(model, application)  # again is no news: what was trained since is not overwritten
    assert snapshot(model) == trained


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_only_what_drifted_is_read_and_written(family, tmp_path):
    made = made_of(family, tmp_path)
    model = copy.deepcopy(made.model)
    name = {
        "llama": "model.layers.2.mlp.up_proj.weight",
        "mixtral": "model.layers.2.block_sparse_moe.experts.1.w3.weight",
    }[family]
    live = {"llama": name, "mixtral": "model.layers.2.mlp.experts.gate_up_proj"}[family]
    parameter = model.get_parameter(live)
    place = (0, 0) if family == "llama" else (1, 80, 0)  # w3 is the second half of expert 1
    with torch.no_grad():
        parameter.view(torch.int32)[place] ^= 1
    base = made.base()
    application = apply(model, made.body, base=base, owner="one")
    assert base.asked == [name]
    assert snapshot(model) == snapshot(made.model)
    assert verify(model, made.body, application).restored == 1


def test_where_nothing_drifted_the_base_is_not_needed_and_nothing_is_written(llama):
    model = copy.deepcopy(llama.model)
    versions = {name: value._version for name, value in model.named_parameters()}
    application = apply(model, llama.body, base=None, owner="one")
    assert {name: value._version for name, value in model.named_parameters()} == versions
    assert verify(model, llama.body, application).restored == 0
    undo(model, application)
    assert {name: value._version for name, value in model.named_parameters()} == versions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bf16_base_goes_into_a_wider_model_exactly(bf16, dtype, tmp_path):
    model = bf16.tuned(dtype)
    application = apply(model, bf16.body, base=bf16.base(), owner="one")
    assert verify(model, bf16.body, application).level == "digest"
    values = load_file(bf16.folder / "model.safetensors")[DOWN]
    assert torch.equal(model.get_parameter(DOWN), values.to(dtype))
    assert model.get_parameter(DOWN).dtype == dtype
    assert bf16.stored(saved(model, tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_model_gets_the_base_rounded_and_is_compared_whole(llama, dtype):
    model = llama.tuned(dtype)
    before = snapshot(model)
    application = apply(model, llama.body, base=llama.base(), owner="one")
    assert verify(model, llama.body, application).level == "digest"
    values = load_file(llama.folder / "model.safetensors")[DOWN]
    assert torch.equal(model.get_parameter(DOWN), values.to(dtype))
    spare_samples(model)
    with pytest.raises(VerificationError, match="its bits have changed since apply"):
        verify(model, llama.body, application)
    undo(model, application)
    assert snapshot(model) == before


def spare_samples(model: Any) -> None:
    """Edit every value of one tensor that no sample meets."""
    weight = model.get_parameter(DOWN)
    spared = torch.ones(weight.numel(), dtype=torch.bool)
    spared[torch.from_numpy(positions(DOWN, tuple(weight.shape)))] = False
    with torch.no_grad():
        weight.view(-1)[spared] += 1


@pytest.mark.parametrize(("base", "dtype"), [("llama", torch.bfloat16), ("bf16", torch.float16)])
def test_drift_between_the_samples_is_put_back_where_the_base_is_at_hand(base, dtype, request):
    made = request.getfixturevalue(base)
    model = copy.deepcopy(made.model).to(dtype)
    right = snapshot(model)
    spare_samples(model)
    drifted = snapshot(model)
    assert drifted != right
    application = apply(model, made.body, base=made.base(), owner="one")
    assert snapshot(model) == right
    evidence = verify(model, made.body, application)
    assert (evidence.level, evidence.restored) == ("digest", 1)
    undo(model, application)
    assert snapshot(model) == drifted


@pytest.mark.parametrize("error", [CheckpointNotFoundError, HubError, None])
def test_drift_between_the_samples_stays_without_a_base_and_the_evidence_says_so(llama, error):
    model = copy.deepcopy(llama.model).to(torch.bfloat16)
    spare_samples(model)
    drifted = snapshot(model)
    base = None if error is None else llama.base(absent=DOWN, error=error)
    application = apply(model, llama.body, base=base, owner="one")
    evidence = verify(model, llama.body, application)
    assert (evidence.level, evidence.restored) == ("samples", 0)
    assert snapshot(model) == drifted


def test_a_narrower_copy_of_the_base_itself_is_proven_whole_and_not_written(llama):
    model = copy.deepcopy(llama.model).to(torch.bfloat16)
    versions = {name: value._version for name, value in model.named_parameters()}
    application = apply(model, llama.body, base=llama.base(), owner="one")
    assert {name: value._version for name, value in model.named_parameters()} == versions
    evidence = verify(model, llama.body, application)
    assert (evidence.level, evidence.restored) == ("digest", 0)


def test_gradients_are_still_asked_for_and_their_graph_is_untouched(llama):
    model = llama.tuned()
    apply(model, llama.body, base=llama.base(), owner="one")
    parameter = model.get_parameter(DOWN)
    assert (parameter.requires_grad, parameter.is_leaf) == (True, True)


def test_norms_that_are_trainable_stay_as_they_were_trained(tmp_path):
    made = made_of("gemma2", tmp_path, norms="trainable")
    model = made.tuned()
    norm = model.model.layers[1].post_feedforward_layernorm.weight
    trained = norm.detach().clone()
    application = apply(model, made.body, base=made.base(), owner="one")
    assert torch.equal(norm, trained)
    assert verify(model, made.body, application).tensors == 14


def test_a_deep_copy_carries_its_own_application(llama):
    model = llama.tuned()
    before = snapshot(model)
    model.kept = apply(model, llama.body, base=llama.base(), owner="one")
    copied = copy.deepcopy(model)
    undo(copied, copied.kept)
    assert snapshot(copied) == before
    verify(model, llama.body, model.kept)
    undo(model, model.kept)
    assert snapshot(model) == before


# All or none


def test_a_tensor_that_cannot_be_read_leaves_the_model_as_it_was(llama):
    model = llama.tuned()
    before = snapshot(model)
    last = llama.body.protected[-1].name
    with pytest.raises(CheckpointNotFoundError, match="gone"):
        apply(model, llama.body, base=llama.base(absent=last), owner="one")
    assert snapshot(model) == before
    apply(model, llama.body, base=llama.base(), owner="one")  # it is not half on


def test_an_interruption_while_writing_leaves_the_model_as_it_was(llama, monkeypatch):
    model = llama.tuned()
    before, written = snapshot(model), []
    real = torch.Tensor.copy_

    def interrupted(self, *args, **options):
        written.append(self)
        if len(written) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(model, llama.body, base=llama.base(), owner="one")
    monkeypatch.undo()
    assert len(written) > 5
    assert snapshot(model) == before


def test_an_interruption_at_any_line_loses_nothing(llama):
    """It is as it was, or it is on the ledger with what was there before."""
    model = llama.tuned()
    before = snapshot(model)
    line, interrupted = 0, True
    while interrupted:
        line += 1
        interrupted = interrupt(
            line, lambda: apply(model, llama.body, base=llama.base(), owner="one")
        )
        on_it = model.__dict__.get("_safelatch_layers", {})
        if interrupted and not on_it:
            assert snapshot(model) == before
        for application in list(on_it.values()):
            undo(model, application)
        assert snapshot(model) == before
    assert line > 20


def interrupt(line: int, act: Any) -> bool:
    """Interrupt ``act`` at this line of ``apply``; return whether it is as long as that."""
    seen = 0

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal seen
        if frame.f_code is not apply.__code__:
            return None
        seen += event == "line"
        if seen == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


def test_drift_without_a_base_is_refused_with_the_repair(llama):
    model = llama.tuned()
    before = snapshot(model)
    with pytest.raises(CheckpointNotFoundError) as caught:
        apply(model, llama.body, base=None, owner="one")
    assert caught.value.message == (
        "expected the base to put 18 drifted tensors of the layers 1, 2 back, got none; the model "
        "is as it was."
    )
    assert caught.value.hint == (
        "Say where it is: registry.protect(model, ARTIFACT, base=DIR), or register it: "
        "safelatch base add MODEL"
    )
    assert snapshot(model) == before


def test_a_fine_tune_that_is_named_as_the_base_is_refused(llama, tmp_path):
    model = llama.tuned()
    before = snapshot(model)
    wrong = llama.base(saved(model, tmp_path))
    with pytest.raises(DigestMismatchError, match=r"layers\.1.* of blake3:.* got blake3:"):
        apply(model, llama.body, base=wrong, owner="one")
    assert snapshot(model) == before


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_strength_is_refused(llama, alpha):
    with pytest.raises(UsageError, match="have no strength, got"):
        apply(llama.tuned(), llama.body, base=llama.base(), owner="one", alpha=alpha)


def test_the_same_owner_twice_is_refused(llama):
    model = llama.tuned()
    apply(model, llama.body, base=llama.base(), owner="one")
    once = snapshot(model)
    with pytest.raises(AlreadyAppliedError, match="one is on this model already"):
        apply(model, llama.body, base=llama.base(), owner="one")
    assert snapshot(model) == once


def test_a_model_of_another_depth_or_family_is_refused(llama):
    with pytest.raises(GeometryError, match="a llama of 4 layers as the base, got a llama of 2"):
        apply(family_model("llama"), llama.body, base=llama.base(), owner="one")
    with pytest.raises(GeometryError, match="got a qwen2 of 4"):
        apply(layers_model("qwen2"), llama.body, base=llama.base(), owner="one")


def test_a_parameter_that_the_base_does_not_have_is_refused(llama):
    model = llama.tuned()
    model.model.layers[1].mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(80))
    with pytest.raises(ApplyError, match=r"got 1 more:\n  model\.layers\.1\.mlp\.up_proj\.bias"):
        apply(model, llama.body, base=llama.base(), owner="one")


def test_weights_that_are_offloaded_or_packed_are_refused_by_name(llama):
    class Packed(torch.nn.Parameter):
        pass

    model = llama.tuned()
    before = snapshot(model)
    up, down = model.model.layers[1].mlp.up_proj, model.model.layers[2].mlp.down_proj
    kept = up.weight, down.weight
    up.weight = torch.nn.Parameter(up.weight.to("meta"))
    down.weight = Packed(down.weight.detach())
    with pytest.raises(ApplyError) as caught:
        apply(model, llama.body, base=llama.base(), owner="one")
    assert "up_proj.weight: expected weights on a device, they are offloaded" in str(caught.value)
    assert "down_proj.weight: expected a plain parameter, got Packed" in str(caught.value)
    up.weight, down.weight = kept
    assert snapshot(model) == before


# Other artifacts on the same model


def test_a_lock_on_a_drifted_layer_must_go_on_afterwards(llama):
    model = llama.tuned()
    locked = lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")
    before = snapshot(model)
    with pytest.raises(ApplyError) as caught:
        apply(model, llama.body, base=llama.base(), owner="one")
    assert caught.value.message.startswith(
        "expected nothing on the layers that are put back (1, 2), got lock@1.0: "
    )
    assert snapshot(model) == before
    lock.undo(model, locked)
    apply(model, llama.body, base=llama.base(), owner="one")
    lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")


def test_a_lock_on_another_layer_or_where_nothing_drifted_is_no_obstacle(llama):
    model = llama.tuned()
    lock.apply(model, make_lock(heads=((0, 0), (3, 1))), owner="lock@1.0")
    application = apply(model, llama.body, base=llama.base(), owner="one")
    undo(model, application)
    whole = copy.deepcopy(llama.model)
    lock.apply(whole, make_lock(heads=((1, 0),)), owner="lock@1.0")
    application = apply(whole, llama.body, owner="one")
    undo(whole, application)


def test_layers_under_a_lock_do_not_come_off_before_it(llama):
    model = llama.tuned()
    before = snapshot(model)
    application = apply(model, llama.body, base=llama.base(), owner="layers@1.0")
    locked = lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")
    on = snapshot(model)
    with pytest.raises(ApplyError) as caught:
        undo(model, application)
    assert caught.value.message == (
        "expected layers@1.0 to come off last, lock@1.0 went on after it and holds for these "
        "layers (1, 2); nothing was changed."
    )
    assert snapshot(model) == on
    lock.undo(model, locked)
    undo(model, application)
    assert snapshot(model) == before


def test_a_lock_on_a_bias_of_the_base_s_own_leaves_the_layers_the_base_s(tmp_path):
    made = made_of("gpt2", tmp_path)
    model = made.tuned()
    application = apply(model, made.body, base=made.base(), owner="one")
    bias = output_projection(model, "gpt2", 1).bias
    lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")
    assert output_projection(model, "gpt2", 1).bias is not bias
    assert verify(model, made.body, application).level == "digest"


def test_two_ranges_that_overlap_come_off_in_order(llama, tmp_path):
    wider = parse_body(layers_bundle(llama.model, tmp_path, first=2, last=3))
    model = llama.tuned()
    before = snapshot(model)
    first = apply(model, llama.body, base=llama.base(), owner="one")
    second = apply(model, wider, base=llama.base(), owner="two")
    assert verify(model, wider, second).restored == 9
    with pytest.raises(ApplyError, match="expected one to come off last, two went on after it"):
        undo(model, first)
    undo(model, second)
    verify(model, llama.body, first)
    undo(model, first)
    assert snapshot(model) == before


def test_norms_that_one_range_leaves_alone_are_another_one_s_to_put_back(llama, tmp_path):
    less = parse_body(layers_bundle(llama.model, tmp_path, norms="trainable"))
    model = llama.tuned()
    before = snapshot(model)
    first = apply(model, less, base=llama.base(), owner="one")
    second = apply(model, llama.body, base=llama.base(), owner="two")
    assert len(second.originals) == 4
    with pytest.raises(ApplyError, match="expected one to come off last, two went on after it"):
        undo(model, first)  # the second one protects what the first one wrote
    undo(model, second)
    verify(model, less, first)
    undo(model, first)
    assert snapshot(model) == before


def test_layers_that_drifted_under_another_artifact_are_not_rewritten_beneath_it(llama, tmp_path):
    """They hold for its weights: what went wrong with them is for that one to say."""
    other = parse_body(layers_bundle(llama.model, tmp_path, first=2, last=3))
    model = copy.deepcopy(llama.model)
    apply(model, llama.body, owner="one")
    with torch.no_grad():
        model.get_parameter(DOWN)[0, 0] += 1
    with pytest.raises(ApplyError, match=r"put back \(2\), got one"):
        apply(model, other, base=llama.base(), owner="two")


def test_the_model_that_is_loaded_again_is_what_was_applied(llama, tmp_path):
    model = llama.tuned()
    apply(model, llama.body, base=llama.base(), owner="one")
    again = AutoModelForCausalLM.from_pretrained(saved(model, tmp_path))
    assert snapshot(again) == snapshot(model)
    assert apply(again, llama.body, owner="two").originals == {}
