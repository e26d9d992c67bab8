"""SPA and SET on tiny models: what is kept to the bit, what is refused, what the report says."""

from __future__ import annotations

import gc

import pytest
import torch
from support.families import family_model
from support.guarded import bits, rows
from support.masked import differing, mask_body, totals, train

from registry.checkpoint.values import item_size
from registry.errors import GuardError, NonFiniteResultError, UsageError, VerificationError
from registry.kinds.esi_mask._places import places_of
from registry.kinds.esi_mask.body import DELTA
from registry.kinds.esi_mask.guard import MODES, guard

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

UP = "model.layers.0.mlp.up_proj.weight"
FAMILIES = ("llama", "qwen2", "gemma2", "phi3", "mixtral", "gpt2")


def tiny(family="llama", *, dtype=torch.float32, **changes):
    layers = {} if family == "gpt2" else {"num_hidden_layers": 1}
    return family_model(family, dtype=dtype, **layers | changes)


@pytest.fixture
def model():
    return tiny()


@pytest.fixture
def body(model, tmp_path):
    return mask_body(model, tmp_path / "base")


def optimizer_of(held, model, lr=0.05):
    trained = held.parameters() if held.has_vectors else model.parameters()
    return torch.optim.AdamW(trained, lr=lr, weight_decay=0.1)


def started(model, body, mode="preserve", lr=0.05):
    held = guard(model, body, mode=mode)
    optimizer = optimizer_of(held, model, lr)
    held.attach(optimizer)
    return held, optimizer


def places(body, name):
    return torch.from_numpy(body.indices(name).astype("int64"))


def test_set_freezes_every_parameter_without_selected_weights(model, body):
    held = guard(model, body, mode="enhance")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, count in body.counts.items() if count}
    held.release()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_side_of_the_mask_is_kept_in_every_family(family, mode, dtype, tmp_path):
    model = tiny(family, dtype=dtype)
    body = mask_body(model, tmp_path / "base")
    held, optimizer = started(model, body, mode, lr=0.1)
    train(model, optimizer, 3, accumulate=2, clip=1.0)
    found = differing(model, body, tmp_path / "base", tmp_path / "out")
    selected, others = totals(found)
    rest = body.weights - body.selected
    expected = (0, rest) if mode == "preserve" else (body.selected, 0)
    assert [n == 0 for n in (selected, others)] == [n == 0 for n in expected]
    assert selected + others > 0.9 * sum(expected)
    evidence = held.verify()
    assert (evidence.mode, evidence.steps) == (mode, 3)
    used = sum(1 for count in body.counts.values() if count)
    assert evidence.base_matrices_by_digest == used
    if mode == "enhance":  # and nothing outside the matrices
        names = {name for name, _ in model.named_parameters()}
        assert evidence.digests == len(names)


def test_preserve_is_the_default_and_another_mode_is_refused(model, body):
    assert guard(model, body).mode == "preserve"
    with pytest.raises(UsageError, match="expected one of preserve, enhance, got mode 'freeze'"):
        guard(tiny(), body, mode="freeze")


def test_gradients_of_selected_weights_are_zero_before_they_are_clipped(model, body):
    started(model, body)
    tokens = rows(1)
    model(input_ids=tokens, labels=tokens).loss.backward()
    for matrix in body.matrices:
        flat = model.get_parameter(matrix.name).grad.reshape(-1)
        here = places(body, matrix.name)
        assert not flat[here].any()
        assert int((flat != 0).sum()) > 0.9 * (flat.numel() - len(here))


def test_a_parameter_that_is_unfrozen_midway_is_kept_too(model, body, tmp_path):
    model.get_parameter(UP).requires_grad_(False)
    held, optimizer = started(model, body)
    train(model, optimizer, 2)
    model.get_parameter(UP).requires_grad_(True)
    train(model, optimizer, 2)
    selected, _ = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert selected == 0
    train(model, optimizer, 1)
    assert not model.get_parameter(UP).grad.view(-1)[places(body, UP)].any()
    held.verify()


