"""Middleware for ASGI applications: `app.add_middleware(ContextMiddleware, trust=[TENANT, TRACE])`, or `ContextMiddleware(app, trust=[...])`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from tidings.context.binding import bound_to
from tidings.context.http import Refused, checked_keys, fields_of
from tidings.context.keys import ContextKey

__all__ = ["ContextMiddleware"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class ContextMiddleware:
    """Binds the context of a request while it is served, streamed bodies, background tasks and websockets included.

    Args:
        app: the application.
        trust: whose headers are read. What a client may send freely, and must not decide, does not belong here: no header is believed that is
            not named, and a gateway has to set, or to remove, those that are.
        require: of these, those without which a request is refused.

    A header that is refused ends a request with status 400, and a websocket before it is accepted.

    Raises:
        ConfigurationError: these are no keys.
    """

    def __init__(self, app: Application, *, trust: Sequence[ContextKey[Any]], require: Sequence[ContextKey[Any]] = ()) -> None:
        self._app = app
        self._keys = checked_keys(trust, require)
        self._require = tuple(require)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
        try:
            fields = fields_of(headers, self._keys, self._require)
        except Refused as refused:
            await _refuse(kind, receive, send, refused.reason)
            return
        with bound_to(fields):
            await self._app(scope, receive, send)


async def _refuse(kind: str, receive: Receive, send: Send, reason: str) -> None:
    if kind == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
