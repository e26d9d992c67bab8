"""How many selected weights a checkpoint's bytes hold as they must be, and how far the rest is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import factors, lora_config, write_adapter
from support.locks import read_record
from support.mask_worlds import FAMILIES, INTS, Masked, masked, saved

from registry.checkpoint.adapter import Adapter
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.effective import effective_record
from registry.checkpoint.reader import Checkpoint
from registry.errors import CheckpointNotFoundError
from registry.kinds.esi_mask._judged import Judged
from registry.kinds.esi_mask.inspect import MaskInspection, inspect_adapter, inspect_beside

if TYPE_CHECKING:
    from pathlib import Path

DOWN = "model.layers.1.mlp.down_proj.weight"
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def valued(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("valued"), with_values=True)


def edited(made: Masked, folder: Path, edit: Any) -> Path:
    """Write the base with its tensors edited in place, or replaced by what is returned."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    given = edit(tensors)
    kept = given if isinstance(given, dict) else tensors
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def flip(value: torch.Tensor, place: int) -> None:
    value.view(INTS[value.dtype]).view(-1)[place] ^= 1


def one_of(made: Masked, name: str, *, selected: bool) -> int:
    return int(np.flatnonzero(made.places()[name].reshape(-1) == selected)[-1])


# Every family, to the bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_bit_of_a_selected_weight_is_counted_and_any_other_is_drift_of_the_rest(
    family, dtype, tmp_path
):
    made = masked(family, tmp_path / "base", dtype, with_values=True)
    found = made.inspect(made.folder)
    assert (found.stored, found.equal) == (True, made.body.selected)
    assert found.to_dict()["drift_of_the_rest"] == 0
    names = sorted(name for name, mask in made.places().items() if mask.any())
    assert found.tensors == tuple(names)
    for name in names[::3]:
        place = one_of(made, name, selected=True)
        folder = edited(made, tmp_path / "x", lambda t, n=name, p=place: flip(t[n], p))
        found = made.inspect(folder)
        drifted = [row for row in found.matrices if row.state != "same"]
        assert [row.name.partition("#")[0] for row in drifted] == [name]
        assert drifted[0].equal == drifted[0].selected - 1
        assert (found.stored, found.kept, found.tensors) == (False, False, ())
        assert found.equal == made.body.selected - 1

    def shift(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            mask = torch.from_numpy(made.places().get(name, np.zeros(value.shape, dtype=bool)))
            value[~mask] += 0.05

    found = made.inspect(edited(made, tmp_path / "x", shift))
    assert (found.stored, found.equal) == (True, made.body.selected)
    assert found.to_dict()["drift_of_the_rest"] == pytest.approx(0.25, rel=0.1)


def test_without_values_the_share_is_an_estimate_and_beside_the_base_a_count(llama, tmp_path):
    places = {name: torch.from_numpy(mask) for name, mask in llama.places().items()}

    def half(tensors: dict[str, torch.Tensor]) -> None:
        for name, mask in places.items():
            chosen = mask & (torch.arange(mask.numel()).view(mask.shape) % 2 == 0)
            tensors[name][chosen] += 1

    folder = edited(llama, tmp_path / "x", half)
    found = llama.inspect(folder)
    document = found.to_dict()
    assert (document["stored"], document["equal"], document["share"]) == (False, None, None)
    estimate = document["estimate"]
    counted = llama.inspect(folder, beside=True)
    share = counted.to_dict()["share"]
    assert 0.4 < share < 0.6
    assert counted.estimate is None
    assert estimate["low"] <= share <= estimate["high"]
    assert 100 < estimate["n"] < document["not_counted"] <= llama.body.selected
    untouched = llama.inspect(llama.folder).to_dict()
    assert (untouched["share"], untouched["estimate"], untouched["not_counted"]) == (1.0, None, 0)


def test_the_words_claim_what_was_counted_sampled_or_neither(llama, valued, tmp_path):
    """``describe`` for people: no share without a count, and an unknown stays one."""

    def words(made: Masked, folder: Path, **how: Any) -> tuple[str, str, str]:
        found = made.inspect(folder, **how).describe()
        return found["selected weights"], found["the other weights"], found["matrices"]

    count = llama.body.selected
    matrices = sum(1 for number in llama.body.counts.values() if number)
    same = (f"all {count:,} are the base's, bit for bit", "no sample differs from the base's",
            f"{matrices} same")  # fmt: skip
    assert words(llama, llama.folder) == same
    place = one_of(llama, DOWN, selected=True)
    one = edited(llama, tmp_path / "one", lambda tensors: flip(tensors[DOWN], place))
    inside = llama.body.counts[DOWN]
    first = words(llama, one)[0]
    assert first.startswith(
        f"at least {count - inside:,} of {count:,} are the base's; {inside} were not counted: of "
    )
    assert words(llama, one, beside=True) == (
        f"{count - 1:,} of {count:,} are the base's ({(count - 1) / count:.2%})", same[1],
        f"{matrices - 1} same, 1 drifted",
    )  # fmt: skip
    narrow = saved(valued.tuned(torch.bfloat16, relative=0.0), tmp_path / "narrow")
    rounded = "are the base's (100.00%), rounded where the dtype is too narrow for them"
    assert words(valued, narrow)[0] == f"{count:,} of {count:,} {rounded}"
    lost = edited(valued, tmp_path / "lost", lambda t: {k: v for k, v in t.items() if k != DOWN})
    found = valued.inspect(lost).describe()
    assert found["the other weights"] == "unknown: a matrix is missing, or not of its shape"
    assert [(row["equal"], row["fact"]) for row in found["not the same"]] == [
        (0, "expected as in the base, found nothing")
    ]


def test_a_matrix_that_no_sample_can_judge_is_said_to_be_unknown():
    state = {"selected": 3, "sampled": 0, "sampled_equal": 0, "change": 0.0, "size": 1.0}
    rows = (
        Judged("a", "unknown", equal=None, **state), Judged("b", "same", equal=3, **state),
    )  # fmt: skip
    found = MaskInspection("mask", rows, ()).describe()
    assert found["selected weights"] == (
        "at least 3 of 6 are the base's; of 3 it cannot be told: no sample meets them"
    )
    assert found["matrices"] == "1 same, 1 unknown"
    assert [row["fact"] for row in found["not the same"]] == ["cannot be told"]
    delta = MaskInspection("delta", rows[1:], ()).describe()
    assert delta["selected weights"] == "all 3 are the delta's, bit for bit"


def test_a_base_that_is_gone_is_said_where_it_is_asked_for(llama, tmp_path):
    folder = edited(
        llama, tmp_path / "x", lambda t: flip(t[DOWN], one_of(llama, DOWN, selected=True))
    )
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointNotFoundError, match="gone"),
    ):
        inspect_beside(checkpoint, llama.body, sites_for("llama"), llama.base(absent=DOWN))


