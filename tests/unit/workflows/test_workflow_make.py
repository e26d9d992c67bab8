from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.planted import LEVELS, build_planted, planted_pairs

from registry.artifact.bundle import check_files, read_bundle, write_bundle
from registry.errors import BaseModelMismatchError, UsageError
from registry.kinds import KINDS, parse_body
from registry.kinds.safety_lock.extract import Budget
from registry.measure.prompts import load_pairs
from registry.settings import Settings
from registry.workflows import make
from registry.workflows.identify import identify

OPTIONS = {"heads": 4, "answer_tokens": 5, "folds": 3, "repeats": 1}


def extracted(world, *, seed=0, pairs=None):
    base = identify(world.base, settings=Settings.load())
    return make.extract(
        "safety-lock", base, world.planted.model, world.planted.tokenizer,
        base_name="planted-base", seed=seed, options=OPTIONS, data=pairs,
    )  # fmt: skip


def test_a_draft_says_what_it_was_made_from_and_survives_the_disk(world, tmp_path):
    bundle = extracted(world)
    manifest = bundle.manifest
    record = identify(world.base, settings=Settings.load()).record
    assert manifest.label == "(draft)"
    assert (manifest.base.weights, manifest.base.config) == (record.weights, record.config_digest)
    assert manifest.base.tokenizer == record.tokenizer is not None
    assert manifest.base.chat_template == record.chat_template is not None
    assert manifest.provenance["seed"] == 0
    assert dict(manifest.provenance["options"]) == OPTIONS
    (data,) = manifest.provenance["data"]
    packaged = load_pairs()
    assert (data["digest"], data["split"]) == (packaged.digest, "make")
    assert manifest.receipts[0]["type"] == "extraction"
    body = parse_body(read_bundle(write_bundle(bundle, tmp_path / "draft")))
    assert (body.alpha, body.alpha_range) == (None, None)


def test_the_same_seed_gives_the_same_bytes_but_for_the_time(world, monkeypatch):
    monkeypatch.setattr(make, "stamp", lambda: "2030-01-01T00:00:00Z")
    assert dict(extracted(world).files) == dict(extracted(world).files)
    assert extracted(world, seed=1).files != extracted(world).files


def test_pairs_that_are_reported_on_are_not_made_from(world):
    used = {row.id for row in load_pairs().split("make").rows}
    held = {row.id for row in load_pairs().split("report").rows}
    assert not used & held
    assert extracted(world).manifest.provenance["data"][0]["rows"] == len(used)


def test_own_pairs_are_named_by_their_digest(world):
    pairs = load_pairs().split("make").first(12)
    (data,) = extracted(
        world, pairs=replace(pairs, name="mine", version="file")
    ).manifest.provenance["data"]
    assert (data["name"], data["version"], data["rows"]) == ("mine", "file", 12)


def test_calibration_keeps_the_tensors_and_replaces_its_receipt(world, tmp_path):
    base = identify(world.base, settings=Settings.load())
    bundle = world.bundle.named("planted-lock", "1.0")
    for limit in (2, 3):
        bundle = make.calibrate(
            bundle, base, world.planted.model, world.planted.tokenizer,
            budget=Budget(over_refusal=1.0, nll=1e9), seed=0, limit=limit, max_new_tokens=2,
            grid=(0.25, 0.5),
        )  # fmt: skip
    assert bundle.manifest.label == "(draft)"
    assert bundle.files["tensors.safetensors"] == world.bundle.files["tensors.safetensors"]
    assert [receipt["type"] for receipt in bundle.manifest.receipts] == [
        "extraction", "calibration",
    ]  # fmt: skip
    receipt = bundle.manifest.receipts[-1]
    assert receipt["unlocked"]["harmful"]["prompts"]["rows"] == 3
    body = parse_body(check_files(dict(bundle.files)))
    assert (body.alpha, body.alpha_range) == (0.5, (0.0, 0.5))
    json.dumps(json.loads(bundle.files["manifest.json"]), allow_nan=False)


def test_a_fine_tune_is_no_base_to_calibrate_on(world):
    tune = identify(world.tune, settings=Settings.load())
    with pytest.raises(BaseModelMismatchError, match="expected the base planted-base"):
        make.calibrate(
            world.bundle, tune, world.tuned, world.planted.tokenizer, budget=Budget(), seed=0
        )


class MeanLikelihood:
    """A score of somebody's own: how likely the refusing answer's first token is."""

    name, version = "own-score", 3

    def terms(self, model, pair):
        tokens = torch.tensor([[1, 2, 3, len(pair.refusing) % 5]])
        yield model(input_ids=tokens).logits[0, -1].float().log_softmax(-1)[0]

    def describe(self):
        return {"name": self.name, "version": self.version, "unit": "nats", "judge": None}


def test_a_mask_can_be_made_by_a_score_of_one_s_own_and_a_lock_cannot(world):
    base = identify(world.base, settings=Settings.load())
    options = {"rho": 0.01, "limit": 4, "with_values": False, "halves": False}
    given = {"base_name": "planted-base", "seed": 0, "options": options, "score": MeanLikelihood()}
    model, tokenizer = world.planted.model, world.planted.tokenizer
    bundle = make.extract("esi-mask", base, model, tokenizer, **given)
    body = parse_body(bundle)
    assert (body.score["name"], body.score["version"], body.score["pairs"]) == ("own-score", 3, 4)
    assert bundle.manifest.receipts[0]["score"]["unit"] == "nats"
    with pytest.raises(UsageError, match="expected no score for a safety-lock"):
        make.extract("safety-lock", base, model, tokenizer, **given)


def test_the_options_of_a_kind_are_the_ones_extract_reads():
    options = {option.name: option.default for option in KINDS["safety-lock"].options}
    assert set(options) == set(OPTIONS)
    small = options | OPTIONS
    planted = build_planted(LEVELS)
    verb = KINDS["safety-lock"].verb("extract")
    made = verb.extract(planted.model, planted.tokenizer, planted_pairs(), seed=0, options=small)
    assert len(made.body.heads) == 4
