from __future__ import annotations

import io
import sys
import warnings

import pytest
from transformers.utils import logging

from registry.cli.invocation import Invocation, one_stage
from registry.workflows.open_model import quiet_libraries


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for invocation, stream in (
        (Invocation(), io.StringIO()),
        (Invocation(quiet=True), Terminal()),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with invocation.progress() as progress:
            assert progress is None
            assert one_stage(progress, "reading") is None
        assert not stream.getvalue()


def test_bars_name_the_stage_and_stay_off_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Invocation().progress() as progress:
        one_stage(progress, "reading [weights]")(1, 4)
        progress("probing", 1, 1)
    assert "reading [weights]" in stream.getvalue()
    assert not capsys.readouterr().out


def test_libraries_are_quiet_inside_and_as_before_after() -> None:
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    with quiet_libraries():
        warnings.warn("a library's advice", UserWarning, stacklevel=1)
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.ERROR
    found = logging.get_verbosity()
    logging.set_verbosity(before)
    assert (found, logging.is_progress_bar_enabled()) == (logging.INFO, bars)
    with pytest.raises(UserWarning, match="after"):
        warnings.warn("after", UserWarning, stacklevel=1)
