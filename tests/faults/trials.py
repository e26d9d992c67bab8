"""One trial: an operation is disturbed, what it left is judged, and it is done again."""

from __future__ import annotations

import shutil
import signal
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from faults.effects import LOOKING
from faults.operations import OPERATIONS, tree
from faults.server import Server

if TYPE_CHECKING:
    from pathlib import Path

    from faults.effects import Fault

UNFINISHED = (".incoming-", ".receipt-")
"""How names begin that only a writer knows."""
OTHERS = ("vanish", "cut")
"""Faults that are done to a file, after which the world is not what it was."""
_EMPTY = {"events": [], "versions": [], "bases": []}


@dataclass(frozen=True)
class Undisturbed:
    """A world before and after an operation that nothing disturbed."""

    template: Path
    steps: list[dict[str, Any]]
    missed: list[str]
    before: dict[str, Any]
    after: dict[str, Any]
    tree_before: dict[str, str]
    tree_after: dict[str, str]


class Laboratory:
    """A folder with a server, and the worlds of all operations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._models = Server(folder, runs_models=True)
        self._files = Server(folder, runs_models=False)
        self.undisturbed = cache(self._undisturbed)

    def close(self) -> None:
        """End the servers."""
        self._models.close()
        self._files.close()

    def call(
        self, name: str, world: Path, operation: str | None = None, **arguments: Any
    ) -> tuple[int | None, Any]:
        """Return the signal that ended a call of ``operations``, and its result."""
        if operation is None:
            return self._files.call(name, world=world, **arguments)
        server = self._models if OPERATIONS[operation].runs_model else self._files
        return server.call(name, world=world, operation=operation, **arguments)

    def trial(self, operation: str, fault: Fault) -> list[str]:
        """Return what was wrong when ``operation`` met ``fault``; empty when nothing was."""
        calm = self.undisturbed(operation)
        world = self.fresh(calm.template)
        ended, seen = self.call("disturb", world, operation, fault=asdict(fault))
        verb = calm.steps[fault.step - 1]["name"].split()[0]
        is_missed = fault.how in OTHERS or verb in LOOKING
        wrong = of_the_end(fault.how, ended, seen, statuses=(1, 3, 4) if is_missed else (4,))
        if fault.how in OTHERS:
            return self._told(operation, fault, wrong)
        wrong += self.of_the_world(operation, world, is_killed=fault.how == "kill")
        if seen is not None and seen.get("status") == 0:
            peek = self.fresh(world, "peek")
            wrong += _of_a_success(calm, self._done("facts", peek, about=operation))
        wrong += self.of_another_run(operation, world)
        return self._told(operation, fault, wrong)

    def _told(self, operation: str, fault: Fault, wrong: list[str]) -> list[str]:
        step = self.undisturbed(operation).steps[fault.step - 1]["name"]
        where = f"{operation}, {fault.how} {fault.when} step {fault.step} ({step})"
        return [f"{where}: {finding}" for finding in wrong]

    def of_the_world(self, operation: str, world: Path, *, is_killed: bool) -> list[str]:
        """Return what is wrong in ``world`` after ``operation`` was disturbed there."""
        calm = self.undisturbed(operation)
        wrong = _of_the_tree(calm, tree(world), OPERATIONS[operation].changes)
        if not is_killed:
            wrong += [f"litter: {place}" for place in litter(world)]
        # On a copy: whoever opens a database first settles what a crash left in it.
        _, found = self.call("facts", self.fresh(world, "peek"), about=operation)
        return wrong + _of_the_facts(calm, found)

    def of_another_run(self, operation: str, world: Path) -> list[str]:
        """Return what is wrong after ``operation`` is done once more in ``world``."""
        if self.is_done(operation, world):
            return []
        ended, done = self.call("finish", world, operation)
        return self.of_a_finish(operation, ended, done)

    def is_done(self, operation: str, world: Path) -> bool:
        """Return whether it was done to its end, so that doing it again would be refused.

        What could not be cached makes no difference.
        """

        def lasting(found: dict[str, str]) -> dict[str, str]:
            return {place: what for place, what in found.items() if place.split("/")[0] != "cache"}

        after = self.undisturbed(operation).tree_after
        return OPERATIONS[operation].makes and lasting(tree(world)) == lasting(after)

    def of_a_finish(self, operation: str, ended: int | None, done: Any) -> list[str]:
        """Return how the world of a second run differs from that of an undisturbed one."""
        calm = self.undisturbed(operation)
        if ended or "raised" in done or done["status"]:
            return [f"again: {ended} {done}"]
        expected, got = dict(calm.after), dict(done["facts"])
        if OPERATIONS[operation].adds:
            expected, got = self._newest(calm, expected), self._newest(calm, got)
        wrong = [
            f"again: expected {key} {expected[key]}, got {got[key]}"
            for key in expected
            if expected[key] != got[key]
        ]
        if done["files"] != calm.tree_after:
            different = set(done["files"].items()) ^ set(calm.tree_after.items())
            wrong.append(f"again: expected other files, got {sorted(different)}")
        return wrong

    def fresh(self, template: Path, name: str = "world") -> Path:
        """Return a copy of the world ``template``, always at the same place."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(template, self.folder / name)
        return self.folder / name

    def _newest(self, calm: Undisturbed, found: dict[str, Any]) -> dict[str, Any]:
        """Return ``found`` with the last events alone: as many as the operation adds."""
        count = len(calm.after["registry"]["events"]) - len(calm.before["registry"]["events"])
        registry = found["registry"]
        return {
            **found,
            "registry": {**registry, "events": registry["events"][-count:]},
            "receipts": None,
        }

    def _undisturbed(self, operation: str) -> Undisturbed:
        template = self.folder / f"before {operation}"
        shutil.copytree(self.folder / "seed", template)
        self._done("prepare", template, operation=operation)
        world = self.fresh(template)
        seen = self._done("count", world, operation=operation)
        return Undisturbed(
            template,
            **seen,
            before=self._done("facts", self.fresh(template, "peek"), about=operation),
            after=self._done("facts", self.fresh(world, "peek"), about=operation),
            tree_before=tree(template),
            tree_after=tree(world),
        )

    def _done(self, name: str, world: Path, **arguments: Any) -> Any:
        ended, result = self.call(name, world, **arguments)
        assert ended is None, ended
        assert not (result and "raised" in result), result
        return result


