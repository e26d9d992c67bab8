"""Every address of the Hub; a part of a path is seen as it was sent, ``%2F`` included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support.hub import history, lfs, repos, resolve
from support.hub.answers import RefusedError, hub_of
from support.hub.faults import Fault

if TYPE_CHECKING:
    from starlette.requests import Request

_R = "/api/models/{ns}/{name}"


async def add_fault(request: Request) -> Response:
    """Not of the Hub: lets another process say what goes wrong."""
    hub_of(request).faults.append(Fault(**await request.json()))
    return Response("OK")


async def _refuse(_request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusedError)
    return refused.answer()


async def _not_found(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "Sorry, we can't find the page you are looking for."}, 404)


ROUTES = [
    Route("/api/whoami-v2", repos.whoami),
    Route("/api/repos/create", repos.create, methods=["POST"]),
    Route("/api/repos/delete", repos.delete, methods=["DELETE"]),
    Route("/api/validate-yaml", repos.validate_yaml, methods=["POST"]),
    Route("/api/models", repos.list_models),
    Route(_R, repos.info),
    Route(_R + "/revision/{rev}", repos.info),
    Route(_R + "/settings", repos.settings, methods=["PUT"]),
    Route(_R + "/auth-check", repos.auth_check),
    Route(_R + "/auth-check/write", repos.auth_check_write),
    Route(_R + "/tree/{rev}", history.tree),
    Route(_R + "/tree/{rev}/{path:path}", history.tree),
    Route(_R + "/paths-info/{rev}", history.paths_info, methods=["POST"]),
    Route(_R + "/preupload/{rev}", history.preupload, methods=["POST"]),
    Route(_R + "/commit/{rev}", history.commit, methods=["POST"]),
    Route(_R + "/commits/{rev}", history.commits),
    Route(_R + "/refs", history.refs),
    Route(_R + "/tag/{rev}", history.create_tag, methods=["POST"]),
    Route(_R + "/tag/{rev}", history.delete_tag, methods=["DELETE"]),
    Route(_R + "/branch/{rev}", history.create_branch, methods=["POST"]),
    Route(_R + "/branch/{rev}", history.delete_branch, methods=["DELETE"]),
    Route("/{ns}/{name}.git/info/lfs/objects/batch", lfs.batch, methods=["POST"]),
    Route("/{ns}/{name}.git/info/lfs/objects/verify", lfs.verify, methods=["POST"]),
    Route("/lfs-upload/{ticket}", lfs.put, methods=["PUT"]),
    Route("/lfs-upload/{ticket}", lfs.complete, methods=["POST"]),
    Route("/lfs-upload/{ticket}/{part:int}", lfs.put, methods=["PUT"]),
    Route("/{ns}/{name}/resolve/{rev}/{path:path}", resolve.resolve),
    Route("/files/{ns}/{name}/{oid}/{file}", resolve.stored),
    Route("/_hub/faults", add_fault, methods=["POST"]),
]
APPLICATION = Starlette(
    routes=ROUTES, exception_handlers={RefusedError: _refuse, 404: _not_found, 405: _not_found}
)
