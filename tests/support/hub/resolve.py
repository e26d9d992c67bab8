"""The files themselves, whole or in part, from this origin or a second one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response
from support.hub.answers import (
    RefusedError,
    commit_of,
    given,
    hub_of,
    repo_of,
    require_granted,
)

if TYPE_CHECKING:
    from starlette.requests import Request


async def resolve(request: Request) -> Response:
    """Answer a HEAD or a GET of one file at one revision."""
    repo = repo_of(request)
    require_granted(request, repo)
    commit = commit_of(request, repo)
    path = given(request, "path")
    blob = commit.files.get(path)
    headers = {"X-Repo-Commit": commit.sha, "Access-Control-Expose-Headers": "X-Repo-Commit"}
    if blob is None:
        refused = RefusedError(404, "Entry not found", "EntryNotFound")
        answer = refused.answer()
        answer.headers.update(headers)
        return answer
    headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.is_lfs:
        headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
    hub = hub_of(request)
    if blob.is_lfs and hub.redirects:
        name = quote(path.rpartition("/")[2])
        location = f"{hub.files_url}/files/{repo.id}/{blob.sha256}/{name}"
        return Response(f"Found. Redirecting to {location}", 302, {**headers, "Location": location})
    if request.method == "GET":
        repo.downloads.append(path)
    return _part(request, blob.data, headers)


async def stored(request: Request) -> Response:
    """Answer for what a redirect led to: the address is the permission."""
    repo = hub_of(request).repos.get(f"{given(request, 'ns')}/{given(request, 'name')}")
    oid = given(request, "oid")
    if repo is None or oid not in repo.objects:
        raise RefusedError(403, "AccessDenied")
    if request.method == "GET":
        repo.downloads.append(given(request, "file"))
    return _part(request, repo.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _part(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    media = "application/octet-stream"
    if wanted is None or wanted.groups() == ("", "") or request.scope.get("no_range"):
        return Response(data, headers=headers, media_type=media)
    first, last = wanted.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        return Response("", 416, {**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(data[start:stop], 206, headers, media)
