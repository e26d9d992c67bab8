"""``registry.guard``: which artifact, which model, and what is refused before anything is frozen."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from support.guarded import bits, layers_bundle, layers_model, steps, trained
from support.masked import mask_bundle
from support.signed import key_of, pem_of

import registry
from registry.artifact.bundle import write_bundle
from registry.errors import (
    BaseModelMismatchError,
    CompatibilityError,
    GuardError,
    UnsignedError,
    UsageError,
    VerificationError,
)
from registry.kinds import parse_body
from registry.workflows.find import find_bundle
from registry.workflows.guard import Guard
from registry.workflows.make import delta_of
from registry.workflows.publish import publish

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def base():
    return layers_model()


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("guard")
    write_bundle(layers_bundle(base, root / "base"), root / "bundle")
    return root


@pytest.fixture
def model(base):
    return copy.deepcopy(base)


def is_untouched(model):
    return all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("form", ["bundle", "path", "text", "reference"])
def test_an_artifact_may_be_named_in_every_form(base, folder, model, empty_registry, form):
    publish(empty_registry, folder / "bundle", name="range", version="1.0.0")
    artifact = {
        "bundle": layers_bundle(base, folder / "base"), "path": folder / "bundle",
        "text": str(folder / "bundle"), "reference": "range@1.0.0",
    }[form]  # fmt: skip
    held = registry.guard(model, artifact, registry=empty_registry)
    assert isinstance(held, Guard)
    assert held.kind == "safety-layers"
    assert not model.get_parameter(UP).requires_grad
    assert (held.label == "range@1.0.0") == (form == "reference")


def test_a_training_is_kept_and_proved(folder, model):
    held = registry.guard(model, folder / "bundle")
    assert held.verified_at is None
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2, weight_decay=0.1)
    held.attach(optimizer)
    steps(model, optimizer, 2)
    evidence = held.verify()
    document = held.to_dict()
    assert document["evidence"] == evidence
    assert document["evidence"]["steps"] == 2
    assert document["verified_at"] == held.verified_at is not None
    assert document["report"]["share_trainable"] == held.report().share_trainable
    held.release()
    assert is_untouched(model)


def test_a_reading_that_finds_a_change_takes_the_word_verified_back(folder, model):
    held = registry.guard(model, folder / "bundle")
    held.verify()
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] += 1
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed"):
        held.verify()
    assert held.to_dict()["verified_at"] is None
    assert held.to_dict()["evidence"] is None


def test_a_fine_tune_whose_range_is_the_bases_may_be_trained_further(folder, model):
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight.add_(0.01)
        model.lm_head.weight.add_(0.01)
    assert registry.guard(model, folder / "bundle").verify()["parameters"] == 18


def test_a_range_that_drifted_is_told_with_what_puts_it_back(folder, model):
    with torch.no_grad():
        model.get_parameter(UP).mul_(1.01)
    with pytest.raises(VerificationError, match="1 of 18 protected tensors have drifted") as caught:
        registry.guard(model, folder / "bundle")
    assert "registry.protect(model, artifact, base=" in caught.value.hint
    assert is_untouched(model)


def drifted(whole, folder):
    """Return the hint of a guard on ``whole`` after a value of the range was changed."""
    held = registry.guard(whole, folder / "bundle")
    weight = next(p for n, p in whole.named_parameters() if ".layers.1." in n and "up_proj" in n)
    with torch.no_grad():
        weight[0, 0] += 1e-3
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed") as caught:
        held.verify()
    return held, caught.value.hint


def followed(hint, model, folder, out):
    """Run the code of ``hint`` as it stands there; return what its last line returns."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    names = {
        "model": model, "registry": registry, "artifact": folder / "bundle", "PeftModel": PeftModel,
        "AutoModelForCausalLM": AutoModelForCausalLM, "BASE": folder / "base",
        "MODEL": folder / "base", "DIR": folder / "base" if "protect(model" in hint else out,
    }  # fmt: skip
    *first, last = hint.partition(": ")[2].split("; ")
    for line in first:
        exec(line, names)  # noqa: S102
    return eval(last, names)  # noqa: S307


