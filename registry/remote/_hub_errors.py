"""What the client of the Hub raises, as one error of ours that says what to do."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from registry.errors import HubError
from registry.foreign import refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_PAUSE_S = 30.0
"""Longest pause before a busy Hub is asked again, in seconds; told to wait longer, we stop."""

_FOLDER = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
_ENDPOINT = "See what HF_ENDPOINT names: hf env"
_BUSY = re.compile(r'"\w+"\s*;\s*r=0\s*;\s*t=([0-9]{1,9})\b')
_SECONDS = re.compile(r"[0-9]{1,9}")


@contextmanager
def asking(what: str, repo_id: str, *, writing: bool = False) -> Iterator[None]:
    """Turn whatever the client raises into one ``HubError`` that says what to do.

    Args:
        what: What is expected on the Hub.
        repo_id: Where.
        writing: Whether something is changed there.
    """

    def refuse(said: str, hint: str) -> HubError:
        return HubError(f"expected {what} on the Hub, got: {said.rstrip('.')}.", hint=hint)

    with refusing(lambda fact: refuse(fact, out_of_reach(repo_id))):
        try:
            yield
        except OSError as error:  # the client's own errors all derive from OSError
            root = _root(error)
            raise refuse(_said(root), _way_out(root, repo_id, writing=writing)) from root


def nonsense(repo_id: str, expected: str, got: Any) -> HubError:
    """Return the error about a Hub that states what cannot be."""
    return HubError(
        f"{repo_id}: expected {expected} from the Hub, got {str(got)[:120]!r}.", hint=_ENDPOINT
    )


def other_commit(expected: str, got: str) -> HubError:
    """Return the error about an answer of another commit than the one that was asked for."""
    return HubError(
        f"expected commit {expected}, the Hub answered with {got[:120]}.",
        hint=_ENDPOINT,
    )


def out_of_reach(repo_id: str) -> str:
    """Return what to do about a Hub that does not answer."""
    return (
        f"Check the network. Where there is one: hf download {repo_id} --local-dir DIR, "
        "then name DIR."
    )


def status_of(cause: BaseException | None) -> int | None:
    """Return the status of the answer that an error of the client is about."""
    return getattr(getattr(cause, "response", None), "status_code", None)


def asked_to_wait(cause: BaseException | None) -> float | None:
    """Return how long the Hub asks to be left alone, in seconds; ``None`` where it does not."""
    headers = getattr(getattr(cause, "response", None), "headers", {})
    if stated := _SECONDS.fullmatch(headers.get("Retry-After", "")):
        return float(stated[0])
    found = _BUSY.search(headers.get("RateLimit", ""))
    return None if found is None else float(found[1])


def _root(error: OSError) -> BaseException:
    """Return what happened, where the client speaks of its cache only."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error


def _said(error: BaseException) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode"
    status = status_of(error)
    if status is None:
        line = str(error).strip().partition("\n")[0].removeprefix("Got: ")[:300]
        if isinstance(error, OSError):
            return line or type(error).__name__
        return f"{type(error).__name__}: {line}"
    known = status in HTTPStatus.__members__.values()
    said = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
    words = str(getattr(error, "server_message", None) or "").strip().partition("\n")[0]
    return f"{said} ({words[:200].rstrip('.')})" if words else said


def _way_out(error: BaseException, repo_id: str, *, writing: bool) -> str:
    """Return what to do about an error of the client."""
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    ways = (  # a gated repository is one that was not found, to the client
        (OfflineModeIsEnabled, "Leave the offline mode: unset HF_HUB_OFFLINE"),
        (GatedRepoError, f"Ask for access on the page of {repo_id}, then log in: hf auth login"),
        (RepositoryNotFoundError,  # the Hub says so of private ones too
         f"Check its name; if it is private, log in: hf auth login{_silenced()}"),
        (RevisionNotFoundError,
         "Name a branch, a tag or a commit that is there: --revision REVISION"),
    )  # fmt: skip
    found = (way for kind, way in ways if isinstance(error, kind))
    return next(found, None) or _way_out_of(error, repo_id, writing=writing)


def _way_out_of(error: BaseException, repo_id: str, *, writing: bool) -> str:
    """Return what to do about an answer by its status."""
    if getattr(error, "errno", None) in _FOLDER:
        return "See to this folder, or name another one for the Hub's cache: HF_HUB_CACHE=DIR"
    status = status_of(error)
    if status in {401, 403}:
        may = "may write to it, with a token that may" if writing else "may read it"
        return f"Log in as somebody who {may}: hf auth login{_silenced()}"
    if status == HTTPStatus.CONFLICT:
        return "Somebody else changes it just now. Run the same again."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        pause = asked_to_wait(error)
        how_long = "a few minutes" if pause is None else f"{pause:.0f} seconds"
        return f"Wait {how_long}, then run the same again."
    if writing:
        return "Check the network, then run the same again: what came through is not done twice."
    return out_of_reach(repo_id)


def _silenced() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return " (and unset HF_HUB_DISABLE_IMPLICIT_TOKEN, which keeps the token back)"
    return ""
