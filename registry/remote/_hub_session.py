"""The session of the Hub's client while we use it: each request ends, each answer can be refused.

The client has one session for all threads, and replaces it when a connection fails. What is added
here is added to both, and taken away again after the last one who uses it.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Look = Callable[[Any], None]

LONGEST_SILENCE_S = 60.0
"""Longest wait for an answer, for more of it, or for more to be taken, in seconds.

Only for requests that have no limit of their own: the client gives most of them none."""

_MARK = "X-Safelatch-Request"
_lock = threading.Lock()
_looks: dict[str, Look | None] = {}
_before: list[Callable[[], Any]] = []
"""What made a session for the client when ``_make`` took its place."""


@contextmanager
def held_session(look: Look | None = None) -> Iterator[dict[str, str]]:
    """Yield the headers by which an answer is given to ``look`` before the client uses it.

    Args:
        look: Is given the answer, of which only the head was read. What it raises reaches whoever
            asked: the client knows nothing of our errors. ``None`` for the time limit alone.
    """
    mark = secrets.token_hex(8)
    with _lock:
        if not _looks:
            _begin()
        _looks[mark] = look
    try:
        with _lock:
            _add(_session())
        yield {_MARK: mark}
    finally:
        with _lock:
            del _looks[mark]
            if not _looks:
                _end()


def bound(response: Any, most: int, refuse: Callable[[], Exception], *, packing: int = 1) -> None:
    """Let an answer end with what ``refuse`` makes once more than ``most`` bytes of it came.

    Args:
        response: Of which nothing was read yet.
        most: In bytes, as they are sent.
        refuse: Makes the error.
        packing: How many times shorter an answer must be that is sent compressed.
    """
    stream = response.stream
    kind = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        most //= packing

    class Bounded(kind):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Iterator[bytes]:
            taken = 0
            for piece in stream:
                taken += len(piece)
                if taken > most:
                    raise refuse()
                yield piece

        def close(self) -> None:
            stream.close()

    response.stream = Bounded()


def _session() -> Any:
    from huggingface_hub import get_session

    return get_session()


def _begin() -> None:
    from huggingface_hub.utils import _http

    client: Any = _http  # it has a setter for this and nothing that tells what was set
    _before[:] = [client._GLOBAL_CLIENT_FACTORY]  # noqa: SLF001
    client._GLOBAL_CLIENT_FACTORY = _make  # noqa: SLF001


def _end() -> None:
    from huggingface_hub.utils import _http

    client: Any = _http
    if client._GLOBAL_CLIENT_FACTORY is _make:  # noqa: SLF001
        client._GLOBAL_CLIENT_FACTORY = _before[0]  # noqa: SLF001
    session = _session()
    hooks = session.event_hooks
    session.event_hooks = {
        "request": [hook for hook in hooks["request"] if hook is not _limit],
        "response": [hook for hook in hooks["response"] if hook is not _inspect],
    }


def _make() -> Any:
    """Return a session of the client's; another thread may still be here when all is over."""
    session = _before[0]()
    _add(session)
    return session


def _add(session: Any) -> None:
    """Add to new lists: other threads go through the old ones."""
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _limit],
            "response": [*hooks["response"], _inspect],
        }


def _limit(request: Any) -> None:
    limits = request.extensions.get("timeout") or {}
    if _looks and all(limit is None for limit in limits.values()):
        names = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = dict.fromkeys(names, LONGEST_SILENCE_S)


def _inspect(response: Any) -> None:
    look = _looks.get(response.request.headers.get(_MARK, ""))
    if look is not None:
        look(response)