@pytest.mark.parametrize("wrapper", ["none", "compiled", "data parallel", "both"])
def test_layers_are_put_back_under_wrappers_as_the_hint_says(folder, model, tmp_path, wrapper):
    whole = torch.compile(model, backend="eager") if wrapper in {"compiled", "both"} else model
    if wrapper in {"data parallel", "both"}:
        whole = torch.nn.DataParallel(whole)
    held, hint = drifted(whole, folder)
    assert hint.startswith("Put the base's layers back: registry.protect(model")
    followed(hint, whole, folder, tmp_path)
    assert held.verify()["parameters"] == 18


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("wrapper", ["none", "data parallel"])
def test_layers_under_an_adapter_are_put_back_as_the_hint_says(folder, model, tmp_path, wrapper):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        target_modules=["q_proj"], layers_to_transform=[0, 3], layers_pattern="layers",
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    whole = torch.nn.DataParallel(adapted) if wrapper == "data parallel" else adapted
    _, hint = drifted(whole, folder)
    assert "merge" not in hint
    repaired = followed(hint, whole, folder, tmp_path / "adapter")
    assert registry.guard(repaired, folder / "bundle").verify()["parameters"] == 18
    before, after = bits(adapted), bits(repaired)
    assert {name for name in before if before[name] != after[name]} == {f"base_model.model.{UP}"}


@pytest.mark.parametrize("wrapper", ["compiled", "checkpointed"])
def test_layers_that_are_wrapped_one_by_one_are_put_back_as_the_hint_says(
    folder, model, tmp_path, wrapper
):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = (
            torch.compile(layer, backend="eager") if wrapper == "compiled"
            else checkpoint_wrapper(layer)
        )  # fmt: skip
    _, hint = drifted(model, folder)
    repaired = followed(hint, model, folder, tmp_path / "saved")
    assert repaired.safelatch.verified
    assert registry.guard(repaired, folder / "bundle").verify()["parameters"] == 18


def test_a_model_of_another_base_is_refused(folder):
    other = layers_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    with pytest.raises(BaseModelMismatchError, match="expected a fine-tune of tiny-base"):
        registry.guard(other, folder / "bundle")
    assert is_untouched(other)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("is_of_the_base", [True, False])
def test_the_base_under_an_adapter_is_looked_at_by_its_own_names(folder, model, is_of_the_base):
    from peft import LoraConfig, get_peft_model

    if not is_of_the_base:
        with torch.no_grad():
            model.model.layers[3].mlp.up_proj.weight.mul_(-1)
            model.model.layers[0].mlp.up_proj.weight.mul_(-1)
    config = LoraConfig(
        target_modules=["up_proj"], layers_to_transform=[0, 3], layers_pattern="layers"
    )
    adapted = get_peft_model(model, config)
    if is_of_the_base:
        assert registry.guard(adapted, folder / "bundle").verify()["parameters"] == 18
    else:
        with pytest.raises(BaseModelMismatchError, match="expected a fine-tune of tiny-base"):
            registry.guard(adapted, folder / "bundle")


def test_a_parameter_that_was_added_outside_the_range_is_refused_too(folder, model):
    model.model.layers[3].mlp.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(CompatibilityError, match=r"model\.layers\.3\.mlp\.scale"):
        registry.guard(model, folder / "bundle")


def test_a_lock_on_the_model_is_taken_off_before_training(world, model, folder):
    tuned = copy.deepcopy(world.tuned)
    registry.protect(tuned, world.lock)
    with pytest.raises(GuardError, match="expected a model without artifacts on it") as caught:
        registry.guard(tuned, folder / "bundle")
    assert "registry.unprotect(model)" in caught.value.hint


def test_a_lock_keeps_nothing_while_training(world):
    tuned = copy.deepcopy(world.tuned)
    with pytest.raises(UsageError, match="a safety-lock has no guard"):
        registry.guard(tuned, world.lock)


def test_a_quantised_model_is_refused_with_the_way_out(folder, model):
    model.is_quantized = True
    with pytest.raises(GuardError, match="got a quantised model") as caught:
        registry.guard(model, folder / "bundle")
    assert "--as peft" in caught.value.hint


def test_an_unsigned_artifact_is_refused_where_a_key_is_asked_for(folder, model, tmp_path):
    public = pem_of(key_of("publisher"), tmp_path)
    with pytest.raises(UnsignedError):
        registry.guard(model, folder / "bundle", trust=public)
    assert is_untouched(model)
    with pytest.raises(UnsignedError):
        registry.SafetyCallback(folder / "bundle", trust=public).on_init_end(
            None, None, None, model=model
        )


