"""Eight processes at once, from an empty folder or database on: nothing is lost, nobody is refused.

A ``database is locked``, or any other error of a process, fails every test here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import store_workers
from support.store_builders import digest_of, make_bundle
from support.store_migrations import NEXT, next_release, old_database
from support.store_workers import PROCESSES, eight_processes

from registry.store import migrate
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from registry.settings import Settings

EACH, INTO_ONE, DOCUMENTS, LEFTOVERS = 100, 3, 3, 10


@dataclass(frozen=True)
class Race:
    """What the processes answered, and the registry they left."""

    made: list[tuple[str | None, str]]
    upgraded: list[tuple[str | None, str]]
    identified: list[tuple[str | None, str]]
    published: list[tuple[int, int]]
    into_one: list[list[str]]
    advanced: list[list[int]]
    same: list[str]
    other: list[str]
    leftovers: list[int]
    registry: Registry


@pytest.fixture(scope="module")
def race(
    new_settings: Callable[[Path], AbstractContextManager[Settings]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Race]:
    folder = tmp_path_factory.mktemp("race")
    with (
        new_settings(folder / "one") as one,
        new_settings(folder / "two") as two,
        new_settings(folder / "old") as old,
    ):
        old_database(old, "0001").dispose()
        with eight_processes() as run:
            answers: dict[str, Any] = {"made": run(store_workers.upgrade, one)}
            later = next_release(folder / "migrations")
            answers["upgraded"] = run(store_workers.upgrade_to_next, one, later)
            answers["identified"] = run(store_workers.upgrade_and_identify, old)
            if two.sqlite_path is None:  # only a new file is migrated without being asked
                run(store_workers.upgrade, two)
            answers |= {
                "published": run(store_workers.create_publish_and_load, two, EACH),
                "into_one": run(store_workers.publish_into_one_line, two, INTO_ONE),
                "advanced": run(store_workers.advance_line, two, DOCUMENTS),
                "same": run(store_workers.publish_same, two),
                "other": run(store_workers.publish_other, two),
            }
            store_workers.leave_leftovers(two, LEFTOVERS)
            answers["leftovers"] = run(store_workers.publish_leftovers_or_collect, two, LEFTOVERS)
        with Registry.open(settings=two) as registry:
            yield Race(**answers, registry=registry)


def test_of_eight_upgrades_at_once_one_migrates(race: Race) -> None:
    others = PROCESSES - 1
    assert Counter(race.made) == {(None, migrate.HEAD): 1, (migrate.HEAD, migrate.HEAD): others}
    assert Counter(race.upgraded) == {(migrate.HEAD, NEXT): 1, (NEXT, NEXT): others}
    assert migrate.check(race.registry._engine) == []


def test_eight_upgrades_at_once_give_a_registry_one_id(race: Race) -> None:
    befores, ids = zip(*race.identified, strict=True)
    assert Counter(befores) == {"0001": 1, migrate.HEAD: PROCESSES - 1}
    assert len(set(ids)) == 1


def test_of_documents_that_continue_the_same_one_each_time_one_is_accepted(race: Race) -> None:
    sequences = sorted(sequence for own in race.advanced for sequence in own)
    assert sequences == list(range(1, PROCESSES * DOCUMENTS + 1))
    (head,) = race.registry.line_heads()
    assert head.sequence == sequences[-1]
    events = [event for event in race.registry.events() if event.action == "line.accept"]
    assert [event.detail["sequence"] for event in events] == sequences


def test_eight_processes_create_one_registry_and_lose_none_of_800_versions(race: Race) -> None:
    assert [new for new, _ in race.published] == [EACH] * PROCESSES
    expected = [f"{number}.0" for number in range(EACH, 0, -1)]
    digests = set()
    for worker in range(PROCESSES):
        versions = race.registry.versions(f"line-{worker}")
        assert [version.version for version in versions] == expected
        digests.update(version.digest for version in versions)
        assert (
            race.registry.bundle_files(versions[0]) == make_bundle(f"line-{worker}", expected[0])[1]
        )
    assert len(digests) == EACH * PROCESSES
    assert [base.name for base in race.registry.bases()] == ["base"]


def test_every_load_beside_them_is_written_down(race: Race) -> None:
    loads = [load for _, load in race.published]
    assert sum(loads) > PROCESSES
    for worker, count in enumerate(loads):
        assert len(race.registry.applications(digest_of(f"tune {worker}"))) == count


def test_every_number_of_a_line_that_all_publish_is_given_once(race: Race) -> None:
    numbers = sorted(int(version[:-2]) for done in race.into_one for version in done)
    assert numbers == list(range(1, PROCESSES * INTO_ONE + 1))
    published = [version.version for version in race.registry.versions("shared")]
    assert published == [f"{number}.0" for number in reversed(numbers)]


def test_the_same_content_from_all_is_published_once_and_no_error(race: Race) -> None:
    assert Counter(race.same) == {"new": 1, "known": PROCESSES - 1}
    assert len(race.registry.versions("same")) == 1


def test_of_eight_contents_of_one_version_one_is_published(race: Race) -> None:
    assert Counter(race.other) == {"new": 1, "conflict": PROCESSES - 1}
    (version,) = race.registry.versions("other")
    winner = race.other.index("new")
    files = race.registry.bundle_files(version)
    assert files["tensors.safetensors"] == f"of {winner}".encode()


def test_what_is_published_while_another_process_collects_is_all_there(race: Race) -> None:
    collected, *published = race.leftovers
    assert published == [LEFTOVERS] * (PROCESSES - 1)
    assert collected > 0
    for worker in range(1, PROCESSES):
        versions = race.registry.versions(f"leftover-{worker}")
        assert len(versions) == LEFTOVERS
        for version in versions:
            files = make_bundle(version.name, version.version)[1]
            assert race.registry.bundle_files(version) == files


def test_the_event_chain_of_all_of_it_is_whole(race: Race) -> None:
    assert race.registry.verify_events() == []
    counts = Counter(event.action for event in race.registry.events())
    counts.pop("garbage.remove", None)
    loads = sum(load for _, load in race.published)
    assert counts == {
        "base.register": 1,
        "version.publish": PROCESSES * (EACH + INTO_ONE) + 2 + LEFTOVERS * (PROCESSES - 1),
        "checkpoint.record": loads,
        "application.record": loads,
        "line.accept": PROCESSES * DOCUMENTS,
    }
