"""A repository on the Hugging Face Hub as a remote, through the client as it is.

- Reading goes around the client's cache: its names of files are what the server calls them, and
  what it holds may be older than what is asked for. Bytes are read into memory, bounded.
- Writing is one ``create_commit`` with ``parent_commit``: the client's other ways to upload make
  several commits.
- The client neither ends nor repeats what it leaves to the caller (info, create, commit, tag): here
  each request has a time limit, and a Hub that is busy or does not answer is asked again. A commit
  whose answer was lost is not made twice: what is there already is no change, to the client.
"""

from __future__ import annotations

import hashlib
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from registry import __version__
from registry.errors import HubError, RemoteError, RemoteMovedError
from registry.remote._hub_errors import (
    LONGEST_PAUSE_S,
    asked_to_wait,
    asking,
    nonsense,
    status_of,
)
from registry.remote._hub_session import held_session
from registry.remote.contract import RemoteFile, Snapshot, version_path
from registry.remote.hub import HubFile, HubModel, is_commit, list_model, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from huggingface_hub import HfApi

Answer = TypeVar("Answer")

TRIES = 5
"""How often the Hub is asked while it is busy or does not answer."""
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_MOVED = 412
_ABSENT = 404
_OWN = frozenset({".gitattributes"})
"""What the Hub puts into a new repository itself."""


