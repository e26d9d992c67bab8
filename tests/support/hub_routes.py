"""What ``hub_server`` answers: a method, a pattern of the path, and a function for each."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.hub_server import Handler

LFS = (".safetensors", ".bin")


def info(handler: Handler, repo: str, rev: str = "main") -> None:
    """``model_info``: the commit and the files, with sizes and SHA-256 if ``blobs``."""
    found = handler.files(repo, rev)
    if found is None:
        return
    commit, files = found
    siblings = [
        {"rfilename": name, **(_blob(name, data) if "blobs" in handler.query else {})}
        for name, data in files.items()
    ]
    document = {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
    handler.reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


def _blob(name: str, data: bytes) -> dict[str, Any]:
    lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return {
        "size": len(data),
        "blobId": _etag("x", data),
        **({"lfs": lfs} if name.endswith(LFS) else {}),
    }


def _etag(name: str, data: bytes) -> str:
    kind = hashlib.sha256 if name.endswith(LFS) else hashlib.sha1
    return kind(data).hexdigest()


def tree(handler: Handler, repo: str, rev: str) -> None:
    """``list_repo_tree``, all on one page."""
    found = handler.files(repo, rev)
    if found is None:
        return
    rows = [
        {"type": "file", "path": name, "size": len(data), "oid": _etag("x", data),
         **({"lfs": {"oid": _etag(name, data), "size": len(data), "pointerSize": 134}}
            if name.endswith(LFS) else {})}
        for name, data in found[1].items()
    ]  # fmt: skip
    handler.reply(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})


def resolve(handler: Handler, repo: str, rev: str, path: str) -> None:
    """A file, or the part of it that was asked for."""
    found = handler.files(repo, rev)
    if found is None:
        return
    commit, files = found
    if path not in files:
        handler.fail(404, "EntryNotFound")
        return
    data, status = files[path], 200
    headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(path, data)}"'}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if wanted and not handler.fault.no_range:
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        headers["Content-Range"], status = f"bytes {start}-{stop - 1}/{len(data)}", 206
        data = data[start:stop]
    is_head = handler.command == "HEAD"
    handler.reply(status, b"" if is_head else data, headers, length=len(data))


_REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", rf"/api/models/{_REPO}", info),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<rev>[^/]+)", info),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<rev>[^/]+)", tree),
    ("GET", rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", resolve),
]
