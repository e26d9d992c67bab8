"""Git LFS as the client speaks it: batch, one PUT or several, completion, verification."""

from __future__ import annotations

import hashlib
import secrets
from math import ceil
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from support.hub.answers import RefusedError, given, hub_of, writable_repo_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from support.hub.state import Hub, Repo


async def batch(request: Request) -> Response:
    """Say for each object where to send it; nothing for one that is there."""
    asked = await request.json()
    hub, (repo, _) = hub_of(request), writable_repo_of(request)
    if asked["operation"] != "upload" or asked.get("hash_algo", "sha256") != "sha256":
        raise RefusedError(422, "This hub takes uploads by SHA-256 only")
    objects = [_object(hub, repo, each["oid"], each["size"]) for each in asked["objects"]]
    return JSONResponse({"transfer": "basic", "objects": objects})


def _object(hub: Hub, repo: Repo, oid: str, size: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if oid in repo.objects:
        return answer
    ticket = secrets.token_hex(8)
    hub.uploads[ticket] = (repo.id, oid, size, {})
    href = f"{hub.url}/lfs-upload/{ticket}"
    upload: dict[str, Any] = {"href": href}
    if size > hub.part_size:
        parts = range(1, ceil(size / hub.part_size) + 1)
        header = {str(part): f"{href}/{part}" for part in parts}
        upload["header"] = {"chunk_size": str(hub.part_size), **header}
    verify = {"href": f"{hub.url}/{repo.id}.git/info/lfs/objects/verify"}
    answer["actions"] = {"upload": upload, "verify": verify}
    return answer


async def put(request: Request) -> Response:
    """Take an object, or a part of one. The address is the permission: it carries no token."""
    data = await request.body()
    hub = hub_of(request)
    repo_id, oid, size, parts = _upload(request)
    part = request.path_params.get("part")
    if part is None:
        _keep(hub, repo_id, oid, size, data)
        return Response("", headers={"ETag": f'"{oid[:32]}"'})
    parts[int(part)] = data
    return Response("", headers={"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'})


async def complete(request: Request) -> Response:
    """Put the parts together, if they are all there and are what was sent."""
    asked = await request.json()
    repo_id, oid, size, parts = _upload(request)
    stated = {each["partNumber"]: each["etag"].strip('"') for each in asked["parts"]}
    etags = {number: hashlib.sha256(data).hexdigest()[:32] for number, data in parts.items()}
    if asked["oid"] != oid or stated != etags:
        raise RefusedError(400, "The parts are not those that were sent")
    _keep(hub_of(request), repo_id, oid, size, b"".join(parts[number] for number in sorted(parts)))
    return JSONResponse({"success": True})


async def verify(request: Request) -> Response:
    asked = await request.json()
    repo, _ = writable_repo_of(request)
    data = repo.objects.get(asked["oid"])
    if data is None or len(data) != asked["size"]:
        raise RefusedError(404, f"The LFS object {asked['oid']} is not there")
    return Response("OK")


def _upload(request: Request) -> tuple[str, str, int, dict[int, bytes]]:
    found = hub_of(request).uploads.get(given(request, "ticket"))
    if found is None:
        raise RefusedError(403, "The address of this upload has expired")
    return found


def _keep(hub: Hub, repo_id: str, oid: str, size: int, data: bytes) -> None:
    """Keep an object that is what its name says."""
    if len(data) != size or hashlib.sha256(data).hexdigest() != oid:
        raise RefusedError(400, f"The object is not {oid} of {size} bytes")
    if repo_id not in hub.repos:
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    hub.repos[repo_id].objects[oid] = data
