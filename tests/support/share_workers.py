"""Processes that push and pull: many at once, or one that is killed where it is.

    python -m support.share_workers push DB REFERENCE REMOTE
    python -m support.share_workers pull DB REMOTE

do one thing and print what was done as one JSON object. ``Workers`` is a process that has imported
everything and forks for each thing to be done: it has one thread. None of it needs torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import SafelatchError
from registry.reference import Reference
from registry.store.catalog import Registry
from registry.workflows.pull import pull
from registry.workflows.push import push_all
from registry.workflows.remotes import open_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Job = tuple[str, ...]

TESTS = Path(__file__).resolve().parents[1]


def pushed(db: str, reference: str, remote: str) -> dict[str, Any]:
    """Push; return label, commit and whether it was new of each version, and how often planned."""
    with Registry.open(db) as registry:
        done = push_all(registry, Reference.parse(reference), open_remote(Reference.parse(remote)))
    return {
        "versions": [[each.version.label, each.commit, each.plan.is_new] for each in done],
        "tries": max(each.tries for each in done),
    }


def pulled(db: str, remote: str) -> dict[str, Any]:
    """Pull and return what came."""
    with Registry.open(db) as registry:
        done = pull(registry, Reference.parse(remote))
    return {"artifact": done.version.label, "digest": done.version.digest, "commit": done.commit}


def planned(db: str, reference: str) -> dict[str, Any]:
    """Plan a push to nowhere."""
    nowhere = open_remote(Reference.of_folder("/nowhere/at/all"))
    with Registry.open(db) as registry:
        push_all(registry, Reference.parse(reference), nowhere, dry_run=True)
    return {}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {"push": pushed, "pull": pulled, "plan": planned}


class Workers:
    """A process that forks, from outside."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.share_workers"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        )  # fmt: skip

    def begin(self, jobs: Sequence[Job]) -> list[int]:
        """Let one process do each job, all begun together; return their ids."""
        print(json.dumps(jobs), file=self._process.stdin, flush=True)
        return self._reply()

    def end(self) -> list[Any]:
        """Return what each job printed; ``None`` for one that was killed."""
        return self._reply()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _reply(self) -> Any:
        line = self._process.stdout.readline()
        assert line, "the process that forks is gone"
        return json.loads(line)


def serve() -> None:
    """Fork for each job that is read, until there is nothing more to read."""
    import huggingface_hub.hf_api  # noqa: F401 -- here and below: so that no fork has to
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401

    for line in sys.stdin:
        gate, opener = os.pipe()
        files, children, jobs = [], [], json.loads(line)
        if jobs[0][0] == "push":  # the images of the card are drawn, and kept for the forks
            outcome(["plan", *jobs[0][1:3]])
        for job in jobs:
            files.append(tempfile.NamedTemporaryFile())  # noqa: SIM115 -- until its end
            children.append(os.fork())
            if children[-1] == 0:
                os.close(opener)
                os.read(gate, 1)  # ends when all have been forked
                Path(files[-1].name).write_text(json.dumps(outcome(job)), "utf-8")
                os._exit(0)
        os.close(opener)
        os.close(gate)
        print(json.dumps(children), flush=True)
        for child in children:
            os.waitpid(child, 0)
        said = [Path(file.name).read_text("utf-8") for file in files]
        for file in files:
            file.close()
        print(json.dumps([json.loads(text) if text else None for text in said]), flush=True)


def outcome(job: Sequence[str]) -> Any:
    """Return what a job returns, or its error."""
    try:
        return STEPS[job[0]](*job[1:])
    except SafelatchError as error:
        return {"error": error.code, "message": error.message, "hint": error.hint}


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(outcome(sys.argv[1:])))
    else:
        serve()
