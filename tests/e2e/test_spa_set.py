"""SPA and SET end to end: long trainings, in the engines that people train with."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.families import family_model
from support.guarded import bits, rows
from support.masked import differing, mask_bundle, totals, train
from support.masked_training import CLIP, RANKS, STEPS, optimizer_of, run

import registry
from registry.artifact.bundle import write_bundle
from registry.errors import GuardError, VerificationError
from registry.kinds import parse_body

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

OPTIMIZERS = {
    "adamw": lambda held, lr: torch.optim.AdamW(held, lr=lr, weight_decay=0.1),
    "sgd": lambda held, lr: torch.optim.SGD(held, lr=lr, momentum=0.9, weight_decay=0.1),
    "fused adamw": lambda held, lr: torch.optim.AdamW(held, lr=lr, weight_decay=0.1, fused=True),
}


def tiny(dtype: torch.dtype = torch.float32) -> Any:
    return family_model("llama", dtype=dtype, num_hidden_layers=1, intermediate_size=81)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, its mask, and the folder of both."""
    model, folder = tiny(getattr(torch, request.param)), tmp_path_factory.mktemp("masked")
    bundle = mask_bundle(model, folder / "base")
    write_bundle(bundle, folder / "bundle")
    return model, parse_body(bundle), folder


def masked_gradients(model: Any, body: Any) -> None:
    """Zero the gradients of selected weights, and do nothing else."""
    for matrix in body.matrices:
        flat = torch.from_numpy(body.indices(matrix.name).astype("int64"))

        def zero(parameter: Any, flat: Any = flat) -> None:
            parameter.grad.view(-1)[flat] = 0

        model.get_parameter(matrix.name).register_post_accumulate_grad_hook(zero)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_200_steps_change_no_selected_weight_and_without_writing_back_they_do(base, kind, tmp_path):
    rate = 0.1  # decay of 1 % a step: also in bf16 a change
    model = copy.deepcopy(base[0])
    held = registry.guard(model, base[2] / "bundle")
    optimizer = OPTIMIZERS[kind](model.parameters(), rate)
    held.attach(optimizer)
    train(model, optimizer, 200, accumulate=2 if kind == "adamw" else 1, clip=1.0)
    selected, others = totals(differing(model, base[1], base[2] / "base", tmp_path / "kept"))
    assert selected == 0
    assert others > 0.9 * (base[1].weights - base[1].selected)
    assert held.verify()["steps"] == 200
    assert held.verify()["weights"] == base[1].selected

    leaking = copy.deepcopy(base[0])
    masked_gradients(leaking, base[1])
    optimizer = OPTIMIZERS[kind](leaking.parameters(), rate)
    train(leaking, optimizer, 10, clip=1.0)
    selected, _ = totals(differing(leaking, base[1], base[2] / "base", tmp_path / "leaked"))
    assert selected > 0.5 * base[1].selected


def test_momentum_from_before_the_guard_moves_nothing_and_with_gradients_alone_it_does(
    base, tmp_path
):
    found = {}
    for is_guarded in (True, False):
        model = copy.deepcopy(base[0])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        state = {}
        for parameter in model.parameters():  # momentum, the weights as they were
            state[parameter] = {"momentum_buffer": torch.full_like(parameter, 0.5)}
        optimizer.state.update(state)
        if is_guarded:
            held = registry.guard(model, base[2] / "bundle")
            held.attach(optimizer)
        else:
            masked_gradients(model, base[1])
        train(model, optimizer, 3)
        found[is_guarded], _ = totals(
            differing(model, base[1], base[2] / "base", tmp_path / f"{is_guarded}")
        )
    assert found[True] == 0
    assert found[False] > 0.9 * base[1].selected


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_200_steps_of_set_change_selected_weights_alone(base, kind, tmp_path):
    model = copy.deepcopy(base[0])
    held = registry.guard(model, base[2] / "bundle", mode="enhance")
    before = bits(model)
    optimizer = OPTIMIZERS[kind](held.parameters(), 0.05)
    held.attach(optimizer)
    train(model, optimizer, 200, accumulate=2 if kind == "adamw" else 1, clip=1.0)
    selected, others = totals(differing(model, base[1], base[2] / "base", tmp_path / "out"))
    assert others == 0
    assert selected > 0.9 * base[1].selected
    evidence = held.verify()
    assert evidence["steps"] == 200
    assert evidence["weights"] == sum(p.numel() for p in model.parameters()) - base[1].selected
    inside = {matrix.name for matrix in base[1].matrices}
    assert {name for name, was in before.items() if bits(model)[name] != was} == inside


