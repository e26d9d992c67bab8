"""The mask of a model that two processes hold in parts is the mask of one process, bit for bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.sharded_masks import CASES, PAIRS, RANKS, found, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes said."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    root: Path = tmp_path_factory.mktemp("sharded")
    torch.multiprocessing.spawn(run, args=(root,), nprocs=RANKS)
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(RANKS)]


def alone(name: str) -> dict[str, Any]:
    build, options = CASES[name]
    return json.loads(json.dumps(found(build(), options)))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_does_bit_for_bit(sharded, name):
    expected = alone(name)
    for said in sharded:
        assert said[name] == expected


def test_at_the_cut_there_are_ties_in_both_processes():
    """Of scores that are 0, some are selected and some are not: or the case would show nothing."""
    rows = alone("ties")["manifest"]["mass"]
    zeros = [row for row in rows if row["sum"] == 0]
    assert any(0 < row["selected"] < row["weights"] for row in zeros)
    assert len([row for row in zeros if row["selected"]]) > 1


def test_sums_stay_in_parts(sharded):
    (first, whole), (second, _) = (said["parts"] for said in sharded)
    assert first + second == whole
    assert 0.4 * whole < first < 0.6 * whole


def test_what_cannot_be_asked_together_is_refused_in_every_process(sharded):
    in_part, across, unreduced, broken = sharded[0]["refused"]
    assert sharded[1]["refused"] == sharded[0]["refused"]
    head = "ApplyError\nexpected every parameter cut along its first dimension over the same processes, got "
    assert in_part == f"{head}3 of 30 others:\n  lm_head.weight: whole in each of them"
    assert across.startswith(f"{head}")
    assert across.endswith("  lm_head.weight: placed by S(1)")
    assert unreduced == (
        "ApplyError\nexpected a gradient of refusal-log-odds in some of 22 matrices, got none but "
        "zeros."
    )
    assert broken.startswith("NonFiniteResultError\npair 'pair-0': expected a finite")


def test_an_interrupted_run_goes_on_in_every_process(sharded):
    for said in sharded:
        assert said["resumed"] == {
            "found": sharded[0]["float32"],
            "done": list(range(1, PAIRS + 1)),
            "left": [],
        }