def test_gradients_of_set_are_summed_in_fp32_and_dropped_from_the_model(tmp_path):
    model = tiny(dtype=torch.bfloat16)
    body = mask_body(model, tmp_path / "base")
    whole = tiny(dtype=torch.bfloat16)
    held, _ = started(model, body, "enhance")
    sums = None
    for seed in range(3):
        tokens = rows(1, seed=seed)
        model(input_ids=tokens, labels=tokens).loss.backward()
        whole.zero_grad()
        whole(input_ids=tokens, labels=tokens).loss.backward()
        now = whole.get_parameter(UP).grad.view(-1)[places(body, UP)].float()
        sums = now if sums is None else sums + now
    assert all(parameter.grad is None for parameter in model.parameters())
    names = sorted(matrix.name for matrix in body.matrices)
    vector = held.parameters()[names.index(UP)]
    assert vector.grad.dtype == torch.float32
    assert torch.equal(vector.grad, sums)


def test_updates_below_the_spacing_of_bf16_add_up_in_the_masters(tmp_path):
    model = tiny(dtype=torch.bfloat16)
    body = mask_body(model, tmp_path / "base")
    held = guard(model, body, mode="enhance")
    optimizer = torch.optim.SGD(held.parameters(), lr=1.0)
    held.attach(optimizer)
    began = [vector.detach().clone() for vector in held.parameters()]
    plain = [vector.detach().bfloat16() for vector in held.parameters()]
    for _ in range(3000):
        for vector, start, lost in zip(held.parameters(), began, plain, strict=True):
            vector.grad = -1e-6 * start
            lost.add_(1e-6 * start.bfloat16())
        optimizer.step()
    for vector, start, lost in zip(held.parameters(), began, plain, strict=True):
        torch.testing.assert_close(vector.detach(), start * 1.003, rtol=5e-4, atol=0)
        assert torch.equal(lost, start.bfloat16())  # in bf16 alone every one of them is lost
    selected, others = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert others == 0
    assert selected > 0.3 * body.selected
    held.verify()


def test_a_delta_holds_the_trained_values_in_the_dtype_of_the_base(tmp_path):
    narrow = tiny(dtype=torch.bfloat16)
    body = mask_body(narrow, tmp_path / "base")
    model = tiny(dtype=torch.bfloat16).float()
    held, optimizer = started(model, body, "enhance")
    with pytest.raises(UsageError, match="expected a delta after at least one step"):
        held.delta()
    train(model, optimizer, 2)
    delta = held.delta(seed=3)
    expected = b"".join(
        model.get_parameter(m.name).detach().view(-1)[places(body, m.name)].bfloat16()
        .view(torch.uint8).numpy().tobytes() for m in body.matrices
    )  # fmt: skip
    assert delta.new_values.tobytes() == expected
    assert len(delta.new_values) == body.selected * item_size("BF16")
    assert delta.form == DELTA
    assert delta.delta == {
        "steps": 2, "optimizer": "AdamW", "learning_rate": 0.05, "weight_decay": 0.1,
        "data": None, "seed": 3,
    }  # fmt: skip
    with torch.no_grad():
        held.parameters()[0][0] = torch.inf
    with pytest.raises(NonFiniteResultError, match="in 1 matrices"):
        held.delta()


def test_a_delta_that_is_on_the_model_can_be_preserved_and_not_trained_again(body):
    tuned = tiny()
    held, optimizer = started(tuned, body, "enhance")
    train(tuned, optimizer, 2)
    delta = held.delta()
    held.release()
    held, optimizer = started(tuned, delta)
    before = bits(tuned)
    train(tuned, optimizer, 2)
    held.verify()
    assert bits(tuned) != before
    with pytest.raises(VerificationError, match="as the delta puts them there"):
        guard(tiny(), delta)
    with pytest.raises(UsageError, match="expected an artifact of form mask"):
        guard(tiny(), delta, mode="enhance")


