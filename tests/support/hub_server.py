"""A Hugging Face Hub on this machine, for the real client: what it serves, what it was asked.

Standard library alone. What it answers is in ``hub_routes``: pushing would be further rows there.
A fault is put in for every request whose line holds its text.
"""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from support.hub_routes import LFS, ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """What goes wrong for requests whose ``METHOD path`` holds ``match``.

    Attributes:
        match: Part of the request line.
        status: Answer with this status instead; ``code`` is its X-Error-Code.
        body: Send these bytes as the whole answer, with status 200 and no range.
        drop: Leave out this many bytes at the end, and close.
        headers: Headers to send instead of the right ones.
        no_range: Answer with the whole file.
    """

    match: str
    status: int | None = None
    code: str | None = None
    body: bytes | None = None
    drop: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    no_range: bool = False


@dataclass(frozen=True)
class Asked:
    """One request and how many bytes of a body it was answered with."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


@dataclass
class Hub:
    """Repositories by name, each commit a dictionary of files; branches name commits."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[Asked] = field(default_factory=list)

    def add(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Make a commit of the files of ``folder`` and return it."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()
        }  # fmt: skip
        lines = [
            f"{repo} {name} {hashlib.sha256(data).hexdigest()}" for name, data in files.items()
        ]
        commit = hashlib.sha1("\n".join(lines).encode()).hexdigest()  # noqa: S324 -- as git does
        self.commits.setdefault(repo, {})[commit] = files
        self.branches[repo, branch] = commit
        return commit

    def asked(self, part: str) -> list[Asked]:
        """Return the requests for paths that hold ``part``."""
        return [request for request in self.log if part in request.path]

    @property
    def weight_bytes(self) -> int:
        """How many bytes of weight files were sent."""
        return sum(asked.sent for asked in self.log if asked.path.endswith(LFS))


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does, as far as the client looks."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle_any(self) -> None:
        split = urlsplit(self.path)
        line = f"{self.command} {split.path}"
        self.fault = next((f for f in self.hub.faults if f.match in line), Fault(line))
        self.query = parse_qs(split.query)
        if self.fault.status is not None:
            self.fail(self.fault.status, self.fault.code)
            return
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, split.path)
            if method == self.command.replace("HEAD", "GET") and match is not None:
                function(self, **{name: unquote(text) for name, text in match.groupdict().items()})
                return
        self.fail(404, None)

    do_GET = do_HEAD = do_POST = handle_any  # noqa: N815 -- the names that are looked for

    def files(self, repo: str, rev: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit that ``rev`` names and its files; say so when there is none."""
        if repo not in self.hub.commits:
            return self.fail(404, "RepoNotFound")
        commit = self.hub.branches.get((repo, rev), rev)
        found = self.hub.commits[repo].get(commit)
        return self.fail(404, "RevisionNotFound") if found is None else (commit, found)

    def fail(self, status: int, code: str | None) -> None:
        headers = {} if code is None else {"X-Error-Code": code, "X-Error-Message": code}
        self.reply(status, b"", headers)

    def reply(self, status: int, body: bytes, headers: dict[str, str], length: int = -1) -> None:
        """Send an answer and write it down."""
        if self.fault.body is not None:
            status, body, headers, length = 200, self.fault.body, {}, -1
        self.send_response(status)
        headers = {
            "Content-Length": str(len(body) if length < 0 else length), **headers,
            **self.fault.headers,
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.close_connection |= self.fault.drop > 0
        self.end_headers()
        sent = body[: len(body) - self.fault.drop]
        path, asked = unquote(urlsplit(self.path).path), self.headers.get("Range")
        self.hub.log.append(Asked(self.command, path, asked, status, len(sent)))
        try:
            self.wfile.write(sent)
        except OSError:  # the client had enough
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def serving() -> Iterator[Hub]:
    """Yield a hub that listens on this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def client_at(url: str, cache: Path) -> Iterator[None]:
    """Let the real client of this process speak to ``url`` alone, and keep its files in ``cache``.

    The client reads its environment when it is imported: what it read is what is changed.
    """
    from huggingface_hub import close_session, constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        close_session()
        try:
            yield
        finally:
            close_session()