class Rows(torch.utils.data.Dataset):
    """Eight rows of tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = rows(1, seed=index)[0]
        return {"input_ids": tokens, "labels": tokens}


def make_trainer(model: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    chosen = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 6,
        "learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 0,
    } | {name: value for name, value in options.items() if name != "optimizers"}  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **chosen),
        train_dataset=Rows(),
        callbacks=list(callbacks),
        optimizers=options.get("optimizers", (None, None)),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model, folder = tiny(), tmp_path_factory.mktemp("plain")
    bundle = mask_bundle(model, folder / "base")
    write_bundle(bundle, folder / "bundle")
    return model, parse_body(bundle), folder


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("is_autocast", [False, True])
def test_a_trainer_keeps_the_selected_weights(plain, tmp_path, is_autocast, checkpointing):
    model = copy.deepcopy(plain[0])
    callback = registry.SafetyCallback(plain[2] / "bundle")
    make_trainer(
        model, tmp_path, callback, bf16=is_autocast, gradient_checkpointing=checkpointing
    ).train()
    selected, others = totals(differing(model, plain[1], plain[2] / "base", tmp_path / "out"))
    assert (selected, others > 0) == (0, True)
    assert callback.report["mode"] == "preserve"
    assert callback.report["evidence"]["steps"] == 6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trainer_trains_the_selected_weights_with_the_guards_own_optimizer(
    plain, tmp_path, checkpointing
):
    model = copy.deepcopy(plain[0])
    held = registry.guard(model, plain[2] / "bundle", mode="enhance")
    optimizer = torch.optim.AdamW(held.parameters(), lr=1e-2, weight_decay=0.1)
    callback = registry.SafetyCallback(held)
    make_trainer(
        model, tmp_path, callback, optimizers=(optimizer, None),
        gradient_checkpointing=checkpointing,
    ).train()  # fmt: skip
    selected, others = totals(differing(model, plain[1], plain[2] / "base", tmp_path / "out"))
    assert others == 0
    assert selected > 0.9 * plain[1].selected
    assert callback.report["mode"] == "enhance"
    assert callback.report["evidence"]["steps"] == 6


@pytest.mark.parametrize(
    "options", [{}, {"optim": "sgd"}, {"gradient_checkpointing": True, "bf16": True}], ids=str
)
def test_the_optimizer_that_a_trainer_builds_trains_the_selected_weights_alone(
    plain, tmp_path, options
):
    """Its rate, decay and schedule are those of the Trainer's arguments."""
    model = copy.deepcopy(plain[0])
    callback = registry.SafetyCallback(plain[2] / "bundle", mode="enhance")
    trainer = make_trainer(model, tmp_path, callback, **options)
    trainer.train()
    selected, others = totals(differing(model, plain[1], plain[2] / "base", tmp_path / "out"))
    assert others == 0
    assert selected > 0.9 * plain[1].selected
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(vector) for vector in callback.guard.parameters()}
    assert (callback.report["mode"], callback.report["evidence"]["steps"]) == ("enhance", 6)
    body = callback.guard.delta()
    assert (body.delta["learning_rate"], body.delta["weight_decay"]) == (1e-2, 0.1)
    made = callback.guard.save_delta(tmp_path / "delta")
    fresh = copy.deepcopy(plain[0])
    registry.protect(fresh, made)
    assert bits(fresh) == bits(model)


