"""What the processes of the store's race tests run: eight, each step begun by all together."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.store_builders import digest_of, make_bundle, make_line, make_record, publish
from support.store_migrations import released

from registry.errors import ArtifactNotFoundError, VersionConflictError, VersionNotFoundError
from registry.reference import Reference
from registry.store import migrate, session
from registry.store.catalog import Registry
from registry.store.identity import registry_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from registry.settings import Settings

PROCESSES = 8
_PATIENCE_S = 120

_together: Barrier


@contextmanager
def eight_processes() -> Iterator[Callable[..., list[Any]]]:
    """Yield a function that runs ``step(worker, *arguments)`` in all of them at once."""
    context = multiprocessing.get_context()
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["alembic.command", "registry.store.catalog"])
    barrier = context.Barrier(PROCESSES)
    with context.Pool(PROCESSES, _keep, (barrier,)) as pool:

        def run(step: Callable[..., Any], *arguments: Any) -> list[Any]:
            # Each process waits for the others, so none of them takes two of the eight calls.
            calls = [(step, worker, arguments) for worker in range(PROCESSES)]
            return pool.starmap(_begin_together, calls, chunksize=1)

        yield run


def _keep(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 -- a barrier can only be inherited
    _together = barrier


def _begin_together(step: Callable[..., Any], worker: int, arguments: tuple[Any, ...]) -> Any:
    _together.wait(_PATIENCE_S)
    return step(worker, *arguments)


def upgrade(_: int, settings: Settings) -> tuple[str | None, str]:
    """Make the database, if it is a file, and its tables."""
    engine = session.connect(settings, create=True)
    try:
        return migrate.upgrade(engine)
    finally:
        engine.dispose()


def upgrade_and_identify(_: int, settings: Settings) -> tuple[str | None, str]:
    """Upgrade the database; return the revision before, and the id of the registry."""
    engine = session.connect(settings)
    try:
        return migrate.upgrade(engine)[0], registry_id(engine)
    finally:
        engine.dispose()


def upgrade_to_next(_: int, settings: Settings, migrations: Path) -> tuple[str | None, str]:
    """Be of the release after this one and upgrade the database to it."""
    with released(migrations):
        return upgrade(_, settings)


def create_publish_and_load(worker: int, settings: Settings, count: int) -> tuple[int, int]:
    """Create the registry, publish ``count`` versions of an own line, load what others published.

    Returns:
        How many versions were new, and how many loads were written down.
    """
    new = loads = 0
    with Registry.create(settings=settings) as registry:
        registry.add_base("base", make_record(), b"record of base")
        for number in range(1, count + 1):
            manifest, files = make_bundle(f"line-{worker}", f"{number}.0")
            new += registry.add_version(manifest, files, base_name="base")[1]
            if number % 10 == 0:
                loads += _load(registry, f"line-{(worker + 1) % PROCESSES}", worker)
    return new, loads


def _load(registry: Registry, line: str, worker: int) -> bool:
    """Do what a load does with the registry: find, read every byte, write it down."""
    try:
        version = registry.resolve(Reference.parse(line))
    except (ArtifactNotFoundError, VersionNotFoundError):
        return False  # the neighbour is not that far
    assert registry.bundle_files(version)["base.safetensors"] == b"record of base"
    number = registry.record_checkpoint(
        digest_of(f"tune {worker}"),
        base=registry.base(version.base_weights),
        relation="derived",
        evidence_level=3,
        distance=0.01,
        config_digest=None,
        locator=None,
    )
    now = dt.datetime.now(dt.timezone.utc)
    registry.record_application(
        number, version, version.digest, version.kind, 1.0, "cpu", now, now, {}, "enforce"
    )
    return True


def publish_into_one_line(worker: int, settings: Settings, count: int) -> list[str]:
    """Publish ``count`` versions of the line that all publish, each numbered next."""
    done: list[str] = []
    with Registry.open(settings=settings) as registry:
        while len(done) < count:
            tensors = f"{worker}.{len(done)}".encode()
            manifest, files = make_bundle("shared", f"{_next(registry)}.0", tensors=tensors)
            try:
                version, is_new = registry.add_version(manifest, files, base_name="base")
            except VersionConflictError:
                continue  # another process took the number
            assert is_new
            done.append(version.version)
    return done


def _next(registry: Registry) -> int:
    try:
        return int(registry.versions("shared")[0].version.split(".")[0]) + 1
    except ArtifactNotFoundError:
        return 1


def advance_line(worker: int, settings: Settings, count: int) -> list[int]:
    """Make ``count`` documents the head of the line that all continue; return their sequences."""
    done: list[int] = []
    with Registry.open(settings=settings) as registry:
        while len(done) < count:
            head = registry.line_head("raced", digest_of("base"))
            sequence = 1 if head is None else head.sequence + 1
            line = make_line("raced", sequence, tag=f" of {worker}")
            try:
                is_new = registry.remember_line(line, follows=None if head is None else head.digest)
            except VersionConflictError:
                continue  # another process was faster
            assert is_new
            done.append(sequence)
    return done


def publish_same(_: int, settings: Settings) -> str:
    """Publish the content that all publish."""
    return _publish_one(settings, "same", b"the same")


def publish_other(worker: int, settings: Settings) -> str:
    """Publish another content than the others, as the same version."""
    return _publish_one(settings, "other", f"of {worker}".encode())


def _publish_one(settings: Settings, line: str, tensors: bytes) -> str:
    manifest, files = make_bundle(line, "1.0", tensors=tensors)
    with Registry.open(settings=settings) as registry:
        try:
            _, is_new = registry.add_version(manifest, files, base_name="base")
        except VersionConflictError:
            return "conflict"
    return "new" if is_new else "known"


def publish_leftovers_or_collect(worker: int, settings: Settings, count: int) -> int:
    """Publish what lies there as leftovers already; the first process collects all the while.

    Returns:
        How many were published, or collected.
    """
    with Registry.open(settings=settings) as registry:
        if worker:
            for number in range(1, count + 1):
                publish(registry, f"leftover-{worker}", f"{number}.0")
            return count
        collected, deadline = 0, time.monotonic() + _PATIENCE_S
        while _published(registry) < count * (PROCESSES - 1):
            assert time.monotonic() < deadline
            collected += len(registry.collect_garbage(dt.timedelta(0)).removed)
        return collected


def _published(registry: Registry) -> int:
    return sum(line.count for line in registry.lines() if line.name.startswith("leftover"))


def leave_leftovers(settings: Settings, count: int) -> None:
    """Store what ``publish_leftovers_or_collect`` is going to publish, and name none of it."""
    with Registry.open(settings=settings) as registry:
        for worker in range(1, PROCESSES):
            for number in range(1, count + 1):
                for data in make_bundle(f"leftover-{worker}", f"{number}.0")[1].values():
                    registry._blobs.put(data)
