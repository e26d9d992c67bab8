"""SPPFT on tiny models: what is kept to the bit, what is refused, and what the report says."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from support.guarded import (
    GUARDED,
    bits,
    changed,
    in_range,
    layers_body,
    layers_model,
    rows,
    steps,
    trained,
)

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import positions
from registry.errors import GuardError, UsageError, VerificationError
from registry.kinds.safety_layers.guard import ENGINES, guard, training_config
from registry.live.sites import model_geometry

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

NORMS = {
    "gemma2": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
               "post_feedforward_layernorm"),
}  # fmt: skip
"""Norms of a layer, written down once more, where they are not Llama's."""
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def model():
    return layers_model()


@pytest.fixture
def body(model, tmp_path):
    return layers_body(model, tmp_path / "base")


def norms_of_the_range(family):
    names = NORMS.get(family, ("input_layernorm", "post_attention_layernorm"))
    return {f"model.layers.{layer}.{name}.weight" for layer in (1, 2) for name in names}


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(**{"target_modules": ["q_proj", "down_proj"], "r": 2, **options})


def adapted(model, **options):
    from peft import get_peft_model

    return get_peft_model(model, lora(**options))


@pytest.mark.parametrize("norms", ["frozen", "trainable"])
@pytest.mark.parametrize("family", GUARDED)
def test_adamw_with_decay_changes_everything_but_the_range(family, norms, tmp_path):
    model = layers_model(family)
    held = guard(model, layers_body(model, tmp_path / "base", norms=norms))
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2, weight_decay=0.1)
    held.attach(optimizer)
    before = bits(model)
    steps(model, optimizer, 3, accumulate=2, clip=1.0)
    free = norms_of_the_range(family) if norms == "trainable" else set()
    assert free <= set(before)
    assert changed(before, bits(model)) == set(before) - (in_range(before) - free)
    evidence = held.verify()
    assert evidence.parameters == len(in_range(before) - free)
    assert evidence.base_tensors_by_samples == 0
    assert evidence.steps == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", GUARDED)
def test_sgd_with_momentum_keeps_the_range_in_each_dtype(family, dtype, tmp_path):
    model = layers_model(family, dtype=dtype)
    held = guard(model, layers_body(model, tmp_path / "base"))
    optimizer = torch.optim.SGD(trained(model), lr=0.1, momentum=0.9, weight_decay=0.05)
    held.attach(optimizer)
    before = bits(model)
    steps(model, optimizer, 4, accumulate=2)
    moved = changed(before, bits(model))
    assert not in_range(moved)
    assert {"0", "3"} == {name.split(".")[2] for name in moved if ".layers." in name}
    assert "model.embed_tokens.weight" in moved
    assert held.verify().steps == 4


def test_a_base_in_a_wider_dtype_is_compared_by_digest_and_in_a_narrower_by_samples(tmp_path):
    narrow = layers_model(dtype=torch.bfloat16)
    body = layers_body(narrow, tmp_path / "narrow")
    wide = layers_model(dtype=torch.bfloat16).float()
    assert guard(wide, body).verify().base_tensors_by_digest == 18
    body = layers_body(layers_model(), tmp_path / "wide")
    evidence = guard(narrow, body).verify()
    assert (evidence.base_tensors_by_digest, evidence.base_tensors_by_samples) == (0, 18)


def test_what_was_kept_may_be_widened_and_is_still_what_it_was(tmp_path):
    model = layers_model(dtype=torch.bfloat16)
    held = guard(model, layers_body(model, tmp_path / "base"))
    model.float()
    held.verify()
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] += 1e-6
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed"):
        held.verify()


@pytest.mark.parametrize("family", GUARDED)
def test_a_drifted_range_is_not_frozen_as_it_is(family, tmp_path):
    model = layers_model(family)
    body = layers_body(model, tmp_path / "base")
    name = next(name for name in in_range(bits(model)) if name.endswith("o_proj.weight"))
    with torch.no_grad():
        model.get_parameter(name)[3, 5] += 1e-3
    with pytest.raises(
        VerificationError, match=r"1 of \d+ protected tensors have drifted"
    ) as caught:
        guard(model, body)
    assert name in caught.value.message
    assert caught.value.hint == (
        "Put the base's layers back first: registry.protect(model, artifact, base=DIR)"
    )
    assert len(trained(model)) == len(list(model.parameters()))


