"""Who is asking, and making, changing and describing repositories: ``/api`` but its history."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from support.hub.answers import (
    RefusedError,
    caller,
    commit_of,
    hub_of,
    is_true,
    page,
    repo_of,
    require_granted,
    visible,
    writable_repo_of,
)
from support.hub.card import base_models, card_of, front_matter, tags_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from support.hub.state import Blob, Commit, Hub, Repo, User

_NAME = re.compile(r"(?!.*(?:\.\.|--))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?<![.-])")


async def whoami(request: Request) -> Response:
    user = caller(request)
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": name, "fullname": name} for name in user.orgs]
    token = {"displayName": "token", "role": user.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    auth = {"type": "access_token", "accessToken": token}
    return JSONResponse({"type": "user", "name": user.name, "orgs": orgs, "auth": auth})


async def create(request: Request) -> Response:
    asked = await request.json()
    hub, user = hub_of(request), _writer(request)
    repo_id = f"{asked.get('organization') or user.name}/{asked['name']}"
    if asked.get("type", "model") != "model":
        raise RefusedError(400, "This hub has models only")
    if not _NAME.fullmatch(asked["name"]):
        raise RefusedError(400, f"Invalid repo name: {repo_id}")
    if not user.owns(repo_id):
        raise RefusedError(403, "You don't have the rights to create a model under the namespace "
                      f'"{asked.get("organization")}"')  # fmt: skip
    url = f"{hub.url}/{repo_id}"
    if repo_id in hub.repos:
        raise RefusedError(409, "You already created this model repo", url=url)
    is_private = asked.get("visibility") == "private" or asked.get("private") is True
    hub.create(repo_id, is_private=is_private)
    return JSONResponse({"url": url, "name": repo_id, "id": repo_id})


async def delete(request: Request) -> Response:
    asked = await request.json()
    hub, user = hub_of(request), _writer(request)
    repo_id = f"{asked.get('organization') or user.name}/{asked['name']}"
    if repo_id not in hub.repos:
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    if not user.owns(repo_id):
        raise RefusedError(403, f"Forbidden: you don't have write access to {repo_id}")
    del hub.repos[repo_id]
    return Response("OK")


async def settings(request: Request) -> Response:
    asked = await request.json()
    repo, _ = writable_repo_of(request)
    repo.gated = asked.get("gated", repo.gated)
    if "visibility" in asked:
        repo.is_private = asked["visibility"] == "private"
    repo.is_private = asked.get("private", repo.is_private)
    return JSONResponse({"private": repo.is_private, "gated": repo.gated})


async def auth_check(request: Request) -> Response:
    require_granted(request, repo_of(request))
    return Response("OK")


async def auth_check_write(request: Request) -> Response:
    writable_repo_of(request)
    return Response("OK")


async def validate_yaml(request: Request) -> Response:
    asked = await request.json()
    try:
        data = front_matter(asked["content"])
    except ValueError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warned = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    return JSONResponse({"errors": [], "warnings": warned})


async def info(request: Request) -> Response:
    repo = repo_of(request)
    commit = commit_of(request, repo)
    asked = request.query_params
    document = _document(hub_of(request), repo, commit, with_blobs=is_true(asked.get("blobs")))
    return JSONResponse(_expanded(document, asked.getlist("expand")))


async def list_models(request: Request) -> Response:
    hub, user, asked = hub_of(request), caller(request), request.query_params
    repos = [repo for repo in hub.repos.values() if visible(user, repo)]
    found: list[dict[str, Any]] = []
    for repo in repos:
        head = repo.resolve("main")
        if head is None:
            continue
        document = _document(hub, repo, head)
        if (
            all(tag in document["tags"] for tag in asked.getlist("filter"))
            and asked.get("author", document["author"]) == document["author"]
            and asked.get("search", "").lower() in repo.id.lower()
            and asked.get("pipeline_tag") in {None, document["pipeline_tag"]}
            and ("gated" not in asked or is_true(asked["gated"]) == bool(repo.gated))
        ):
            found.append(document)
    if sort := asked.get("sort"):
        if sort not in {"lastModified", "createdAt", "downloads", "likes", "trendingScore"}:
            raise RefusedError(400, f"Invalid sort: {sort}")
        found.sort(key=lambda document: document.get(sort, 0), reverse=True)
    entries, headers = page(request, found, hub.page_size)
    if expand := asked.getlist("expand"):
        return JSONResponse([_expanded(each, expand) for each in entries], headers=headers)
    hidden = {"baseModels", "childrenModelCount", "safetensors", "usedStorage", "disabled"}
    if not is_true(asked.get("cardData")):
        hidden |= {"cardData"}
    if not is_true(asked.get("full")):
        hidden |= {"author", "sha", "gated", "lastModified", "siblings"}
    entries = [{key: each[key] for key in each if key not in hidden} for each in entries]
    return JSONResponse(entries, headers=headers)


def _writer(request: Request) -> User:
    user = caller(request)
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    if user.role != "write":
        raise RefusedError(403, "Forbidden: your token may only read")
    return user


def _document(hub: Hub, repo: Repo, commit: Commit, *, with_blobs: bool = False) -> dict[str, Any]:
    """Return all that the Hub says of a repository; ``_expanded`` chooses."""
    card = card_of(commit.files)
    first = min(repo.commits.values(), key=lambda each: each.date)
    siblings = [
        {"rfilename": path, **(_blob(blob) if with_blobs else {})}
        for path, blob in commit.files.items()
    ]
    return {
        "_id": repo.commits and first.sha[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit.sha,
        "createdAt": first.date,
        "lastModified": commit.date,
        "private": repo.is_private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": sum(path == "config.json" for path in repo.downloads),
        "likes": 0,
        "tags": tags_of(commit.files),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
        "siblings": siblings,
        "baseModels": lambda: _bases(commit),
        "childrenModelCount": lambda: _children(hub, repo),
        "safetensors": lambda: _parameters(commit),
        "usedStorage": sum(map(len, repo.objects.values())),
    }


def _blob(blob: Blob) -> dict[str, Any]:
    stated: dict[str, Any] = {"size": len(blob.data), "blobId": blob.oid}
    if blob.is_lfs:
        lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        stated["lfs"] = lfs
    return stated


def _expanded(document: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """Return the members asked for; what is dear to find out only then."""
    if unknown := [name for name in wanted if name not in document]:
        raise RefusedError(400, f"Invalid expand: {unknown[0]}")
    if wanted:
        document = {name: document[name] for name in ["_id", "id", *wanted]}
        return {name: got() if callable(got) else got for name, got in document.items()}
    return {name: got for name, got in document.items() if not callable(got)}


def _bases(commit: Commit) -> dict[str, Any] | None:
    bases, relation = base_models(card_of(commit.files), commit.files)
    return {"relation": relation, "models": [{"id": base} for base in bases]} if bases else None


def _children(hub: Hub, parent: Repo) -> dict[str, int]:
    counts = {"adapter": 0, "finetune": 0, "merge": 0, "quantized": 0}
    for repo in hub.repos.values():
        head = None if repo.is_private else repo.resolve("main")
        for relation in counts if head else ():
            counts[relation] += f"base_model:{relation}:{parent.id}" in tags_of(head.files)
    return counts


def _parameters(commit: Commit) -> dict[str, Any] | None:
    counts: dict[str, int] = {}
    for path, blob in commit.files.items():
        if not path.endswith(".safetensors"):
            continue
        try:
            header = json.loads(blob.data[8 : 8 + int.from_bytes(blob.data[:8], "little")])
        except ValueError:
            return None
        for name, entry in header.items():
            size = 1
            for length in () if name == "__metadata__" else entry["shape"]:
                size *= length
            if name != "__metadata__":
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None
