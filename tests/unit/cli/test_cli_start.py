from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.command_line import safelatch

from registry import __version__
from registry.cli.invocation import run_options
from registry.cli.main import SECTIONS, cli
from registry.kinds import KINDS

LOADED = """
import sys
before = set(sys.modules)
{act}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(names - set(sys.stdlib_module_names)), file=sys.stderr)
"""
HELP = "sys.argv = ['safelatch', {}]\ntry:\n    from registry.cli.main import main; main()\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    "act",
    [
        "import registry.cli.main",
        HELP.format("'--help'"),
        HELP.format("'--version'"),
        HELP.format("'extract', 'safety-lock', '--help'"),
        HELP.format("'extract', 'safety-lock', '--heads', 'many'"),
        HELP.format("'completion', 'zsh'"),
        HELP.format("'lsit'"),
        HELP.format("'list', '--format', 'json', '--nothing'"),
    ],
)
def test_start_and_help_load_nothing_but_click(act: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(act=act)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stderr.splitlines()[-1].split()) == {"click", "registry"}


def test_module_and_script_are_one_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "registry", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"safelatch {__version__}\n"


def test_every_verb_of_the_help_is_listed_once() -> None:
    names = [command.name for _, commands in SECTIONS for command in commands]
    assert sorted(names) == sorted(cli.commands)
    listed = safelatch("--help").out
    assert all(f"\n  {name} " in listed for name in names)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_extract_offers_exactly_the_options_of_the_kind(kind: object) -> None:
    command = cli.commands["extract"].commands[kind.name]
    options = {option.name: option for option in command.params}
    for option in kind.options:
        offered = options.pop(option.name)
        assert offered.default == option.default
        assert offered.opts == [f"--{option.name.replace('_', '-')}"]
        if isinstance(option.default, bool):
            assert offered.secondary_opts == [f"--no-{option.name.replace('_', '-')}"]
        elif isinstance(option.default, str):
            assert tuple(offered.type.choices) == option.choices
        else:
            assert offered.type.min == option.minimum
    common = {"base", "out", "data", "seed", "device", "revision", "format"}
    assert set(options) == common | {option.name for option in run_options()}


def test_budgets_that_are_not_given_are_the_kinds_own() -> None:
    from registry.kinds.safety_lock.extract import Budget

    calibrate = cli.commands["calibrate"]
    options = {option.name: option for option in calibrate.params}
    typed = calibrate.make_context("calibrate", ["./lock"]).params
    for name, value in (("budget", Budget().over_refusal), ("nll_budget", Budget().nll)):
        assert typed[name] is None
        assert options[name].show_default.endswith(f"{value} for a safety-lock")


def test_closed_pipe_is_quiet() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "registry", "init"],
        stdout=write_end, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")