class HubRemote:
    """A model repository on the Hub that holds one line of artifacts; see ``contract.Remote``.

    Args:
        repo_id: ``namespace/name``.
        private: Whether the repository is private, if it is made now.
    """

    def __init__(self, repo_id: str, *, private: bool = False) -> None:
        self._repo_id = repo_id
        self._private = private

    @property
    def url(self) -> str:
        """``hf://namespace/name``."""
        return f"hf://{self._repo_id}"

    def snapshot(self, revision: str | None = None) -> Snapshot | None:
        """Return the files at a revision; ``None`` where there is no such repository.

        To somebody who is not logged in, the Hub does not say whether there is one: that is an
        error, as somebody else's private one would be taken for none.

        Raises:
            HubError: the Hub refuses, cannot be reached, has no such revision, or states nonsense.
        """
        try:
            found = _patiently(lambda: list_model(self._repo_id, revision))
        except HubError as error:
            if revision is None and _is_absent(error.__cause__):
                return None
            raise
        files = {name: RemoteFile(one.size, one.sha256) for name, one in found.files.items()}
        return Snapshot(found.commit, files)

    def read(self, snapshot: Snapshot, path: str, *, limit: int) -> bytes:
        """Return the bytes of a file, which have the SHA-256 that was listed if one was.

        Raises:
            KeyError: there is no such file in ``snapshot``.
            UnsafeFormatError: it is longer than ``limit``; not one byte of it was asked for.
            HubError: see ``snapshot``; or it is not what was listed.
        """
        stated = snapshot.files[path]
        one = HubModel(self._repo_id, snapshot.commit, {path: HubFile(stated.size, stated.sha256)})
        data = _patiently(lambda: read_file(one, path, limit=limit))
        got = hashlib.sha256(data).hexdigest()
        if stated.sha256 not in {None, got}:
            raise nonsense(self._repo_id, f"{path} with the SHA-256 {stated.sha256}", got)
        return data

    def commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Add or replace ``files`` in one commit and return it.

        Where all of ``files`` is there as it is, nothing is changed and the newest commit is
        returned, whatever its parent: so ends a commit that was made while its answer was lost.

        Args:
            files: Path to bytes; other files stay.
            parent: The commit this was made from; ``None`` where there was no repository.
            message: What was done, one line.

        Raises:
            RemoteMovedError: ``parent`` is no longer the newest commit; nothing was changed.
            HubError: see ``snapshot``.
        """
        made = self._create() if parent is None else parent
        return _patiently(lambda: self._commit(files, parent, made, message))

    def tag(self, name: str, commit: str) -> None:
        """Let ``name`` be a revision for ``commit``; one that is there already stays.

        A version is tagged where it came in, and ``commit`` may be a later one. What would hurt is
        a tag where the version is not as it is at ``commit``: readers would not get it.

        Raises:
            RemoteError: ``name`` is the tag of a commit that has not the files of this version.
            HubError: see ``snapshot``.
        """

        def tag() -> None:
            with self._asking(f"the tag {name}") as api:
                api.create_tag(self._repo_id, tag=name, revision=commit, exist_ok=False)

        try:
            _patiently(tag)
        except HubError as error:
            if status_of(error.__cause__) != 409:
                raise
        else:
            return
        tagged, wanted = self.snapshot(name), self.snapshot(commit)
        if _version_in(tagged, name) != _version_in(wanted, name):
            raise RemoteError(
                f"{self.url}: expected the tag {name} at commit {commit}, or where version {name} "
                f"is as it is there, got {'nothing' if tagged is None else tagged.commit}.",
                hint=f"Take it away, then run the same again: hf repos tag delete {self._repo_id} "
                f"{name}",
            )

    def _create(self) -> str:
        """Make the repository and return its first commit.

        Raises:
            RemoteMovedError: somebody else made one, with something in it.
            HubError: see ``snapshot``.
        """

        def create() -> None:
            with self._asking("a repository to write to") as api:
                api.create_repo(self._repo_id, private=self._private, exist_ok=True)

        _patiently(create)
        found = self.snapshot()
        if found is None:
            raise HubError(
                f"expected the repository {self._repo_id}, which was just made, on the Hub, got "
                "none.",
                hint="Run the same again.",
            )
        if found.files.keys() - _OWN:
            raise self._moved(None, found.commit)
        return found.commit

    def _commit(
        self, files: Mapping[str, bytes], asked: str | None, parent: str, message: str
    ) -> str:
        from huggingface_hub import CommitOperationAdd

        operations = [  # made anew each time: the client writes into them
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
            for path, data in sorted(files.items())
        ]
        try:
            with self._asking("a commit") as api:
                made = api.create_commit(
                    self._repo_id, operations, commit_message=message, parent_commit=parent
                )
        except HubError as error:
            if status_of(error.__cause__) != _MOVED:
                raise
            newest = self.snapshot()
            raise self._moved(asked, None if newest is None else newest.commit) from error
        if not isinstance(made.oid, str) or not is_commit(made.oid):
            raise nonsense(self._repo_id, "a 40-hex commit", made.oid)
        return made.oid

    def _moved(self, parent: str | None, newest: str | None) -> RemoteMovedError:
        return RemoteMovedError(
            f"{self.url}: expected {_shown(parent)} to be the newest, got {_shown(newest)}; "
            "nothing was changed.",
            hint="Look at what is there now, then run the same again.",
        )

    @contextmanager
    def _asking(self, what: str) -> Iterator[HfApi]:
        """Yield the client for one change."""
        from huggingface_hub import HfApi

        with asking(f"{what} in {self._repo_id}", self._repo_id, writing=True), held_session():
            yield HfApi(library_name="safelatch", library_version=__version__)


def _patiently(ask: Callable[[], Answer], turn: int = 1) -> Answer:
    """Return the answer, asking again while the Hub is busy or does not answer."""
    try:
        return ask()
    except HubError as error:
        pause = _pause(error.__cause__, turn)
        if pause is None or turn == TRIES:
            raise
    time.sleep(pause)
    return _patiently(ask, turn + 1)


def _pause(cause: BaseException | None, turn: int) -> float | None:
    """Return how long to wait before asking again, in seconds; ``None`` where it would not help."""
    status = status_of(cause)
    is_worth_it = _is_transport(cause) if status is None else status in _AGAIN
    if not is_worth_it:
        return None
    asked = asked_to_wait(cause)
    if asked is None:
        return min(2.0 ** (turn - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311
    return asked if asked <= LONGEST_PAUSE_S else None


def _is_transport(cause: BaseException | None) -> bool:
    """Return whether no answer came: the client's library of requests says so in its own words."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(cause, OfflineModeIsEnabled):
        return False
    library = type(get_session()).__module__.partition(".")[0]
    names = {kind.__module__.partition(".")[0] for kind in type(cause).__mro__}
    return library in names or isinstance(cause, ConnectionError | TimeoutError)


def _is_absent(cause: BaseException | None) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    return isinstance(cause, RepositoryNotFoundError) and status_of(cause) == _ABSENT


def _version_in(snapshot: Snapshot | None, version: str) -> dict[str, RemoteFile]:
    """Return the files of a version, which may be none.

    Not its signature: who signs it may change, and readers take the newest one.
    """
    if snapshot is None:
        return {}
    try:
        folder = version_path(version, "x").removesuffix("x")
    except ValueError:  # no version has this name
        return {}
    return {
        path: file
        for path, file in snapshot.files.items()
        if path.startswith(folder) and path != f"{folder}signature.json"
    }


def _shown(commit: str | None) -> str:
    return "no commit" if commit is None else f"commit {commit}"