def test_a_guard_and_an_optimizer_class_of_one_s_own_are_taken_by_a_trainer_too(plain, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = copy.deepcopy(plain[0])
    held = registry.guard(model, plain[2] / "bundle", mode="enhance")
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    Trainer(
        model=model, args=arguments, train_dataset=Rows(), callbacks=[registry.SafetyCallback(held)],
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    ).train()  # fmt: skip
    assert held.delta().delta["optimizer"] == "SGD"
    selected, others = totals(differing(model, plain[1], plain[2] / "base", tmp_path / "out"))
    assert (selected > 0.9 * plain[1].selected, others) == (True, 0)


@pytest.mark.parametrize("norm", [1e-3, 0.0])
def test_a_trainer_clips_and_clears_the_gradients_of_the_vectors(plain, tmp_path, norm):
    from transformers import TrainerCallback

    seen = []

    class Sees(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            assert all(vector.grad is None for vector in held.parameters())

        def on_pre_optimizer_step(self, args, state, control, **_):
            norms = [vector.grad.norm() for vector in held.parameters()]
            seen.append(float(torch.stack(norms).norm()))

    model = copy.deepcopy(plain[0])
    held = registry.guard(model, plain[2] / "bundle", mode="enhance")
    optimizer = torch.optim.SGD(held.parameters(), lr=0.0)
    make_trainer(
        model, tmp_path, registry.SafetyCallback(held), Sees(), optimizers=(optimizer, None),
        max_grad_norm=norm, max_steps=8, gradient_accumulation_steps=1,
    ).train()  # fmt: skip
    assert [one == pytest.approx(1e-3, rel=1e-3) for one in seen] == [bool(norm)] * 8


@pytest.mark.parametrize("mode", ["preserve", "enhance"])
def test_the_best_model_that_a_trainer_loads_at_the_end_is_what_was_trained(plain, tmp_path, mode):
    from transformers import Trainer, TrainingArguments

    model = copy.deepcopy(plain[0])
    callback = registry.SafetyCallback(plain[2] / "bundle", mode=mode)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "runs"), max_steps=3, learning_rate=1e-2, use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows(),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert callback.report["evidence"]["mode"] == mode
    if mode == "enhance":
        made = callback.guard.save_delta(tmp_path / "delta")
        fresh = copy.deepcopy(plain[0])
        registry.protect(fresh, made)
        assert bits(fresh) == bits(model) != bits(plain[0])


def test_a_guard_of_another_model_is_refused(plain, tmp_path):
    held = registry.guard(copy.deepcopy(plain[0]), plain[2] / "bundle", mode="enhance")
    with pytest.raises(GuardError, match="it is of another one"):
        make_trainer(copy.deepcopy(plain[0]), tmp_path, registry.SafetyCallback(held))


@pytest.mark.parametrize("is_built_by", ["us", "the trainer"])
def test_a_resumed_training_goes_on_from_what_was_saved(plain, tmp_path, is_built_by):
    options = {"save_strategy": "steps", "save_steps": 3}

    def training(**resume: Any) -> Any:
        model = copy.deepcopy(plain[0])
        callback = registry.SafetyCallback(plain[2] / "bundle", mode="enhance")
        if is_built_by == "us":
            held = registry.guard(model, plain[2] / "bundle", mode="enhance")
            optimizer = torch.optim.AdamW(held.parameters(), lr=1e-2)
            callback, options["optimizers"] = registry.SafetyCallback(held), (optimizer, None)
        make_trainer(model, tmp_path, callback, **options).train(**resume)
        callback.guard.verify()
        return model

    first = training()
    again = training(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert bits(again) == bits(first)


@pytest.fixture(scope="module")
def sharded(plain: Any) -> Any:
    """What each of two processes saw, and the folder with what they made."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    root = plain[2]
    torch.multiprocessing.spawn(run, args=(root,), nprocs=RANKS)
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(RANKS)], root


def alone(plain: Any, mode: str, steps: int) -> Any:
    """Return the model and guard of the same training in one process."""
    model = copy.deepcopy(plain[0])
    held = registry.guard(model, plain[2] / "bundle", mode=mode)
    optimizer = optimizer_of(held, model, is_long=False)
    held.attach(optimizer)
    train(model, optimizer, steps, accumulate=2, clip=CLIP)
    return model, held


@pytest.mark.parametrize("order", ["guarded, then sharded", "sharded, then guarded"])
@pytest.mark.parametrize("mode", ["preserve", "enhance"])
def test_two_processes_that_shard_with_fsdp2_keep_what_must_be_kept(
    plain, sharded, mode, order, tmp_path
):
    seen, root = sharded
    ranks = [rank[f"{mode}, {order}"] for rank in seen]
    assert ranks[0] == ranks[1]
    steps = STEPS if order.startswith("sharded") else 5
    assert ranks[0]["evidence"]["steps"] == steps
    model = copy.deepcopy(plain[0])
    model.load_state_dict(torch.load(root / f"{mode}, {order}.pt"))
    selected, others = totals(differing(model, plain[1], root / "base", tmp_path / "out"))
    kept, moved = (selected, others) if mode == "preserve" else (others, selected)
    assert kept == 0
    assert moved > 0.9 * (
        plain[1].selected if mode == "enhance" else plain[1].weights - plain[1].selected
    )
    if steps != STEPS:  # as in one process: the norm is over all processes
        expected, held = alone(plain, mode, steps)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter, expected.get_parameter(name), atol=2e-4, rtol=1e-3
            )
        assert ranks[0]["report"] == held.report().to_dict()


def test_two_processes_make_one_delta_and_are_refused_what_cannot_be_kept(plain, sharded):
    seen, root = sharded
    said = seen[0]["enhance, sharded, then guarded"]
    values = torch.load(root / "enhance, sharded, then guarded.pt")
    expected = b"".join(
        values[matrix.name].reshape(-1)[plain[1].indices(matrix.name)].numpy().tobytes()
        for matrix in plain[1].matrices
    )
    assert said["new_values"] == expected.hex()
    assert said["how"]["steps"] == STEPS
    assert said["refused"].startswith("expected an optimizer of g.parameters() alone")
    assert seen[0]["gradients alone"] > 0.9 * plain[1].selected
    assert seen[0]["whole"].startswith(
        "expected one process, or parameters sharded with FSDP2, got 2 processes"
    )


def test_weights_that_were_written_behind_the_guard_fail_the_training(plain, tmp_path):
    from transformers import TrainerCallback

    name = plain[1].matrices[0].name

    class Writes(TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **_):
            if state.global_step == 6:
                with torch.no_grad():
                    model.get_parameter(name).add_(1)

    callback = registry.SafetyCallback(plain[2] / "bundle")
    with pytest.raises(VerificationError, match="those of 1 of 8 matrices changed") as caught:
        make_trainer(copy.deepcopy(plain[0]), tmp_path, callback, Writes()).train()
    assert name in caught.value.message
    assert callback.report is None
