"""A hub that listens on this machine: the log, the faults and the sockets around the routes.

uvicorn speaks HTTP; its own server is left out, which waits two tenths of a second to end.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

from support.hub.faults import Fault, Reply
from support.hub.routes import APPLICATION
from support.hub.state import Asked, Hub
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_FAULT = Fault("")
_LONGEST_START = 20  # seconds


class Door:
    """The ASGI application: every request passes it on the way in and on the way out."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.transports: dict[tuple[str, int], asyncio.Transport] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = unquote(scope["raw_path"].decode("ascii"))
        query = unquote_plus(scope["query_string"].decode("ascii"))
        line = f"{scope['method']} {path}" + (f"?{query}" if query else "")
        with self.hub.lock:
            struck = [fault for fault in self.hub.faults if fault.strikes(line)]
        fault = next(iter(struck), _NO_FAULT)
        body, is_whole = await _body_of(receive)
        if not is_whole or (fault.hang and not fault.lost and await _gave_up(receive, fault.hang)):
            self._note(scope, path, query, 0, 0, len(body))
            return
        reply = Reply.of(fault) if fault.answers else await self._ask(scope, body, fault)
        if fault.after is not None:
            fault.after(self.hub)
        if fault.lost:
            if fault.hang and await _gave_up(receive, fault.hang):
                self._note(scope, path, query, 0, 0, len(body))
                return
            if fault.status is None:
                self._note(scope, path, query, 0, 0, len(body))
                await self._close(scope, receive)
                return
            reply = Reply.of(fault)
        reply.suffer(fault, is_head=scope["method"] == "HEAD")
        self._note(scope, path, query, reply.status, len(reply.body), len(body))
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": reply.is_cut})
        if reply.is_cut:
            await self._close(scope, receive)

    async def _ask(self, scope: Any, body: bytes, fault: Fault) -> Reply:
        """Return what the routes answer."""
        reply = Reply(500, {}, b"")

        async def give() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def take(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                pairs = message["headers"]
                reply.headers = {name.decode(): value.decode() for name, value in pairs}
            else:
                reply.body += message.get("body", b"")

        state = {"hub": fault.world or self.hub, "no_range": fault.no_range}
        with self.hub.lock:  # nothing in there waits for anything: a request is one step
            await APPLICATION({**scope, **state, "path": scope["raw_path"].decode()}, give, take)
        return reply

    async def _close(self, scope: Any, receive: Any) -> None:
        """Close the connection after what was sent."""
        self.transports[tuple(scope["client"])].close()
        while (await receive())["type"] != "http.disconnect":
            pass

    def _note(
        self, scope: Any, path: str, query: str, status: int, sent: int, received: int
    ) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        token = headers.get("authorization", "").partition(" ")[2] or None
        origin = f"http://{scope['server'][0]}:{scope['server'][1]}"
        asked = Asked(
            scope["method"], path, query, headers.get("range"), status, sent, received, token,
            origin,
        )  # fmt: skip
        self.hub.log.append(asked)


async def _body_of(receive: Any) -> tuple[bytes, bool]:
    """Return the body of a request, and whether all of it came."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body), False
        body += message["body"]
        if not message["more_body"]:
            return bytes(body), True


async def _gave_up(receive: Any, seconds: float) -> bool:
    """Wait, and tell whether the client left before the time was over."""

    async def leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(leaves(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


class _Service:
    """Two origins, one loop, one thread."""

    def __init__(self, hub: Hub) -> None:
        self.door = Door(hub)
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in self.sockets]
        hub.url, hub.files_url = urls
        self.started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="hub", daemon=True)

    def start(self) -> None:
        self.thread.start()
        assert self.started.wait(_LONGEST_START)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self.ended = asyncio.Event()
        config = Config(
            self.door, http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=60,
        )  # fmt: skip
        config.load()
        state, transports = ServerState(), self.door.transports

        class Protocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transports[self.client] = transport
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.client, None)
                super().connection_lost(exc)

        servers = [
            await self.loop.create_server(
                lambda: Protocol(config=config, server_state=state, app_state={}), sock=each
            )
            for each in self.sockets
        ]
        self.started.set()
        await self.ended.wait()
        for server in servers:
            server.close()
        for transport in list(transports.values()):
            transport.abort()
        tasks = list(state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def serving(**settings: Any) -> Iterator[Hub]:
    """Yield a hub that listens on this machine, with these settings of ``Hub``."""
    hub = Hub(**settings)
    service = _Service(hub)
    service.start()
    try:
        yield hub
    finally:
        service.stop()
