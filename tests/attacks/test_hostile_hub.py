"""A Hub that lies, or that somebody else writes to: nothing outside the cache, nothing believed.

Both ways: ``HubRemote`` for lines of artifacts, ``fetch_model`` for a fine-tune's files, with the
real client and a hub that answers what we make it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import close_session, constants, get_session, hf_hub_download
from support.hub import (
    ALICE,
    BOB,
    Fault,
    Hub,
    client_at,
    extra_file,
    hostile_etag,
    lost_response,
    moved_ref,
    other_commit,
    other_size,
    renamed,
    serving,
    stale,
)

from registry.errors import HostError, HubError, RemoteMovedError, SafelatchError
from registry.remote import hub as hub_module
from registry.remote import hub_download
from registry.remote.hub_download import fetch_model
from registry.remote.hub_remote import HubRemote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REPO = "org/model"
TREE = f"GET /api/models/{REPO}/tree/"
INFO = f"GET /api/models/{REPO}/revision/"
ANY = f"GET /api/models/{REPO}"
WEIGHTS = bytes(range(256)) * 40
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "run.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
}
WANTED = {name: MODEL[name] for name in ("config.json", "model.safetensors", "tokenizer.json")}
LINE = {"line.json": b"{}", "versions/1.0.0/tensors.safetensors": WEIGHTS}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as opened:
        opened.add(REPO, MODEL)
        yield opened


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The client's cache, with room around it for what is written outside."""
    nowhere = SimpleNamespace(sleep=lambda _seconds: None)
    monkeypatch.setattr("registry.remote.hub_remote.time", nowhere)
    place = tmp_path / "a" / "b" / "c" / "cache"
    with client_at(hub.url, place, ALICE):
        yield place


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def outside(cache: Path) -> set[str]:
    """Return whatever is on the disk beside the cache."""
    root = cache.parents[3]
    return {
        path.relative_to(root).as_posix() for path in root.rglob("*")
        if cache != path and cache not in path.parents and path not in cache.parents
    }  # fmt: skip


def blobs(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("models--*/blobs/*")}


def refused(hub: Hub, cache: Path, says: str, revision: str | None = None) -> SafelatchError:
    """Require that a download is refused, with nothing outside and no body of a weight file."""
    with pytest.raises(SafelatchError) as caught:
        fetch_model(REPO, revision)
    assert says in caught.value.message
    assert outside(cache) == set()
    return caught.value


def head_of(hub: Hub) -> str:
    return hub.repos[REPO].branches["main"]


def test_none_of_these_is_downloaded_whole(hub: Hub, cache: Path) -> None:
    folder, commit = fetch_model(REPO)
    assert (commit, folder.name) == (head_of(hub), head_of(hub))
    assert files_below(folder) == WANTED
    assert outside(cache) == set()
    assert (cache / "models--org--model" / "refs" / "main").read_text() == commit
    hub.log.clear()
    assert fetch_model(REPO) == (folder, commit)
    assert len(hub.log) == 1
    assert fetch_model(REPO, commit) == (folder, commit)
    assert len(hub.log) == 1


# Names in the cache that the server chooses.

ETAGS = ['"../../../../../evil"', "../../../../evil", 'W/"../../../evil"', '""', "W/", '"x"',
         f'"{"a" * 40}/../../evil"', f'"{"A" * 40}"', f'""{"a" * 63}""', "\\evil",
         f'"{"0" * 40}\t"']  # fmt: skip


