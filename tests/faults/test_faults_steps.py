"""Every operation that writes, ended or refused at each of its steps, and then done again.

What holds after that is said in ``trials``. The whole enumeration takes an hour: it is run with
SAFELATCH_FAULTS=all. Otherwise an operation is killed at every step that finds another state on the
disk (a kill between two steps that leave the disk as it is cannot be told from one before both); of
the operations that run a model or are long, and of all other faults, it is a sample, always the
same.
"""

from __future__ import annotations

import os
import random

import pytest
from faults.effects import LOOKING, Fault
from faults.operations import OPERATIONS, TWINS, WRITERS

ALL = os.environ.get("SAFELATCH_FAULTS") == "all"
SAMPLE, SAMPLE_OF_MODELS = 4, 2
"""Faults of an operation that are tried without SAFELATCH_FAULTS=all."""


def sampled(operation, faults):
    """Return some of the faults, always the same ones, or all that were asked for."""
    count = SAMPLE_OF_MODELS if OPERATIONS[operation].runs_model else SAMPLE
    if ALL or len(faults) <= count:
        return faults
    chosen = random.Random(operation).sample(faults, count)
    return sorted(chosen, key=lambda fault: (fault.step, fault.how, fault.when))


def kills(operation, steps):
    found, state = [], None
    for number, step in enumerate(steps, 1):
        if step["changes"] and (ALL or step["state"] != state):
            state = step["state"]
            found.append(Fault(number))
        if step["is_write"]:
            found.append(Fault(number, when="torn"))
    is_sample = OPERATIONS[operation].runs_model or OPERATIONS[operation].is_long
    return sampled(operation, found) if is_sample else found


def errors(operation, steps):
    found = []
    for number, step in enumerate(steps, 1):
        if operation in TWINS and not step["changes"]:
            continue  # its twin looks and reads alike
        found.append(Fault(number, "eio"))
        if step["name"].split()[0] in LOOKING:
            continue
        found += [Fault(number, how) for how in ("interrupt", "memory")]
        found.append(Fault(number, "interrupt", "after"))
        if step["changes"]:
            found.append(Fault(number, "enospc"))
        if step["is_write"]:
            found.append(Fault(number, "enospc", "torn"))
    return sampled(operation, found)


def others(operation, steps):
    """Return what another process can do to a file of the world before it is looked at."""
    found = [
        Fault(number, how)
        for number, step in enumerate(steps, 1)
        if "/world/" in step["path"]
        for how in ("vanish", "cut")
    ]
    return sampled(operation, found)


def tried(laboratory, operation, faults):
    wrong = [laboratory.trial(operation, fault) for fault in faults]
    print(f"{operation}: {len(faults)} faults, {sum(map(bool, wrong))} of them with findings")
    return "\n".join(finding for findings in wrong for finding in findings)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_effect_of_an_operation_escapes_the_count(laboratory, operation):
    calm = laboratory.undisturbed(operation)
    assert not calm.missed
    assert any(step["changes"] for step in calm.steps)


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("operation", WRITERS)
def test_a_kill_at_any_step_loses_nothing_and_shows_nothing_half(laboratory, operation):
    faults = kills(operation, laboratory.undisturbed(operation).steps)
    assert faults
    assert not tried(laboratory, operation, faults)


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("operation", WRITERS)
def test_an_error_at_any_step_is_told_and_leaves_no_litter(laboratory, operation):
    faults = errors(operation, laboratory.undisturbed(operation).steps)
    assert faults
    assert not tried(laboratory, operation, faults)


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize(
    "operation", ["fingerprint a model of its own", "publish", "calibrate", "load"]
)
def test_a_file_that_another_process_removes_or_cuts_is_told(laboratory, operation):
    faults = others(operation, laboratory.undisturbed(operation).steps)
    assert faults
    assert not tried(laboratory, operation, faults)
