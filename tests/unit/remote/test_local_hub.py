"""The hub of ``support.hub`` is one to the real client; without that no test of ours says much."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download, list_models, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from support.hub import (
    ALICE,
    Fault,
    Hub,
    client_at,
    environment_at,
    extra_file,
    hostile_etag,
    lost_response,
    moved_ref,
    other_commit,
    other_size,
    renamed,
    scenario,
    serving,
    stale,
)
from support.hub.scenario import FILES, REPO, SMALL, adds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

DATA = b"0123456789" * 100
LIST = f"/api/models/{REPO}"
WEIGHTS = f"/{REPO}/resolve/main/w.safetensors"
SEEN = {
    "who": "alice",
    "repo": "org/line",
    "the same repo": True,
    "made twice": ["HfHubHTTPError", 409],
    "tagged twice": ["HfHubHTTPError", 409],
    "history": ["Publish v1", "initial commit"],
    "tag is the commit": True,
    "head is the commit": True,
    "files": [
        ["README.md", 106, False],
        ["v1/base.safetensors", 9_000_489, True],
        ["v1/empty.txt", 0, False],
        ["v1/manifest.json", 14, False],
        ["v1/tensors.safetensors", 1077, True],
    ],
    "tree": [
        ".gitattributes",
        "README.md",
        "v1",
        "v1/base.safetensors",
        "v1/empty.txt",
        "v1/manifest.json",
        "v1/tensors.safetensors",
    ],
    "folder": [
        "v1/base.safetensors", "v1/empty.txt", "v1/manifest.json", "v1/tensors.safetensors",
    ],
    "refs": [["main"], ["v1"]],
    "paths": ["v1/manifest.json", "v1"],
    "one file": True,
    "snapshot": True,
    "snapshot is the commit": True,
    "tensors": {"mask": [1000]},
    "is there": [True, False, True, False],
    "nothing new": True,
    "stale parent": ["HfHubHTTPError", 412],
    "stale parent, in words": "A commit has happened since. Please refresh and try again.",
    "lost": ["HfHubHTTPError", 504],
    "lost, then again": True,
    "lost, landed": 1,
    "there when deleted": False,
    "onto a tag": ["RevisionNotFoundError", 404],
    "branch": "{}",
    "not of main": False,
    "branches": ["main", "dev/x"],
    "adapters": ["org/line"],
    "adapters that alice sees": ["org/line", "org/secret"],
    "finetunes": ["alice/tuned-0", "alice/tuned-1", "alice/tuned-2"],
    "any": ["alice/tuned-0", "alice/tuned-1", "alice/tuned-2", "org/line"],
    "both tags": ["org/line"],
    "of an author": ["alice/tuned-0", "alice/tuned-1", "alice/tuned-2"],
    "base": {"relation": "adapter", "models": [{"id": "org/base"}]},
    "tags": [
        "safelatch",
        "safetensors",
        "safety",
        "base_model:org/base",
        "base_model:adapter:org/base",
        "region:us",
    ],
    "gated, but listed": "manual",
    "gated": ["GatedRepoError", 403],
    "gated, to nobody": ["GatedRepoError", 401],
    "gated, checked": ["GatedRepoError", 403],
    "gated, of alice": ["nothing was refused"],
    "private": ["RepositoryNotFoundError", 404],
    "private, to nobody": ["RepositoryNotFoundError", 401],
    "private, a file": ["RepositoryNotFoundError", 404],
    "private, of alice": True,
    "writing to another's": ["HfHubHTTPError", 403],
    "making another's": ["HfHubHTTPError", 403],
    "only reading": ["HfHubHTTPError", 403],
    "only reading, a repo": ["HfHubHTTPError", 403],
    "no token": ["RepositoryNotFoundError", 401],
    "no such token": ["HfHubHTTPError", 401],
    "no such revision": ["RevisionNotFoundError", 404],
    "no such file": ["RemoteEntryNotFoundError", 404],
    "tags in the end": [],
    "there in the end": [False, False],
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as opened:
        yield opened


@pytest.fixture
def naps(hub: Hub, tmp_path: Path) -> Iterator[list[float]]:
    with client_at(hub.url, tmp_path / "cache", ALICE) as opened:
        yield opened


@pytest.fixture
def api(hub: Hub, naps: list[float]) -> HfApi:
    return HfApi()


def wait_for_a_request(hub: Hub) -> None:
    while not hub.log:
        time.sleep(0.01)


def push(api: HfApi, files: dict[str, bytes], parent: str | None = None) -> str:
    made = api.create_commit(REPO, adds(files), commit_message="Push", parent_commit=parent)
    return str(made.oid)


@dataclass
class Answer:
    """What the hub answers to a request of our own."""

    status: int
    headers: Message
    body: bytes


def send(hub: Hub, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    headers |= {"Authorization": f"Bearer {ALICE}"}
    request = urllib.request.Request(hub.url + path, body, headers, method=method)  # noqa: S310
    try:
        answer = urllib.request.urlopen(request)  # noqa: S310 -- of this machine
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return Answer(answer.status, answer.headers, answer.read())


def test_the_installed_client_sees_what_the_hub_would_show(tmp_path: Path) -> None:
    with serving(page_size=2) as hub, client_at(hub.url, tmp_path / "cache"):
        assert scenario.run(hub.url, tmp_path) == SEEN


def test_a_client_of_another_version_sees_the_same(tmp_path: Path) -> None:
    interpreter = os.environ.get("SAFELATCH_TEST_HUB1")
    if interpreter is None:
        pytest.skip("SAFELATCH_TEST_HUB1 names no interpreter with another huggingface_hub")
    with serving(page_size=2) as hub:
        done = subprocess.run(
            [interpreter, scenario.__file__, hub.url], env=environment_at(hub.url, tmp_path),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == SEEN


def test_a_commit_of_all_kinds_of_files_is_ten_requests(api: HfApi, hub: Hub) -> None:
    api.create_repo(REPO)
    hub.log.clear()
    commit = push(api, FILES)
    lines = [each.line for each in hub.log]
    assert lines[0] == "POST /api/validate-yaml"
    assert lines[1] == f"POST {LIST}/preupload/main"
    assert lines[2] == f"POST /{REPO}.git/info/lfs/objects/batch"
    assert sorted(re.sub("[0-9a-f]{16}", "T", line) for line in lines[3:9]) == [
        "POST /lfs-upload/T",
        f"POST /{REPO}.git/info/lfs/objects/verify",
        f"POST /{REPO}.git/info/lfs/objects/verify",
        "PUT /lfs-upload/T",
        "PUT /lfs-upload/T/1",
        "PUT /lfs-upload/T/2",
    ]
    assert lines[9:] == [f"POST {LIST}/commit/main"]
    assert {each.token for each in hub.asked("PUT /lfs-upload/")} == {None}
    files = hub.repos[REPO].commits[commit].files
    assert {name: blob.data for name, blob in files.items() if name in FILES} == FILES


def test_what_the_hub_has_is_not_sent_again(api: HfApi, hub: Hub) -> None:
    api.create_repo(REPO)
    push(api, {"a.safetensors": SMALL})
    push(api, {"b.safetensors": SMALL})
    assert len(hub.asked("PUT /lfs-upload/")) == 1
    assert hub.repos[REPO].resolve("main").files["b.safetensors"].data == SMALL


def answer_to(api: HfApi, files: dict[str, bytes], parent: str) -> int:
    """Push, and return the status that it ends with."""
    try:
        push(api, files, parent)
    except HfHubHTTPError as error:
        return int(error.response.status_code)
    return 200


def test_of_thirty_two_clients_on_one_parent_one_commits(api: HfApi, hub: Hub) -> None:
    first = hub.add(REPO, {})
    start = threading.Barrier(32)

    def publish(number: int) -> int:
        start.wait()
        return answer_to(api, {f"{number}.json": b"{}"}, first)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(publish, range(32)))
    assert sorted(answers) == [200] + 31 * [412]
    last, _ = hub.history(REPO)
    assert list(last.files) == [f"{answers.index(200)}.json"]


def test_clients_that_try_again_land_once_each(api: HfApi, hub: Hub) -> None:
    hub.add(REPO, {})

    def publish(number: int) -> set[int]:
        answers = {0}
        while 200 not in answers:
            answers.add(answer_to(api, {f"{number}.json": b"{}"}, api.model_info(REPO).sha))
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = set().union(*pool.map(publish, range(8)))
    assert answers <= {0, 200, 412}
    assert [len(commit.files) for commit in hub.history(REPO)] == list(range(8, -1, -1))


def test_models_of_transformers_are_pushed_and_loaded(
    hub: Hub, naps: list[float], tmp_path: Path
) -> None:
    from support.tiny_chat_model import build_chat_model
    from support.tiny_tokenizer import build_tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = build_tokenizer(["one two three"])
    model = build_chat_model(tokenizer)
    model.push_to_hub("org/tiny", token=ALICE)
    tokenizer.push_to_hub("org/tiny", token=ALICE)
    head = hub.history("org/tiny")[0].sha
    for given in ({}, {"revision": head}):
        loaded = AutoModelForCausalLM.from_pretrained("org/tiny", **given)
        for name, tensor in model.state_dict().items():
            assert tensor.equal(loaded.state_dict()[name]), name
        assert AutoTokenizer.from_pretrained("org/tiny", **given)("two").input_ids == [7]
    assert head in {each.name for each in tmp_path.glob("cache/*/snapshots/*")}


def test_a_card_is_pushed_by_the_clients_own_class(hub: Hub, naps: list[float]) -> None:
    hub.create(REPO)
    ModelCard(scenario.CARD).push_to_hub(REPO)
    assert [model.id for model in list_models(filter="base_model:adapter:org/base")] == [REPO]


@pytest.mark.parametrize(
    ("files", "tag"),
    [
        ({"README.md": "---\nbase_model: o/b\n---\n"}, "base_model:finetune:o/b"),
        ({"README.md": "---\nbase_model: [o/a, o/b]\n---\n"}, "base_model:merge:o/b"),
        (
            {"README.md": "---\nbase_model: o/b\n---\n", "adapter_config.json": "{}"},
            "base_model:adapter:o/b",
        ),
        (
            {"README.md": "---\nbase_model: o/b\nbase_model_relation: quantized\n---\n"},
            "base_model:quantized:o/b",
        ),
        ({"README.md": "---\nlicense: mit\n---\n"}, "license:mit"),
    ],
)
def test_tags_are_what_the_card_says(api: HfApi, hub: Hub, files: dict[str, str], tag: str) -> None:
    hub.add(REPO, {name: text.encode() for name, text in files.items()})
    assert [model.id for model in api.list_models(filter=tag)] == [REPO]
    assert [model.id for model in api.list_models(filter=[tag, "other"])] == []


def test_a_card_that_is_no_yaml_is_refused_before_anything_is_sent(api: HfApi, hub: Hub) -> None:
    hub.create(REPO)
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        push(api, {"README.md": b"---\n{\n---\n"})
    assert len(hub.history(REPO)) == 1


def test_children_are_counted_and_parameters_too(api: HfApi, hub: Hub) -> None:
    hub.add("org/base", {"model.safetensors": SMALL})
    hub.add("bob/child", {"README.md": b"---\nbase_model: org/base\n---\n"})
    info = api.model_info("org/base", expand=["childrenModelCount", "safetensors"])
    assert info.children_model_count["finetune"] == 1
    assert (info.safetensors.total, info.safetensors.parameters) == (1000, {"U8": 1000})


# What goes wrong: each fault does to the real client what its name says.


@pytest.fixture
def line(hub: Hub) -> str:
    """One commit of a text and of weights."""
    return hub.add(REPO, {"a.json": b"{}", "w.safetensors": DATA})


def test_a_client_that_is_told_to_wait_does(api: HfApi, hub: Hub, naps: list[float]) -> None:
    hub.create(REPO)
    hub.faults.append(Fault("/preupload/", 429, retry_after=7, times=1))
    push(api, {"a": b"a"})
    assert naps == [8]
    assert [each.status for each in hub.asked("/preupload/")] == [429, 200]


def test_a_refusal_has_the_class_of_its_code(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(Fault(LIST, 403, "GatedRepo", message="Ask first"))
    with pytest.raises(HfHubHTTPError, match="Ask first") as caught:
        api.model_info(REPO)
    assert type(caught.value).__name__ == "GatedRepoError"


def test_only_the_nth_request_goes_wrong(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(Fault(f"GET {LIST}", 503, nth=2, times=1))
    assert api.model_info(REPO).sha == line
    with pytest.raises(HfHubHTTPError, match="503"):
        api.model_info(REPO)
    assert api.model_info(REPO).sha == line


def test_a_body_that_ends_early_is_asked_for_again(hub: Hub, naps: list[float], line: str) -> None:
    hub.faults.append(Fault("GET /org/line/resolve/", drop_at=300, times=1))
    assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == DATA
    assert [each.sent for each in hub.asked("GET /org/line/resolve/")] == [300, 1000]


def test_a_flipped_bit_arrives(hub: Hub, naps: list[float], line: str) -> None:
    hub.faults.append(Fault("/resolve/", flip_at=10))
    got = Path(hf_hub_download(REPO, "w.safetensors")).read_bytes()
    assert got == DATA[:10] + b"1" + DATA[11:]
    assert DATA[10:11] == b"0"


@pytest.mark.parametrize(
    ("part", "got"), [("8-11", b"8911"), ("10-10", b"1"), ("20-23", b"0123"), ("-4", b"6789")]
)
def test_a_flipped_bit_is_at_its_place_in_every_part(
    hub: Hub, line: str, part: str, got: bytes
) -> None:
    hub.faults.append(Fault("/resolve/", flip_at=10))
    answer = send(hub, "GET", WEIGHTS, Range=f"bytes={part}")
    assert (answer.status, answer.body) == (206, got)


def test_a_shorter_body_that_says_so_is_noticed(hub: Hub, naps: list[float], line: str) -> None:
    hub.faults.append(Fault("GET /org/line/resolve/", truncate_at=300))
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download(REPO, "w.safetensors")


def test_a_part_after_the_end_is_refused(hub: Hub, line: str) -> None:
    answer = send(hub, "GET", WEIGHTS, Range="bytes=1000-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1000")


def test_a_client_that_gives_up_on_a_hang_had_nothing_done(api: HfApi, hub: Hub) -> None:
    hub.faults.append(Fault("POST /api/repos/create", hang=30))
    with socket.create_connection(hub.url.removeprefix("http://").split(":")) as connection:
        connection.sendall(
            b"POST /api/repos/create HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer hf_alice\r\n"
            b'Content-Length: 13\r\n\r\n{"name": "x"}'
        )
    wait_for_a_request(hub)
    assert [each.status for each in hub.log] == [0]
    assert hub.repos == {}


def test_a_hang_is_longer_than_a_timeout(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(Fault(LIST, hang=30))
    with pytest.raises(Exception, match="timed out"):
        api.model_info(REPO, timeout=0.2)


def test_an_answer_that_is_lost_was_to_something_done(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(lost_response(f"POST {LIST}/tag/"))
    with pytest.raises(Exception, match="disconnected without sending a response"):
        api.create_tag(REPO, tag="v1")
    assert hub.repos[REPO].tags == {"v1": line}
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")


def test_a_lost_commit_is_found_by_the_same_call(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(lost_response(f"POST {LIST}/commit/", 504))
    with pytest.raises(HfHubHTTPError, match="504"):
        push(api, {"b.json": b"{}"}, line)
    assert push(api, {"b.json": b"{}"}, line) == hub.history(REPO)[0].sha
    assert len(hub.history(REPO)) == 2


@pytest.mark.parametrize("etag", ['"../../../evil"', "../../../evil"])
def test_a_hostile_etag_leads_the_client_out_of_its_cache(
    hub: Hub, naps: list[float], line: str, tmp_path: Path, etag: str
) -> None:
    """Which is why ours never lets it name files."""
    hub.faults.append(hostile_etag(etag))
    hf_hub_download(REPO, "w.safetensors")
    assert (tmp_path / "evil").read_bytes() == DATA


def test_an_empty_etag_makes_the_client_call_a_folder_a_file(
    hub: Hub, naps: list[float], line: str
) -> None:
    hub.faults.append(hostile_etag('""'))
    assert Path(hf_hub_download(REPO, "w.safetensors")).is_dir()
    assert hub.weight_bytes == 0


@pytest.mark.parametrize("name", ["ETag", "X-Repo-Commit"])
def test_without_a_header_that_it_needs_the_client_takes_no_file(
    hub: Hub, naps: list[float], line: str, name: str
) -> None:
    hub.faults.append(Fault("/resolve/", headers={name: None}))
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "a.json")


def test_the_commit_that_an_answer_names_is_believed(
    hub: Hub, naps: list[float], line: str
) -> None:
    hub.faults.append(other_commit("b" * 40))
    got = Path(hf_hub_download(REPO, "a.json", revision=line))
    assert got.parent.name == "b" * 40


def test_a_branch_moves_between_two_requests(hub: Hub, naps: list[float], line: str) -> None:
    other = hub.add(REPO, {"a.json": b"other"})
    hub.repos[REPO].branches["main"] = line
    hub.faults.append(moved_ref(REPO, "main", other, f"GET {LIST}/revision/main"))
    assert (Path(snapshot_download(REPO)) / "a.json").read_bytes() == b"{}"
    assert (Path(snapshot_download(REPO)) / "a.json").read_bytes() == b"other"


def test_a_replica_that_lags_answers_from_before(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(stale(hub, f"GET {LIST}", times=1))
    made = push(api, {"b.json": b"{}"})
    assert api.model_info(REPO).sha == line
    assert api.model_info(REPO).sha == made


def listed(api: HfApi) -> dict[str, int]:
    """Return the sizes of files, which both ways of asking agree about."""
    siblings = api.model_info(REPO, files_metadata=True).siblings
    found = {each.rfilename: each.size for each in siblings}
    tree = [(each.path, each.size) for each in api.list_repo_tree(REPO, recursive=True)]
    assert tree == list(found.items())
    return found


def test_a_listing_has_a_file_more(api: HfApi, hub: Hub, line: str) -> None:
    hub.page_size = 1
    hub.faults.append(extra_file("extra.safetensors", 9))
    assert listed(api) == {"a.json": 2, "w.safetensors": 1000, "extra.safetensors": 9}


def test_a_listing_has_another_size(api: HfApi, hub: Hub, line: str) -> None:
    hub.faults.append(other_size("w.safetensors", 1 << 50))
    assert listed(api) == {"a.json": 2, "w.safetensors": 1 << 50}


def test_a_listing_has_a_name_that_leads_out(
    api: HfApi, hub: Hub, line: str, tmp_path: Path
) -> None:
    hub.faults.append(renamed("a.json", "../../../../evil"))
    assert listed(api) == {"../../../../evil": 2, "w.safetensors": 1000}


def test_what_a_redirect_leads_to_is_not_told_the_token(
    hub: Hub, naps: list[float], line: str
) -> None:
    hub.redirects = True
    assert Path(hf_hub_download(REPO, "w.safetensors", token=ALICE)).read_bytes() == DATA
    (asked,) = [each for each in hub.log if each.origin == hub.files_url]
    assert (asked.method, asked.token, asked.sent) == ("GET", None, 1000)
    assert {each.token for each in hub.asked("HEAD ")} == {ALICE}


def test_a_part_of_a_redirected_file_is_sent(hub: Hub, line: str) -> None:
    hub.redirects = True
    answer = send(hub, "GET", WEIGHTS, Range="bytes=2-5")
    assert (answer.status, answer.body) == (206, b"2345")


# What the client would never send.


def test_an_upload_of_other_bytes_is_not_kept(hub: Hub) -> None:
    hub.create(REPO)
    batch = {"operation": "upload", "objects": [{"oid": "a" * 64, "size": 3}]}
    url = f"/{REPO}.git/info/lfs/objects/batch"
    answer = json.loads(send(hub, "POST", url, json.dumps(batch).encode()).body)
    href = answer["objects"][0]["actions"]["upload"]["href"]
    assert send(hub, "PUT", href.removeprefix(hub.url), b"abc").status == 400
    assert hub.repos[REPO].objects == {}


def test_half_an_upload_leaves_nothing(hub: Hub) -> None:
    hub.create(REPO)
    oid = hashlib.sha256(DATA).hexdigest()
    hub.uploads["ticket"] = (REPO, oid, len(DATA), {})
    with socket.create_connection(hub.url.removeprefix("http://").split(":")) as connection:
        connection.sendall(
            b"PUT /lfs-upload/ticket HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\n0123"
        )
    wait_for_a_request(hub)
    assert (hub.log[0].status, hub.log[0].received) == (0, 4)
    assert hub.repos[REPO].objects == {}


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("lfsFile", {"path": "w.bin", "oid": "a" * 64, "size": 3}, 400),
        ("file", {"path": "../x", "content": ""}, 400),
        ("file", {"path": "/x", "content": ""}, 400),
        ("deletedFile", {"path": "nowhere"}, 404),
        ("deletedFolder", {"path": "a.json"}, 404),
        ("other", {"path": "x"}, 400),
    ],
)
def test_a_commit_is_all_or_nothing(
    hub: Hub, line: str, key: str, value: dict[str, Any], status: int
) -> None:
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": "first", "content": ""}},
        {"key": key, "value": value},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert send(hub, "POST", f"{LIST}/commit/main", body).status == status
    assert [each.sha for each in hub.history(REPO)] == [line]
