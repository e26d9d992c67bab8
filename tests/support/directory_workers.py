"""What the processes of the directory remote's race tests run: many, all begun together."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.errors import RemoteMovedError
from registry.remote.directory import DirectoryRemote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

_PATIENCE_S = 120

_together: Barrier


@contextmanager
def processes(count: int) -> Iterator[Callable[..., list[Any]]]:
    """Yield a function that runs ``step(worker, *arguments)`` in ``count`` of them at once."""
    context = multiprocessing.get_context()
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["registry.remote.directory", "blake3"])
    barrier = context.Barrier(count)
    with context.Pool(count, _keep, (barrier,)) as pool:

        def run(step: Callable[..., Any], *arguments: Any) -> list[Any]:
            calls = [(step, worker, arguments) for worker in range(count)]
            return pool.starmap(_begin_together, calls, chunksize=1)

        yield run


def _keep(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 -- a barrier can only be inherited
    _together = barrier


def _begin_together(step: Callable[..., Any], worker: int, arguments: tuple[Any, ...]) -> Any:
    _together.wait(_PATIENCE_S)
    return step(worker, *arguments)


def commit_once(worker: int, folder: Path, parent: str | None, count: int) -> tuple[str, str]:
    """Commit a file of its own to ``parent``; return ``won`` and the commit, or the refusal."""
    files = {f"versions/{worker}.{count}/x.json": f"of {worker}".encode(), "line.json": b"{}"}
    try:
        made = DirectoryRemote(folder).commit(files, parent=parent, message=f"of {worker}")
    except RemoteMovedError as error:
        return "moved", error.message
    return "won", made


def commit_and_tag(worker: int, folder: Path) -> str:
    """Commit a file of its own until it is there, and tag it; return the commit."""
    remote, files = DirectoryRemote(folder), {f"versions/{worker}.0/x.json": str(worker).encode()}
    while True:
        there = remote.snapshot()
        try:
            parent = None if there is None else there.commit
            made = remote.commit(files, parent=parent, message=f"of {worker}")
        except RemoteMovedError:
            continue
        remote.tag(f"{worker}.0", made)
        remote.tag("the-first", made)
        return made


def commit_until_killed(worker: int, folder: Path) -> str | None:
    """Like ``commit_and_tag``; in every second process, a child that is killed at any moment."""
    if worker % 2:
        return commit_and_tag(worker, folder)
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, random.Random(worker).uniform(0.001, 0.2))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it where it is, as a kill does
        for number in range(1000):
            commit_and_tag(1000 * worker + number, folder)
        os._exit(0)
    os.waitpid(child, 0)
    return None