def test_what_is_missing_or_reshaped_is_drift_with_the_fact(valued, tmp_path):
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{UP}.weight"]
        tensors[DOWN] = tensors[DOWN][:-1].clone()

    found = valued.inspect(edited(valued, tmp_path / "x", edit))
    facts = {row.name: (row.state, row.equal, row.fact) for row in found.matrices if row.fact}
    assert facts == {
        f"{UP}.weight": ("drifted", 0, "expected as in the base, found nothing"),
        DOWN: ("drifted", 0, "expected shape [48, 80] as in the base, got [47, 80]"),
    }
    assert found.to_dict()["drift_of_the_rest"] is None


# Other dtypes, other layouts


@pytest.mark.parametrize("wider", [torch.float32, torch.float64])
def test_a_wider_copy_of_a_bf16_base_is_the_same_and_one_bit_is_not(wider, tmp_path):
    made = masked("llama", tmp_path / "base", torch.bfloat16, with_values=True)

    def cast(tensors: dict[str, torch.Tensor], place: int | None = None) -> dict[str, torch.Tensor]:
        found = {name: value.to(wider) for name, value in tensors.items()}
        if place is not None:
            found[DOWN].view(-1).view(torch.uint8)[place * found[DOWN].element_size()] ^= 1
        return found

    assert made.inspect(edited(made, tmp_path / "x", cast)).stored
    place = one_of(made, DOWN, selected=True)
    found = made.inspect(edited(made, tmp_path / "x", lambda t: cast(t, place)))
    assert (found.stored, found.equal) == (False, made.body.selected - 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_copy_is_rounded_and_not_stored(llama, valued, dtype, tmp_path):
    def cast(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(dtype) for name, value in tensors.items()}

    for made, equal in ((llama, None), (valued, llama.body.selected)):
        found = made.inspect(edited(made, tmp_path / "x", cast))
        states = {row.state for row in found.matrices if row.selected}
        assert states <= {"rounded", "unknown"}  # unknown: no sample met a selected weight
        assert (found.stored, found.equal) == (False, equal)
    assert (states, found.kept) == ({"rounded"}, True)

    def nudged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = cast(tensors)
        flip(found[DOWN], one_of(valued, DOWN, selected=True))
        return found

    found = valued.inspect(edited(valued, tmp_path / "x", nudged))
    assert [row.name for row in found.matrices if row.state == "drifted"] == [DOWN]


def test_experts_that_are_stored_as_one_tensor_are_the_same_weights(tmp_path):
    made = masked("mixtral", tmp_path / "base", with_values=True)
    start = "model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight"

    def fused(tensors: dict[str, torch.Tensor], *, flipped: int | None = None) -> Any:
        kept = {name: value for name, value in tensors.items() if ".experts." not in name}
        for layer in range(2):
            w1, w2, w3 = (
                torch.stack([
                    tensors[start.format(layer=layer, expert=expert, name=name)]
                    for expert in range(3)
                ])
                for name in ("w1", "w2", "w3")
            )  # fmt: skip
            experts = f"model.layers.{layer}.mlp.experts"
            kept[f"{experts}.gate_up_proj"] = torch.cat([w1, w3], dim=1)
            kept[f"{experts}.down_proj"] = w2.contiguous()
            if flipped is not None and layer == 1:
                flip(kept[f"{experts}.gate_up_proj"][2, 80:], flipped)
        return kept

    assert made.inspect(edited(made, tmp_path / "x", fused)).stored
    name = start.format(layer=1, expert=2, name="w3")
    place = one_of(made, name, selected=True)
    found = made.inspect(edited(made, tmp_path / "x", lambda t: fused(t, flipped=place)))
    assert [row.name for row in found.matrices if row.state != "same"] == [name]


def test_a_delta_is_stored_where_its_values_are_and_not_in_its_base(valued, tmp_path):
    made = valued.as_delta()
    found = made.inspect(made.folder)
    assert (found.stored, found.equal) == (False, 0)

    def put(tensors: dict[str, torch.Tensor]) -> None:
        for name, mask in made.places().items():
            tensors[name].view(torch.int32)[torch.from_numpy(mask)] ^= 1

    found = made.inspect(edited(made, tmp_path / "x", put))
    assert (found.stored, found.equal, found.form) == (True, made.body.selected, "delta")
    assert not valued.inspect(tmp_path / "x").stored


# Adapters


def effective(made: Masked, folder: Path) -> Any:
    with Adapter.open(folder) as adapter:
        record = effective_record(read_record(made.folder), adapter)
    return inspect_adapter(record, made.body, sites_for(made.body.family))


def test_an_adapter_on_a_matrix_with_selected_weights_changes_them(llama, tmp_path):
    config = lora_config(target_modules=["up_proj"])
    folder = write_adapter(tmp_path / "adapter", factors(UP, 80, 48), config)
    found = effective(llama, folder)
    (row,) = (row for row in found.matrices if row.state != "same")
    assert (row.name, row.state, row.equal) == (f"{UP}.weight", "drifted", None)
    assert row.sampled > 0
    assert row.sampled_equal == 0
    document = found.to_dict()
    assert (document["stored"], document["not_counted"]) == (False, row.selected)
    assert (document["estimate"]["successes"], document["estimate"]["n"]) == (0, row.sampled)
    delta = effective(llama.as_delta(), folder)
    assert not delta.stored  # its base does not carry it


def test_an_adapter_beside_the_selected_weights_leaves_them(tmp_path):
    made = masked("llama", tmp_path / "base", rho=0.0001)
    free = next(m for m in made.body.matrices if not made.body.counts[m.name] and m.layer == 0)
    module = free.name.removesuffix(".weight")
    config = lora_config(target_modules=[module.rpartition(".")[2]])
    folder = write_adapter(tmp_path / "a", factors(module, free.rows, free.cols), config)
    found = effective(made, folder)
    assert (found.stored, found.equal) == (True, made.body.selected)
    assert found.to_dict()["drift_of_the_rest"] > 0


def test_the_rest_of_a_fine_tune_is_as_far_as_it_is(valued, tmp_path):
    found = valued.inspect(saved(valued.tuned(relative=0.02), tmp_path / "x"))
    assert found.to_dict()["drift_of_the_rest"] == pytest.approx(0.02, rel=0.1)
    assert found.equal < 0.05 * valued.body.selected