@pytest.mark.parametrize("etag", ETAGS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_etag_that_leads_out_of_the_cache(hub: Hub, cache: Path, etag: str, name: str) -> None:
    hub.faults.append(hostile_etag(etag, f"/{name}"))
    with pytest.raises(HubError) as caught:
        fetch_model(REPO)
    assert f"expected a hash as the ETag of {name} from the Hub" in caught.value.message or (
        "expected model.safetensors with" in caught.value.message
    )
    assert outside(cache) == set()
    assert all(len(blob) in {40, 64} for blob in blobs(cache))
    assert not hub.asked(f"GET /{REPO}/resolve/{head_of(hub)}/{name}")


def test_etag_in_one_of_two_headers(hub: Hub, cache: Path) -> None:
    """The client prefers the linked one."""
    hub.faults.append(Fault("/config.json", headers={"X-Linked-ETag": "../../../../evil"}))
    refused(hub, cache, "a hash as the ETag of config.json from the Hub, got '../../../../evil'")


def test_etag_after_a_redirect(hub: Hub, cache: Path) -> None:
    commit = head_of(hub)
    there = f"/{REPO}/resolve/{commit}/tokenizer.json"
    hub.faults += [
        Fault("/config.json", 307, headers={"Location": there, "ETag": 'W/"any"'}),
        hostile_etag("../../../../evil", "/tokenizer.json"),
    ]
    refused(hub, cache, "a hash as the ETag of")


def test_etag_of_a_redirect_that_is_followed(hub: Hub, cache: Path) -> None:
    """The Hub redirects small files so, and whose ETag it is then nobody says: it names nothing."""
    there = f"/{REPO}/resolve/{head_of(hub)}/config.json?really"
    hub.faults += [
        Fault("/config.json?really"),
        Fault("/config.json", 307, headers={"Location": there, "ETag": 'W/"../../../../evil"'}),
    ]
    assert files_below(fetch_model(REPO)[0]) == WANTED
    assert outside(cache) == set()


def test_etag_of_a_file_that_is_named_like_a_listing(hub: Hub, cache: Path) -> None:
    for name in (f"api/models/{REPO}/tree/x.json", f"api/models/{REPO}/revision/main.json"):
        hub.add(REPO, {**MODEL, name: b"{}"})
        hub.faults[:] = [hostile_etag("../../../../evil", name)]
        refused(hub, cache, f"a hash as the ETag of {name} from the Hub, got '../../../../evil'")


def test_etag_after_a_connection_that_failed(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client takes a new session then, which has nothing of ours unless we make it, too."""
    hub.faults.append(hostile_etag("../../../../evil", "/config.json"))
    replaced: list[Any] = []
    request = type(get_session()).request

    def fails_once(session: Any, method: str, url: Any, **given: Any) -> Any:
        if "/tree/" in str(url) and not replaced:
            replaced.append(session)
            close_session()
        return request(get_session(), method, url, **given)

    monkeypatch.setattr(type(get_session()), "request", fails_once)
    refused(hub, cache, "a hash as the ETag of config.json from the Hub, got '../../../../evil'")
    assert replaced != [get_session()]


def test_etag_of_other_content_than_listed(hub: Hub, cache: Path) -> None:
    hub.faults.append(hostile_etag(f'"{"a" * 64}"', "/model.safetensors"))
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    refused(hub, cache, f"model.safetensors with 10240 bytes, {sha256} from the Hub, got '10240 by")
    assert hub.weight_bytes == 0


def test_hash_in_a_tree_that_leads_out_of_the_cache(hub: Hub, cache: Path) -> None:
    """With Xet the client names files by the tree, and asks for no headers."""

    def edit(entries: Any, _is_last: bool) -> Any:
        for entry in entries:
            if "lfs" in entry:
                entry |= {"xetHash": "a" * 64}
                entry["lfs"]["oid"] = "../../../../evil"
        return entries

    hub.faults.append(Fault(TREE, edit=edit))
    refused(hub, cache, "expected model.safetensors with 10240 bytes, ")
    assert not list(cache.rglob("trees/*"))
    assert not hub.asked("/resolve/")


@pytest.mark.parametrize("header", ["Link", "Location"])
def test_listing_that_goes_on_under_the_name_of_a_file(hub: Hub, cache: Path, header: str) -> None:
    """What is no listing by its address is not compared; to the client it is one."""
    there = f"{hub.url}/{REPO}/resolve/{head_of(hub)}/tokenizer.json"
    value = f'<{there}>; rel="next"' if header == "Link" else there
    status = None if header == "Link" else 307
    hub.faults.append(Fault(TREE, status, headers={header: value}))
    refused(hub, cache, f"expected a listing that goes on as one from the Hub, got '{there[:60]}")
    assert not hub.asked("/resolve/")


def test_listing_of_a_model_that_was_renamed(hub: Hub, cache: Path) -> None:
    """The Hub redirects all that is asked by the old name."""
    commit = hub.add("org/renamed", MODEL)
    there = f"{hub.url}/api/models/org/renamed"
    hub.faults += [
        Fault(TREE, 307, headers={"Location": f"{there}/tree/{commit}?recursive=true"}),
        Fault(ANY, 307, headers={"Location": f"{there}?blobs=true"}),
    ]
    hub.faults += [
        Fault(f" /{REPO}/resolve/{commit}/{name}", 307,
              headers={"Location": f"/org/renamed/resolve/{commit}/{name}"})
        for name in WANTED
    ]  # fmt: skip
    folder, got = fetch_model(REPO)
    assert (got, files_below(folder)) == (commit, WANTED)


def test_missing_file_of_a_commit_that_leads_out_of_the_cache(hub: Hub, cache: Path) -> None:
    """The client notes what is not there, too, in a folder named by the answer."""
    evil = Fault(
        "/config.json", 404, "EntryNotFound", headers={"X-Repo-Commit": "../../../../evil"}
    )
    hub.faults.append(evil)
    refused(hub, cache, "the Hub answered with ../../../../evil.")
    assert not list(cache.rglob(".no_exist"))


def test_etag_where_bytes_are_read_around_the_cache(hub: Hub, cache: Path) -> None:
    made = HubRemote("org/line").commit(LINE, parent=None, message="m")
    hub.faults.append(hostile_etag('"../../../../evil"'))
    found = HubRemote("org/line").snapshot(made)
    assert found is not None
    for path, data in LINE.items():
        assert HubRemote("org/line").read(found, path, limit=1 << 20) == data
    assert not cache.exists()
    assert outside(cache) == set()


@pytest.mark.parametrize("name", ["../../../../../evil", "/evil", "a/../../evil", "a\\evil"])
def test_branch_whose_name_leads_out_of_the_cache(
    hub: Hub, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be named by a config; the cache keeps what each branch was, by its name."""
    written: list[Path] = []
    monkeypatch.setattr(hub_download, "write_file", lambda path, _data: written.append(path))
    commit = hub.add(REPO, MODEL, branch=name)
    assert fetch_model(REPO, name)[1] == commit
    assert written == []
    hub.add(REPO, MODEL, branch="dev/x-1.0")
    fetch_model(REPO, "dev/x-1.0")
    assert written == [cache / "models--org--model" / "refs" / "dev" / "x-1.0"]


# Names of files.

TRAVERSALS = ["../../../../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\..\\evil.json",
              "C:evil.json", "a//evil.json", "./evil.json", "evil\n.json", "evil\x00.json",
              "..../.../evil.json", "\u202eevil.json"]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
def test_file_whose_name_leads_out_of_the_cache(hub: Hub, cache: Path, name: str) -> None:
    hub.faults.append(renamed("config.json", name))
    refused(hub, cache, "expected names of files below a folder from the Hub")
    assert not cache.exists()


@pytest.mark.parametrize("names", [("Config.json",), ("\u00e9.json", "e\u0301.json")])
def test_files_that_are_one_where_letters_have_no_case(
    hub: Hub, cache: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        hub.faults.append(extra_file(name))
    hub.faults[:] = [Fault(ANY, edit=_all(hub.faults))]
    refused(hub, cache, "expected names that differ in more than case from the Hub")
    assert not cache.exists()


def _all(faults: list[Fault]) -> Callable[[Any, bool], Any]:
    edits = [fault.edit for fault in faults]

    def edit(document: Any, is_last: bool) -> Any:
        for each in edits:
            assert each is not None
            document = each(document, is_last)
        return document

    return edit


def test_names_of_a_line_that_lead_out_are_names_of_nothing(hub: Hub, cache: Path) -> None:
    """A line is read by the names that we know, into memory."""
    remote = HubRemote("org/line")
    remote.commit(LINE, parent=None, message="m")
    hub.faults.append(extra_file("../../../../evil.json", match="GET /api/models/org/line"))
    hub.log.clear()
    found = remote.snapshot()
    assert found is not None
    assert remote.read(found, "line.json", limit=9) == b"{}"
    assert [asked.path.rpartition("/")[2] for asked in hub.log[1:]] == ["line.json"]
    assert outside(cache) == set()


# What is listed and what comes.


def test_tree_with_more_files_than_were_listed(hub: Hub, cache: Path) -> None:
    hub.faults.append(extra_file("extra.json", match=TREE))
    refused(hub, cache, "expected the files that it listed from the Hub, got 'extra.json'")
    assert not hub.asked("/resolve/")


def test_tree_with_fewer_files_than_were_listed(hub: Hub, cache: Path) -> None:
    def edit(entries: Any, _is_last: bool) -> Any:
        return [entry for entry in entries if entry["path"] != "tokenizer.json"]

    hub.faults.append(Fault(TREE, edit=edit))
    refused(hub, cache, "expected 2 bytes of tokenizer.json from the Hub, got 'no file'")


def test_tree_without_end(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "_MOST_PAGES", 5)
    again = f'<{hub.url}/api/models/{REPO}/tree/{head_of(hub)}?recursive=true&n=1>; rel="next"'
    hub.faults.append(Fault(TREE, headers={"Link": again}))
    with pytest.raises(HubError, match="expected at most 5 pages from the Hub, got 'more'"):
        fetch_model(REPO)
    assert len(hub.asked(TREE)) == 6


def test_file_in_a_tree_of_another_size(hub: Hub, cache: Path) -> None:
    hub.faults.append(other_size("model.safetensors", 1 << 50, match=TREE))
    refused(hub, cache, "expected model.safetensors with 10240 bytes")
    assert not hub.asked("/resolve/")


def test_file_in_a_tree_of_two_sizes(hub: Hub, cache: Path) -> None:
    def edit(entries: Any, _is_last: bool) -> Any:
        for entry in entries:
            if "lfs" in entry:
                entry["lfs"]["size"] = 1 << 50
        return entries

    hub.faults.append(Fault(TREE, edit=edit))
    refused(
        hub, cache, "expected one size of model.safetensors from the Hub, got '1125899906842624"
    )


def test_file_of_another_size_than_listed(hub: Hub, cache: Path) -> None:
    hub.faults.append(other_size("config.json", 22))
    refused(hub, cache, "expected config.json with 22 bytes from the Hub, got '23 bytes'")


def test_file_that_goes_on_after_its_end(hub: Hub, cache: Path) -> None:
    """The answer to HEAD was right; of the one to GET no more is taken than was listed."""
    name = f"GET /{REPO}/resolve/{head_of(hub)}/config.json"
    hub.faults.append(Fault(name, body=bytes(1 << 17)))
    refused(hub, cache, "expected the bytes of config.json from the Hub, got 'more'")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 20000]


def test_file_that_comes_compressed(hub: Hub, cache: Path) -> None:
    packed = gzip.compress(MODEL["model.safetensors"])
    name = f"GET /{REPO}/resolve/{head_of(hub)}/model.safetensors"
    hub.faults.append(Fault(name, body=packed, headers={"Content-Encoding": "gzip"}))
    assert files_below(fetch_model(REPO)[0]) == WANTED


def test_file_that_ends_early(hub: Hub, cache: Path) -> None:
    hub.faults.append(Fault(f"GET /{REPO}/resolve/{head_of(hub)}/config.json", truncate_at=5))
    refused(hub, cache, "file should be of size 23 but has size 5")


def test_file_of_a_petabyte(hub: Hub, cache: Path) -> None:
    hub.faults.append(other_size("model.safetensors", 1 << 50))
    with pytest.raises(
        HostError, match=r"expected 1,125,899,906,842,6\d\d free bytes at"
    ) as caught:
        fetch_model(REPO)
    assert caught.value.hint == "Make room, or name another folder: HF_HUB_CACHE=DIR"
    assert not hub.asked("/resolve/")
    assert not cache.exists()


@pytest.mark.parametrize("size", [-1, 2**53 + 1, None, 1.5, True])
def test_size_that_is_none(hub: Hub, cache: Path, size: Any) -> None:
    hub.faults.append(other_size("config.json", size))
    refused(hub, cache, f"expected one size of config.json from the Hub, got '{size}'")
    with pytest.raises(HubError, match=r"expected one size of config\.json from the Hub"):
        HubRemote(REPO).snapshot()
    assert not hub.asked("/resolve/")


def test_more_files_than_any_model_has(hub: Hub, cache: Path) -> None:
    def edit(document: Any, _is_last: bool) -> Any:
        document["siblings"] = [{"rfilename": f"{n}.json", "size": 1} for n in range(100_001)]
        return document

    hub.faults.append(Fault(ANY, edit=edit))
    refused(hub, cache, "expected at most 100,000 files from the Hub, got '100,001'")
    with pytest.raises(HubError, match="expected at most 100,000 files"):
        HubRemote(REPO).snapshot()


def test_listing_of_gigabytes(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_LONGEST_LISTING", 1 << 20)
    hub.faults.append(Fault(ANY, body=b" " * (1 << 21) + b"{}"))
    refused(hub, cache, "expected a listing of at most 1,048,576 bytes from the Hub, got 'more'")
    with pytest.raises(HubError, match="expected a listing of at most 1,048,576 bytes"):
        HubRemote(REPO).snapshot()


def test_listing_that_unpacks_to_gigabytes(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_LONGEST_LISTING", 1 << 20)
    packed = gzip.compress(bytes(1 << 25))
    hub.faults.append(Fault(ANY, body=packed, headers={"Content-Encoding": "gzip"}))
    refused(hub, cache, "expected a listing of at most 1,048,576 bytes from the Hub, got 'more'")


def test_page_and_refusal_of_gigabytes(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "_LONGEST_PAGE", 1 << 20)
    hub.faults[:] = [Fault(TREE, body=b"[" + b" " * (1 << 21) + b"]")]
    refused(hub, cache, "expected the bytes of a listing from the Hub, got 'more'")
    hub.faults[:] = [Fault(TREE, 403, body=b" " * (1 << 21))]
    refused(hub, cache, "expected the bytes of a refusal from the Hub, got 'more'")


def test_file_of_a_line_of_other_content_than_listed(hub: Hub, cache: Path) -> None:
    remote = HubRemote("org/line")
    made = remote.commit(LINE, parent=None, message="m")
    found = remote.snapshot(made)
    assert found is not None
    hub.faults.append(Fault("/resolve/", flip_at=77))
    with pytest.raises(HubError, match=r"tensors\.safetensors with the SHA-256 "):
        remote.read(found, "versions/1.0.0/tensors.safetensors", limit=1 << 20)


# Another commit.


@pytest.mark.parametrize("match", ["/config.json", "HEAD /", f"GET /{REPO}/resolve/"])
@pytest.mark.parametrize("commit", ["b" * 40, "../../../../evil"])
def test_wrong_commit_returned(hub: Hub, cache: Path, match: str, commit: str) -> None:
    hub.faults.append(other_commit(commit, match))
    says = f"expected commit {head_of(hub)}, the Hub answered with {commit}."
    refused(hub, cache, says)
    refused(hub, cache, says, head_of(hub))
    assert {path.name for path in cache.glob("models--*/snapshots/*")} <= {head_of(hub)}


def test_wrong_commit_in_a_listing(hub: Hub, cache: Path) -> None:
    other = hub.add(REPO, {"config.json": b"other"})
    hub.faults.append(Fault(ANY, edit=lambda document, _: document | {"sha": other}))
    first = hub.history(REPO)[1].sha
    refused(hub, cache, f"expected commit {first}, the Hub answered with {other}.", first)
    with pytest.raises(HubError, match="the Hub answered with"):
        HubRemote(REPO).snapshot(first)


def test_branch_that_moves_between_two_requests(hub: Hub, cache: Path) -> None:
    """Whenever it moves, all files are of one commit."""
    first = head_of(hub)
    second = hub.add(REPO, dict.fromkeys(WANTED, b"other"))
    for nth in range(1, 9):
        hub.repos[REPO].branches["main"] = first
        hub.faults[:] = [moved_ref(REPO, "main", second, "", nth=nth)]
        with client_at(hub.url, cache / str(nth), ALICE):
            folder, commit = fetch_model(REPO)
        assert commit == first
        assert files_below(folder) == WANTED


def test_branch_that_moves_while_a_line_is_read(hub: Hub, cache: Path) -> None:
    remote = HubRemote("org/line")
    remote.commit(LINE, parent=None, message="m")
    found = remote.snapshot()
    assert found is not None
    remote.commit({"line.json": b"other"}, parent=found.commit, message="m")
    assert remote.read(found, "line.json", limit=9) == b"{}"


@pytest.mark.parametrize("redirects", [False, True])
def test_wrong_commit_of_a_file_of_a_line(hub: Hub, cache: Path, *, redirects: bool) -> None:
    remote = HubRemote("org/line")
    made = remote.commit(LINE, parent=None, message="m")
    found = remote.snapshot(made)
    assert found is not None
    hub.redirects = redirects
    hub.faults.append(other_commit("b" * 40))
    with pytest.raises(HubError, match=f"expected commit {made}, the Hub answered with bbb"):
        remote.read(found, "versions/1.0.0/tensors.safetensors", limit=1 << 20)


# What was true once.


@pytest.mark.parametrize("status", [None, 500, 503])
@pytest.mark.parametrize("revision", [None, "main"])
def test_old_copy_while_the_hub_is_down(
    hub: Hub, cache: Path, revision: str | None, status: int | None
) -> None:
    """A copy in the cache is not the newest of a branch because nobody says otherwise."""
    folder, commit = fetch_model(REPO, revision)
    hub.add(REPO, {"config.json": b"newer"})
    hub.faults.append(Fault("", status, lost=status is None))
    says = f"expected the model {REPO} at {revision or 'its main revision'} on the Hub, got: "
    refused(hub, cache, says, revision)
    assert fetch_model(REPO, commit) == (folder, commit)


def test_old_copy_that_was_chosen(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline is what the user said; the commit is told, and nothing is asked."""
    folder, commit = fetch_model(REPO)
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_model(REPO) == fetch_model(REPO, commit) == (folder, commit)
    with pytest.raises(HubError) as caught:
        fetch_model("org/other", "v1")
    assert caught.value.message == (
        "expected all of the model org/other at v1 in the Hub's cache while HF_HUB_OFFLINE is "
        "set, found less."
    )
    assert caught.value.hint == "Get it: HF_HUB_OFFLINE=0 hf download org/other"
    assert hub.log == []
    monkeypatch.undo()  # before the hub's own change of the same is taken back


def test_half_a_copy_of_a_commit(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs fetched is completed, not taken for all."""
    commit = head_of(hub)
    hf_hub_download(REPO, "config.json", revision=commit)
    folder, _ = fetch_model(REPO, commit)
    assert files_below(folder) == WANTED
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="in the Hub's cache while HF_HUB_OFFLINE is set"):
        fetch_model(REPO, commit)
    monkeypatch.undo()  # before the hub's own change of the same is taken back


def test_copy_that_others_made_while_the_hub_is_down(hub: Hub, cache: Path) -> None:
    """They leave no list of it; whether it is whole is for who reads it."""
    commit = head_of(hub)
    for name in WANTED:
        hf_hub_download(REPO, name, revision=commit)
    hub.faults.append(Fault("", 503))
    folder, got = fetch_model(REPO, commit)
    assert (got, files_below(folder)) == (commit, WANTED)


def test_stale_answer_to_a_publisher(hub: Hub, cache: Path) -> None:
    """A replica that lags shows an old commit; what is made from it is refused."""
    remote = HubRemote("org/line")
    first = remote.commit(LINE, parent=None, message="m")
    hub.faults.append(stale(hub, "GET /api/models/org/line", times=1))
    second = remote.commit({"line.json": b"2"}, parent=first, message="m")
    seen = remote.snapshot()
    assert seen is not None
    assert seen.commit == first
    with pytest.raises(RemoteMovedError, match=f"got commit {second}; nothing was changed"):
        remote.commit({"line.json": b"3"}, parent=seen.commit, message="m")


def test_lost_response_to_a_publisher(hub: Hub, cache: Path) -> None:
    remote = HubRemote("org/line")
    hub.faults += [lost_response("/commit/"), lost_response("/tag/"), lost_response("/create")]
    made = remote.commit(LINE, parent=None, message="m")
    remote.tag("1.0.0", made)
    assert [each.title for each in hub.history("org/line")] == ["m", "initial commit"]
    assert hub.repos["org/line"].tags == {"1.0.0": made}


def test_tag_that_somebody_moved(hub: Hub, cache: Path) -> None:
    """A tag is a name on the Hub: who wants a commit names it."""
    first = head_of(hub)
    other = hub.add(REPO, {"config.json": b"other"})
    hub.repos[REPO].tags["v1"] = first
    assert fetch_model(REPO, "v1")[1] == first
    hub.repos[REPO].tags["v1"] = other
    assert fetch_model(REPO, "v1")[1] == other
    assert fetch_model(REPO, first)[1] == first


# Who may.


def test_gated_model(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].gated = "manual"
    monkeypatch.setenv("HF_TOKEN", BOB)
    error = refused(hub, cache, "403 Forbidden (Access to model org/model is restricted and you")
    assert error.hint == "Ask for access on the page of org/model, then log in: hf auth login"
    hub.repos[REPO].granted.add("bob")
    assert files_below(fetch_model(REPO)[0]) == WANTED


def test_private_model(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].is_private = True
    monkeypatch.setenv("HF_TOKEN", BOB)
    error = refused(hub, cache, "404 Not Found (Repository not found).")
    assert error.hint == "Check its name; if it is private, log in: hf auth login"
    monkeypatch.setenv("HF_TOKEN", ALICE)
    assert files_below(fetch_model(REPO)[0]) == WANTED


REFUSALS = [
    (401, None, "401 Unauthorized", "Log in as somebody who may read it: hf auth login"),
    (403, None, "403 Forbidden", "Log in as somebody who may read it: hf auth login"),
    (404, "RepoNotFound", "404 Not Found", "Check its name; if it is private, log in: hf auth log"),
    (404, "RevisionNotFound", "404 Not Found", "Name a branch, a tag or a commit that is there: "),
    (409, None, "409 Conflict", "Somebody else changes it just now. Run the same again."),
    (412, None, "412 Precondition Failed", "Check the network. Where there is one: hf download"),
    (429, None, "429 Too Many Requests", "Wait a few minutes, then run the same again."),
    (500, None, "500 Internal Server Error", "Check the network. Where there is one: hf downl"),
    (502, None, "502 Bad Gateway", "Check the network. Where there is one: hf download"),
    (503, None, "503 Service Unavailable", "Check the network. Where there is one: hf download"),
]


@pytest.mark.parametrize("where", [ANY, TREE, "HEAD /", f"GET /{REPO}/resolve/"])
@pytest.mark.parametrize(("status", "code", "said", "hint"), REFUSALS)
def test_refusal_at_any_step_of_a_download(
    hub: Hub, cache: Path, where: str, status: int, code: str | None, said: str, hint: str
) -> None:
    hub.faults.append(Fault(where, status, code, "The Hub's words"))
    error = refused(hub, cache, f"got: {said} (The Hub's words).")
    assert error.hint is not None
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(("status", "code", "said", "hint"), REFUSALS)
def test_refusal_to_a_reader_of_a_line(
    hub: Hub, cache: Path, status: int, code: str | None, said: str, hint: str
) -> None:
    hub.faults.append(Fault(ANY, status, code, "The Hub's words"))
    with pytest.raises(HubError) as caught:
        HubRemote(REPO).snapshot("1.0.0")
    assert f"got: {said} (The Hub's words)." in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_redirect_to_another_origin(hub: Hub, cache: Path) -> None:
    """It is followed, and not told the token."""
    hub.redirects, origin = True, hub.files_url
    hub.files_url = origin.replace("127.0.0.1", "localhost")  # ports are no hosts to client 1.x
    assert files_below(fetch_model(REPO)[0]) == WANTED
    remote = HubRemote(REPO)
    found = remote.snapshot()
    assert found is not None
    assert remote.read(found, "model.safetensors", limit=1 << 20) == WEIGHTS
    elsewhere = [asked for asked in hub.log if asked.origin == origin]
    assert {asked.token for asked in elsewhere} == {None}
    assert len(elsewhere) == 2
    assert {asked.token for asked in hub.log if asked.origin == hub.url} == {ALICE}


def test_listing_that_redirects_to_another_origin(hub: Hub, cache: Path) -> None:
    there = f"{hub.files_url}/api/models/{REPO}?blobs=true"
    hub.faults.append(Fault(ANY, 302, headers={"Location": there}, times=1))
    HubRemote(REPO).snapshot()
    assert {asked.token for asked in hub.log if asked.origin == hub.files_url} == {None}


def test_two_publishers_at_once(hub: Hub, cache: Path) -> None:
    first = HubRemote("org/line").commit(LINE, parent=None, message="m")

    def publish(who: int) -> str:
        files = {"line.json": b"%d" % who, f"versions/{who}/t.safetensors": b"%d" % who}
        try:
            return HubRemote("org/line").commit(files, parent=first, message=str(who))
        except RemoteMovedError as error:
            return error.message

    with ThreadPoolExecutor(8) as pool:
        results = set(pool.map(publish, range(8)))
    second = hub.history("org/line")[0].sha
    moved = f"hf://org/line: expected commit {first} to be the newest, got commit {second}; "
    assert results == {second, f"{moved}nothing was changed."}
    assert len(hub.history("org/line")) == 3


def test_two_downloads_at_once_of_which_one_is_attacked(hub: Hub, cache: Path) -> None:
    """Each is looked at by its own listing; the session is as it was after both."""
    hub.add("org/other", WANTED)
    hub.faults.append(hostile_etag("../../../../evil", f"/{REPO}/resolve/"))

    def fetch(repo_id: str) -> Any:
        try:
            return files_below(fetch_model(repo_id)[0])
        except HubError as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(fetch, [REPO, "org/other"] * 4))
    assert got[1::2] == [WANTED] * 4
    assert all("a hash as the ETag of" in said for said in got[::2])
    assert outside(cache) == set()
    assert [len(hooks) for hooks in get_session().event_hooks.values()] == [1, 0]


@pytest.mark.parametrize(
    "body", [b"[1]", b"{}", b"<html>", b'{"error": 1}', json.dumps([{"type": "file"}]).encode()]
)
@pytest.mark.parametrize("where", [ANY, TREE])
def test_listing_that_is_none(hub: Hub, cache: Path, body: bytes, where: str) -> None:
    hub.faults.append(Fault(where, body=body))
    with pytest.raises(HubError):
        fetch_model(REPO)
    assert outside(cache) == set()
    assert not hub.asked("/resolve/")
