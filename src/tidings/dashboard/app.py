"""The dashboard as an ASGI application: routes behind their guards, headers on every answer, static files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from tidings.dashboard.auth import Auth
from tidings.dashboard.call import Call, guarded, problem
from tidings.dashboard.desk import Desk
from tidings.dashboard.payload import Redact, Redaction
from tidings.dashboard.render import STATIC
from tidings.errors import ConfigurationError

if TYPE_CHECKING:
    from tidings.service import Service
    from tidings.stores.sql.store import SQLStore

__all__ = ["Dashboard", "Settings"]

#: No script, style or frame but our own files; nothing of a payload could run even if it came to stand in a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


#: What is said of an address that there is not, or not for this method; of the API or the pages.
_REFUSED = {
    (404, True): "there is nothing at this address; api/openapi.json lists what there is.",
    (405, True): "this address takes another method; api/openapi.json says which.",
    (404, False): "There is no such page.",
    (405, False): "This page is not there for that: open it, or use its own forms.",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What was given to `service.dashboard(...)`."""

    desk: Desk
    auth: Auth | None
    read_only: bool
    redact: tuple[str | Redact, ...]
    secure_cookies: bool = False


class Dashboard:
    """An ASGI application; `service.dashboard(...)` makes it.

    Args:
        store: the tables.
        service: the service that it is part of, if there is one.
        auth: see `Service.dashboard`.
        read_only: likewise.
        redact: likewise.
        secure_cookies: likewise.
    """

    def __init__(
        self,
        store: SQLStore,
        service: Service | None = None,
        *,
        auth: Auth | None = None,
        read_only: bool = False,
        redact: Sequence[str | Redact] = (),
        secure_cookies: bool = False,
    ) -> None:
        from tidings.dashboard.routes import ROUTES

        if auth is not None and not callable(auth):
            raise ConfigurationError(f"dashboard(auth={type(auth).__name__}): give a function of the request that returns a User or None")
        if isinstance(redact, str):
            raise ConfigurationError(f"dashboard(redact={redact!r}): give a list, redact=[{redact!r}]")
        if not isinstance(redact, Collection) or not all(isinstance(rule, str | Redact) for rule in redact):
            raise ConfigurationError(f"dashboard(redact={redact!r}): give a list of names of fields and Redact(...)")
        for what, flag in (("read_only", read_only), ("secure_cookies", secure_cookies)):
            if not isinstance(flag, bool):
                raise ConfigurationError(f"dashboard({what}={flag!r}): give True or False")
        Redaction(redact, ())
        self._settings = settings = Settings(Desk(store, service), auth, read_only, tuple(redact), secure_cookies)
        routes: list[Route | Mount] = [
            Route(place.path, guarded(place.endpoint, place.role, settings, api=place.api), methods=[place.method]) for place in ROUTES
        ]
        routes.append(Mount("/static", StaticFiles(directory=STATIC)))

        async def refused(request: Request, error: Exception) -> Response:
            """Answer what has no route."""
            assert isinstance(error, HTTPException)
            call = Call(request, settings, None, "")
            path = request.scope["path"][len(call.base) :]
            api = path.startswith("/api/")
            sentence = _REFUSED.get((error.status_code, api), str(error.detail))
            if api:
                response = problem(error.status_code, f"{request.method} {path[:200]}: {sentence}")
            else:
                response = call.page("error.html", error.status_code, title=str(error.detail), sentence=sentence)
            response.headers.update(error.headers or {})
            return response

        self._app = Starlette(routes=routes, exception_handlers={HTTPException: refused})

    def close(self) -> None:
        """End the streams of open pages, for a server that stops; without it they end by themselves within 20 seconds."""
        self._settings.desk.closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if "cache-control" not in headers:
                    asset = "/static/" in scope["path"]
                    headers["cache-control"] = "public, max-age=3600" if asset else "no-store"
            await send(message)

        await self._app(_own(scope), receive, with_headers)


def _own(scope: Scope) -> dict[str, Any]:
    # What a surrounding application has put into its scope is not for these routes.
    return {**scope, "app": None}