def test_the_callback_is_transformers_own_and_made_on_first_use():
    from transformers import TrainerCallback

    assert issubclass(registry.SafetyCallback, TrainerCallback)
    assert registry.SafetyCallback is registry.SafetyCallback
    assert registry.SafetyCallback.__name__ == "SafetyCallback"
    code = (
        "import sys, registry.workflows.trainer_callback, registry.workflows.guard; "
        "print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_callback_that_meets_a_second_model_lets_the_first_one_go(base, folder):
    first, second = copy.deepcopy(base), copy.deepcopy(base)
    callback = registry.SafetyCallback(folder / "bundle")
    callback.on_init_end(None, None, None, model=first)
    callback.on_init_end(None, None, None, model=second)
    assert is_untouched(first)
    assert callback.guard.is_on(second)
    callback.on_init_end(None, None, None, model=second)
    assert bits(first) == bits(second)


@pytest.fixture(scope="module")
def masked(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("masked")
    write_bundle(mask_bundle(base, root / "base"), root / "bundle")
    return root


def test_a_mask_has_two_modes_and_a_range_has_none(folder, masked, model):
    held = registry.guard(model, masked / "bundle")
    assert (held.mode, held.has_vectors, held.to_dict()["mode"]) == ("preserve", False, "preserve")
    for ask in (held.parameters, held.delta, lambda: held.clip(1.0)):
        with pytest.raises(UsageError, match="expected a guard that trains vectors of its own"):
            ask()
    held.release()
    held = registry.guard(model, masked / "bundle", mode="enhance")
    assert (held.mode, held.has_vectors) == ("enhance", True)
    held.release()
    with pytest.raises(UsageError, match="expected no mode for safety layers, which are frozen"):
        registry.guard(model, folder / "bundle", mode="enhance")
    assert registry.guard(model, folder / "bundle").to_dict()["mode"] is None


def test_what_set_trained_is_a_bundle_that_puts_it_on_the_base(base, masked, model):
    bundle = find_bundle(masked / "bundle", None)
    held = registry.guard(model, bundle, mode="enhance")
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.05)
    held.attach(optimizer)
    steps(model, optimizer, 3)
    made = delta_of(bundle, held, seed=5)
    body = parse_body(made)
    assert (body.form, body.delta["seed"], body.delta["steps"]) == ("delta", 5, 3)
    assert made.manifest.version is None
    assert made.manifest.receipts[-1]["type"] == "training"
    assert made.manifest.receipts[-1]["of"] == bundle.manifest.digest
    fresh = copy.deepcopy(base)
    registry.protect(fresh, made)
    assert bits(fresh) == bits(model) != bits(base)
    registry.unprotect(fresh)
    assert bits(fresh) == bits(base)
    other = mask_bundle(base, masked / "base", seed=1)
    with pytest.raises(UsageError, match="expected a guard of"):
        delta_of(other, held)


def test_a_quantised_model_is_refused_with_the_way_out_of_each_kind(folder, masked, model):
    model.is_quantized = True
    for artifact, way in ((folder, "safelatch inspect"), (masked, "registry.project(ADAPTER")):
        with pytest.raises(GuardError, match="got a quantised model") as caught:
            registry.guard(model, artifact / "bundle")
        assert way in caught.value.hint


def test_what_set_trained_is_written_as_a_draft_that_is_published_next(
    base, masked, model, tmp_path, empty_registry
):
    held = registry.guard(model, masked / "bundle", mode="enhance")
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.05)
    held.attach(optimizer)
    with pytest.raises(UsageError, match="expected a delta after at least one step"):
        held.save_delta(tmp_path / "early")
    assert not (tmp_path / "early").exists()
    steps(model, optimizer, 2)
    with pytest.raises(UsageError, match="exists"):
        held.save_delta(masked / "bundle")
    made = held.save_delta(str(tmp_path / "delta"), seed=5)
    assert made == tmp_path / "delta"
    publish(empty_registry, made, name="delta", version="1.0.0")
    fresh = copy.deepcopy(base)
    registry.protect(fresh, "delta@1.0.0", registry=empty_registry)
    assert bits(fresh) == bits(model) != bits(base)


def drift(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)


@pytest.mark.parametrize("mode", ["preserve", "enhance"])
def test_drifted_weights_are_put_back_and_guarded_as_the_hint_says(masked, model, mode):
    drift(model)
    with pytest.raises(VerificationError, match="have drifted") as caught:
        registry.guard(model, masked / "bundle", mode=mode)
    assert caught.value.hint == "Put them back first: registry.protect(model, artifact, base=DIR)"
    applied = registry.protect(model, masked / "bundle", base=masked / "base")
    held = registry.guard(model, masked / "bundle", mode=mode)
    optimizer = torch.optim.AdamW(held.parameters() if held.has_vectors else trained(model), lr=0.1)
    held.attach(optimizer)
    steps(model, optimizer, 2)
    held.verify()
    if mode == "preserve":
        applied.verify()
    applied.undo()  # what was there before is back, and the guard says so
    with pytest.raises(VerificationError):
        held.verify()