@pytest.mark.parametrize("mode", MODES)
def test_selected_weights_that_drifted_are_told_by_matrix(model, body, mode):
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[places(body, UP)[0]] += 1e-3
    with pytest.raises(VerificationError) as caught:
        guard(model, body, mode=mode)
    assert caught.value.message.startswith(
        "expected the selected weights as in the base, those of 1 of 8 matrices have drifted; the "
        f"guard would go on from there:\n  {UP}: expected {body.selected_digest(UP)}, "
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_drift_of_what_is_not_selected_is_none_of_its_business(model, body):
    with torch.no_grad():
        for matrix in body.matrices:
            flat = model.get_parameter(matrix.name).view(-1)
            kept = flat[places(body, matrix.name)].clone()
            flat.add_(0.01)
            flat[places(body, matrix.name)] = kept
    guard(model, body).verify()


@pytest.mark.parametrize("with_values", [True, False])
def test_a_narrower_model_is_compared_with_values_where_the_artifact_has_them(
    tmp_path, with_values
):
    body = mask_body(tiny(), tmp_path / "base", with_values=with_values)
    model = tiny(dtype=torch.bfloat16)
    evidence = guard(model, body).verify()
    counts = (evidence.base_matrices_by_values, evidence.base_matrices_not_compared)
    assert counts == ((8, 0) if with_values else (0, 8))
    other = tiny(dtype=torch.bfloat16)
    with torch.no_grad():
        other.get_parameter(UP).mul_(1.01)
    if with_values:
        with pytest.raises(VerificationError, match="those of 1 of 8 matrices have drifted"):
            guard(other, body)


def test_verify_names_every_matrix_whose_selected_weights_changed(model, body):
    held = guard(model, body)
    names = sorted([UP, "lm_head.weight"] if "lm_head.weight" in body.counts else [UP])
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).view(-1)[places(body, name)[-1]] += 2.0**-20
    with pytest.raises(VerificationError) as caught:
        held.verify()
    assert caught.value.message.splitlines()[0] == (
        "expected the selected weights bit for bit as when the guard began, those of "
        f"{len(names)} of 8 matrices changed:"
    )
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]] == names


def test_verify_of_set_names_what_changed_outside_the_mask(model, body):
    held, optimizer = started(model, body, "enhance")
    train(model, optimizer, 1)
    outside = next(i for i in range(80 * 48) if i not in set(body.indices(UP).tolist()))
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[outside] += 2.0**-20
        model.model.norm.weight[0] += 1
    with pytest.raises(VerificationError) as caught:
        held.verify()
    lines = caught.value.message.splitlines()
    assert lines[0].endswith("2 of 12 parameters changed outside the mask:")
    assert {line.split(":")[0].strip() for line in lines[1:]} == {UP, "model.norm.weight"}


def test_verify_of_set_refuses_values_that_never_came_into_the_model(model, body):
    held = guard(model, body, mode="enhance")
    optimizer = optimizer_of(held, model)
    train(model, optimizer, 1)  # not attached
    with pytest.raises(VerificationError, match="expected the trained values in the model") as seen:
        held.verify()
    assert seen.value.hint.endswith("g.attach(optimizer)")


def test_what_was_kept_may_be_widened_and_is_still_what_it_was(tmp_path):
    model = tiny(dtype=torch.bfloat16)
    body = mask_body(model, tmp_path / "base")
    held = guard(model, body)
    model.float()
    held.verify()
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[places(body, UP)[0]] += 1e-6
    with pytest.raises(VerificationError, match="those of 1 of 8 matrices changed"):
        held.verify()


