"""Small ASGI applications, of no framework: health and metrics, mounted in the user's application or served alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tidings.clock import elapsed

if TYPE_CHECKING:
    from tidings.observability.health import Health

__all__ = ["App", "Response", "health_app", "pages"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: An ASGI 3 application.
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Seconds for which an answer is good: who asks more often must not keep the store busy.
_FRESH = 1.0


class Response(NamedTuple):
    """What a page answers."""

    status: int
    content_type: str
    body: bytes


def pages(found: Mapping[str, Callable[[], Awaitable[Response]]]) -> App:
    """Return an application that answers GET and HEAD on these paths; wherever it is mounted, the end of the path decides.

    The page named "" is that of the place itself, where it is mounted.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            # A WebSocket: refusing is closing before it was accepted.
            await send({"type": "websocket.close", "code": 1000})
            return
        path = str(scope["path"])
        inside, path = path.removeprefix(str(scope.get("root_path", ""))).rstrip("/"), path.rstrip("/")
        page = next((page for name, page in found.items() if (path.endswith(name) if name else not inside)), None)
        if page is None:
            response = _text(404, "not found")
        elif scope["method"] not in ("GET", "HEAD"):
            response = _text(405, "only GET and HEAD")
        else:
            response = await page()
        headers = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", str(len(response.body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if response.status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    return app


def health_app(health: Callable[[], Awaitable[Health]], alive: Callable[[], Health]) -> App:
    """Return an application with `/live` and `/ready`: 200 or 503, and JSON with the reasons.

    Args:
        health: asks the store, which may take seconds.
        alive: asks nobody: who probes a process that is alive gives up after a second, and would end it.
    """
    known: tuple[float, Health] | None = None
    asking = asyncio.Lock()

    async def look() -> Health:
        nonlocal known
        async with asking:
            if known is None or elapsed() - known[0] > _FRESH:
                found = await health()
                known = elapsed(), found
            return known[1]

    async def live() -> Response:
        found = alive()
        return _json(found.live, () if found.live else found.reasons)

    async def ready() -> Response:
        found = await look()
        return _json(found.ready, found.reasons)

    return pages({"/live": live, "/ready": ready})


def _json(well: bool, reasons: tuple[str, ...]) -> Response:
    body = json.dumps({"status": "ok" if well else "failing", "reasons": reasons}).encode()
    return Response(200 if well else 503, "application/json", body)


def _text(status: int, text: str) -> Response:
    return Response(status, "text/plain; charset=utf-8", text.encode())


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
