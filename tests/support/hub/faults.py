"""What goes wrong: for requests whose line ("METHOD path?query", unquoted) holds a text.

A ``Fault`` is what is done to one answer. The functions below make those that have a name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.hub.state import Hub


@dataclass(eq=False)
class Fault:
    """One thing that goes wrong.

    Nothing is done of what was asked where ``status`` or ``body`` is given, unless ``lost``.

    Attributes:
        match: Part of the line of the request.
        status: Answer with this status; ``code`` is its X-Error-Code, ``message`` what it says.
        retry_after: Seconds, as a header.
        body: Send these bytes as the whole answer, with status 200 and without its headers.
        headers: Headers to send instead of the right ones; ``None`` leaves one out.
        no_range: Answer with the whole file.
        drop_at: Close the connection after so many bytes of the body; below 0 from its end.
        truncate_at: Send so many bytes of the body, and say that this is its length.
        flip_at: Turn a bit of this byte of the file over, whichever part of it is asked for.
        hang: Wait so many seconds before anything is done; nothing is, if the client gives up.
        lost: Do what was asked, then close without an answer, or answer with ``status``.
        edit: Changes a JSON answer; is given it, and whether it is the last page.
        after: Called when the answer is made and before it is sent.
        world: The state that answers, in place of the hub's own.
        nth: The first matching request that it happens to.
        times: How many requests it happens to.
        seen: How many requests matched.
    """

    match: str
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: int | None = None
    body: bytes | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    no_range: bool = False
    drop_at: int | None = None
    truncate_at: int | None = None
    flip_at: int | None = None
    hang: float = 0
    lost: bool = False
    edit: Callable[[Any, bool], Any] | None = None
    after: Callable[[Hub], None] | None = None
    world: Hub | None = None
    nth: int = 1
    times: int | None = None
    seen: int = 0

    def strikes(self, line: str) -> bool:
        """Count a request that matches, and tell whether it happens to it."""
        if self.match not in line:
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + (self.times or self.seen)

    @property
    def answers(self) -> bool:
        """Whether what was asked is left undone."""
        return not self.lost and (self.status is not None or self.body is not None)


@dataclass
class Reply:
    """An answer on its way out: header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_cut: bool = False

    @classmethod
    def of(cls, fault: Fault) -> Reply:
        """Return the answer of a fault that leaves undone what was asked."""
        if fault.status is None:
            return cls(200, {}, fault.body or b"")
        said = fault.message or fault.code
        headers = {"content-type": "application/json"}
        headers |= {"x-error-code": fault.code} if fault.code else {}
        headers |= {"x-error-message": said} if said else {}
        headers |= {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
        body = fault.body
        if body is None:
            body = json.dumps({"error": said}).encode() if fault.message else b""
        return cls(fault.status, headers, body)

    def suffer(self, fault: Fault, *, is_head: bool) -> None:
        """Let a fault happen to this answer."""
        if fault.edit is not None and self.status == 200 and not is_head:
            document = fault.edit(json.loads(self.body), "link" not in self.headers)
            self.body = json.dumps(document).encode()
            self.headers["content-length"] = str(len(self.body))
        if is_head:
            self.body = b""
        else:
            self._spoil(fault)
        for name, value in fault.headers.items():
            self.headers.pop(name.lower(), None)
            if value is not None:
                self.headers[name.lower()] = value
        if not is_head:
            stated = int(self.headers.setdefault("content-length", str(len(self.body))))
            self.body = self.body[:stated]
            self.is_cut = len(self.body) < stated

    def _spoil(self, fault: Fault) -> None:
        if fault.flip_at is not None and self.status in {200, 206}:
            part = self.headers.get("content-range", "bytes 0-").removeprefix("bytes ")
            at = fault.flip_at - int(part.partition("-")[0])
            if 0 <= at < len(self.body):
                flipped = bytes([self.body[at] ^ 1])
                self.body = self.body[:at] + flipped + self.body[at + 1 :]
        if fault.truncate_at is not None:
            self.body = self.body[: fault.truncate_at]
            self.headers["content-length"] = str(len(self.body))
        if fault.drop_at is not None:
            self.headers.setdefault("content-length", str(len(self.body)))
            self.body = self.body[: fault.drop_at]


def lost_response(match: str, status: int | None = None, **given: Any) -> Fault:
    """Do what is asked, and let nobody hear of it: the connection closes, or 504 is answered."""
    return Fault(match, status, lost=True, **{"times": 1, **given})


def hostile_etag(etag: str, match: str = "/resolve/", **given: Any) -> Fault:
    """Call files ``etag``, quotes included if there are any, in both headers that name them."""
    return Fault(match, headers={"ETag": etag, "X-Linked-ETag": etag}, **given)


def other_commit(sha: str, match: str = "/resolve/", **given: Any) -> Fault:
    """Say of files that they are of the commit ``sha``."""
    return Fault(match, headers={"X-Repo-Commit": sha}, **given)


def moved_ref(repo_id: str, name: str, sha: str, match: str, **given: Any) -> Fault:
    """Once a request is answered, let a branch or a tag name another commit."""

    def move(hub: Hub) -> None:
        with hub.lock:
            repo = hub.repos[repo_id]
            refs = repo.tags if name in repo.tags else repo.branches
            refs[name] = sha

    return Fault(match, after=move, **{"times": 1, **given})


def stale(hub: Hub, match: str, **given: Any) -> Fault:
    """From now on, answer from the state of this moment."""
    return Fault(match, world=hub.as_of_now(), **given)


def extra_file(path: str, size: int = 1, match: str = "/api/models/", **given: Any) -> Fault:
    """List a further file, in trees and in descriptions."""

    def edit(document: Any, is_last: bool) -> Any:
        oid = "0" * 40
        if isinstance(document, list) and is_last:
            return [*document, {"type": "file", "path": path, "size": size, "oid": oid}]
        if isinstance(document, dict) and "siblings" in document:
            document["siblings"].append({"rfilename": path, "size": size, "blobId": oid})
        return document

    return Fault(match, edit=edit, **given)


def other_size(path: str, size: int, match: str = "/api/models/", **given: Any) -> Fault:
    """List a file with another size than it has."""

    def edit(document: Any, _is_last: bool) -> Any:
        entries = document if isinstance(document, list) else document.get("siblings", [])
        for entry in entries:
            if path == entry.get("path", entry.get("rfilename")) and "size" in entry:
                entry["size"] = size
                if "lfs" in entry:
                    entry["lfs"]["size"] = size
        return document

    return Fault(match, edit=edit, **given)


def renamed(path: str, name: str, match: str = "/api/models/", **given: Any) -> Fault:
    """List a file under another name: one that leads out of the folder, say."""

    def edit(document: Any, _is_last: bool) -> Any:
        entries = document if isinstance(document, list) else document.get("siblings", [])
        for entry in entries:
            for key in ("path", "rfilename"):
                if entry.get(key) == path:
                    entry[key] = name
        return document

    return Fault(match, edit=edit, **given)