def test_an_optimizer_of_the_model_is_refused_where_vectors_are_trained(model, body):
    held = guard(model, body, mode="enhance")
    with pytest.raises(GuardError) as caught:
        held.attach(torch.optim.AdamW(model.parameters(), lr=0.1))
    assert caught.value.message.startswith(
        "expected an optimizer of g.parameters() alone, it holds 12 parameters of the model: "
    )
    assert "torch.optim.AdamW(g.parameters(), lr=...)" in caught.value.hint
    with pytest.raises(GuardError, match="it holds none of these 8 vectors"):
        held.attach(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.1))
    optimizer = optimizer_of(held, model)
    held.attach(optimizer)
    before = bits(model)
    optimizer.add_param_group({"params": [model.model.norm.weight]})
    with pytest.raises(GuardError, match="it holds 1 parameters of the model"):
        train(model, optimizer, 1)
    assert bits(model) == before


def test_freezing_selected_parameters_midway_is_refused_where_they_are_trained(model, body):
    _, optimizer = started(model, body, "enhance")
    model.get_parameter(UP).requires_grad_(False)
    with pytest.raises(GuardError, match="1 were frozen since the guard began"):
        optimizer.step()


def test_an_optimizer_of_copies_is_refused(model, body):
    held = guard(model, body)
    copies = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    with pytest.raises(GuardError, match="got 12 others: what is computed from them") as caught:
        held.attach(torch.optim.AdamW(copies, lr=0.1))
    assert "registry.project(MODEL, ARTIFACT, OUT)" in caught.value.hint
    with pytest.raises(GuardError, match="expected a torch optimizer, got object"):
        held.attach(object())


@pytest.mark.parametrize("mode", MODES)
def test_parameters_that_are_replaced_after_the_optimizer_are_refused_at_the_step(
    model, body, mode
):
    _, optimizer = started(model, body, mode)
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(
        model.get_parameter(UP).detach().clone()
    )
    with pytest.raises(GuardError, match="1 of 8 were replaced since"):
        optimizer.step()


def lora(model, **options):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model, LoraConfig(**{"target_modules": ["q_proj", "down_proj"], "r": 2, **options})
    )


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_on_selected_weights_is_refused_with_the_way_out(model, body, mode):
    with pytest.raises(GuardError) as caught:
        guard(lora(model), body, mode=mode)
    if mode == "preserve":
        assert caught.value.message.startswith(
            "expected no adapter on a module with selected weights: it changes what they compute "
            "although their bits are kept. Got 4 of its parameters there:\n"
        )
        assert "write a merged copy with the selected weights of the base" in caught.value.hint
    else:
        assert caught.value.message.startswith("expected a model without adapters")


def test_an_adapter_that_is_added_later_is_refused_at_the_step_and_by_verify(model, body):
    held, optimizer = started(model, body)
    lora(model)
    for act in (optimizer.step, held.verify, held.report):
        with pytest.raises(GuardError, match="expected no adapter on a module"):
            act()


def test_an_adapter_beside_the_mask_passes(model, body, tmp_path):
    whole = lora(model, target_modules=["embed_tokens"])
    held, optimizer = started(whole, body)
    train(whole, optimizer, 2)
    assert held.verify().weights == body.selected


def test_the_experts_of_a_fused_parameter_have_one_vector(tmp_path):
    model = tiny("mixtral")
    body = mask_body(model, tmp_path / "base", rho=0.05)
    held = guard(model, body, mode="enhance")
    counts = body.counts
    gate_up = sum(n for name, n in counts.items() if name.endswith(("w1.weight", "w3.weight")))
    assert gate_up in [vector.numel() for vector in held.parameters()]
    assert sum(vector.numel() for vector in held.parameters()) == body.selected
    assert len(held.parameters()) < sum(1 for n in counts.values() if n)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapper", ["compiled", "data parallel", "checkpointed"])
