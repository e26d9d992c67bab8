from __future__ import annotations

import errno
import hashlib
import json
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from support.hub import Fault, Hub, client_at, serving
from support.tiny_models import llama_config, save_sharded, write_checkpoint

from registry.errors import HubError, UnsafeFormatError
from registry.remote import hub as hub_module
from registry.remote import hub_download
from registry.remote._hub_session import held_session
from registry.remote.hub import HubFile, HubModel, list_model, read_file, read_headers
from registry.remote.hub_download import fetch_model
from registry.tensorfile import header_length, parse_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "org/model"
ONE = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache"):
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", llama_config())


def test_the_clients_own_got_is_not_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_given: Any) -> None:
        raise OSError("Got: ConnectError: no route\nAn error happened")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(HubError, match=r"on the Hub, got: ConnectError: no route\.\n"):
        fetch_model("org/model")


def test_a_model_is_downloaded_at_its_commit(hub: Hub, folder: Path) -> None:
    commit = hub.add(REPO, folder)
    local, got = fetch_model(REPO)
    assert got == commit
    assert (local / ONE).read_bytes() == (folder / ONE).read_bytes()


def test_a_cache_that_cannot_be_written_to_is_said_so(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.add(REPO, folder)
    (tmp_path / "hub-cache").write_bytes(b"")
    with pytest.raises(HubError, match=r"\[Errno \d+\] .*hub-cache") as caught:
        fetch_model(REPO)
    assert caught.value.hint == (
        "See to this folder, or name another one for the Hub's cache: HF_HUB_CACHE=DIR"
    )


def test_what_the_client_asks_for_xet_is_no_listing(hub: Hub) -> None:
    """Its files come another way; Python asks only for the address and the token of that."""
    model = HubModel(REPO, "a" * 40, {})
    hub.faults.append(Fault("xet-read-token", body=b'{"casUrl": "", "accessToken": ""}'))
    path = f"/api/models/{REPO}/xet-read-token/{model.commit}"
    with held_session(hub_download._Listed(model, {}).look) as headers:
        answer = huggingface_hub.get_session().get(hub.url + path, headers=headers)
    assert answer.json() == {"casUrl": "", "accessToken": ""}


def test_a_listing_states_the_commit_and_every_file(hub: Hub, folder: Path) -> None:
    commit = hub.add(REPO, folder)
    weights, config = ((folder / name).read_bytes() for name in (ONE, "config.json"))
    listed = list_model(REPO)
    assert (listed.repo_id, listed.commit) == (REPO, commit)
    assert listed.files == {
        ONE: HubFile(len(weights), hashlib.sha256(weights).hexdigest()),
        "config.json": HubFile(len(config), None),
    }
    assert hub.weight_bytes == 0


def test_a_branch_with_a_slash_is_found(hub: Hub, folder: Path) -> None:
    commit = hub.add(REPO, folder, branch="dev/x")
    assert list_model(REPO, "dev/x").commit == commit


def test_the_headers_are_read_and_no_byte_of_a_tensor(hub: Hub, tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "sharded", llama_config())
    hub.add(REPO, folder)
    listed = list_model(REPO)
    shards = [name for name in listed.files if name.endswith(".safetensors")]
    assert len(shards) == 3
    headers = read_headers(listed, shards)
    for name in shards:
        data = (folder / name).read_bytes()
        given: Any = {"file_size": len(data), "what": name}
        length = header_length(data[:8], limit=1 << 20, **given)
        assert headers[name] == parse_header(data[8 : 8 + length], **given)
        ranges = {asked.range for asked in hub.asked(name)}
        assert ranges == {"bytes=0-7", f"bytes=8-{7 + length}"}
    assert hub.weight_bytes == sum(header.data_start for header in headers.values())


def test_a_server_without_ranges_is_left_after_the_header(hub: Hub, folder: Path) -> None:
    hub.add(REPO, folder)
    hub.faults.append(Fault(ONE, no_range=True))
    header = read_headers(list_model(REPO), [ONE])[ONE]
    data = (folder / ONE).read_bytes()
    assert len(header.entries) == 20
    assert header == parse_header(data[8 : header.data_start], file_size=len(data), what=ONE)


def test_a_text_is_read_and_kept_nowhere(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    config = read_file(list_model(REPO), "config.json", limit=1 << 20)
    assert config == (folder / "config.json").read_bytes()
    assert not (tmp_path / "hub-cache").exists()


def test_a_text_longer_than_the_limit_is_refused_unasked(hub: Hub, folder: Path) -> None:
    hub.add(REPO, folder)
    with pytest.raises(UnsafeFormatError, match=r"config.json: expected at most 9 bytes, got"):
        read_file(list_model(REPO), "config.json", limit=9)
    assert not hub.asked("/resolve/")


def test_of_a_longer_text_the_beginning_is_asked_for(hub: Hub, folder: Path) -> None:
    hub.add(REPO, folder)
    text = (folder / "config.json").read_bytes()
    assert read_file(list_model(REPO), "config.json", limit=9, only_first=True) == text[:9]
    (asked,) = hub.asked("/resolve/")
    assert (asked.range, asked.sent) == ("bytes=0-8", 9)


@pytest.mark.parametrize(
    ("fault", "says", "hint"),
    [
        (Fault("/api/models", 404, "RepoNotFound"), "404 Not Found", "Check its name; if it is"),
        (Fault("/api/models", 404, "RevisionNotFound"), "404 Not Found", "Name a branch, a tag or"),
        (Fault("/api/models", 401), "401 Unauthorized", "Log in as somebody who may read it: hf"),
        (
            Fault("/api/models", 401, "GatedRepo"),
            "401 Unauthorized",
            "Ask for access on the page of",
        ),
        (Fault("/api/models", 503), "503 Service Unavailable", "Check the network. Where there"),
        (
            Fault("/api/models", drop_at=-5),
            "RemoteProtocolError: peer closed",
            "Check the network.",
        ),
        (Fault("/api/models", body=b"<html>"), "JSONDecodeError", "Check the network."),
        (Fault("/api/models", body=b"[1]"), "TypeError", "Check the network."),
    ],
)
def test_a_hub_that_says_no_is_an_error_with_a_way_out(
    hub: Hub, folder: Path, fault: Fault, says: str, hint: str
) -> None:
    hub.add(REPO, folder)
    hub.faults.append(fault)
    with pytest.raises(HubError) as caught:
        list_model(REPO)
    start = "expected the model org/model at its main revision on the Hub, got: "
    assert caught.value.message.startswith(start)
    assert says in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_a_hub_that_is_down_is_out_of_reach(folder: Path, tmp_path: Path) -> None:
    with serving() as hub:
        hub.add(REPO, folder)
    with client_at(hub.url, tmp_path / "cache"), pytest.raises(HubError) as caught:
        list_model(REPO)
    assert "Connection refused" in caught.value.message or "ConnectError" in caught.value.message
    assert caught.value.hint == (
        "Check the network. Where there is one: hf download org/model --local-dir DIR, "
        "then name DIR."
    )


def test_a_missing_repository_of_the_real_routes_is_not_found(hub: Hub) -> None:
    with pytest.raises(HubError, match="Check its name; if it is private, log in"):
        list_model("org/other")


def _stated(sha: Any = "a" * 40, **sibling: Any) -> bytes:
    siblings = [{"rfilename": "x.safetensors", "size": 9, **sibling}]
    return json.dumps({"id": REPO, "sha": sha, "siblings": siblings}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (_stated(sha="main"), "expected a 40-hex commit from the Hub, got 'main'."),
        (_stated(sha=None), "expected a 40-hex commit from the Hub, got 'None'."),
        (_stated(size=-1), "expected one size of x.safetensors from the Hub, got '-1'."),
        (_stated(size=None), "expected one size of x.safetensors from the Hub, got 'None'."),
        (_stated(rfilename=3), "expected each file once from the Hub, got '3'."),
        (
            _stated(lfs={"sha256": "x" * 64, "size": 9, "pointerSize": 1}),
            f"expected the SHA-256 of x.safetensors from the Hub, got '{'x' * 64}'.",
        ),
        (
            _stated(lfs={"sha256": "a" * 64, "size": 8, "pointerSize": 1}),
            "expected one size of x.safetensors from the Hub, got '9'.",
        ),
    ],
)
def test_a_hub_that_states_nonsense_is_refused(hub: Hub, body: bytes, says: str) -> None:
    hub.faults.append(Fault("/api/models", body=body))
    with pytest.raises(HubError) as caught:
        list_model(REPO)
    assert caught.value.message == f"org/model: {says}"


def test_a_file_listed_twice_is_refused(hub: Hub) -> None:
    siblings = [{"rfilename": "x", "size": 1}, {"rfilename": "x", "size": 2}]
    body = json.dumps({"id": REPO, "sha": "a" * 40, "siblings": siblings}).encode()
    hub.faults.append(Fault("/api/models", body=body))
    with pytest.raises(HubError, match="expected each file once from the Hub, got 'x'"):
        list_model(REPO)


def test_another_commit_than_the_one_asked_for_is_refused(hub: Hub) -> None:
    hub.faults.append(Fault("/api/models", body=_stated(sha="a" * 40)))
    with pytest.raises(HubError, match=f"expected commit {'b' * 40}, the Hub answered with a"):
        list_model(REPO, "b" * 40)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(ONE, drop_at=-3), "RemoteProtocolError"),
        (Fault(ONE, 404, "EntryNotFound"), "404 Not Found"),
        (Fault(ONE, 416), "416"),
        (Fault(ONE, headers={"Content-Range": "bytes 8-15/999"}), "expected bytes 0-7/"),
        (Fault(ONE, headers={"Content-Length": "4"}), "expected 8 bytes of model.safetensors"),
        (Fault(ONE, body=b"1234"), "expected 8 bytes of model.safetensors from the Hub, got '4'"),
    ],
)
def test_a_part_that_is_not_the_part_asked_for_is_refused(
    hub: Hub, folder: Path, fault: Fault, says: str
) -> None:
    hub.add(REPO, folder)
    listed = list_model(REPO)
    hub.faults.append(fault)
    with pytest.raises(HubError, match=says):
        read_headers(listed, [ONE])


