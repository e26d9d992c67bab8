"""SPPFT end to end: real trainings under a guard, in the engines that people train with."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.guarded import (
    FIRST,
    LAST,
    bits,
    changed,
    in_range,
    layers_bundle,
    layers_model,
    rows,
    trained,
)
from support.sharded_training import CASES, RANKS, run

import registry
from registry.artifact.bundle import write_bundle
from registry.errors import GuardError, VerificationError

if TYPE_CHECKING:
    from pathlib import Path

# transformers renames gradient checkpointing; PEFT and TRL still say the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return layers_model(), tmp_path_factory.mktemp("sppft")


@pytest.fixture(scope="module")
def bundle(base: Any) -> Path:
    model, folder = base
    return write_bundle(layers_bundle(model, folder / "base"), folder / "bundle")


@pytest.fixture
def model(base: Any) -> Any:
    return copy.deepcopy(base[0])


class Rows(torch.utils.data.Dataset):
    """Eight rows of tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = rows(1, seed=index)[0]
        return {"input_ids": tokens, "labels": tokens}


def make_trainer(model: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    own = {name: options.pop(name) for name in list(options) if name.startswith("optimizer")}
    chosen = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 4,
        "learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 0,
    } | options  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **chosen),
        train_dataset=Rows(),
        callbacks=list(callbacks),
        **own,
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_the_trainer_keeps_the_range_and_reports_it(
    model, bundle, tmp_path, precision, checkpointing
):
    if precision == "bfloat16":
        model = model.bfloat16()
    callback = registry.SafetyCallback(bundle)
    trainer = make_trainer(
        model, tmp_path, callback,
        bf16=precision == "autocast", gradient_checkpointing=checkpointing,
    )  # fmt: skip
    before = bits(model)
    trainer.train()
    moved = changed(before, bits(model))
    assert not in_range(moved)
    if precision == "bfloat16":
        assert any(".layers.0." in name for name in moved)
    else:
        assert moved == set(before) - in_range(before)
    assert callback.report["artifact"] == callback.guard.label
    assert callback.report["verified_at"]
    assert callback.report["evidence"]["steps"] == 4
    by_digest = callback.report["evidence"]["base_tensors_by_digest"]
    assert by_digest == (0 if precision == "bfloat16" else 18)
    assert callback.report["report"]["optimizers"] == 1


def test_an_optimizer_that_was_made_before_the_trainer_is_refused(model, bundle, tmp_path):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with pytest.raises(GuardError, match="18 of 18 are in its groups or have momentum") as caught:
        make_trainer(model, tmp_path, registry.SafetyCallback(bundle), optimizers=(optimizer, None))
    assert caught.value.hint.startswith("Leave optimizers= out")
    assert all(parameter.requires_grad for parameter in model.parameters())
    callback = registry.SafetyCallback(bundle)
    given = (torch.optim.SGD, {"lr": 1e-3})  # as the hint says
    make_trainer(model, tmp_path, callback, optimizer_cls_and_kwargs=given).train()
    assert callback.report["verified_at"]


def test_a_second_training_with_a_new_callback_goes_on_with_the_guard(model, bundle, tmp_path):
    """SFT, then another Trainer on the same model, and the first one's cell run once more."""
    first, second = registry.SafetyCallback(bundle), registry.SafetyCallback(bundle)
    one = make_trainer(model, tmp_path, first)
    one.train()
    before = bits(model)
    two = make_trainer(model, tmp_path, second)
    two.train()
    moved = changed(before, bits(model))
    assert moved == set(before) - in_range(before)
    assert second.report["evidence"]["steps"] == 8
    assert second.report["evidence"]["digest"] == first.report["evidence"]["digest"]
    one.train()
    assert first.report["evidence"]["steps"] == 12
    second.guard.release()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_training_after_one_whose_guard_was_lost_goes_on(model, bundle, tmp_path):
    g = registry.guard(model, bundle)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    g.attach(optimizer)
    del g  # the optimizer is there still, and so is what watches it
    callback = registry.SafetyCallback(bundle)
    make_trainer(model, tmp_path, callback).train()
    assert callback.report["report"]["optimizers"] == 2
    g = registry.guard(model, bundle)
    g.attach(torch.optim.AdamW(trained(model), lr=1e-2))
    assert g.verify()["steps"] == 4
    g.release()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_trainer_that_is_refused_leaves_the_guard_of_an_earlier_one(model, bundle, tmp_path):
    early = torch.optim.AdamW(model.parameters(), lr=1e-2)
    g = registry.guard(model, bundle)
    with pytest.raises(GuardError, match="18 of 18 are in its groups"):
        make_trainer(model, tmp_path, registry.SafetyCallback(bundle), optimizers=(early, None))
    assert g.is_on(model)
    assert len(trained(model)) == len(list(model.parameters())) - 18