def test_wrappers_keep_the_names_of_what_is_selected(body, mode, wrapper, tmp_path):
    model = tiny()
    if wrapper == "compiled":
        whole = torch.compile(model, backend="eager")
    elif wrapper == "data parallel":
        whole = torch.nn.DataParallel(model)
    else:
        whole = model
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
    held, optimizer = started(whole, body, mode)
    assert held.is_on(model)
    train(whole, optimizer, 2, accumulate=2)
    selected, others = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert (selected == 0, others == 0) == (mode == "preserve", mode == "enhance")
    held.verify()


@pytest.mark.parametrize("mode", MODES)
def test_tied_weights_are_one_parameter(mode, tmp_path):
    model = tiny(tie_word_embeddings=True)
    body = mask_body(model, tmp_path / "base")
    assert "lm_head.weight" not in body.counts
    held, optimizer = started(model, body, mode)
    embedding = model.model.embed_tokens.weight.detach().clone()
    train(model, optimizer, 2)
    held.verify()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(embedding, model.lm_head.weight) == (mode == "enhance")


@pytest.mark.parametrize("mode", MODES)
def test_a_scaled_loss_whose_gradients_overflow_changes_nothing_and_training_goes_on(
    model, body, mode, tmp_path
):
    held, optimizer = started(model, body, mode)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = bits(model)
    for step in range(4):
        optimizer.zero_grad()
        tokens = rows(1, seed=step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        scaler.scale(loss * (float("inf") if step == 0 else 1.0)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if step == 0:
            assert bits(model) == before
    selected, others = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert (selected == 0, others == 0) == (mode == "preserve", mode == "enhance")
    assert held.verify().steps == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_guarded_once_and_released_as_it_was(model, body, mode):
    model.model.norm.weight.requires_grad_(False)
    held, optimizer = started(model, body, mode)
    with pytest.raises(GuardError, match="this one is guarded already"):
        guard(model, body)
    assert held.is_on(model)
    held.attach(optimizer)
    train(model, optimizer, 1)
    assert (held.report().optimizers, held.report().steps) == (1, 1)
    held.release()
    held.release()
    assert not held.is_on(model)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    tokens = rows(1)
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert model.get_parameter(UP).grad.view(-1)[places(body, UP)].any()
    with pytest.raises(RuntimeError, match="released"):
        held.attach(optimizer)
    del held
    gc.collect()


@pytest.mark.parametrize("mode", MODES)
def test_a_guard_that_was_lost_takes_no_gradients_from_the_next_one(model, body, mode):
    """Its hooks took every gradient first: the next guard trained nothing, and did not say so."""
    for optimizer_too in (False, True):
        held = guard(model, body, mode=mode)
        optimizer = optimizer_of(held, model)
        if optimizer_too:
            held.attach(optimizer)
        elif held.has_vectors:
            held.parameters()
        del held, optimizer
    held, optimizer = started(model, body, "enhance")
    before = bits(model)
    train(model, optimizer, 2)
    after = bits(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name, count in body.counts.items() if count}
    held.verify()


def test_an_optimizer_of_the_model_gets_the_vectors_in_their_places(model, body, tmp_path):
    held = guard(model, body, mode="enhance")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": trained[:3], "weight_decay": 0.5}, {"params": trained[3:]}], lr=0.05
    )
    held.exchange(optimizer)
    held.exchange(optimizer)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    vectors = dict(zip(sorted(names), held.parameters(), strict=True))
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    order = [id(vectors[name]) for name in names]
    assert groups == [order[:3], order[3:]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.01]
    held.attach(optimizer)
    train(model, optimizer, 2)
    selected, others = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert (selected > 0.9 * body.selected, others) == (True, 0)
    held.release()
    with pytest.raises(RuntimeError, match="released"):
        held.exchange(optimizer)


def test_an_optimizer_that_stepped_whole_parameters_is_not_taken_over(model, body):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    train(model, optimizer, 1)
    held = guard(model, body, mode="enhance")
    before = [list(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(GuardError, match="it has momentum of whole parameters"):
        held.exchange(optimizer)
    assert [list(group["params"]) for group in optimizer.param_groups] == before
    with pytest.raises(GuardError, match="expected a torch optimizer, got object"):
        held.exchange(object())


def test_parameters_that_come_and_go_are_told_by_verify_of_set(model, body):
    held, _ = started(model, body, "enhance")
    model.model.extra = torch.nn.Parameter(torch.ones(2))
    del model.model.norm
    with pytest.raises(VerificationError, match="2 of 12 parameters changed outside") as caught:
        held.verify()
    first, second = caught.value.message.splitlines()[1:]
    assert first.strip() == "model.extra: expected no such parameter, it was added"
    assert second.strip().startswith("model.norm.weight: expected blake3:")
    assert second.endswith(", it is gone")


def test_parameters_that_are_frozen_before_there_are_vectors_of_them_are_refused(model, body):
    held = guard(model, body, mode="enhance")
    model.get_parameter(UP).requires_grad_(False)
    with pytest.raises(GuardError, match="1 were frozen since the guard began"):
        held.parameters()


def test_a_step_without_gradients_is_refused_where_vectors_are_trained(model, body):
    held, optimizer = started(model, body, "enhance")
    before = bits(model)
    with pytest.raises(GuardError, match="8 never had one and would stay as they are"):
        optimizer.step()
    assert bits(model) == before
    train(model, optimizer, 1)
    optimizer.zero_grad()
    optimizer.step()  # each had one by now
    held.verify()


def test_a_loss_that_does_not_reach_every_vector_is_missed_at_the_first_step(model, body):
    """As with reentrant checkpointing behind frozen embeddings: the head alone has a gradient."""
    held, optimizer = started(model, body, "enhance")
    cut = model.lm_head.register_forward_pre_hook(lambda _, given: (given[0].detach(),))
    with pytest.raises(GuardError, match="7 never had one") as caught:
        train(model, optimizer, 1)
    assert UP in caught.value.message or "2 more" in caught.value.message
    assert "lm_head" not in caught.value.message
    cut.remove()
    train(model, optimizer, 1)
    held.verify()


def test_gradients_may_be_made_within_the_step(model, body, tmp_path):
    held, optimizer = started(model, body, "enhance")
    tokens = rows(1)

    def closure():
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure=closure)
    held.verify()
    selected, others = totals(differing(model, body, tmp_path / "base", tmp_path / "out"))
    assert (selected > 0.9 * body.selected, others) == (True, 0)


def test_a_delta_takes_no_memory_of_the_size_of_a_parameter(model, body):
    from torch.utils._python_dispatch import TorchDispatchMode

    made = []

    class Sees(TorchDispatchMode):
        def __torch_dispatch__(self, call, types, given=(), named=None):
            found = call(*given, **(named or {}))
            if isinstance(found, torch.Tensor):
                made.append(found.untyped_storage().nbytes())
            return found

    held, optimizer = started(model, body, "enhance")
    train(model, optimizer, 1)
    with Sees():
        held.delta()
    assert 0 < max(made) <= 4 * max(body.counts.values())


def test_a_prompt_that_is_learned_beside_the_input_changes_no_weight(body):
    from peft import PromptTuningConfig, get_peft_model

    whole = get_peft_model(tiny(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    held = guard(whole, body)
    assert held.verify().weights == body.selected
    assert held.report().moment_bytes == 0
    held.release()
    with pytest.raises(GuardError, match="expected a model without adapters") as caught:
        guard(whole, body, mode="enhance")
    assert "adapter 'default'" in caught.value.message
    guard(whole.get_base_model(), body, mode="enhance").parameters()


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_in_every_layer_is_refused(body, mode):
    from peft import PrefixTuningConfig, get_peft_model

    whole = get_peft_model(tiny(), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(GuardError, match="'default' is PREFIX_TUNING"):
        guard(whole, body, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_on_the_experts_parameter_is_refused(mode, tmp_path):
    model = tiny("mixtral")
    body = mask_body(model, tmp_path / "base")
    whole = lora(model, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
    with pytest.raises(GuardError) as caught:
        guard(whole, body, mode=mode)
    assert "model.layers.0.mlp.experts.lora_A.default.weight" in caught.value.message


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_that_transformers_put_there_is_refused(model, body, mode):
    from peft import LoraConfig

    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(GuardError) as caught:
        guard(model, body, mode=mode)
    assert "model.layers.0.self_attn.q_proj.lora_A.default.weight" in caught.value.message


def test_a_frozen_model_does_not_save_less_than_nothing(model, body):
    model.requires_grad_(False)
    report = guard(model, body, mode="enhance").report()
    assert (report.gradient_bytes, report.moment_bytes) == (0, 0)


def test_the_reports_count_what_is_trained_and_what_is_held(model, body, tmp_path):
    weights = sum(parameter.numel() for parameter in model.parameters())
    held = guard(model, body)
    report = held.report()
    assert (report.selected, report.matrices) == (body.selected, 8)
    assert (report.trainable, report.weights) == (weights - body.selected, weights)
    assert (report.kept_bytes, report.gradient_bytes, report.moment_bytes) == (
        8 * body.selected, 0, 0
    )  # fmt: skip
    with pytest.raises(UsageError, match="expected a guard of mode enhance, got preserve"):
        held.parameters()
    held.release()
    report = guard(model, body, mode="enhance").report()
    saved = 4 * (weights - body.selected)
    assert (report.trainable, report.kept_bytes) == (body.selected, 8 * body.selected)
    assert (report.gradient_bytes, report.moment_bytes) == (saved, 2 * saved)
    assert report.to_dict()["share_trainable"] == body.selected / weights
    assert str(report) == (
        f"kept       everything but {body.selected:,} selected weights of 8 matrices\n"
        f"trainable  {body.selected:,} of {weights:,} values "
        f"({100 * body.selected / weights:.1f} %)\n"
        f"held       {8 * body.selected:,} bytes by the guard (arithmetic, not measured)\n"
        f"not needed {saved:,} bytes of gradients, {2 * saved:,} bytes of AdamW's moments "
        "(arithmetic, not measured)\n"
        "watched    0 optimizer(s), 0 step(s)"
    )


def test_what_cannot_be_read_is_refused(model, body):
    class FullyShardedDataParallel(torch.nn.Module):
        """Of the name of FSDP1's class: the real one wants processes."""

        def __init__(self, inner):
            super().__init__()
            self._fsdp_wrapped_module = inner

    with pytest.raises(GuardError, match="got FSDP1"):
        guard(FullyShardedDataParallel(model), body)
    with pytest.raises(GuardError, match=r"are offloaded or not loaded \(meta\)"):
        guard(tiny().to("meta"), body)
    model.get_parameter(UP).ds_id = 7
    with pytest.raises(GuardError, match="DeepSpeed ZeRO-3"):
        guard(model, body)


def test_a_model_without_the_parameters_or_of_another_shape_is_refused(model, body):
    with pytest.raises(GuardError, match="expected the matrices of the mask as its base has them"):
        guard(tiny(intermediate_size=96), body)
    del model.model.layers[0].mlp.up_proj
    with pytest.raises(GuardError, match="1 of 8 are not in the model") as caught:
        guard(model, body)
    assert UP in caught.value.message


def test_values_are_written_where_memory_is_not_contiguous_too():
    parameter = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3).T)
    flat = torch.tensor([1, 5, 11])
    here, _ = places_of("one", parameter, flat)
    assert here.take(parameter).tolist() == parameter.detach().reshape(-1)[flat].tolist()
    expected = parameter.detach().reshape(-1).clone()
    expected[flat] = torch.tensor([-1.0, -2.0, -3.0])
    here.put(parameter, torch.tensor([-1.0, -2.0, -3.0]))
    assert torch.equal(parameter.detach().reshape(-1), expected)
