from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url
from support.store_builders import make_bundle, make_record, publish
from support.store_permissions import needs_permissions, obeying_permissions

from registry.digest import digest_bytes
from registry.errors import StoreError, UsageError
from registry.settings import Settings
from registry.store import session
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)
NONE = dt.timedelta(0)
ID = "[0-9a-f]{32}"


def age(path: Path, days: float) -> Path:
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return path


def written(path: Path, data: bytes, *, days: float) -> Path:
    path.write_bytes(data)
    return age(path, days)


def leave(registry: Registry, data: bytes, *, days: float) -> Path:
    """Put what no row will name, as a publisher that crashed leaves it; return its file."""
    return age(registry._blobs.path(registry._blobs.put(data)), days)


def leave_half(registry: Registry, *, hours: float) -> Path:
    registry._blobs._leave_note()
    folder = registry._blobs.folder / "ab"
    folder.mkdir(parents=True, exist_ok=True)
    return written(folder / f".incoming-{hours}", b"half a fi", days=hours / 24)


def test_what_a_crashed_publisher_left_is_removed_after_the_grace_period(
    registry: Registry,
) -> None:
    old, young = leave(registry, b"old", days=15), leave(registry, b"young", days=13)
    found = registry.collect_garbage(14 * DAY)
    assert [(file.kind, file.path, file.digest, file.size) for file in found.removed] == [
        ("blob", old, digest_bytes(b"old"), 3)
    ]
    assert (found.size, found.young) == (3, 1)
    assert (old.exists(), young.exists()) == (False, True)
    event = registry.events()[-1]
    assert (event.action, event.subject) == ("garbage.remove", "blobs")
    assert event.detail == {"grace_s": 14 * 86400, "files": 1, "bytes": 3}
    assert registry.verify_events() == []


def test_what_a_row_names_stays_however_old_it_is(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    registry.set_state(version, "revoked", "why")
    files = registry.bundle_files(version)
    for path in registry._blobs.folder.glob("??/*"):
        age(path, 1000)
    before = len(registry.events())
    assert registry.collect_garbage(NONE).removed == ()
    assert registry.bundle_files(version) == files
    assert registry.base_record_bytes(registry.base("base")) == b"record of base"
    assert len(registry.events()) == before


def test_a_dry_run_says_the_same_and_changes_nothing(registry: Registry) -> None:
    old, half = leave(registry, b"old", days=2), leave_half(registry, hours=48)
    told = registry.collect_garbage(DAY, dry_run=True)
    assert (old.exists(), half.exists(), registry.events()) == (True, True, [])
    assert registry.collect_garbage(DAY) == told
    assert {file.path for file in told.removed} == {old, half}
    assert not old.exists()


def test_a_file_that_may_still_be_written_is_left_for_an_hour(registry: Registry) -> None:
    fresh, stale = leave_half(registry, hours=0.9), leave_half(registry, hours=1.1)
    found = registry.collect_garbage(NONE)
    assert [(file.kind, file.path) for file in found.removed] == [("temporary", stale)]
    assert (found.young, fresh.exists(), stale.exists()) == (1, True, False)


def test_only_names_of_blobs_are_looked_at_and_links_are_left(
    registry: Registry, tmp_path: Path
) -> None:
    outside = written(tmp_path / "outside", b"not ours", days=99)
    shard = registry._blobs.path(digest_bytes(b"old")).parent
    leave(registry, b"old", days=99).unlink()
    kept = [
        shard / "README",
        shard / ("f" * 64),  # in the folder of other digits
        registry._blobs.folder / ("0" * 64),
        registry._blobs.folder / "notes.txt",
    ]
    for path in kept:
        written(path, b"somebody's", days=99)
    link = shard / (shard.name + "0" * 62)
    link.symlink_to(outside)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hidden = written(elsewhere / ("ee" + "0" * 62), b"not ours", days=99)
    (registry._blobs.folder / "ee").symlink_to(elsewhere)
    assert registry.collect_garbage(NONE).removed == ()
    assert all(path.exists() for path in (*kept, link, outside, hidden))


def test_a_registry_that_never_stored_anything_has_no_garbage(registry: Registry) -> None:
    shutil.rmtree(registry._blobs.folder, ignore_errors=True)
    assert registry.collect_garbage(NONE).removed == ()
    assert not registry._blobs.folder.exists()


def test_a_grace_period_below_zero_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="expected a grace period of 0 or more, got -1 day"):
        registry.collect_garbage(-DAY)


# Beside publishers


