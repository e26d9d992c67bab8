from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import safelatch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("status", [0, 3])
def test_demo_hands_its_options_over_and_returns_the_storys_status(
    home: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    heard: dict[str, Any] = {}

    def run(out: Path, *, say: Any, progress: Any, **options: Any) -> int:
        heard.update(options, out=out, wait=os.environ["OMP_WAIT_POLICY"])
        progress("a stage", 1, 2)
        say("the story")
        return status

    story = ModuleType("registry.workflows.demo.story")
    story.run = run
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setitem(sys.modules, "registry.workflows.demo.story", story)
    monkeypatch.setattr("registry.workflows.demo.story", story, raising=False)
    outcome = safelatch("demo", "--out", home / "d", "--seed", 3, "--full", "--model", "./m")
    assert (outcome.status, outcome.out, outcome.err) == (status, "the story\n", "")
    assert heard == {
        "out": home / "d", "seed": 3, "full": True, "model": "./m", "wait": "passive",
    }  # fmt: skip
