"""A disk that is really full: a tmpfs on which each write in turn is the one that does not fit."""

from __future__ import annotations

import os
import shutil

import pytest
from faults.operations import OPERATIONS, TWINS, WRITERS
from faults.small_disk import PAGE
from faults.trials import of_the_end

ALL = os.environ.get("SAFELATCH_FAULTS") == "all"
PAGES, NAMES = (range(160), range(16)) if ALL else ((1, 9, 30), (2,))
MANY = 1000


def filled(laboratory, operation, *, pages=MANY, names=MANY):
    """Return the outcome on a disk with that much room, and what was wrong."""
    template = laboratory.undisturbed(operation).template
    world, left = laboratory.folder / "world", laboratory.folder / "left"
    for folder in (world, left):
        shutil.rmtree(folder, ignore_errors=True)
    world.mkdir()
    ended, seen = laboratory.call(
        "fill", world, operation, template=str(template), pages=pages, names=names
    )
    assert ended is None
    assert "raised" not in seen, seen
    if seen["status"] is None:
        pytest.skip(f"no small disk can be made here: {seen['said']}")
    wrong = of_the_end("enospc", ended, seen)
    wrong += laboratory.of_the_world(operation, left, is_killed=False)
    if not laboratory.is_done(operation, left):
        wrong += laboratory.of_a_finish(operation, None, seen["again"])
    room = f"{pages * PAGE} bytes and {names} names"
    return seen, [f"{operation} with room for {room}: {finding}" for finding in wrong]


@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("operation", [name for name in WRITERS if ALL or name not in TWINS])
def test_a_full_disk_is_told_and_nothing_is_half_written(laboratory, operation):
    rooms = [{"pages": pages} for pages in PAGES] + [{"names": names} for names in NAMES]
    if OPERATIONS[operation].runs_model and not ALL:
        rooms = rooms[1:2]
    wrong = [finding for room in rooms for finding in filled(laboratory, operation, **room)[1]]
    print(f"{operation}: {len(rooms)} disks")
    assert not wrong, "\n".join(wrong)


def test_with_room_enough_the_small_disk_is_a_disk_like_any_other(laboratory):
    seen, wrong = filled(laboratory, "publish")
    assert seen["status"] == 0
    assert not wrong


def test_a_database_on_a_full_disk_says_so_and_names_the_way_out(laboratory):
    seen, _ = filled(laboratory, "init", pages=1)
    fact, hint = seen["said"].splitlines()
    assert fact.endswith("database or disk is full.")
    assert hint == "hint: Make room on the disk it is on, then run the same again."


def test_a_model_is_identified_where_the_cache_does_not_fit(laboratory):
    seen, _ = filled(laboratory, "fingerprint", pages=0)
    assert seen["status"] == 0