def collect_before_each_write(
    registry: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """Let ``other`` collect all it can each time ``registry`` is about to write rows.

    Returns:
        What was collected; it fills as time goes by.
    """
    write, collected = session.write, []

    def write_after_collecting(engine: Any) -> Any:
        if engine is registry._engine:
            collected.extend(other.collect_garbage(NONE).removed)
        return write(engine)

    monkeypatch.setattr(session, "write", write_after_collecting)
    return collected


def test_files_collected_under_a_publisher_are_put_back_before_a_row_names_them(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry.open(settings=settings) as other:
        collected = collect_before_each_write(registry, other, monkeypatch)
        version = publish(registry, "lock", "1.0.0")
    assert len(collected) == 3  # the base's record, the manifest and the tensors
    manifest, files = make_bundle("lock", "1.0.0")
    assert version.digest == manifest.digest
    assert registry.bundle_files(version) == files
    assert registry.base_record_bytes(registry.base("base")) == b"record of base"


def test_the_record_of_a_base_that_was_collected_is_put_back_too(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry.open(settings=settings) as other:
        collected = collect_before_each_write(registry, other, monkeypatch)
        base = registry.add_base("base", make_record(), b"record of base")
    assert len(collected) == 1
    assert registry.base_record_bytes(base) == b"record of base"


def test_an_old_leftover_that_is_published_after_all_is_no_garbage_any_more(
    registry: Registry,
) -> None:
    leave(registry, b"tensors", days=99)
    version = publish(registry, "lock", "1.0.0", tensors=b"tensors")
    assert registry.collect_garbage(NONE).removed == ()
    assert registry.bundle_files(version)["tensors.safetensors"] == b"tensors"


# One folder, several registries


def test_a_folder_that_another_registry_uses_too_is_left_alone(
    sqlite_registry: Registry, sqlite_settings: Settings
) -> None:
    leave(sqlite_registry, b"old", days=99)
    path = sqlite_settings.sqlite_path.with_name("other.db")
    with Registry.create(str(path)) as other:
        other.add_base("base", make_record(), b"record of base")
        for registry, own, foreign in (
            (sqlite_registry, r"registry\.db", r"other\.db"),
            (other, r"other\.db", r"registry\.db"),
        ):
            expected = rf"expected the files of one registry, {ID} \.\./{own}, got those of 1 more.*\n  {ID} \.\./{foreign} \(noted in "
            with pytest.raises(UsageError, match=expected):
                registry.collect_garbage(NONE)
        assert other.base_record_bytes(other.base("base")) == b"record of base"
    (note,) = sqlite_registry._blobs.other_users()
    note.unlink()
    assert len(sqlite_registry.collect_garbage(NONE, dry_run=True).removed) == 2


def test_a_registry_that_finds_its_bytes_there_already_leaves_its_note(
    sqlite_registry: Registry, sqlite_settings: Settings
) -> None:
    leave(sqlite_registry, b"record of base", days=99)
    with Registry.create(str(sqlite_settings.sqlite_path.with_name("other.db"))) as other:
        other.add_base("base", make_record(), b"record of base")
    with pytest.raises(UsageError, match=r"\.\./other\.db"):
        sqlite_registry.collect_garbage(NONE)


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """A path at which two machines have a registry each, and the blobs of both in one folder.

    The second one is there; ``other_machine`` shows the first one in its place, and back.
    """
    environ = {"SAFELATCH_BLOBS": str(tmp_path / "shared"), "SAFELATCH_CACHE": str(tmp_path)}
    settings = Settings.load(str(tmp_path / "machine" / "registry.db"), environ=environ)
    for data in (b"of the second", b"of the first"):
        with Registry.create(settings=settings) as registry:
            publish(registry, "lock", "1.0.0", tensors=data)
        other_machine(settings)
    for path in settings.blobs.glob("??/*"):
        age(path, 99)
    return settings


def other_machine(settings: Settings) -> None:
    here = settings.sqlite_path.parent
    there, meanwhile = here.with_name("elsewhere"), here.with_name("meanwhile")
    here.rename(meanwhile)
    if there.exists():
        there.rename(here)
    meanwhile.rename(there)


def test_registries_at_one_path_of_two_machines_do_not_take_each_others_files(
    shared: Settings,
) -> None:
    for data in (b"of the second", b"of the first"):
        with Registry.open(settings=shared) as registry:
            place = r"\.\./machine/registry\.db"
            with pytest.raises(UsageError, match=rf"registry, {ID} {place}, got those of 1 more"):
                registry.collect_garbage(NONE)
            version = registry.versions("lock")[0]
            assert registry.bundle_files(version)["tensors.safetensors"] == data
        other_machine(shared)


def test_without_notes_a_registry_does_not_take_the_files_of_another(shared: Settings) -> None:
    for note in shared.blobs.glob(".registry-*"):
        note.unlink()
    for data in (b"of the second", b"of the first"):
        with Registry.open(settings=shared) as registry:
            for dry_run in (True, False):
                with pytest.raises(UsageError) as caught:
                    registry.collect_garbage(NONE, dry_run=dry_run)
            assert str(caught.value) == (
                f"{shared.blobs}: expected the note of this registry, {registry._blobs.user}, "
                "beside 2 files that none of its rows names, found none: they may be of another "
                "registry.\n"
                "Let every registry that has files there leave its note, by publishing or adding a "
                "base again, then run this again. Or give each a folder of its own: "
                "export SAFELATCH_BLOBS=/path"
            )
            version = registry.versions("lock")[0]
            assert registry.bundle_files(version)["tensors.safetensors"] == data
        other_machine(shared)


def test_a_registry_whose_note_was_lost_leaves_it_by_publishing_again(registry: Registry) -> None:
    publish(registry, "lock", "1.0.0")
    old = leave(registry, b"old", days=2)
    (note,) = registry._blobs.folder.glob(".registry-*")
    note.unlink()
    assert registry.collect_garbage(3 * DAY).removed == ()  # nothing to remove, nothing to ask
    with pytest.raises(UsageError, match="expected the note of this registry"):
        registry.collect_garbage(DAY)
    assert old.exists()
    publish(registry, "lock", "1.0.0")
    assert note.read_text() == str(registry._blobs.user)
    assert [file.path for file in registry.collect_garbage(DAY).removed] == [old]


def test_a_note_without_an_id_may_be_of_any_registry_that_was_there(registry: Registry) -> None:
    old = leave(registry, b"old", days=99)
    note = registry._blobs.folder / ".registry-0123456789abcdef"
    note.write_text(registry._blobs.user.place)
    with pytest.raises(UsageError, match=r"got those of 1 more") as caught:
        registry.collect_garbage(NONE)
    assert caught.value.hint == (
        "Give each a folder of its own: export SAFELATCH_BLOBS=/path. Remove a note whose registry "
        "is gone, and one without an id that this registry left before its upgrade."
    )
    assert old.exists()
    note.unlink()
    assert len(registry.collect_garbage(NONE).removed) == 1


def test_a_registry_that_moved_with_its_blobs_is_the_same(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    with Registry.create(str(tmp_path / "first" / "registry.db")) as registry:
        user = registry._blobs.user
        publish(registry, "lock", "1.0.0")
        leave(registry, b"old", days=2)
    (tmp_path / "first").rename(tmp_path / "second")
    with Registry.open(str(tmp_path / "second" / "registry.db")) as registry:
        assert registry._blobs.user == user
        assert len(registry.collect_garbage(DAY).removed) == 1
        publish(registry, "lock", "2.0.0")
        assert registry.collect_garbage(DAY).removed == ()


@pytest.mark.parametrize("port", ["", ":5432"])
def test_a_server_is_noted_without_its_password(tmp_path: Path, port: str) -> None:
    url = make_url(f"postgresql+psycopg://ann:secret@host{port}/locks?password=secret2")
    engine: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), url=url)
    assert session.name_beside(engine, tmp_path) == "postgresql://host:5432/locks"


# Where nothing may be removed


@needs_permissions
def test_a_read_only_registry_tells_and_removes_nothing(
    sqlite_settings: Settings, new_file: Path
) -> None:
    shutil.copy(new_file, sqlite_settings.sqlite_path)
    with Registry.open(settings=sqlite_settings) as registry:
        old = leave(registry, b"old", days=99)
    sqlite_settings.sqlite_path.chmod(0o444)

    def look() -> int:
        with Registry.open(settings=sqlite_settings) as registry:
            with pytest.raises(StoreError, match="it is read-only"):
                registry.collect_garbage(NONE)
            return len(registry.collect_garbage(NONE, dry_run=True).removed)

    assert obeying_permissions(look) == 1
    assert old.exists()


@needs_permissions
def test_what_cannot_be_removed_is_an_error_and_what_was_removed_is_logged(
    sqlite_settings: Settings, new_file: Path
) -> None:
    shutil.copy(new_file, sqlite_settings.sqlite_path)
    with Registry.open(settings=sqlite_settings) as registry:
        paths = sorted(leave(registry, data, days=99) for data in (b"one", b"two", b"three"))
    held = paths[1]
    held.parent.chmod(0o555)

    def collect() -> None:
        with Registry.open(settings=sqlite_settings) as registry:
            registry.collect_garbage(NONE)

    try:
        with pytest.raises(StoreError) as caught:
            obeying_permissions(collect)
    finally:
        held.parent.chmod(0o755)
    assert caught.value.message == (
        f"expected to remove {held}, got: Permission denied (1 of 3 files were removed)."
    )
    assert [path.exists() for path in paths] == [False, True, True]
    with Registry.open(settings=sqlite_settings) as registry:
        assert registry.events()[-1].detail["files"] == 1