def test_one_drifted_expert_of_a_fused_parameter_is_named(tmp_path):
    model = layers_model("mixtral")
    body = layers_body(model, tmp_path / "base")
    with torch.no_grad():
        model.model.layers[2].mlp.experts.gate_up_proj[1, -1, 0] += 1e-3
    with pytest.raises(VerificationError) as caught:
        guard(model, body)
    assert "model.layers.2.block_sparse_moe.experts.1.w3.weight" in caught.value.message
    assert caught.value.message.count("\n") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_drifted_value_that_is_in_no_sample_is_found_by_digest(model, body, dtype):
    shape = (80, 48)
    unseen = min(set(range(80 * 48)) - set(positions(UP, shape).tolist()))
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[unseen] += 1e-3
    with pytest.raises(VerificationError, match="1 of 18 protected tensors have drifted"):
        guard(model.to(dtype), body)


def test_drift_below_the_dtype_of_the_model_is_seen_in_the_samples(tmp_path):
    body = layers_body(layers_model(), tmp_path / "base")
    narrow = layers_model(dtype=torch.bfloat16)
    with torch.no_grad():
        narrow.get_parameter(UP).mul_(1.01)
    with pytest.raises(VerificationError, match="1 of 18 protected tensors have drifted"):
        guard(narrow, body)


@pytest.mark.parametrize("change", [1.0, 2.0**-20])
def test_verify_names_every_parameter_that_is_not_what_it_was(model, body, change):
    held = guard(model, body)
    held.verify()
    names = (UP, "model.layers.2.input_layernorm.weight")
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).view(-1)[-1] += change
        model.model.layers[3].mlp.up_proj.weight.zero_()  # outside: none of its business
    with pytest.raises(VerificationError) as caught:
        held.verify()
    assert caught.value.message.startswith(
        "expected layers 1 to 2 bit for bit as when the guard began, "
        "2 of 18 protected parameters changed:\n"
    )
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]] == [
        *names
    ]


def test_freezing_after_the_optimizer_exists_is_refused(model, body):
    early = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    held = guard(model, body)
    with pytest.raises(GuardError) as caught:
        held.attach(early)
    assert caught.value.message.startswith(
        "expected an optimizer without the parameters of layers 1 to 2, 18 of 18 are in its groups "
        "or have momentum: weight decay and momentum change what has no gradient:\n"
    )
    assert caught.value.hint == (
        "Build the optimizer after the guard, from what is trained: "
        "torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)"
    )


def test_momentum_of_a_parameter_that_left_the_groups_is_refused(model, body):
    held = guard(model, body)
    optimizer = torch.optim.SGD(trained(model), lr=1e-2, momentum=0.9)
    optimizer.state[model.get_parameter(UP)] = {"momentum_buffer": torch.ones(80, 48)}
    with pytest.raises(GuardError, match="1 of 18 are in its groups or have momentum"):
        held.attach(optimizer)


