"""``HubRemote`` with the real client, at the hub of ``support.hub``."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub import constants, get_session
from support.hub import (
    ALICE,
    BOB,
    READER,
    Fault,
    Hub,
    client_at,
    lost_response,
    other_commit,
    serving,
    stale,
)

from registry.errors import HubError, RemoteError, RemoteMovedError, UnsafeFormatError
from registry.remote import _hub_session
from registry.remote.contract import RemoteFile, Snapshot
from registry.remote.hub_remote import TRIES, HubRemote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "org/line"
LIST = f"/api/models/{REPO}"
COMMIT = f"POST {LIST}/commit/"
TAG = f"POST {LIST}/tag/"
TENSORS = bytes(range(256)) * 8
FILES = {
    "README.md": b"---\nlibrary_name: safelatch\n---\n",
    "line.json": b"{}",
    "versions/1.0.0/manifest.json": b'{"version": "1.0.0"}',
    "versions/1.0.0/tensors.safetensors": TENSORS,
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as opened:
        yield opened


@pytest.fixture
def naps(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long we would have slept; the client's own naps are not in it."""
    ours: list[float] = []
    monkeypatch.setattr("registry.remote.hub_remote.time", SimpleNamespace(sleep=ours.append))
    with client_at(hub.url, tmp_path / "cache", ALICE):
        yield ours


@pytest.fixture
def remote(naps: list[float]) -> HubRemote:
    return HubRemote(REPO)


@pytest.fixture
def first(remote: HubRemote, hub: Hub) -> str:
    """The commit of ``FILES``; nothing was asked yet."""
    made = remote.commit(FILES, parent=None, message="lock@1.0.0")
    hub.log.clear()
    return made


def newest(remote: HubRemote) -> Snapshot:
    found = remote.snapshot()
    assert found is not None
    return found


# What is there.


def test_there_is_nothing_where_there_is_no_repository(remote: HubRemote) -> None:
    assert remote.snapshot() is None
    assert remote.url == "hf://org/line"


def test_a_tag_of_no_repository_is_an_error(remote: HubRemote) -> None:
    with pytest.raises(HubError, match=r"org/line at 1\.0 on the Hub, got: 404 Not Found"):
        remote.snapshot("1.0")


def test_a_server_that_knows_no_such_address_is_not_a_hub_without_it(
    remote: HubRemote, hub: Hub
) -> None:
    hub.faults.append(Fault(LIST, 404))
    with pytest.raises(HubError, match="got: 404 Not Found"):
        remote.snapshot()


def test_a_snapshot_states_every_file(remote: HubRemote, hub: Hub, first: str) -> None:
    found = newest(remote)
    assert found.commit == first == hub.repos[REPO].branches["main"]
    assert found.files.keys() == {*FILES, ".gitattributes"}
    tensors = found.files["versions/1.0.0/tensors.safetensors"]
    assert tensors == RemoteFile(2048, hashlib.sha256(TENSORS).hexdigest())
    assert found.files["line.json"] == RemoteFile(2, None)


