"""A mask that somebody else made, from their pickle to a model that is trained, projected, loaded."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.command_line import safelatch
from support.families import family_model
from support.guarded import rows
from support.locks import snapshot
from support.mask_worlds import Masked, saved
from transformers import AutoModelForCausalLM

from registry import guard, project, protect
from registry.artifact.bundle import read_bundle
from registry.errors import CheckpointNotFoundError
from registry.kinds import parse_body

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def imported(tmp_path: Path, request: pytest.FixtureRequest) -> Masked:
    """Import 1 % of every matrix in a layer, as ``pickle.dump`` writes lists, unsorted."""
    model = family_model(request.param)
    base = saved(model, tmp_path / "base")
    random = np.random.default_rng(0)
    lists = {
        name: random.choice(value.numel(), max(1, value.numel() // 100), replace=False).tolist()
        for name, value in model.named_parameters()
        if "layers." in name and value.ndim >= 2 and "mlp.gate.weight" not in name
    }
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps(lists))
    arguments = ("import", tmp_path / "theirs.pkl", "--base", base, "--out", tmp_path / "mask")
    done = safelatch(*arguments, "--format", "json")
    assert done.status == 0, done
    bundle = read_bundle(tmp_path / "mask")
    body = parse_body(bundle)
    assert body.selected == sum(map(len, lists.values()))
    assert json.loads(done.out)["contents"]["selected"] == f"{body.selected:,} weights"
    return Masked(base, model, bundle, body)


@pytest.mark.parametrize("imported", ["llama", "mixtral"], indirect=True)
def test_an_imported_mask_does_everything_that_a_mask_does(
    imported: Masked, tmp_path: Path
) -> None:
    mask, tuned = tmp_path / "mask", saved(imported.tuned(), tmp_path / "tuned")
    for folder, status in ((imported.folder, 0), (tuned, 1)):
        outcome = safelatch("inspect", folder, mask, "--format", "json")
        assert outcome.status == status, outcome
        assert outcome.document[0]["stored"] is (status == 0)

    model = AutoModelForCausalLM.from_pretrained(imported.folder)
    kept = guard(model, mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    kept.attach(optimizer)
    before = snapshot(model)
    model.train()
    for seed in range(3):
        tokens = rows(1, seed=seed, length=8)
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    kept.verify()
    assert snapshot(model) != before
    trained = saved(model, tmp_path / "trained")
    assert imported.inspect(trained).stored
    assert safelatch("inspect", trained, mask).status == 0

    done = project(tuned, mask, tmp_path / "projected", base=imported.folder)
    assert done.stored
    assert done.changed > 0
    assert safelatch("inspect", tmp_path / "projected", mask).status == 0

    model = AutoModelForCausalLM.from_pretrained(tuned)
    before = snapshot(model)
    with pytest.raises(CheckpointNotFoundError):
        protect(model, mask)
    assert snapshot(model) == before
    applied = protect(model, mask, base=imported.folder)
    assert applied.evidence["weights"] == imported.body.selected
    assert applied.verify()["level"] == "digest"
    assert snapshot(model) != before
    applied.undo()
    assert snapshot(model) == before
    shown = safelatch("show", mask)
    assert shown.status == 0, shown
    assert "imported: the authors' rule" in shown.out
