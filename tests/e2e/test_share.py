"""From a publisher's registry over a remote to a protected model on a machine without the base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.hub import ALICE, client_at, environment_at, serving
from support.sharing import KEY, REPO, copied, publisher_at, put
from support.signed import kept, make_site, pem_of

from registry import Registry, load_protected
from registry.errors import NoProtectionError, RevokedError, RollbackError, UntrustedKeyError
from registry.reference import Reference
from registry.workflows.fetch import line_in
from registry.workflows.pull import pull
from registry.workflows.push import push_all
from registry.workflows.remotes import open_remote
from registry.workflows.sign import Signer, change_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hub import Hub

LOCK = Reference.parse("lock")
HUB = f"hf://{REPO}"
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def published(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, "1.0.0")
        put(registry, site, folder, "1.1.0", alpha=0.5)
    return folder / "publisher"


@pytest.fixture
def publisher(published: Path, tmp_path: Path) -> Iterator[Registry]:
    with copied(published, tmp_path / "publisher") as registry:
        yield registry


@pytest.fixture
def hub(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has alice's fine-tune, and not the base."""
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS", "SAFELATCH_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache", ALICE):
        opened.add("alice/tune", site.tune)
        yield opened


@pytest.fixture(params=["hub", "folder"])
def remote(request: Any, hub: Hub, publisher: Registry, tmp_path: Path) -> str:
    place = HUB if request.param == "hub" else f"file://{tmp_path}/remote"
    push_all(publisher, LOCK, open_remote(Reference.parse(place)))
    return place


def same(mine: Any, theirs: Any) -> bool:
    return (dict(mine.files), mine.signature, mine.line, mine.manifest.digest) == (
        dict(theirs.files), theirs.signature, theirs.line, theirs.manifest.digest,
    )  # fmt: skip


def test_publish_push_pull_and_a_protected_load_from_the_hub(
    hub: Hub, remote: str, publisher: Registry, tmp_path: Path
) -> None:
    """The reader's machine never had the base's weights: no folder and no repository has them."""
    with publisher_at(tmp_path / "reader") as reader:
        done = pull(reader, Reference.parse(remote))
        assert same(kept(reader, "1.1.0"), kept(publisher, "1.1.0"))
        assert done.version.digest == publisher.versions("lock")[0].digest
        hub.log.clear()
        model = load_protected("alice/tune", registry=reader)
        assert model.safelatch.verified
        assert model.safelatch.applied[0].signed_by == (KEY.key_id,)
        assert model.safelatch.lineage["distance"] > 0
        assert not hub.asked(REPO)
        assert "acme/base" not in hub.repos


def test_a_load_takes_it_from_the_remote_with_nothing_set_up(
    hub: Hub, remote: str, publisher: Registry, tmp_path: Path
) -> None:
    pem = pem_of(KEY, tmp_path)
    model = load_protected("alice/tune", artifacts=[remote], trust=pem)
    assert model.safelatch.verified
    assert model.safelatch.applied[0].label == "lock@1.1.0"
    assert not (tmp_path / "home").exists()
    assert list((tmp_path / "lines").iterdir())  # what was seen is remembered all the same
    named = load_protected("alice/tune", artifacts=[f"{remote}#lock@1.0.0"], trust=pem)
    assert named.safelatch.applied[0].label == "lock@1.0.0"


def test_a_load_pins_a_commit_and_hears_of_a_revocation(
    hub: Hub, publisher: Registry, tmp_path: Path
) -> None:
    place, pem = open_remote(Reference.parse(HUB)), pem_of(KEY, tmp_path)
    push_all(publisher, LOCK, place)
    pinned = f"{HUB}@{hub.history(REPO)[0].sha}"
    model = load_protected("alice/tune", artifacts=[pinned], trust=pem)
    assert model.safelatch.applied[0].label == "lock@1.1.0"
    change_state(publisher, publisher.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    push_all(publisher, LOCK, place)
    with pytest.raises(RevokedError, match="leaks"):
        load_protected("alice/tune", artifacts=[pinned], trust=pem)
    assert load_protected("alice/tune", artifacts=[HUB], trust=pem).safelatch.verified


def test_a_load_refuses_a_line_that_is_older_than_one_it_saw(
    hub: Hub, publisher: Registry, tmp_path: Path
) -> None:
    place, pem = open_remote(Reference.parse(HUB)), pem_of(KEY, tmp_path)
    push_all(publisher, LOCK, place)
    before = hub.repos[REPO].branches["main"]
    change_state(publisher, publisher.versions("lock")[1], "yanked", "weak", Signer([KEY]))
    push_all(publisher, LOCK, place)
    assert load_protected("alice/tune", artifacts=[HUB], trust=pem).safelatch.verified
    hub.repos[REPO].branches["main"] = before
    with pytest.raises(RollbackError):
        load_protected("alice/tune", artifacts=[HUB], trust=pem)


def test_a_load_reads_no_large_file_of_somebody_whom_nobody_trusts(
    hub: Hub, publisher: Registry, tmp_path: Path
) -> None:
    from support.sharing import MALLORY

    push_all(publisher, LOCK, open_remote(Reference.parse(HUB)))
    hub.log.clear()
    with pytest.raises(UntrustedKeyError):
        load_protected("alice/tune", artifacts=[HUB], trust=pem_of(MALLORY, tmp_path))
    assert not [each for each in hub.asked(REPO) if "safetensors" in each.line]


def test_a_remote_with_nothing_in_it_protects_nothing(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NoProtectionError, match="expected a line of artifacts at hf://alice/none"):
        load_protected("alice/tune", artifacts=["hf://alice/none"], trust=pem_of(KEY, tmp_path))


@pytest.mark.parametrize("variable", [None, "SAFELATCH_TEST_HUB1"])
def test_processes_with_their_own_client_push_and_pull_the_same(
    hub: Hub, publisher: Registry, published: Path, tmp_path: Path, variable: str | None
) -> None:
    """One has the installed client, the other that of an interpreter that is named."""
    interpreter = sys.executable if variable is None else os.environ.get(variable)
    if interpreter is None:
        pytest.skip(f"{variable} names no interpreter with another huggingface_hub")
    publisher.close()
    publisher_at(tmp_path / "reader").close()

    def work(*words: str) -> Any:
        done = subprocess.run(
            [interpreter, "-W", "error", "-W", "ignore:Use 'content=:DeprecationWarning",
             "-m", "support.share_workers", *words],
            env=environment_at(hub.url, tmp_path / "hf", ALICE)
            | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    source, reader = tmp_path / "publisher/registry.db", tmp_path / "reader/registry.db"
    first = work("push", str(source), "lock", HUB)
    assert [row[0] for row in first["versions"]] == ["lock@1.1.0", "lock@1.0.0"]
    again = work("push", str(source), "lock", HUB)
    assert [is_new for _, _, is_new in again["versions"]] == [False, False]
    assert len(hub.history(REPO)) == 3
    came = work("pull", str(reader), HUB)
    assert came["artifact"] == "lock@1.1.0"
    with Registry.open(str(source)) as theirs, Registry.open(str(reader)) as mine:
        assert same(kept(mine, "1.1.0"), kept(theirs, "1.1.0"))
        assert line_in(kept(mine, "1.1.0").line or b"").sequence == 2
        assert load_protected("alice/tune", registry=mine).safelatch.verified
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