def test_an_optimizer_of_the_other_layers_may_be_given_to_the_trainer(model, bundle, tmp_path):
    others = [p for name, p in model.named_parameters() if not in_range([name])]
    optimizer = torch.optim.SGD(others, lr=1e-2, momentum=0.9)
    callback = registry.SafetyCallback(bundle)
    make_trainer(model, tmp_path, callback, optimizers=(optimizer, None)).train()
    assert callback.report["evidence"]["steps"] == 4


def test_a_callback_that_is_added_after_the_trainer_was_made_is_too_late(model, bundle, tmp_path):
    trainer = make_trainer(model, tmp_path)
    trainer.add_callback(registry.SafetyCallback(bundle))
    before = bits(model)
    with pytest.raises(GuardError, match="it was added after the Trainer was made") as caught:
        trainer.train()
    assert "callbacks=[...]" in caught.value.hint
    assert bits(model) == before


def test_a_trainer_that_makes_a_new_model_for_training_is_refused(base, bundle, tmp_path):
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(
        model_init=lambda: copy.deepcopy(base[0]),
        args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=1),
        train_dataset=Rows(),
        callbacks=[registry.SafetyCallback(bundle)],
    )
    with pytest.raises(GuardError, match="it trains another one"):
        trainer.train()


def test_unfreezing_during_a_training_is_refused_at_the_next_step(model, bundle, tmp_path):
    from transformers import TrainerCallback

    class Unfreezes(TrainerCallback):
        def on_step_begin(self, args, state, control, *, model, **_):
            if state.global_step == 2:
                model.model.layers[FIRST].mlp.up_proj.weight.requires_grad_(True)

    callback = registry.SafetyCallback(bundle)
    before = bits(model)
    with pytest.raises(GuardError, match="1 of 18 protected parameters require gradients again"):
        make_trainer(model, tmp_path, callback, Unfreezes()).train()
    assert not in_range(changed(before, bits(model)))
    assert callback.report is None


def test_weights_that_were_written_behind_the_guard_fail_the_training(model, bundle, tmp_path):
    from transformers import TrainerCallback

    class Writes(TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **_):
            with torch.no_grad():
                model.model.layers[LAST].mlp.up_proj.weight[0, 0].add_(1)

    callback = registry.SafetyCallback(bundle)
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed") as caught:
        make_trainer(model, tmp_path, callback, Writes()).train()
    assert f"model.layers.{LAST}.mlp.up_proj.weight" in caught.value.message
    assert callback.report is None


