"""Ctrl-C in the middle of long work, in a process of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support.terminal import on_terminal

if TYPE_CHECKING:
    from support.cli_world import World

ROOT = Path(__file__).resolve().parents[2]


def test_interrupt_in_the_middle_of_making_an_artifact_leaves_nothing(world: World) -> None:
    folder = world.folder / "work"
    folder.mkdir()
    command = (sys.executable, "-m", "registry", "extract", "safety-lock", world.base,
               "--out", folder / "lock", "--heads", 2, "--repeats", 100_000)  # fmt: skip
    env = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "SAFELATCH_HOME": str(folder / "home")}
    with on_terminal(command, cwd=folder, env=env) as terminal:
        assert "probing heads" in terminal.read_until("probing heads")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
    assert terminal.seen.endswith("\r\ninterrupted\r\n")
    assert "Traceback" not in terminal.seen
    assert list(folder.iterdir()) == []
