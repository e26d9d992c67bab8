"""What is in a repository and how it changes: trees, commits, branches, tags."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response
from support.hub.answers import (
    RefusedError,
    commit_of,
    given,
    hub_of,
    is_true,
    page,
    repo_of,
    writable_repo_of,
)
from support.hub.state import Blob

if TYPE_CHECKING:
    from starlette.requests import Request
    from support.hub.state import Commit, Repo

MOVED = "A commit has happened since. Please refresh and try again."


def _folders(files: dict[str, Blob]) -> set[str]:
    return {
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in files)
        for depth in range(1, len(parts))
    }


def _entry(commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    blob = commit.files.get(path)
    entry: dict[str, Any] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
    if blob is not None:
        size = len(blob.data)
        entry = {"type": "file", "oid": blob.oid, "size": size, "path": path}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": size, "pointerSize": 134}
    if expand:
        entry["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": commit.date}
    return entry


async def tree(request: Request) -> Response:
    """``list_repo_tree``: a folder and, if so asked, what is below it."""
    commit = commit_of(request, repo_of(request))
    asked = request.query_params
    under = given(request, "path").strip("/") if "path" in request.path_params else ""
    folders = _folders(commit.files)
    if under and under not in folders:
        raise RefusedError(404, f"{under} does not exist on this revision", "EntryNotFound")
    prefix = f"{under}/" if under else ""
    paths = sorted(path for path in [*commit.files, *folders] if path.startswith(prefix))
    if not is_true(asked.get("recursive")):
        paths = [path for path in paths if "/" not in path[len(prefix) :]]
    expand = is_true(asked.get("expand"))
    entries = [_entry(commit, path, expand=expand) for path in paths]
    entries, headers = page(request, entries, hub_of(request).page_size)
    return JSONResponse(entries, headers=headers)


async def paths_info(request: Request) -> Response:
    """``get_paths_info``: form-encoded; a path that is not there is left out."""
    commit = commit_of(request, repo_of(request))
    asked = parse_qs((await request.body()).decode())
    expand = is_true(asked.get("expand", [""])[0])
    known = {*commit.files, *_folders(commit.files)}
    paths = [path for path in asked.get("paths", []) if path in known]
    return JSONResponse([_entry(commit, path, expand=expand) for path in paths])


async def preupload(request: Request) -> Response:
    """Say how each file is to be sent, and what the Hub holds under its name now."""
    asked = await request.json()
    hub, (repo, _) = hub_of(request), writable_repo_of(request)
    held = commit_of(request, repo).files
    answers: list[dict[str, Any]] = []
    if len(asked["files"]) > 256:
        raise RefusedError(400, "At most 256 files at once")
    for each in asked["files"]:
        path = each["path"]
        is_lfs = repo.is_lfs(path, each["size"], hub.lfs_threshold)
        answer = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
        if path in held:
            answer["oid"] = held[path].etag
        answers.append(answer)
    return JSONResponse({"files": answers})


async def commit(request: Request) -> Response:
    """``create_commit``: all of it or nothing, onto the parent that was named if any."""
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
    hub, (repo, user) = hub_of(request), writable_repo_of(request)
    branch = given(request, "rev")
    if is_true(request.query_params.get("create_pr")):
        raise RefusedError(403, "This hub takes no pull requests")
    if not lines or lines[0]["key"] != "header":
        raise RefusedError(400, "Expected a header first")
    header = lines[0]["value"]
    if branch not in repo.branches:
        raise RefusedError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    head = repo.branches[branch]
    if "parentCommit" in header and not head.startswith(header["parentCommit"]):
        raise RefusedError(412, MOVED)
    files = dict(repo.commits[head].files)
    for line in lines[1:]:
        _change(repo, files, line["key"], line["value"])
    made = hub.commit(repo, branch, files, title=header["summary"],
                      message=header.get("description", ""), author=user.name)  # fmt: skip
    url = f"{hub.url}/{repo.id}/commit/{made.sha}"
    return JSONResponse(
        {"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""}
    )


def _change(repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """Put one line of a commit into ``files``.

    Raises:
        RefusedError: it cannot be put in.
    """
    path = value["path"].rstrip("/")
    parts = path.split("/")
    if not path or {"", ".", "..", ".git"} & set(parts):
        raise RefusedError(400, f"Invalid path: {path}")
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]), is_lfs=False)
    elif key == "lfsFile":
        data = repo.objects.get(value["oid"])
        if data is None or len(data) != value.get("size", len(data)):
            raise RefusedError(400, f"The LFS object {value['oid']} of {path} was not uploaded")
        files[path] = Blob(data, is_lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        below = [name for name in files if name.startswith(f"{path}/")]
        if not below:
            raise RefusedError(
                404, f"A folder with this name doesn't exist: {path}", "EntryNotFound"
            )
        for name in below:
            del files[name]
    else:
        raise RefusedError(400, f"Unknown operation: {key}")


async def commits(request: Request) -> Response:
    repo = repo_of(request)
    head = commit_of(request, repo)
    hub = hub_of(request)
    entries = [
        {"id": each.sha, "title": each.title, "message": each.message, "date": each.date,
         "authors": [{"user": each.author, "avatar": ""}]}
        for each in hub.history(repo.id, head.sha)
    ]  # fmt: skip
    entries, headers = page(request, entries, hub.page_size)
    return JSONResponse(entries, headers=headers)


async def refs(request: Request) -> Response:
    repo = repo_of(request)

    def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
            for name, sha in refs.items()
        ]

    answer: dict[str, Any] = {
        "tags": listed("tags", repo.tags),
        "branches": listed("heads", repo.branches),
        "converts": [],
    }
    if "include_prs" in request.query_params:
        answer["pullRequests"] = []
    return JSONResponse(answer)


async def create_tag(request: Request) -> Response:
    asked = await request.json()
    repo, _ = writable_repo_of(request)
    target = commit_of(request, repo)
    if asked["tag"] in repo.tags:
        raise RefusedError(409, "Tag reference exists already.")
    repo.tags[asked["tag"]] = target.sha
    return Response("OK", 201)


async def delete_tag(request: Request) -> Response:
    repo, _ = writable_repo_of(request)
    if repo.tags.pop(given(request, "rev"), None) is None:
        raise RefusedError(404, f"Invalid rev id: {given(request, 'rev')}", "RevisionNotFound")
    return Response("OK")


async def create_branch(request: Request) -> Response:
    body = await request.body()
    asked = json.loads(body) if body else {}
    repo, _ = writable_repo_of(request)
    branch = given(request, "rev")
    if branch in repo.branches:
        raise RefusedError(409, "Reference already exists")
    start = repo.resolve(asked.get("startingPoint", "main"))
    if start is None:
        raise RefusedError(404, f"Invalid rev id: {asked['startingPoint']}", "RevisionNotFound")
    repo.branches[branch] = start.sha
    return Response("OK", 201)


async def delete_branch(request: Request) -> Response:
    repo, _ = writable_repo_of(request)
    branch = given(request, "rev")
    if branch == "main":
        raise RefusedError(403, "Forbidden: cannot delete the default branch")
    if repo.branches.pop(branch, None) is None:
        raise RefusedError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    return Response("OK")
