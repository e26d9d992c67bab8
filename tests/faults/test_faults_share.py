"""Push and pull killed at every request, and thirty-two processes that push to one line at once.

A request is hung before it is done, or after it is done and before it is answered; there the
process that asked is killed. What a kill at a file operation leaves is in ``test_faults_steps``.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.hub import ALICE, Fault, client_at, environment_at, serving
from support.share_workers import Workers
from support.sharing import REPO, Place, copied, publisher_at, put
from support.signed import kept, make_site

from registry.reference import Reference
from registry.store.catalog import Registry
from registry.workflows.fetch import line_in
from registry.workflows.pull import pull
from registry.workflows.push import push_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.hub import Hub

MANY = 32
HUB = f"hf://{REPO}"
PARTS = ("base.safetensors", "manifest.json", "signature.json", "tensors.safetensors")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def published(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's registry, with lock@1.0.0 and 1.1.0."""
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, "1.0.0")
        put(registry, site, folder, "1.1.0", alpha=0.5)
    return folder / "publisher"


@pytest.fixture(scope="module")
def crowd(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's registry, with thirty-two versions."""
    folder = tmp_path_factory.mktemp("crowd")
    with publisher_at(folder / "publisher") as registry:
        for number in range(MANY):
            put(registry, site, folder, f"1.{number}", alpha=(number + 1) / 32)
    return folder / "publisher"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    cache = tmp_path_factory.mktemp("cache")
    with serving() as opened, client_at(opened.url, cache, ALICE):
        yield opened


@pytest.fixture(scope="module")
def workers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(environment_at(hub.url, tmp_path_factory.mktemp("hf"), ALICE))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def clean(hub: Hub) -> None:
    hub.faults.clear()
    hub.repos.clear()
    hub.log.clear()


def db(folder: Path) -> str:
    return str(folder / "registry.db")


def requests_of(hub: Hub) -> list[str]:
    return [each.line for each in hub.log if "agent-harnesses" not in each.line]


def killed_at(hub: Hub, workers: Workers, nth: int, *, lost: bool, job: tuple[str, ...]) -> None:
    """Kill a job at its nth request, before that is done or, ``lost``, after."""
    fault = Fault("/", hang=60, lost=lost, nth=nth, times=1)
    hub.faults[:] = [fault]
    (process,) = workers.begin([job])
    deadline = time.monotonic() + 30
    while fault.seen < nth:
        assert time.monotonic() < deadline, f"there is no request {nth}: {requests_of(hub)}"
        time.sleep(0.002)
    if lost:
        time.sleep(0.02)  # until it is done
    os.kill(process, signal.SIGKILL)
    assert workers.end() == [None]
    hub.faults.clear()


def test_a_push_that_is_killed_at_any_request_is_finished_by_the_next(
    hub: Hub, workers: Workers, published: Path, tmp_path: Path
) -> None:
    """Readers find all of the version or nothing of it; one commit, whatever was killed."""
    job = ("push", db(published), "lock@1.1.0", HUB)
    workers.begin([job])
    ((_, calm, _),) = workers.end()[0]["versions"]
    files = {path: blob.data for path, blob in hub.history(REPO)[0].files.items()}
    count = len(requests_of(hub))
    assert count == 12
    for nth in range(1, count + 1):
        for lost in (False, True):
            hub.repos.clear()
            hub.log.clear()
            killed_at(hub, workers, nth, lost=lost, job=job)
            seen = [each.files for each in hub.history(REPO)] if REPO in hub.repos else []
            for there in seen:
                own = {path: blob.data for path, blob in there.items()}
                assert own == files or set(own) <= {".gitattributes"}, (nth, lost)
            workers.begin([job])
            (done,) = workers.end()
            assert "error" not in done, (nth, lost, done)
            head, first = hub.history(REPO)
            assert {path: blob.data for path, blob in head.files.items()} == files
            assert set(first.files) == {".gitattributes"}
            assert hub.repos[REPO].tags == {"1.1.0": head.sha}
    assert calm


def test_a_pull_that_is_killed_at_any_request_is_finished_by_the_next(
    hub: Hub, workers: Workers, published: Path, tmp_path: Path
) -> None:
    with copied(published, tmp_path / "publisher") as registry:
        push_all(registry, Reference.parse("lock"), Place(Reference.parse(HUB), hub, None).remote)
        wanted = kept(registry, "1.1.0")
    hub.log.clear()
    with publisher_at(tmp_path / "calm") as reader:
        pull(reader, Reference.parse(HUB))
    count = len(requests_of(hub))
    assert count == 6
    publisher_at(tmp_path / "template").close()
    for nth in range(1, count + 1):
        folder = tmp_path / f"reader-{nth}"
        copied(tmp_path / "template", folder).close()
        job = ("pull", db(folder), HUB)
        killed_at(hub, workers, nth, lost=False, job=job)
        with Registry.open(db(folder)) as reader:
            assert (reader.lines(), reader.bases()) == ([], [])
            assert not [path for path in (folder / "blobs").rglob("*") if path.is_file()]
        workers.begin([job])
        (done,) = workers.end()
        assert done["artifact"] == "lock@1.1.0"
        with Registry.open(db(folder)) as reader:
            assert dict(kept(reader, "1.1.0").files) == dict(wanted.files)
            assert reader.verify_events() == []


@pytest.mark.parametrize("kind", ["hub", "folder"])
def test_thirty_two_processes_push_to_one_line_and_every_version_lands_once(
    hub: Hub, workers: Workers, crowd: Path, tmp_path: Path, kind: str
) -> None:
    remote = HUB if kind == "hub" else f"file://{tmp_path}/remote"
    copied(crowd, tmp_path / "publisher").close()
    jobs = [
        ("push", db(tmp_path / "publisher"), f"lock@1.{number}", remote) for number in range(MANY)
    ]
    workers.begin(jobs)
    done = workers.end()
    assert [each.get("error") for each in done] == [None] * MANY
    place = Place(Reference.parse(remote), hub if kind == "hub" else None, tmp_path / "remote")
    landed = [version for each in done for version in each["versions"]]
    assert [label for label, _, _ in landed] == [f"lock@1.{number}" for number in range(MANY)]
    assert all(is_new for _, _, is_new in landed)
    assert len({commit for _, commit, _ in landed}) == MANY
    assert place.commits() == MANY + (kind == "hub")
    assert sum(each["tries"] for each in done) > MANY  # they did meet
    there = place.now().files
    for number in range(MANY):
        assert {f"versions/1.{number}/{part}" for part in PARTS} <= set(there)
    with Registry.open(db(tmp_path / "publisher")) as registry:
        assert place.read("line.json") == registry.line_bytes("lock")
    assert line_in(place.read("line.json")).newest_active == "1.31"
    for label, commit, _ in landed:
        tagged = place.remote.snapshot(label.partition("@")[2])
        assert tagged is not None
        assert tagged.commit == commit
    with publisher_at(tmp_path / "reader") as reader:
        assert pull(reader, Reference.parse(remote)).version.label == "lock@1.31"
        assert pull(reader, place.at("1.7")).version.label == "lock@1.7"


@pytest.mark.parametrize("kind", ["hub", "folder"])
def test_of_two_registries_that_push_one_line_one_is_told(
    hub: Hub, workers: Workers, site: Any, published: Path, tmp_path: Path, kind: str
) -> None:
    """Both have the key, and each has published its own 1.2.0."""
    remote = HUB if kind == "hub" else f"file://{tmp_path}/remote"
    for name, alpha in (("one", 0.25), ("two", 0.75)):
        with copied(published, tmp_path / name) as registry:
            put(registry, site, tmp_path, "1.2.0", alpha=alpha)
    workers.begin([("push", db(tmp_path / name), "lock@1.2.0", remote) for name in ("one", "two")])
    done = workers.end()
    codes = [each.get("error") for each in done]
    assert sorted(codes, key=str) == [None, "line-fork"]
    told = done[codes.index("line-fork")]
    assert told["message"].startswith(f"{remote} holds another line lock than this registry: ")
    assert "safelatch save lock@VERSION --out DIR" in told["hint"]
    place = Place(Reference.parse(remote), None, None)
    winner = ("one", "two")[codes.index(None)]
    with Registry.open(db(tmp_path / winner)) as registry:
        assert place.read("line.json") == registry.line_bytes("lock")
