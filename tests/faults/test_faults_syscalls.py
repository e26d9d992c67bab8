"""The system calls below Python, SQLite's own among them: with SAFELATCH_FAULTS=all, and strace.

strace ends the process when it enters a call, or lets the call return an error. A call is told by
its name and by how many of that name came before it in the process's main thread.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter

import pytest
from faults.trials import of_the_end

CHANGING = (
    "chmod", "fallocate", "fchmod", "fdatasync", "fsync", "ftruncate", "link", "mkdir", "openat",
    "pwrite64", "rename", "renameat", "rmdir", "unlink", "unlinkat", "write",
)  # fmt: skip
READING = ("pread64", "preadv", "read")
FAULTS = {
    "kill": ("signal=SIGKILL", CHANGING),
    "interrupt": ("signal=SIGINT", CHANGING),
    "enospc": ("error=ENOSPC", CHANGING),
    "eio": ("error=EIO", CHANGING + READING),
}
OPERATIONS = ("init", "db upgrade", "base add", "publish", "publish the next", "load")
_CALL = re.compile(r"(\w+)\(")

pytestmark = [
    pytest.mark.skipif(os.environ.get("SAFELATCH_FAULTS") != "all", reason="takes an hour"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    pytest.mark.timeout(7200),
]


def calls(laboratory, operation, names):
    """Return (name, number among its like) of every call of ``operation`` about its world."""
    log = laboratory.folder / "strace.log"
    world = laboratory.fresh(laboratory.undisturbed(operation).template)
    options = ["-y", "-s0", "-o", str(log), "-e", f"trace={','.join(CHANGING + READING)}"]
    laboratory.call("disturb_below", world, operation, strace=options)
    seen, found = Counter(), []
    for line in log.read_text("utf-8", "replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        seen[match[1]] += 1
        is_change = match[1] != "openat" or "O_CREAT" in line
        if match[1] in names and is_change and str(world) in line:
            found.append((match[1], seen[match[1]]))
    return found


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fault_at_any_system_call_is_survived(laboratory, operation, how):
    what, names = FAULTS[how]
    template = laboratory.undisturbed(operation).template
    found, wrong, struck = calls(laboratory, operation, names), [], 0
    assert found
    for name, number in found:
        world = laboratory.fresh(template)
        options = ["-o", "/dev/null", "-e", f"trace={name}",
                   "-e", f"inject={name}:{what}:when={number}"]  # fmt: skip
        ended, seen = laboratory.call("disturb_below", world, operation, strace=options)
        survived = how != "kill" and (seen or {}).get("status") == 0
        findings = [] if survived else of_the_end(how, ended, seen)
        struck += not survived
        findings += laboratory.of_the_world(operation, world, is_killed=how == "kill")
        findings += laboratory.of_another_run(operation, world)
        wrong += [f"{name} {number}: {finding}" for finding in findings]
    print(f"{operation}, {how}: {len(found)} calls, {struck} ended it, {len(wrong)} findings")
    assert not wrong, "\n".join(wrong)