def test_a_wrong_etag_leads_nowhere(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    hub.faults.append(Fault("/resolve/", headers={"ETag": '"../../../../../evil"'}))
    listed = list_model(REPO)
    read_headers(listed, [ONE])
    read_file(listed, "config.json", limit=1 << 20)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ((1 << 62).to_bytes(8, "little"), "expected a header of at most 16,777,216 bytes"),
        ((1 << 20).to_bytes(8, "little"), "expected a header of 1,048,576 bytes, the file has"),
        ((4).to_bytes(8, "little") + b"[[[[", "not strict JSON"),
        (b"abc", "expected a safetensors file, got 3 bytes"),
        (b"", "expected a safetensors file, got 0 bytes"),
    ],
)
def test_a_hostile_header_is_refused_by_the_rules_of_files(
    hub: Hub, folder: Path, prefix: bytes, says: str
) -> None:
    (folder / ONE).write_bytes(prefix)
    hub.add(REPO, folder)
    with pytest.raises(UnsafeFormatError, match=says):
        read_headers(list_model(REPO), [ONE])
    assert hub.weight_bytes <= 12


def test_a_header_with_a_name_twice_is_refused(hub: Hub, folder: Path) -> None:
    """The client's own reader takes the last one."""
    one = b'"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    header = b"{" + one + b"," + one + b"}"
    (folder / ONE).write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    hub.add(REPO, folder)
    assert huggingface_hub.HfApi().parse_safetensors_file_metadata(REPO, ONE).tensors.keys() == {
        "x"
    }
    with pytest.raises(UnsafeFormatError, match="member 'x' appears twice"):
        read_headers(list_model(REPO), [ONE])


def test_headers_too_long_together_are_refused_unread(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, save_sharded(tmp_path / "sharded", llama_config()))
    listed = list_model(REPO)
    monkeypatch.setattr(hub_module, "_MOST_HEADERS", 1000)
    shards = [name for name in listed.files if name.endswith(".safetensors")]
    with pytest.raises(UnsafeFormatError, match="headers of at most 1,000 bytes together, got"):
        read_headers(listed, shards)
    assert hub.weight_bytes == 24


def test_a_network_error_of_the_system_is_said_in_its_words(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(HubError, match=r"got: \[Errno \d+\] Network is unreachable\.\nCheck"):
        list_model(REPO)