def litter(world: Path) -> list[str]:
    """Return what is there of a writing that did not come to its end."""
    found = [path for path in world.rglob("*") if path.name.startswith(UNFINISHED)]
    return sorted(str(path.relative_to(world)) for path in found)


def of_the_end(
    how: str, ended: int | None, seen: Any, *, statuses: tuple[int, ...] = (4,)
) -> list[str]:
    """Return what is wrong about how the operation ended: not with one error that names a repair.

    Args:
        how: The fault.
        ended: Signal that ended it.
        seen: Its outcome.
        statuses: Exit statuses that say what is the matter. Whoever looks for a file and gets an
            error may take it for absent; everywhere else it is the environment's fault.
    """
    if how == "kill":
        return [] if ended == signal.SIGKILL else [f"expected a kill, got {ended}, {seen}"]
    if ended is not None or "raised" in seen:
        return [f"ended by {ended}, {seen}"]
    status, said = seen["status"], seen["said"]
    if how == "interrupt":
        return [] if status == 130 else [f"interrupted, and status {status}: {said}"]
    if status == 0:
        return []
    lines = said.splitlines()
    is_told = lines[0].startswith("error [") and lines[-1].startswith("hint: ")
    is_told = is_told and all(line.startswith("  ") for line in lines[1:-1])  # the findings
    if status not in statuses or not is_told or (how != "memory" and "[unexpected]" in said):
        return [f"status {status}: {said}"]
    return []


def _of_a_success(calm: Undisturbed, found: dict[str, Any]) -> list[str]:
    """Return what is wrong when it says that it is done: it is, or a receipt says so."""
    if found["receipts"] or {**found, "cached": None} == {**calm.after, "cached": None}:
        return []
    return [f"said to be done, and left {found}"]


def _of_the_tree(calm: Undisturbed, got: dict[str, str], may_change: tuple[str, ...]) -> list[str]:
    wrong = [f"lost: {place}" for place in calm.tree_before.keys() - got.keys()]
    for place, digest in got.items():
        allowed = {calm.tree_before.get(place, calm.tree_after.get(place))}
        if place in may_change:
            allowed.add(calm.tree_after[place])
        if digest not in allowed:
            wrong.append(f"half visible: {place}")
    return sorted(wrong)


def _of_the_facts(calm: Undisturbed, found: Any) -> list[str]:
    if found is None or "raised" in found:
        return [f"cannot be read: {found}"]
    wrong = []
    for name, digest in found["bundles"].items():
        known = [calm.before["bundles"].get(name), calm.after["bundles"].get(name)]
        if digest not in known:
            wrong.append(f"bundle {name}: expected one of {known}, got {digest}")
    wrong += _of_the_remote(calm, found["remote"])
    cached = calm.before["cached"] | calm.after["cached"]
    wrong += [
        f"another identity of {name} out of the cache"
        for name, digest in found["cached"].items()
        if cached.get(name) != digest
    ]
    was, will, now = (world["registry"] for world in (calm.before, calm.after, found))
    if now is None:
        return wrong if was is None else [*wrong, "the registry is gone"]
    if "outdated" in now:
        return wrong if now == was else [*wrong, "the registry of the release before has changed"]
    if was is None or "outdated" in was:
        was = _EMPTY
    wrong += now["findings"]
    if now["blobs"]["lost"]:
        wrong.append(f"rows without files: {now['blobs']}")
    if now["events"] != will["events"][: len(now["events"])]:
        wrong.append(f"events {now['events']}")
    changed = [row for row in will["versions"] if row in now["versions"]]  # its state
    kept = {row[0] for row in changed}
    wrong += [
        f"lost {row}" for row in was["versions"]
        if row not in now["versions"] and row[0] not in kept
    ]  # fmt: skip
    for what in ("versions", "bases"):
        known = was[what] + will[what]
        wrong += [f"unknown {row}" for row in now[what] if row not in known]
    return wrong


def _of_the_remote(calm: Undisturbed, found: dict[str, Any]) -> list[str]:
    """Return what is wrong in the directory: each revision is as before, or as it shall be."""
    was, will = calm.before["remote"], calm.after["remote"]
    wrong = [
        f"directory at {name}: expected one of {[was.get(name), will.get(name)]}, got {files}"
        for name, files in found.items()
        if files not in (was.get(name), will.get(name))
    ]
    return wrong + [f"lost: the directory at {name}" for name in was.keys() - found.keys()]
