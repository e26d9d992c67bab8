"""What is disturbed: the commands that write, each in a world of its own, and what is in a world.

A laboratory is one folder: ``models`` and ``pairs.jsonl``, which nothing changes, and worlds
beside them. A world holds what a user has: ``home`` (the registry and its blobs), ``cache``, and
bundles. Every function here runs in a process of its own.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults.effects import Effects, Fault
from faults.small_disk import SmallDisk
from support.command_line import safelatch
from support.store_migrations import revisions, rows

from registry import load_protected, moment
from registry.artifact.bundle import read_bundle
from registry.checkpoint.reader import Checkpoint
from registry.digest import digest_bytes
from registry.errors import (
    DatabaseOutdatedError,
    RegistryMissingError,
    RemoteError,
    SafelatchError,
)
from registry.remote.directory import DirectoryRemote
from registry.settings import Settings
from registry.store import migrate, session
from registry.store.blobs import BlobStore
from registry.store.catalog import Registry
from registry.workflows.bases import base_record
from registry.workflows.find import bundle_of
from registry.workflows.identify import identify
from registry.workflows.receipts import read_receipt

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Operation:
    """One command, and the commands that make the world it is typed in.

    Attributes:
        arguments: What is typed after ``safelatch``, in the world.
        before: What was typed there before.
        changes: Visible files that it may change; all others stay as they are.
        makes: Whether it makes a new folder, and is refused when that is there.
        adds: Whether doing it again adds records, as a second load does.
        runs_model: Whether a model computes in it, which takes its time.
        is_long: Whether it has many steps, each of which takes its time.
    """

    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    changes: tuple[str, ...] = ()
    makes: bool = False
    adds: bool = False
    runs_model: bool = False
    is_long: bool = False


_BASE = ("base", "add", "../models/base", "--name", "tiny")
_INIT = ("init",)
_MAKE = ("extract", "safety-lock", "../models/base", "--data", "../pairs.jsonl", "--heads", "3",
         "--repeats", "1", "--answer-tokens", "3")  # fmt: skip
_MEASURE = ("--base", "../models/base", "--limit", "2", "--max-new-tokens", "3", "--budget", "1",
            "--nll-budget", "100")  # fmt: skip


def _publish(version: str, folder: str) -> tuple[str, ...]:
    return ("publish", folder, "--name", "line", "--version", version)


def _push(version: str) -> tuple[str, ...]:
    return (*_AT, "push", f"line@{version}", "./remote")


_AT = ("--db", "publisher/registry.db")
_KEY = ("--key", "signer.key")
_PULL = ("pull", "./remote")
_A_PUBLISHER = (
    ("key", "generate", "--out", "signer"),
    (*_AT, "init"),
    (*_AT, "key", "trust", "signer.pub", "--for", "*"),
    (*_AT, *_publish("1.0", "lock"), *_KEY),
)
_A_READER = (_INIT, ("key", "trust", "signer.pub", "--for", "*"))

OPERATIONS = {
    "init": Operation(_INIT),
    "db upgrade": Operation(("db", "upgrade"), (("an empty database",),)),
    "db upgrade of a registry in use": Operation(
        ("db", "upgrade"), (_INIT, _BASE, _publish("1.0", "lock"), ("the release before",))
    ),
    "base add": Operation(_BASE, (_INIT,)),
    "publish": Operation(_publish("1.0", "lock"), (_INIT,)),
    "publish the next": Operation(
        _publish("2.0", "other"), (_INIT, _BASE, _publish("1.0", "lock"))
    ),
    "fingerprint": Operation(("fingerprint", "../models/base")),
    "fingerprint a model of its own": Operation(("fingerprint", "own"), (("copy", "base", "own"),)),
    "extract": Operation((*_MAKE, "--out", "new"), makes=True, runs_model=True),
    "extract into an empty folder": Operation(
        (*_MAKE, "--out", "empty/place"), makes=True, runs_model=True
    ),
    "calibrate": Operation(
        ("calibrate", "draft", *_MEASURE),
        (_INIT,),
        changes=("draft/manifest.json",),
        runs_model=True,
    ),
    "calibrate into a new folder": Operation(
        ("calibrate", "draft", *_MEASURE, "--out", "new"), (_INIT,), makes=True, runs_model=True
    ),
    "load": Operation(
        ("load", "../models/tuned"),
        (_INIT, _BASE, _publish("1.0", "lock")),
        adds=True,
        runs_model=True,
    ),
    "push to a new directory": Operation(_push("1.0"), _A_PUBLISHER, is_long=True),
    "push to a directory": Operation(
        _push("2.0"),
        (*_A_PUBLISHER, _push("1.0"), (*_AT, *_publish("2.0", "other"), *_KEY)),
        is_long=True,
    ),
    "pull": Operation(_PULL, (*_A_PUBLISHER, _push("1.0"), *_A_READER), is_long=True),
    "pull a newer line": Operation(
        _PULL,
        (
            *_A_PUBLISHER,
            _push("1.0"),
            *_A_READER,
            _PULL,
            (*_AT, *_publish("2.0", "other"), *_KEY),
            _push("2.0"),
            (*_AT, "revoke", "line@1.0", "--reason", "weak", *_KEY),
            _push("1.0"),
        ),
        is_long=True,
    ),
    "commit to a new directory": Operation(("commit", "1.0")),
    "commit to a directory": Operation(("commit", "2.0"), (("commit", "1.0"),)),
}

TWINS = ("extract into an empty folder", "calibrate into a new folder")
"""Those that do what another does, but at the end."""
WRITERS = tuple(name for name in OPERATIONS if name != "fingerprint a model of its own")
"""Those that leave the same files every time: a copied model has other numbers in its cache key."""


def build(world: Path) -> None:
    """Make the laboratory around ``world``, and in it a draft and two measured locks."""
    from support.cli_world import build_world

    world.mkdir()
    made = build_world(world.parent)
    shutil.rmtree(made.stranger)
    _live_in(world)
    (world / "empty/place").mkdir(parents=True)
    for folder, seed in (("draft", "0"), ("lock", "0"), ("other", "1")):
        _type((*_MAKE, "--out", folder, "--seed", seed))
        if folder != "draft":
            _type(("calibrate", folder, *_MEASURE))
    shutil.rmtree(world / "cache")


def prepare(world: Path, operation: str) -> None:
    """Type in ``world`` what comes before ``operation``; nothing is in its cache then."""
    _live_in(world)
    for arguments in OPERATIONS[operation].before:
        _type(arguments)
    shutil.rmtree(world / "cache", ignore_errors=True)


def count(world: Path, operation: str) -> dict[str, Any]:
    """Do ``operation`` in ``world`` and return its steps, with the state before each."""
    _live_in(world)
    effects = Effects(world.parent, Fault(), watched=world)
    effects.install()
    _type(OPERATIONS[operation].arguments)
    return effects.document()


def disturb(world: Path, operation: str, fault: dict[str, Any]) -> dict[str, Any]:
    """Do ``operation`` in ``world`` with a fault; return the outcome."""
    _live_in(world)
    Effects(world.parent, Fault(**fault)).install()
    status, said = _perform(OPERATIONS[operation].arguments)
    return {"status": status, "said": said}


def fill(world: Path, operation: str, template: str, pages: int, names: int) -> dict[str, Any]:
    """Do ``operation`` in a copy of ``template`` on a disk with little room, then with much.

    What the first run left is copied to ``left`` beside the world. ``None`` in place of an outcome
    says why there is no small disk here.
    """
    try:
        disk = SmallDisk(world)
    except OSError as error:
        return {"status": None, "said": str(error)}
    shutil.copytree(template, world, dirs_exist_ok=True)
    disk.leave(pages=pages, names=names)
    _live_in(world)
    status, said = _perform(OPERATIONS[operation].arguments)
    shutil.copytree(world, world.with_name("left"))
    disk.leave(pages=10_000, names=1000)
    return {"status": status, "said": said, "again": finish(world, operation)}


def interrupt(world: Path, operation: str, delay_s: float) -> dict[str, Any]:
    """Do ``operation`` in ``world``, where SIGINT comes after ``delay_s``; return the outcome."""
    _live_in(world)
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        status, said = _perform(OPERATIONS[operation].arguments)
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:  # just before the command begins, or when it has ended
        status, said = 130, ""
    return {"status": status, "said": said}


def disturb_below(world: Path, operation: str) -> dict[str, Any]:
    """Do ``operation`` in ``world``, where strace disturbs it; return the outcome."""
    _live_in(world)
    status, said = _perform(OPERATIONS[operation].arguments)
    return {"status": status, "said": said}


def finish(world: Path, operation: str) -> dict[str, Any]:
    """Do ``operation`` in ``world`` undisturbed; return the outcome and the facts."""
    _live_in(world)
    status, said = _perform(OPERATIONS[operation].arguments)
    return {"status": status, "said": said, "files": tree(world), "facts": facts(world, operation)}


def facts(world: Path, about: str) -> dict[str, Any]:
    """Return everything that the operation ``about`` may touch, read to its last byte."""
    _live_in(world)
    arguments = OPERATIONS[about].arguments
    written = [Path(name) for name in ("draft", "new", "empty/place") if name in arguments]
    return {
        "registry": _registry(makes_tables="upgrade" in arguments or "init" in arguments),
        "bundles": {str(folder): _bundle(folder) for folder in written if folder.exists()},
        "cached": {name: _identity(name) for name in ("base", "tuned") if _is_cached(name)},
        "remote": _remote(),
        "receipts": len([read_receipt(path) for path in Path("receipts").glob("[!.]*")]),
    }


def _live_in(world: Path) -> None:
    for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS"):
        os.environ.pop(name, None)
    os.environ["SAFELATCH_HOME"] = str(world / "home")
    os.environ["SAFELATCH_CACHE"] = str(world / "cache")
    os.environ["SAFELATCH_RECEIPTS"] = str(world / "receipts")
    os.chdir(world)
    moment.now = lambda: dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)


def _type(arguments: tuple[str, ...]) -> None:
    status, said = _perform(arguments)
    if status:
        raise RuntimeError(f"{arguments}: {said}")


def _perform(arguments: tuple[str, ...]) -> tuple[int, str]:
    """Do what was typed; return its status and what was said on stderr."""
    if arguments[0] == "load":
        return _caught(lambda: load_protected(arguments[1]))
    if arguments[0] == "commit":
        return _caught(lambda: _commit(arguments[1]))
    if arguments[0] == "copy":
        shutil.copytree(f"../models/{arguments[1]}", arguments[2])
    elif arguments[0] == "an empty database":
        session.connect(Settings.load(), create=True).dispose()
    elif arguments[0] == "the release before":
        _downgrade()
    else:
        outcome = safelatch(*arguments)
        return outcome.status, outcome.err
    return 0, ""


def _downgrade() -> None:
    from alembic import command

    engine = session.connect(Settings.load())
    with session.write(engine, rebuilds=True) as connection:
        if len(revisions()) > 1:
            command.downgrade(migrate._config(connection), "-1")
    engine.dispose()


def _caught(call: Callable[[], object]) -> tuple[int, str]:
    """Do ``call``; return what the command line would make of its error."""
    try:
        call()
    except SafelatchError as error:
        return error.exit_code, f"error [{error.code}]: {error.message}\nhint: {error.hint}\n"
    except KeyboardInterrupt:
        return 130, "interrupted\n"
    except Exception as error:  # noqa: BLE001 -- as the command line does
        return 4, f"error [unexpected]: {error!r}\nhint: none\n"
    return 0, ""


def _commit(version: str) -> None:
    """Bring a version into the directory and tag it, as far as that is not done."""
    remote, path = DirectoryRemote("remote"), f"versions/{version}/manifest.json"
    there = remote.snapshot()
    if there is None or path not in there.files:
        files = {path: f"of {version}".encode() * 100, "line.json": version.encode()}
        parent = None if there is None else there.commit
        made = remote.commit(files, parent=parent, message=version)
    else:
        made = there.commit
    remote.tag(version, made)


def _remote() -> dict[str, Any]:
    """Return the files of the directory, the newest ones and those of each tag, by their digest."""
    remote = DirectoryRemote("remote")
    newest = remote.snapshot()
    found = {} if newest is None else {"newest": newest}
    for name in ("1.0", "2.0"):
        with suppress(RemoteError):  # there is no such tag
            found[name] = remote.snapshot(name)
    return {
        name: {path: digest_bytes(remote.read(at, path, limit=1 << 20)) for path in at.files}
        for name, at in found.items()
    }


def _bundle(folder: Path) -> Any:
    if not any(folder.iterdir()):
        return "empty"
    return read_bundle(folder).manifest.digest


def _is_cached(name: str) -> bool:
    with Checkpoint.open(f"../models/{name}") as checkpoint:
        key = checkpoint.stat_key().removeprefix("blake3:")
    return any(Path("cache").rglob(f"{key}*"))


def _identity(name: str) -> str:
    record = identify(f"../models/{name}", settings=Settings.load()).record
    return digest_bytes(repr(sorted(record.to_tensors().items())).encode())


def _registry(*, makes_tables: bool) -> Any:
    settings = Settings.load()
    try:
        opened = Registry.open(settings=settings)
    except RegistryMissingError:
        return None
    except DatabaseOutdatedError:
        engine = session.connect(settings)
        return {"outdated": digest_bytes(repr(rows(engine)).encode())}
    with opened as registry:
        versions = [v for line in registry.lines() for v in registry.versions(line.name)]
        return {
            "findings": [
                *(migrate.check(registry._engine) if makes_tables else _damage(registry)),
                *registry.verify_events(),
                *(f"{base.name}: its record is of another" for base in registry.bases()
                  if base_record(registry, base).weights != base.weights),
            ],
            "bases": [
                [base.name, base.weights, base.record, [a.value for a in base.aliases]]
                for base in registry.bases()
            ],
            "versions": [
                [v.label, v.state, bundle_of(registry, v).manifest.digest]
                for v in versions
            ],
            "events": [
                [e.action, e.subject, dict(e.detail)] for e in registry.events()
                if e.action != "load.refuse"  # what was disturbed may say so
            ],
            "blobs": _blobs(registry, BlobStore(settings.blobs)),
        }  # fmt: skip


def _damage(registry: Registry) -> list[str]:
    """Return what is wrong with the file; its tables are compared where they are made."""
    with session.read(registry._engine) as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [line for line in found if line != "ok"] + [
            str(row) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
        ]


def _blobs(registry: Registry, store: BlobStore) -> dict[str, int]:
    """Return how many stored files the database names, lacks, and does not know."""
    with session.read(registry._engine) as connection:
        digests = connection.exec_driver_sql("SELECT digest FROM blobs").scalars().all()
    named = {store.path(digest) for digest in digests}
    there = {path for path in store.folder.glob("*/[!.]*") if path.is_file()}
    return {"named": len(named), "lost": len(named - there), "orphans": len(there - named)}


def tree(world: Path) -> dict[str, str]:
    """Return every visible file and folder by its place, files with a digest of their bytes.

    A folder of blobs counts when it holds something; the database and the receipts are judged by
    what they say.
    """
    found = {}
    for path in world.rglob("*"):
        place = path.relative_to(world)
        if any(part.startswith(".") for part in place.parts) or place.parts[0] == "receipts":
            continue
        if path.name.startswith("registry.db"):
            continue
        if path.is_file():
            found[str(place)] = digest_bytes(path.read_bytes())
        elif place.parts[0] not in {"home", "cache"}:
            found[str(place)] = "folder"
    return found


def warm(seed: Path, world: Path, operation: str) -> None:
    """Do ``operation`` in a copy of ``seed`` and forget it: what is imported and cached stays."""
    shutil.copytree(seed, world)
    prepare(world, operation)
    finish(world, operation)
    shutil.rmtree(world)
