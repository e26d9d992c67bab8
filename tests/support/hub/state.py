"""What a Hugging Face Hub knows: users, repositories, their commits, what was asked of it.

No socket here. A request is answered under the lock of the hub, which those of its methods take
too that a test calls from its own thread.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from support.hub.faults import Fault

LFS_SUFFIXES = (".safetensors", ".bin", ".zip", ".pt", ".gguf")
ATTRIBUTES = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LFS_SUFFIXES)
ALICE, BOB = "hf_alice", "hf_bob"
"""Tokens that may write: of ``alice``, who is in the organisation ``org``, and of ``bob``."""
READER = "hf_alice_read"
"""A token of ``alice`` that may only read."""
_DAWN = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Blob:
    """The content of one file, and whether git or LFS holds it."""

    data: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """What git calls it: for a file in LFS, the name of its pointer."""
        data = self.data
        if self.is_lfs:
            data = (
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{self.sha256}\nsize {len(data)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 -- as git

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass(frozen=True)
class User:
    """Who a token stands for."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] in {self.name, *self.orgs}


@dataclass
class Repo:
    """A model repository; ``downloads`` is the path of every file that was sent, in order."""

    id: str
    is_private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)

    def resolve(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag or 40 hex digits name."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def is_lfs(self, path: str, size: int, threshold: int) -> bool:
        """Tell whether a file goes to LFS: by ``.gitattributes``, or being long."""
        head = self.resolve("main")
        stated = head.files.get(".gitattributes") if head else None
        rules = stated.data.decode() if stated else ATTRIBUTES
        patterns = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        name = path.rpartition("/")[2]
        return size > threshold or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Asked:
    """One request, and what it was answered with.

    Attributes:
        path: Without quotes and without the query.
        status: 0 where the connection was closed without an answer.
        sent: Bytes of the body of the answer.
        received: Bytes of the body of the request.
        token: What it was authorised with.
        origin: ``host:port`` that was asked: the second one serves redirected downloads.
    """

    method: str
    path: str
    query: str
    range: str | None
    status: int
    sent: int
    received: int
    token: str | None
    origin: str

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}" + (f"?{self.query}" if self.query else "")


@dataclass
class Hub:
    """A Hub: its repositories, its settings, what goes wrong, and every request in ``log``.

    Attributes:
        url: Where it listens; ``files_url`` is the second origin.
        page_size: Most entries of one page of a listing; the real Hub's.
        lfs_threshold: Longest file in bytes that git holds itself.
        part_size: A longer file is uploaded in parts of so many bytes.
        redirects: Answer for LFS files with a redirect to the second origin.
    """

    url: str = ""
    files_url: str = ""
    page_size: int = 1000
    lfs_threshold: int = 10_000_000
    part_size: int = 5_000_000
    redirects: bool = False
    users: dict[str, User] = field(
        default_factory=lambda: {
            ALICE: User("alice", ("org",)),
            BOB: User("bob"),
            READER: User("alice", ("org",), role="read"),
        }
    )
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, tuple[str, str, int, dict[int, bytes]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[Asked] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    made: int = 0

    def create(self, repo_id: str, *, is_private: bool = False) -> Repo:
        """Make a repository as the Hub does: with a first commit that holds ``.gitattributes``."""
        with self.lock:
            repo = self.repos[repo_id] = Repo(repo_id, is_private)
            first = {".gitattributes": Blob(ATTRIBUTES.encode(), is_lfs=False)}
            self.commit(repo, "main", first, title="initial commit")
        return repo

    def add(self, repo_id: str, files: Path | Mapping[str, bytes], branch: str = "main") -> str:
        """Make a commit of exactly these files, or of a folder's, and return it."""
        if not isinstance(files, Mapping):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes()
                for path in sorted(files.rglob("*")) if path.is_file()
            }  # fmt: skip
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id))
            blobs = {name: self.blob(repo, name, data) for name, data in files.items()}
            return self.commit(repo, branch, blobs, title="Add files").sha

    def blob(self, repo: Repo, path: str, data: bytes) -> Blob:
        """Return ``data`` as the file ``path`` of the repository."""
        blob = Blob(data, bool(data) and repo.is_lfs(path, len(data), self.lfs_threshold))
        if blob.is_lfs:
            repo.objects[blob.sha256] = data
        return blob

    def commit(
        self, repo: Repo, branch: str, files: dict[str, Blob], *,
        title: str, message: str = "", author: str = "alice",
    ) -> Commit:  # fmt: skip
        """Let ``branch`` name a new commit of exactly ``files``."""
        with self.lock:
            self.made += 1
            parent = repo.branches.get(branch)
            names = {path: blob.etag for path, blob in sorted(files.items())}
            text = json.dumps([repo.id, self.made, parent, title, message, names])
            sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 -- as git does
            date = (_DAWN + timedelta(seconds=self.made)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            made = Commit(sha, parent, title, message, author, date, dict(sorted(files.items())))
            repo.commits[sha] = made
            repo.branches[branch] = sha
        return made

    def as_of_now(self) -> Hub:
        """Return a hub that stays as this one is: a replica that hears of nothing more."""
        with self.lock:
            repos = {
                name: replace(repo, commits=dict(repo.commits), branches=dict(repo.branches),
                              tags=dict(repo.tags), objects=dict(repo.objects))
                for name, repo in self.repos.items()
            }  # fmt: skip
        return replace(self, repos=repos)

    def history(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Return the commits that ``revision`` descends from, its own first."""
        with self.lock:
            repo = self.repos[repo_id]
            found, commit = [], repo.resolve(revision)
            while commit is not None:
                found.append(commit)
                commit = repo.commits[commit.parent] if commit.parent else None
        return found

    def asked(self, part: str) -> list[Asked]:
        """Return the requests whose line ("METHOD path?query") holds ``part``."""
        return [request for request in self.log if part in request.line]

    @property
    def weight_bytes(self) -> int:
        """How many bytes of weight files were sent."""
        return sum(asked.sent for asked in self.log if asked.path.endswith(LFS_SUFFIXES))
