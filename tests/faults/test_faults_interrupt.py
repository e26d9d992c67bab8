"""Ctrl-C at any moment: a real signal, in the middle of whatever is done then."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from faults.operations import OPERATIONS, TWINS, WRITERS
from faults.server import TESTS
from faults.trials import of_the_end

ALL = os.environ.get("SAFELATCH_FAULTS") == "all"
COMMAND = (
    "import datetime as dt; from registry import moment; "
    "moment.now = lambda: dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc); "
    "from registry.cli.main import main; main()"
)
MOMENTS = 100 if ALL else 2


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("operation", [name for name in WRITERS if ALL or name not in TWINS])
def test_an_interrupt_at_any_moment_ends_it_and_leaves_nothing_half(laboratory, operation):
    template = laboratory.undisturbed(operation).template
    start = time.monotonic()
    laboratory.call("disturb", laboratory.fresh(template), operation, fault={})
    lasts = time.monotonic() - start
    moments, wrong, statuses = random.Random(operation), [], []
    for _ in range(MOMENTS):
        world, delay = laboratory.fresh(template), moments.uniform(0, lasts)
        ended, seen = laboratory.call("interrupt", world, operation, delay_s=delay)
        found = [] if (seen or {}).get("status") == 0 else of_the_end("interrupt", ended, seen)
        found += laboratory.of_the_world(operation, world, is_killed=False)
        found += laboratory.of_another_run(operation, world)
        wrong += [f"after {delay:.4f} s: {finding}" for finding in found]
        statuses.append((seen or {}).get("status"))
    print(f"{operation}: {statuses.count(130)} of {MOMENTS} were interrupted")
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("operation", WRITERS if ALL else ["publish"])
def test_a_command_in_a_process_of_its_own_is_interrupted(laboratory, operation):
    """From the start of Python on, where nobody catches anything yet."""
    if OPERATIONS[operation].arguments[0] in {"load", "commit", "an empty database"}:
        pytest.skip("is no command")
    template = laboratory.undisturbed(operation).template
    lasts = commanded(laboratory, operation, laboratory.fresh(template), None)[2]
    moments, wrong = random.Random(operation), []
    for _ in range(12 if ALL else 2):
        world, delay = laboratory.fresh(template), moments.uniform(0, lasts)
        status, said, _ = commanded(laboratory, operation, world, delay)
        found = [] if status in {0, 130, -signal.SIGINT} else [f"status {status}: {said}"]
        found += laboratory.of_the_world(operation, world, is_killed=False)
        found += laboratory.of_another_run(operation, world)
        wrong += [f"after {delay:.3f} s: {finding}" for finding in found]
    assert not wrong, "\n".join(wrong)


def commanded(laboratory, operation, world, delay):
    """Return status, what was said, and the seconds of a command that SIGINT comes to."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("SAFELATCH_")},
        "PYTHONPATH": str(TESTS.parent),
        "SAFELATCH_HOME": str(world / "home"),
        "SAFELATCH_CACHE": str(world / "cache"),
    }
    # What is ignored here, as in a job in the background, would be ignored there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *OPERATIONS[operation].arguments], cwd=world,
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    return process.returncode, said, time.monotonic() - start