def test_a_tag_and_a_commit_name_what_was_there_then(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    remote.tag("1.0.0", first)
    second = remote.commit({"line.json": b"{2}"}, parent=first, message="line")
    for name in (first, "1.0.0"):
        found = remote.snapshot(name)
        assert found is not None
        assert (found.commit, remote.read(found, "line.json", limit=9)) == (first, b"{}")
    assert newest(remote).commit == second


def test_a_revision_that_is_not_there_is_an_error(remote: HubRemote, first: str) -> None:
    with pytest.raises(HubError) as caught:
        remote.snapshot("2.0.0")
    assert caught.value.message == (
        "expected the model org/line at 2.0.0 on the Hub, got: 404 Not Found (Invalid rev id: "
        "2.0.0)."
    )
    assert caught.value.hint == (
        "Name a branch, a tag or a commit that is there: --revision REVISION"
    )


def test_a_private_repository_is_read_by_its_owner_alone(
    hub: Hub, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = HubRemote(REPO, private=True).commit(FILES, parent=None, message="m")
    assert hub.repos[REPO].is_private
    assert newest(HubRemote(REPO)).commit == made
    monkeypatch.setenv("HF_TOKEN", BOB)
    assert HubRemote(REPO).snapshot() is None
    with pytest.raises(HubError, match="404"):
        HubRemote(REPO).snapshot(made)


def test_to_nobody_in_particular_a_private_repository_is_not_said_to_be_none(
    hub: Hub, first: str, remote: HubRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub answers the same where there is none; a push of what is there would start anew."""
    hub.repos[REPO].is_private = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with pytest.raises(HubError) as caught:
        remote.snapshot()
    assert "got: 401 Unauthorized (Invalid username or password)." in caught.value.message
    assert caught.value.hint == (
        "Check its name; if it is private, log in: hf auth login (and unset "
        "HF_HUB_DISABLE_IMPLICIT_TOKEN, which keeps the token back)"
    )
    assert {asked.token for asked in hub.log} == {None}


def test_a_gated_repository_is_listed_and_not_read(
    hub: Hub, first: str, remote: HubRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO].gated = "manual"
    monkeypatch.setenv("HF_TOKEN", BOB)
    found = newest(remote)
    with pytest.raises(HubError) as caught:
        remote.read(found, "line.json", limit=9)
    assert "403 Forbidden (Access to model org/line is restricted" in caught.value.message
    assert caught.value.hint == (
        "Ask for access on the page of org/line, then log in: hf auth login"
    )


# Its bytes.


@pytest.mark.parametrize("redirects", [False, True])
def test_files_are_read_as_they_were_committed(
    remote: HubRemote, hub: Hub, first: str, tmp_path: Path, *, redirects: bool
) -> None:
    hub.redirects = redirects
    found = newest(remote)
    assert {path: remote.read(found, path, limit=4096) for path in FILES} == FILES
    assert not (tmp_path / "cache").exists()
    assert {each.token for each in hub.log if each.origin == hub.files_url} == (
        {None} if redirects else set()
    )


def test_a_file_longer_than_the_limit_is_not_asked_for(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    found = newest(remote)
    with pytest.raises(UnsafeFormatError, match="expected at most 2,047 bytes, got 2,048"):
        remote.read(found, "versions/1.0.0/tensors.safetensors", limit=2047)
    assert not hub.asked("/resolve/")


def test_a_file_that_was_not_listed_is_not_asked_for(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    with pytest.raises(KeyError):
        remote.read(newest(remote), "../evil", limit=9)
    assert not hub.asked("/resolve/")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("/resolve/", flip_at=5), "with the SHA-256 "),
        (Fault("/resolve/", truncate_at=9), "expected 2,048 bytes of versions/1.0.0/tensors"),
        (Fault("/resolve/", body=TENSORS + b"x"), "expected 2,048 bytes of versions/1.0.0/ten"),
        (other_commit("b" * 40), f"the Hub answered with {'b' * 40}."),
    ],
)
def test_bytes_that_are_not_those_listed_are_refused(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], fault: Fault, says: str
) -> None:
    found = newest(remote)
    hub.faults.append(fault)
    with pytest.raises(RemoteError) as caught:
        remote.read(found, "versions/1.0.0/tensors.safetensors", limit=4096)
    assert says in caught.value.message
    assert (len(hub.asked("/resolve/")), naps) == (1, [])


# A change.


def test_the_first_commit_makes_the_repository(remote: HubRemote, hub: Hub) -> None:
    made = remote.commit(FILES, parent=None, message="lock@1.0.0")
    assert not hub.repos[REPO].is_private
    assert [each.title for each in hub.history(REPO)] == ["lock@1.0.0", "initial commit"]
    files = hub.repos[REPO].commits[made].files
    assert {path: blob.data for path, blob in files.items() if path in FILES} == FILES


def test_sixteen_files_are_one_commit(remote: HubRemote, hub: Hub, first: str) -> None:
    files = {f"versions/2.0.0/{n}.safetensors": bytes([n]) * (n + 1) for n in range(12)}
    files |= {f"versions/2.0.0/{n}.json": b"{}" for n in range(3)} | {"line.json": b"{2}"}
    made = remote.commit(files, parent=first, message="lock@2.0.0")
    assert len(hub.history(REPO)) == 3
    now = {path: blob.data for path, blob in hub.history(REPO)[0].files.items()}
    assert now == {**FILES, **files, ".gitattributes": now[".gitattributes"]}
    assert made == newest(remote).commit


def test_a_parent_that_is_not_the_newest_changes_nothing(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    second = remote.commit({"line.json": b"{2}"}, parent=first, message="m")
    with pytest.raises(RemoteMovedError) as caught:
        remote.commit({"line.json": b"{3}"}, parent=first, message="m")
    assert caught.value.message == (
        f"hf://org/line: expected commit {first} to be the newest, got commit {second}; nothing "
        "was changed."
    )
    assert caught.value.hint == "Look at what is there now, then run the same again."
    assert hub.history(REPO)[0].sha == second


def test_a_first_commit_where_somebody_made_one_changes_nothing(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    with pytest.raises(RemoteMovedError) as caught:
        remote.commit({"line.json": b"other"}, parent=None, message="m")
    assert caught.value.message == (
        f"hf://org/line: expected no commit to be the newest, got commit {first}; nothing was "
        "changed."
    )
    assert hub.history(REPO)[0].sha == first


def test_of_two_that_begin_at_once_one_does(remote: HubRemote, hub: Hub) -> None:
    """Both see the repository that one of them made, with nothing in it."""

    def begin(who: int) -> str:
        try:
            return HubRemote(REPO).commit({"line.json": b"%d" % who}, parent=None, message="m")
        except RemoteMovedError as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(begin, range(4)))
    done = [one for one in results if len(one) == 40]
    assert done == [hub.history(REPO)[0].sha]
    assert len(hub.history(REPO)) == 2
    assert sum("expected no commit to be the newest, got commit" in one for one in results) == 3


def test_a_new_repository_that_a_replica_does_not_know_is_not_written_to(
    remote: HubRemote, hub: Hub
) -> None:
    hub.faults.append(stale(hub, f"GET {LIST}"))
    with pytest.raises(HubError, match="org/line, which was just made, on the Hub, got none"):
        remote.commit(FILES, parent=None, message="m")
    assert [each.title for each in hub.history(REPO)] == ["initial commit"]


def test_what_is_there_as_it_is_makes_no_commit(remote: HubRemote, hub: Hub, first: str) -> None:
    assert remote.commit(FILES, parent=first, message="again") == first
    assert remote.commit(FILES, parent="0" * 40, message="again") == first
    assert len(hub.history(REPO)) == 2
    assert not hub.asked(COMMIT)


@pytest.mark.parametrize("status", [None, 504])
def test_a_commit_whose_answer_was_lost_is_made_once(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], status: int | None
) -> None:
    hub.faults.append(lost_response(COMMIT, status))
    files = {"line.json": b"{2}", "versions/2.0.0/tensors.safetensors": TENSORS * 2}
    made = remote.commit(files, parent=first, message="lock@2.0.0")
    assert made == hub.history(REPO)[0].sha
    assert len(hub.history(REPO)) == 3
    assert (len(hub.asked(COMMIT)), len(naps)) == (1, 1)


def test_a_lost_answer_to_making_the_repository_is_no_error(remote: HubRemote, hub: Hub) -> None:
    hub.faults.append(lost_response("POST /api/repos/create"))
    remote.commit(FILES, parent=None, message="m")
    assert len(hub.history(REPO)) == 2


def test_a_commit_that_is_none_is_refused(remote: HubRemote, hub: Hub, first: str) -> None:
    answer = f'{{"commitOid": "main", "commitUrl": "{hub.url}/{REPO}/commit/main"}}'
    hub.faults.append(Fault(COMMIT, body=answer.encode()))
    with pytest.raises(HubError, match="expected a 40-hex commit from the Hub, got 'main'"):
        remote.commit({"line.json": b"{2}"}, parent=first, message="m")


# Tags.


def test_a_tag_is_there_once_and_again(remote: HubRemote, hub: Hub, first: str) -> None:
    remote.tag("1.0.0", first)
    remote.tag("1.0.0", first)
    assert hub.repos[REPO].tags == {"1.0.0": first}


def test_a_tag_whose_answer_was_lost_is_there(remote: HubRemote, hub: Hub, first: str) -> None:
    hub.faults.append(lost_response(TAG))
    remote.tag("1.0.0", first)
    assert hub.repos[REPO].tags == {"1.0.0": first}


def test_a_tag_of_an_earlier_commit_with_the_same_version_stays(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    remote.tag("1.0.0", first)
    second = remote.commit({"line.json": b"{2}"}, parent=first, message="line")
    remote.tag("1.0.0", second)
    remote.tag("any", first)
    remote.tag("any", second)
    assert hub.repos[REPO].tags == {"1.0.0": first, "any": first}


def test_a_tag_where_the_version_is_not_is_an_error(
    remote: HubRemote, hub: Hub, first: str
) -> None:
    hub.repos[REPO].tags["1.0.0"] = other = hub.history(REPO)[1].sha
    with pytest.raises(RemoteError) as caught:
        remote.tag("1.0.0", first)
    assert caught.value.message == (
        f"hf://org/line: expected the tag 1.0.0 at commit {first}, or where version 1.0.0 is as "
        f"it is there, got {other}."
    )
    assert caught.value.hint == (
        "Take it away, then run the same again: hf repos tag delete org/line 1.0.0"
    )
    assert hub.repos[REPO].tags == {"1.0.0": other}


# A Hub that is busy, down or somewhere else.


def test_a_busy_hub_is_asked_again_when_it_says(
    remote: HubRemote, hub: Hub, first: str, naps: list[float]
) -> None:
    hub.faults.append(Fault(f"GET {LIST}", 429, retry_after=7, times=1))
    assert newest(remote).commit == first
    assert naps == [7]


@pytest.mark.parametrize("header", [{"Retry-After": "301"}, {"RateLimit": '"api";r=0;t=301'}])
def test_a_hub_that_wants_minutes_is_left_alone(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], header: dict[str, str | None]
) -> None:
    hub.faults.append(Fault(f"GET {LIST}", 429, message="Slow down", headers=header))
    with pytest.raises(HubError) as caught:
        remote.snapshot()
    assert "got: 429 Too Many Requests (Slow down)." in caught.value.message
    assert caught.value.hint == "Wait 301 seconds, then run the same again."
    assert (len(hub.log), naps) == (1, [])


@pytest.mark.parametrize("stated", ["²", "-1", "soon", "9" * 40])
def test_a_pause_that_is_no_number_is_ours_to_choose(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], stated: str
) -> None:
    headers: dict[str, str | None] = {"Retry-After": stated.encode().decode("latin-1")}
    hub.faults.append(Fault(f"GET {LIST}", 429, headers=headers, times=1))
    assert newest(remote).commit == first
    assert len(naps) == 1
    assert 0.5 <= naps[0] <= 1


@pytest.mark.parametrize("match", [f"GET {LIST}", "/resolve/"])
@pytest.mark.parametrize(
    "fault", [{"status": 503, "times": 2}, {"lost": True, "times": 2}, {"drop_at": 1, "times": 2}]
)
def test_a_reading_that_fails_twice_is_done_again(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], match: str, fault: dict[str, Any]
) -> None:
    hub.faults.append(Fault(match, **fault))
    assert remote.read(newest(remote), "line.json", limit=9) == b"{}"
    assert len(naps) == 2
    assert naps[0] <= 1 <= naps[1] <= 2


@pytest.mark.parametrize("match", ["POST /api/repos/create", f"GET {LIST}", COMMIT, TAG])
def test_a_change_that_fails_twice_is_done_once(
    remote: HubRemote, hub: Hub, naps: list[float], match: str
) -> None:
    hub.faults.append(Fault(match, 503, times=2))
    made = remote.commit(FILES, parent=None, message="m")
    remote.tag("1.0.0", made)
    assert [each.title for each in hub.history(REPO)] == ["m", "initial commit"]
    assert hub.repos[REPO].tags == {"1.0.0": made}
    assert len(naps) == 2


def test_a_hub_that_stays_down_is_left_after_five_times(
    remote: HubRemote, hub: Hub, first: str, naps: list[float]
) -> None:
    hub.faults.append(Fault(COMMIT, 503, message="Maintenance"))
    with pytest.raises(HubError) as caught:
        remote.commit({"line.json": b"{2}"}, parent=first, message="m")
    assert caught.value.message == (
        "expected a commit in org/line on the Hub, got: 503 Service Unavailable (Maintenance)."
    )
    assert caught.value.hint == (
        "Check the network, then run the same again: what came through is not done twice."
    )
    assert len(hub.asked(COMMIT)) == TRIES == len(naps) + 1
    assert hub.history(REPO)[0].sha == first


@pytest.mark.parametrize("match", ["POST /api/repos/create", f"{LIST}/preupload", COMMIT, TAG])
def test_a_request_without_an_answer_ends(
    remote: HubRemote, hub: Hub, naps: list[float], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself would wait for ever."""
    monkeypatch.setattr(_hub_session, "LONGEST_SILENCE_S", 0.2)
    hub.faults.append(Fault(match, hang=30, times=1))
    made = remote.commit(FILES, parent=None, message="m")
    remote.tag("1.0.0", made)
    assert [each.title for each in hub.history(REPO)] == ["m", "initial commit"]


def test_an_upload_that_is_not_taken_ends(
    remote: HubRemote, hub: Hub, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to an address of its own, with no header of ours."""
    monkeypatch.setattr(_hub_session, "LONGEST_SILENCE_S", 0.2)
    hub.faults.append(Fault("PUT /lfs-upload/", hang=30, times=1))
    remote.commit({"versions/2.0.0/t.safetensors": b"new"}, parent=first, message="m")
    assert len(hub.history(REPO)) == 3


def test_the_session_of_the_client_is_left_as_it_was(
    remote: HubRemote, first: str, hub: Hub
) -> None:
    client: Any = huggingface_hub.utils._http
    assert client._GLOBAL_CLIENT_FACTORY is client.default_client_factory
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: remote.tag(f"t{n}", first), range(16)))
    assert len(hub.repos[REPO].tags) == 16
    assert client._GLOBAL_CLIENT_FACTORY is client.default_client_factory
    assert {key: len(hooks) for key, hooks in get_session().event_hooks.items()} == {
        "request": 1, "response": 0,
    }  # fmt: skip
    assert get_session().timeout.read is None


@pytest.mark.parametrize(
    ("status", "code", "said", "hint"),
    [
        (400, None, "400 Bad Request (Sorry)", "Check the network, then run the same again"),
        (401, None, "401 Unauthorized (Sorry)", "Log in as somebody who may write to it"),
        (403, None, "403 Forbidden (Sorry)", "Log in as somebody who may write to it, with a"),
        (404, "RepoNotFound", "404 Not Found (Sorry)", "Check its name; if it is private"),
        (403, "GatedRepo", "403 Forbidden (Sorry)", "Ask for access on the page of org/line"),
        (409, None, "409 Conflict (Sorry)", "Somebody else changes it just now. Run the same"),
        (429, None, "429 Too Many Requests (Sorry)", "Wait a few minutes, then run the same"),
        (500, None, "500 Internal Server Error (Sorry)", "Check the network, then run the"),
        (599, None, "599 (Sorry)", "Check the network, then run the same again"),
    ],
)
def test_a_refusal_of_a_change_says_what_to_do(
    remote: HubRemote, hub: Hub, first: str, status: int, code: str | None, said: str, hint: str
) -> None:
    hub.faults.append(Fault(COMMIT, status, code, "Sorry"))
    with pytest.raises(HubError) as caught:
        remote.commit({"line.json": b"{2}"}, parent=first, message="m")
    assert caught.value.message == f"expected a commit in org/line on the Hub, got: {said}."
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)
    assert not isinstance(caught.value, RemoteMovedError)
    assert hub.history(REPO)[0].sha == first


def test_a_refusal_is_said_in_one_printable_line(remote: HubRemote, hub: Hub, first: str) -> None:
    hub.faults.append(Fault(COMMIT, 409, body=b'{"error": "\\u001b[2J\\u202e\\nno"}'))
    with pytest.raises(HubError) as caught:
        remote.commit({"line.json": b"{2}"}, parent=first, message="m")
    assert "409 Conflict (\\x1b[2J\\u202e)." in caught.value.message


@pytest.mark.parametrize("token", [BOB, READER])
def test_somebody_who_may_not_write_is_told_so(
    remote: HubRemote, hub: Hub, first: str, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match="403 Forbidden") as caught:
        remote.commit({"line.json": b"{2}"}, parent=first, message="m")
    assert caught.value.hint == (
        "Log in as somebody who may write to it, with a token that may: hf auth login"
    )
    with pytest.raises(HubError, match="403 Forbidden"):
        HubRemote("org/other").commit(FILES, parent=None, message="m")
    assert hub.repos.keys() == {REPO}
    assert {asked.token for asked in hub.log} == {token}


def test_without_a_token_nothing_is_made(hub: Hub, tmp_path: Path) -> None:
    with client_at(hub.url, tmp_path / "cache"), pytest.raises(HubError) as caught:
        HubRemote(REPO).commit(FILES, parent=None, message="m")
    assert "got: 401 Unauthorized" in caught.value.message
    assert hub.repos == {}


def test_a_token_that_is_nobodys_is_refused(
    remote: HubRemote, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match=r"401 Unauthorized \(Invalid credentials in Auth") as caught:
        remote.snapshot()
    assert caught.value.hint == "Log in as somebody who may read it: hf auth login"


def test_offline_nothing_is_asked(
    remote: HubRemote, hub: Hub, first: str, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Snapshot(first, {"line.json": RemoteFile(2)})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ask in (
        remote.snapshot,
        lambda: remote.read(found, "line.json", limit=9),
        lambda: remote.commit({"line.json": b"{2}"}, parent=first, message="m"),
        lambda: remote.commit(FILES, parent=None, message="m"),
        lambda: remote.tag("1.0.0", first),
    ):
        with pytest.raises(HubError, match=r"on the Hub, got: offline mode\.\n") as caught:
            ask()
        assert caught.value.hint == "Leave the offline mode: unset HF_HUB_OFFLINE"
    assert (hub.log, naps) == ([], [])
    monkeypatch.undo()  # before the hub's own change of the same is taken back


def test_another_endpoint_is_asked_instead(
    hub: Hub, first: str, remote: HubRemote, tmp_path: Path
) -> None:
    with serving() as mirror, client_at(mirror.url, tmp_path / "cache", ALICE):
        assert remote.snapshot() is None
        assert len(mirror.log) == 1
    assert hub.log == []


def test_a_hub_that_is_not_there_is_asked_five_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("registry.remote.hub_remote.time", SimpleNamespace(sleep=naps.append))
    with serving() as hub:
        pass
    with client_at(hub.url, tmp_path / "cache", ALICE), pytest.raises(HubError) as caught:
        HubRemote(REPO).snapshot()
    assert "ConnectError" in caught.value.message
    assert len(naps) == TRIES - 1