def test_a_resumed_training_goes_on_and_a_drifted_checkpoint_is_refused(base, bundle, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    first = copy.deepcopy(base[0])
    make_trainer(first, tmp_path, registry.SafetyCallback(bundle), **options).train()
    again, callback = copy.deepcopy(base[0]), registry.SafetyCallback(bundle)
    trainer = make_trainer(again, tmp_path, callback, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert bits(again) == bits(first)
    assert callback.report["evidence"]["steps"] == 2

    drifted = copy.deepcopy(first)
    with torch.no_grad():
        drifted.model.layers[FIRST].mlp.up_proj.weight[0, 0].add_(1)
    drifted.save_pretrained(tmp_path / "checkpoint-2")
    trainer = make_trainer(
        copy.deepcopy(base[0]), tmp_path, registry.SafetyCallback(bundle), **options
    )
    with pytest.raises(VerificationError, match="1 of 18 protected parameters changed"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_an_adapter_on_the_other_layers_is_trained_and_the_range_is_kept(model, bundle, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        target_modules=PROJECTIONS, r=2, layers_to_transform=[0, 3], layers_pattern="layers",
        modules_to_save=["lm_head"],
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    callback = registry.SafetyCallback(bundle)
    before = bits(adapted)
    make_trainer(adapted, tmp_path, callback).train()
    moved = changed(before, bits(adapted))
    assert moved == {name for name in before if "lora_" in name or "modules_to_save" in name}
    assert callback.report["evidence"]["parameters"] == 18
    report = callback.report["report"]
    assert report["gradient_bytes"] == 0  # PEFT had frozen them: nothing more is saved
    assert report["trainable"] == sum(p.numel() for p in trained(adapted))
    merged = adapted.merge_and_unload()
    callback.guard.verify()
    assert not in_range(changed(bits(copy.deepcopy(merged)), bits(merged)))


def test_an_adapter_on_every_layer_is_refused_when_the_trainer_is_made(model, bundle, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(GuardError, match="expected no adapter inside layers 1 to 2") as caught:
        make_trainer(adapted, tmp_path, registry.SafetyCallback(bundle))
    assert caught.value.hint == (
        "Adapt the other layers alone, with the modules named one by one: LoraConfig(..., "
        'target_modules=["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", '
        '"v_proj"], layers_to_transform=[0, 3], layers_pattern="layers")'
    )


@pytest.mark.parametrize("adapts", [False, True])
def test_sft_of_trl_keeps_the_range(model, bundle, tmp_path, adapts):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from peft import LoraConfig

    data = datasets.Dataset.from_list(
        [{"input_ids": rows(1, seed=n)[0].tolist()} for n in range(8)]
    )
    callback = registry.SafetyCallback(bundle)
    options = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=3, report_to=[], use_cpu=True, bf16=False,
        save_strategy="no", learning_rate=1e-2, weight_decay=0.1, per_device_train_batch_size=2,
    )  # fmt: skip
    adapter = LoraConfig(
        target_modules=PROJECTIONS, layers_to_transform=[0, 3], layers_pattern="layers"
    )
    trainer = trl.SFTTrainer(
        model=model, args=options, train_dataset=data, callbacks=[callback],
        processing_class=tiny_tokenizer(), peft_config=adapter if adapts else None,
    )  # fmt: skip
    before = bits(trainer.model)
    trainer.train()
    moved = changed(before, bits(trainer.model))
    assert moved == {
        name for name in before if ("lora_" in name if adapts else not in_range([name]))
    }
    assert callback.report["evidence"]["steps"] == 3


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>"])}
    words |= {f"w{index}": index for index in range(3, 96)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw, of every case."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    root = tmp_path_factory.mktemp("sharded")
    for dtype in sorted({dtype for dtype, _ in CASES}):
        folder = root / dtype
        model = layers_model(dtype=getattr(torch, dtype))
        write_bundle(layers_bundle(model, folder / "base"), folder / "bundle")
    torch.multiprocessing.spawn(run, args=(root,), nprocs=RANKS)
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("order", ["guarded, then sharded", "sharded, then guarded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_processes_that_shard_with_fsdp2_keep_the_range(sharded, dtype, order):
    for seen in (rank[f"{dtype}, {order}"] for rank in sharded):
        assert seen["classes"] == ["DTensor"]
        assert seen["evidence"]["parameters"] == 18
        assert seen["evidence"]["base_tensors_by_digest"] == 18
        assert seen["evidence"]["steps"] == 3
        assert not in_range(seen["changed"])
        if dtype == "float32":
            assert set(seen["changed"]) == set(seen["names"]) - in_range(seen["names"])
        assert {".layers.0.", ".layers.3."} <= {
            part for part in (".layers.0.", ".layers.3.")
            for name in seen["changed"] if part in name
        }  # fmt: skip
        assert [line.split(",")[0] for line in seen["refused"]] == [
            "expected an optimizer without the parameters of layers 1 to 2",
            "expected layers 1 to 2 frozen",
        ]
    assert sharded[0] == sharded[1]
