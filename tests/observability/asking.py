"""Asking an ASGI application as a server would."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from tidings.observability.asgi import App

__all__ = ["ask"]


async def ask(app: App, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the body."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(
        {"type": "http", "asgi": {"version": "3.0"}, "method": method, "path": path, "headers": [], "query_string": b""}, receive, send
    )
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]