def test_a_group_that_is_added_later_is_refused_at_the_next_step(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    before = bits(model)
    optimizer.add_param_group({"params": [model.get_parameter(UP)]})
    with pytest.raises(GuardError, match="1 of 18 are in its groups"):
        steps(model, optimizer, 1)
    assert bits(model) == before


def test_unfreezing_midway_is_refused_at_the_next_step(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    steps(model, optimizer, 2)
    model.get_parameter(UP).requires_grad_(True)
    before = bits(model)
    with pytest.raises(GuardError, match="1 of 18 protected parameters require gradients again"):
        steps(model, optimizer, 1)
    assert bits(model) == before
    assert held.verify().steps == 2


def test_a_gradient_that_appears_in_the_range_is_refused_at_the_next_step(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    model.get_parameter(UP).grad = torch.zeros(80, 48)
    with pytest.raises(GuardError, match="1 of 18 protected parameters have one"):
        optimizer.step()


def test_gradients_from_before_are_dropped(model, body):
    tokens = rows(1)
    model(input_ids=tokens, labels=tokens).loss.backward()
    held = guard(model, body)
    assert model.get_parameter(UP).grad is None
    held.attach(torch.optim.AdamW(trained(model), lr=1e-2))


def test_attaching_twice_counts_a_step_once_and_a_wrapper_is_followed_inside(model, body):
    from accelerate import Accelerator

    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    held.attach(wrapped)
    held.attach(optimizer)
    steps(model, wrapped, 2)
    assert held.verify().steps == 2
    assert held.report().optimizers == 1


def test_what_is_no_torch_optimizer_cannot_be_watched(model, body):
    held = guard(model, body)
    with pytest.raises(GuardError, match="can be watched, got object: it steps without hooks"):
        held.attach(object())


def test_an_engines_optimizer_without_step_hooks_is_refused_with_what_works(model, body):
    from accelerate import Accelerator
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

    class ZeroOptimizer:
        """As DeepSpeed's: no torch optimizer; the wrapper is accelerate's own."""

        def __init__(self, inner):
            self.param_groups, self.state = inner.param_groups, inner.state

        def load_state_dict(self, state):
            pass

        def state_dict(self):
            return {}

    held = guard(model, body)
    Accelerator(cpu=True)  # which makes the wrapper, asks for one
    wrapped = DeepSpeedOptimizerWrapper(ZeroOptimizer(torch.optim.AdamW(trained(model))))
    with pytest.raises(GuardError) as caught:
        held.attach(wrapped)
    assert caught.value.message == (
        "expected a torch optimizer, whose steps can be watched, got DeepSpeedOptimizerWrapper: "
        "it steps without hooks."
    )
    assert caught.value.hint == (
        "Give the torch optimizer that steps, or shard with FSDP2. Or train with any engine, "
        "without a guard, and look at the result: safelatch inspect MODEL NAME@V"
    )


def test_an_optimizer_of_flat_copies_is_refused_with_what_works(model, body):
    held = guard(model, body)
    flat = torch.nn.Parameter(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    with pytest.raises(GuardError, match="none of its 1 parameters is that model's") as caught:
        held.attach(torch.optim.AdamW([flat]))
    assert "shard with FSDP2" in caught.value.hint
    assert "safelatch inspect MODEL NAME@V" in caught.value.hint


def test_a_model_is_guarded_once_and_released_as_it_was(model, body):
    model.get_parameter(UP).requires_grad_(False)
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    assert guard(model, body) is held
    assert held.is_on(model)
    held.release()
    held.release()
    assert not held.is_on(model)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [UP]
    steps(model, optimizer, 1)  # watched no more
    assert held.verify().steps == 0
    with pytest.raises(RuntimeError, match="released"):
        held.attach(optimizer)
    again = guard(model, body)
    del again
    gc.collect()
    guard(model, body)  # one that nobody holds does not count


def test_a_guard_of_another_model_is_not_asked_how_that_one_is(body, tmp_path):
    gone = layers_model()
    first = guard(gone, body)
    gone.to("meta")
    model = layers_model()
    held = guard(model, body)
    assert held is not first
    assert (held.is_on(model), first.is_on(model), first.is_on(gone)) == (True, False, True)


def test_a_guard_that_was_lost_is_found_again_and_goes_on(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    del held
    gc.collect()
    steps(model, optimizer, 1)  # watched still
    model.get_parameter(UP).requires_grad_(True)
    again = guard(model, body)
    assert not model.get_parameter(UP).requires_grad
    assert (again.is_shared, again.verify().steps) == (True, 1)
    again.release()
    assert len(trained(model)) == len(list(model.parameters()))


def test_a_guard_does_not_keep_the_optimizer_of_an_earlier_training(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    seen = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert seen() is None
    held.attach(torch.optim.AdamW(trained(model), lr=1e-2))
    assert held.report().optimizers == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_before_the_second_training_is_not_taken_for_the_beginning(tmp_path, dtype):
    body = layers_body(layers_model(), tmp_path / "base")
    model = layers_model(dtype=dtype)
    held = guard(model, body)
    unseen = min(set(range(80 * 48)) - set(positions(UP, (80, 48)).tolist()))
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[unseen] += 1
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed"):
        guard(model, body)
    assert not held.is_shared


def test_a_model_that_is_guarded_for_other_layers_is_refused(model, body, tmp_path):
    held = guard(model, body)
    other = layers_body(model, tmp_path / "base", norms="trainable")
    with pytest.raises(GuardError) as caught:
        guard(model, other)
    assert caught.value.message == (
        "expected a model without a guard, or with one of layers 1 to 2, norms trainable; it has "
        "one of layers 1 to 2, norms frozen."
    )
    guard(model, body).release()  # the hint, by whoever has no g
    assert not held.is_on(model)
    assert guard(model, other).verify().parameters == 14


def test_a_guard_goes_on_when_an_adapter_was_put_around_the_model(model, body):
    held = guard(model, body)
    whole = adapted(model, layers_to_transform=[0, 3], layers_pattern="layers")
    assert guard(whole, body) is held
    assert held.report().weights == sum(p.numel() for p in whole.parameters())


def test_the_report_counts_what_is_trained_and_what_is_not_needed(model, body):
    weights = {name: p.numel() for name, p in model.named_parameters()}
    kept = sum(weights[name] for name in in_range(weights))
    held = guard(model, body)
    report = held.report()
    assert (report.protected, report.weights) == (kept, sum(weights.values()))
    assert report.trainable == sum(weights.values()) - kept
    assert (report.gradient_bytes, report.moment_bytes) == (4 * kept, 8 * kept)
    assert report.to_dict()["share_trainable"] == report.trainable / report.weights
    assert str(report) == (
        "kept       layers 1 to 2: 18 parameters, 41,664 values\n"
        "trainable  50,928 of 92,592 values (55.0 %)\n"
        "not needed 166,656 bytes of gradients, 333,312 bytes of AdamW's moments (arithmetic, not "
        "measured)\n"
        "watched    0 optimizer(s), 0 step(s)"
    )


@pytest.mark.parametrize("wrapper", ["compiled", "data parallel", "checkpointed layers"])
def test_wrappers_keep_the_names_of_what_is_protected(model, body, wrapper):
    if wrapper == "compiled":
        whole = torch.compile(model, backend="eager")
    elif wrapper == "data parallel":
        whole = torch.nn.DataParallel(model)
    else:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        for index, layer in enumerate(model.model.layers):
            model.model.layers[index] = checkpoint_wrapper(layer)
        whole = model
    held = guard(whole, body)
    assert held.is_on(model)
    optimizer = torch.optim.AdamW(trained(whole), lr=1e-2, weight_decay=0.1)
    held.attach(optimizer)
    before = bits(model)
    steps(whole, optimizer, 1)
    assert changed(before, bits(model)) == set(before) - in_range(before)
    assert held.verify().parameters == 18


@pytest.mark.parametrize("prepared", [lambda m: m, lambda m: torch.compile(m, backend="eager")])
def test_an_adapter_on_the_other_layers_passes(model, body, prepared):
    whole = prepared(adapted(model, layers_to_transform=[0, 3], layers_pattern="layers"))
    held = guard(whole, body)
    optimizer = torch.optim.AdamW(trained(whole), lr=1e-2, weight_decay=0.1)
    held.attach(optimizer)
    before = bits(whole)
    steps(whole, optimizer, 2)
    assert changed(before, bits(whole)) == {name for name in before if "lora_" in name}
    assert held.verify().parameters == 18


ON_THE_RANGE = {
    "every layer": {},
    "one layer of the range": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "magnitudes": {"use_dora": True, "layers_to_transform": [1], "layers_pattern": "layers"},
    "a copy of a norm": {
        "layers_to_transform": [0], "layers_pattern": "layers",
        "modules_to_save": ["layers.1.input_layernorm"],
    },
    "a copy of the model": {"target_modules": ["lm_head"], "modules_to_save": ["model"]},
}  # fmt: skip


@pytest.mark.parametrize("case", ON_THE_RANGE)
def test_an_adapter_inside_the_range_is_refused_with_the_other_layers(model, body, case):
    whole = adapted(model, **ON_THE_RANGE[case])
    with pytest.raises(GuardError, match="expected no adapter inside layers 1 to 2") as caught:
        guard(whole, body)
    assert caught.value.hint == (
        "Adapt the other layers alone, with the modules named one by one: LoraConfig(..., "
        'target_modules=["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", '
        '"v_proj"], layers_to_transform=[0, 3], layers_pattern="layers")'
    )


def test_a_trained_copy_of_a_norm_passes_where_norms_are_trained(model, tmp_path):
    body = layers_body(model, tmp_path / "base", norms="trainable")
    case = ON_THE_RANGE["a copy of a norm"]
    assert guard(adapted(model, **case), body).verify().parameters == 14


def test_an_adapter_that_is_added_later_is_refused_at_the_step_and_by_verify(model, body):
    held = guard(model, body)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    held.attach(optimizer)
    adapted(model)
    for act in (optimizer.step, held.verify, held.report):
        with pytest.raises(GuardError, match="expected no adapter inside layers 1 to 2"):
            act()


def test_an_adapter_that_was_merged_into_the_range_is_a_change(model, body):
    held = guard(model, body)
    whole = adapted(model, init_lora_weights=False)
    whole.merge_and_unload()
    with pytest.raises(VerificationError, match="4 of 18 protected parameters changed"):
        held.verify()


def test_an_adapter_made_by_transformers_itself_is_seen(model, body):
    model.add_adapter(lora())
    with pytest.raises(GuardError, match="expected no adapter inside layers 1 to 2"):
        guard(model, body)


def test_prefixes_in_every_layer_are_refused_and_prompts_at_the_input_are_not(model, body):
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    prefixed = get_peft_model(
        model, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    with pytest.raises(GuardError, match="into the attention of every layer") as caught:
        guard(prefixed, body)
    assert "is PREFIX_TUNING" in caught.value.message
    prompted = get_peft_model(
        layers_model(), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    assert guard(prompted, body).verify().parameters == 18


def test_a_parameter_that_the_base_does_not_have_is_refused(model, body):
    model.model.layers[1].mlp.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(GuardError, match="expected only the base's parameters inside") as caught:
        guard(model, body)
    assert "model.layers.1.mlp.scale" in caught.value.message


def test_a_model_without_the_protected_parameters_is_refused(model, body):
    del model.model.layers[2:]
    with pytest.raises(GuardError, match="9 of 18 are not in the model"):
        guard(model, body)


def test_weights_that_are_not_loaded_are_refused(model, body):
    with pytest.raises(GuardError, match=r"are offloaded or not loaded \(meta\)"):
        guard(model.to("meta"), body)


def test_zero_stage_3_and_fsdp1_are_refused(model, body):
    class FullyShardedDataParallel(torch.nn.Module):
        """Of the name of FSDP1's class: the real one wants processes."""

        def __init__(self, inner):
            super().__init__()
            self._fsdp_wrapped_module = inner

    with pytest.raises(GuardError, match="got FSDP1") as caught:
        guard(FullyShardedDataParallel(model), body)
    assert "fully_shard" in caught.value.hint
    model.get_parameter(UP).ds_id = 7
    with pytest.raises(GuardError, match="DeepSpeed ZeRO-3") as caught:
        guard(model, body)
    assert caught.value.hint == (
        "Shard with FSDP2. Or train with any engine, without a guard, and look at the result: "
        "safelatch inspect MODEL NAME@V"
    )


@pytest.mark.parametrize("family", GUARDED)
def test_the_text_for_peft_makes_an_adapter_that_passes(family, tmp_path):
    from peft import get_peft_model

    model = layers_model(family)
    body = layers_body(model, tmp_path / "base")
    names: dict = {}
    exec(training_config(body, model_geometry(model), "peft"), names)  # noqa: S102
    whole = get_peft_model(model, names["config"])
    places = {
        sites_for(family).layer_of(name.removeprefix("base_model.model."))
        for name, _ in whole.named_parameters() if "lora_" in name
    }  # fmt: skip
    assert places == {0, 3}
    assert guard(whole, body).verify().parameters


@pytest.mark.parametrize("norms", ["frozen", "trainable"])
@pytest.mark.parametrize("family", GUARDED)
def test_the_patterns_for_axolotl_leave_exactly_the_range_frozen(family, norms, tmp_path):
    import re

    import yaml

    model = layers_model(family)
    body = layers_body(model, tmp_path / "base", norms=norms)
    text = training_config(body, model_geometry(model), "axolotl", artifact="range@1")
    assert text.startswith("# range@1: layers 1 to 2 of 0 to 3 are kept\n")
    patterns = [
        re.compile(one.replace(".", r"\.")) for one in yaml.safe_load(text)["unfrozen_parameters"]
    ]
    left = {n for n, _ in model.named_parameters() if not any(p.match(n) for p in patterns)}
    held = guard(model, body)
    assert left == {n for n, p in model.named_parameters() if not p.requires_grad}
    held.release()
    after = yaml.safe_load(text.split("say instead:\n")[1].replace("# ", ""))
    assert after["peft_layers_to_transform"] == [0, 3]
    assert after["peft_layers_pattern"] == ["layers"]


def test_the_text_for_trl_names_the_artifact_and_is_python(model, body):
    import ast

    text = training_config(body, model_geometry(model), "trl", artifact="range@1")
    ast.parse(text)
    assert 'callbacks=[SafetyCallback("range@1")]' in text
    assert 'layers_to_transform=[0, 3], layers_pattern="layers"' in text


def test_a_range_of_the_whole_model_leaves_nothing_to_adapt(model, tmp_path):
    body = layers_body(model, tmp_path / "base", first=0, last=3)
    geometry = model_geometry(model)
    with pytest.raises(GuardError, match="layers 0 to 3 are the whole model"):
        training_config(body, geometry, "peft")
    assert "peft" not in training_config(body, geometry, "axolotl")
    assert "peft" not in training_config(body, geometry, "trl")
    with pytest.raises(GuardError) as caught:
        guard(adapted(model), body)
    assert caught.value.hint == "The range is the whole model: no layer is left for an adapter."


def test_a_text_for_an_unknown_engine_or_another_base_is_refused(model, body):
    geometry = model_geometry(model)
    with pytest.raises(UsageError, match="expected one of axolotl, peft, trl, got 'unsloth'"):
        training_config(body, geometry, "unsloth")
    other = model_geometry(layers_model("qwen2"))
    with pytest.raises(UsageError, match="expected the geometry of llama with 4 layers"):
        training_config(body, other, ENGINES[0])
