from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.tiny_models import (
    FAMILIES,
    fine_tune,
    llama_config,
    make_tensors,
    save_with_transformers,
    tensor,
    write_checkpoint,
)

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.probe import COUNT, SIZE, distances, probe
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.sketch import extent
from registry.digest import digest_bytes

CONFIG = llama_config(num_hidden_layers=3)
TENSORS = make_tensors(CONFIG)
DOWN = "model.layers.1.mlp.down_proj.weight"
ROLES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.down_proj")  # fmt: skip
FROZEN = "blake3:f4c8c880297f355778aac4bdd3ee4971207176f83633c75b91e59f9d951d8bf6"


@pytest.fixture
def record(tmp_path):
    def measure(tensors=TENSORS, config=CONFIG):
        with Checkpoint.open(write_checkpoint(tmp_path / "model", config, tensors)) as checkpoint:
            return fingerprint(checkpoint)

    return measure


def values_of(taken: bytes) -> np.ndarray:
    return np.frombuffer(taken, "<f4")


def drawn(count: int) -> list[int]:
    """splitmix64 from 0 in Python's integers."""
    mask, made = 2**64 - 1, []
    for number in range(1, count + 1):
        z = number * 0x9E3779B97F4A7C15 & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        made.append(z ^ (z >> 31))
    return made


def test_the_probe_is_made_by_the_rule_that_is_written_down(record):
    measured = record()
    entries = {entry.name: entry for entry in measured.entries}
    expected = []
    for slot, z in enumerate(drawn(256)):
        name = f"model.layers.{slot * 3 // 256}.{ROLES[slot % 5]}.weight"
        samples = np.frombuffer(measured.samples[name], "<f4")
        expected.append(samples[z % extent(entries[name].shape).flat])
    assert values_of(probe(measured)).tolist() == np.array(expected).tolist()
    assert len(set(expected)) > 200


def test_the_probe_is_the_frozen_one(record):
    """Registries hold probes: another rule would rank them against what they are not."""
    counted = {
        name: tensor(np.arange(item.values.size).reshape(item.shape) + 10_000.0 * number)
        for number, (name, item) in enumerate(sorted(TENSORS.items()))
    }
    taken = probe(record(counted))
    assert (COUNT, SIZE, len(taken)) == (256, 1024, 1024)
    assert digest_bytes(taken) == FROZEN


def test_a_cast_takes_the_same_positions(record):
    tensors = {name: tensor(item.values, "BF16") for name, item in TENSORS.items()}
    cast = values_of(probe(record(tensors)))
    assert cast == pytest.approx(values_of(probe(record())), rel=2**-7)


def test_what_is_outside_the_layers_changes_no_position(record):
    longer = llama_config(num_hidden_layers=3, vocab_size=101)
    tensors = {**TENSORS, "model.embed_tokens.weight": tensor(np.zeros((101, 48)))}
    assert probe(record(tensors, longer)) == probe(record())


@pytest.mark.parametrize("relative", [1e-3, 1e-2, 1e-1])
def test_the_distance_of_a_fine_tune_is_near_what_the_judge_says(record, relative):
    base, child = record(), record(fine_tune(TENSORS, relative))
    (found,) = distances(probe(child), [probe(base)])
    assert found == pytest.approx(judge(base, child).distance, rel=0.2)


def test_another_model_is_far(record):
    other = record(make_tensors(CONFIG, seed=9))
    assert distances(probe(other), [probe(record())])[0] == pytest.approx(2**0.5, rel=0.1)


def test_distances_come_in_the_order_of_the_bases(record):
    tuned = [probe(record(fine_tune(TENSORS, relative))) for relative in (1e-1, 0, 1e-2)]
    found = distances(probe(record()), tuned)
    assert found.argsort().tolist() == [1, 2, 0]
    assert found[1] == 0.0
    assert distances(tuned[0], []).tolist() == []


def of(*values: float) -> bytes:
    return np.resize(np.array(values, "<f4"), COUNT).tobytes()


def test_what_is_not_finite_is_infinitely_far_and_never_near():
    child = of(1.0, 2.0)
    bases = [of(1.0, np.nan), of(1.0, np.inf), of(0.0, 0.0), of(1.0, 3.0)]
    assert distances(child, bases).tolist() == [np.inf, np.inf, np.inf, pytest.approx(10**-0.5)]
    assert distances(of(1.0, np.nan), [child, of(1.0, np.nan)]).tolist() == [np.inf, 0.0]
    assert distances(of(2.0, np.inf), [of(1.0, np.inf)]).tolist() == [np.inf]
    assert distances(of(0.0, 0.0), [of(-0.0, 0.0)]).tolist() == [0.0]


def test_a_record_without_one_of_the_weights_has_no_probe(record):
    measured = record()
    entries = tuple(entry for entry in measured.entries if entry.name != DOWN)
    assert probe(replace(measured, entries=entries)) is None
    empty = tuple(replace(e, shape=(0, 80)) if e.name == DOWN else e for e in measured.entries)
    assert probe(replace(measured, entries=empty)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_probe(tmp_path, family):
    config = {"model_type": family, **FAMILIES[family]}
    with Checkpoint.open(save_with_transformers(tmp_path, config)) as checkpoint:
        assert len(probe(fingerprint(checkpoint))) == SIZE
