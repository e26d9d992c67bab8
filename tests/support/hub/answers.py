"""How the Hub says no, who is asking, and what they may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from support.hub.state import Commit, Hub, Repo, User


class RefusedError(Exception):
    """An answer that is an error.

    Attributes:
        status: Of the answer.
        code: Its X-Error-Code; what the client chooses the class of its error by.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.body = body

    def answer(self) -> Response:
        headers = {"X-Error-Message": self.message}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": self.message, **self.body}, self.status, headers)


def hub_of(request: Request) -> Hub:
    """Return the hub that answers: the one that listens, or an old state of it."""
    hub: Hub = request.scope["hub"]
    return hub


def given(request: Request, name: str) -> str:
    """Return a part of the path, unquoted: routes see the path as it was sent."""
    return unquote(request.path_params[name])


def caller(request: Request) -> User | None:
    """Return who asks; ``None`` for nobody in particular.

    Raises:
        RefusedError: the token is nobody's.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not scheme:
        return None
    user = hub_of(request).users.get(token.strip())
    if user is None or scheme != "Bearer":
        raise RefusedError(401, "Invalid credentials in Authorization header")
    return user


def visible(user: User | None, repo: Repo) -> bool:
    """Tell whether a repository is there at all for somebody."""
    return not repo.is_private or (user is not None and user.owns(repo.id))


def repo_of(request: Request) -> Repo:
    """Return the repository that the path names, if the caller may know of it.

    Raises:
        RefusedError: as the Hub says it: 401 to nobody in particular, 404 to somebody.
    """
    user = caller(request)
    repo = hub_of(request).repos.get(f"{given(request, 'ns')}/{given(request, 'name')}")
    if repo is None or not visible(user, repo):
        if user is None:
            raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    return repo


def writable_repo_of(request: Request) -> tuple[Repo, User]:
    """Return the repository that the path names and the caller, who may write to it."""
    user = caller(request)
    repo = repo_of(request)
    if user is None:
        raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
    if user.role != "write":
        raise RefusedError(403, "Forbidden: your token may only read")
    if not user.owns(repo.id):
        raise RefusedError(403, f"Forbidden: you don't have write access to {repo.id}")
    return repo, user


def require_granted(request: Request, repo: Repo) -> None:
    """Let through who was granted access to a gated repository."""
    user = caller(request)
    if not repo.gated or (user and (user.owns(repo.id) or user.name in repo.granted)):
        return
    if user is None:
        raise RefusedError(
            401,
            f"Access to model {repo.id} is restricted. You must have access to it and be "
            "authenticated to access it. Please log in.",
            "GatedRepo",
        )
    raise RefusedError(
        403,
        f"Access to model {repo.id} is restricted and you are not in the authorized list. "
        f"Visit {hub_of(request).url}/{repo.id} to ask for access.",
        "GatedRepo",
    )


def commit_of(request: Request, repo: Repo, name: str = "rev") -> Commit:
    """Return the commit that the path names.

    Raises:
        RefusedError: there is none.
    """
    revision = given(request, name) if name in request.path_params else "main"
    found = repo.resolve(revision)
    if found is None:
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found


def page(request: Request, entries: Sequence[Any], size: int) -> tuple[list[Any], dict[str, str]]:
    """Return the part of a listing that was asked for, and the link to the next one."""
    query = dict(request.query_params)
    wanted = min(size, int(query.get("limit", size)) or size)
    start = int(query.get("cursor", 0))
    headers = {"X-Total-Count": str(len(entries))}
    if start + wanted < len(entries):
        pairs = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        follow = urlencode([*pairs, ("cursor", start + wanted)])
        url = f"{hub_of(request).url}{request.url.path}?{follow}"
        headers["Link"] = f'<{url}>; rel="next"'
    return list(entries[start : start + wanted]), headers


def is_true(value: str | None) -> bool:
    """Read a flag of a query or a form."""
    return (value or "").lower() in {"true", "1"}