@pytest.mark.parametrize("mode", ["preserve", "enhance"])
def test_a_delta_on_the_model_is_taken_off_or_guarded_itself(base, masked, model, tmp_path, mode):
    held = registry.guard(model, masked / "bundle", mode="enhance")
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.05)
    held.attach(optimizer)
    steps(model, optimizer, 2)
    delta = held.save_delta(tmp_path / "delta")
    tuned = copy.deepcopy(base)
    registry.protect(tuned, delta)
    with pytest.raises(VerificationError, match="as in the base") as caught:
        registry.guard(tuned, masked / "bundle", mode=mode)
    assert caught.value.hint == (
        "(draft) put other weights there. Take it off first: registry.unprotect(model); or guard "
        "it in place of this one."
    )
    kept = registry.guard(tuned, delta)
    kept.verify()
    kept.release()
    registry.unprotect(tuned)
    registry.guard(tuned, masked / "bundle", mode=mode).verify()


@pytest.mark.parametrize("second", ["preserve", "enhance"])
def test_a_second_guard_is_refused_with_where_the_first_is(masked, model, second):
    callback = registry.SafetyCallback(masked / "bundle")
    callback.on_init_end(None, None, None, model=model)
    again = registry.SafetyCallback(masked / "bundle", mode=second)
    with pytest.raises(GuardError, match="this one is guarded already") as caught:
        again.on_init_end(None, None, None, model=model)
    assert "callback.guard.release()" in caught.value.hint
    callback.guard.release()
    again.on_init_end(None, None, None, model=model)
    assert again.guard.mode == second


def test_a_range_and_a_mask_are_kept_in_one_training(folder, masked, model):
    layers = registry.guard(model, folder / "bundle")
    mask = registry.guard(model, masked / "bundle")
    optimizer = torch.optim.AdamW(trained(model), lr=0.05, weight_decay=0.1)
    layers.attach(optimizer)
    mask.attach(optimizer)
    steps(model, optimizer, 2)
    assert (layers.verify()["steps"], mask.verify()["steps"]) == (2, 2)


def test_a_range_that_is_kept_cannot_be_trained_by_a_mask(folder, masked, model):
    mask = registry.guard(model, masked / "bundle", mode="enhance")
    layers = registry.guard(model, folder / "bundle")
    with pytest.raises(GuardError, match="were frozen since the guard began"):
        mask.parameters()
    mask.release()
    layers.release()
    layers = registry.guard(model, folder / "bundle")
    mask = registry.guard(model, masked / "bundle", mode="enhance")
    with pytest.raises(GuardError, match="none of its 29 parameters is that model's"):
        layers.attach(torch.optim.AdamW(mask.parameters(), lr=0.05))


def test_a_callback_has_the_mode_of_its_guard(folder, masked, model):
    held = registry.guard(model, masked / "bundle", mode="enhance")
    registry.SafetyCallback(held, mode="enhance")
    with pytest.raises(UsageError, match="expected mode='enhance' as the guard has it"):
        registry.SafetyCallback(held, mode="preserve")
    held.release()
    callback = registry.SafetyCallback(folder / "bundle", mode="preserve")
    with pytest.raises(UsageError, match="expected no mode for safety layers"):
        callback.on_init_end(None, None, None, model=model)


def test_an_optimizer_of_the_model_s_parameters_is_refused_where_vectors_are_trained(masked, model):
    callback = registry.SafetyCallback(masked / "bundle", mode="enhance")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with pytest.raises(GuardError, match=r"expected an optimizer of g\.parameters\(\)") as caught:
        callback.on_init_end(None, None, None, model=model, optimizer=optimizer)
    assert caught.value.hint.startswith("Leave optimizers= out: the Trainer builds its own")
    assert callback.guard is None
    assert is_untouched(model)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("mode", ["preserve", "enhance"])
def test_an_adapter_is_refused_by_the_callback_and_kept_off_the_mask_by_the_merge(
    masked, model, tmp_path, mode
):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model, LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    with pytest.raises(GuardError, match="adapter") as caught:
        registry.SafetyCallback(masked / "bundle", mode=mode).on_init_end(
            None, None, None, model=adapted
        )
    if mode == "enhance":
        return
    assert "registry.project(ADAPTER, ARTIFACT, OUT, base=BASE)" in caught.value.hint
    adapted.save_pretrained(tmp_path / "adapter")
    merged = copy.deepcopy(adapted).merge_and_unload()
    with pytest.raises(VerificationError, match="have drifted"):
        registry.guard(merged, masked / "bundle")
    registry.project(
        tmp_path / "adapter", masked / "bundle", tmp_path / "out", base=masked / "base"
    )
    from transformers import AutoModelForCausalLM

    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    held = registry.guard(written, masked / "bundle")
    body = parse_body(find_bundle(masked / "bundle", None))
    assert held.verify()["weights"] == body.selected
    for matrix in body.matrices:
        rest = ~torch.from_numpy(body.mask.boolean(matrix.name)).reshape(matrix.rows, matrix.cols)
        got, expected = written.get_parameter(matrix.name), merged.get_parameter(matrix.name)
        torch.testing.assert_close(got[rest], expected[rest], atol=1e-6, rtol=1e-5)
