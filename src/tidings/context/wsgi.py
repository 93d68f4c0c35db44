"""Middleware for WSGI applications: `app.wsgi_app = ContextMiddleware(app.wsgi_app, trust=[TENANT, TRACE])`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context, copy_context
from typing import Any

from tidings.context.binding import bind_fields
from tidings.context.http import LISTS, Refused, checked_keys, fields_of
from tidings.context.keys import ContextKey

__all__ = ["ContextMiddleware"]

Environ = dict[str, Any]
Application = Callable[[Any, Any], Iterable[bytes]]


class ContextMiddleware:
    """Binds the context of a request while it is served; also while a body is made that is streamed after the application has returned.

    The application runs in a copy of the server's context: what it sets in context variables ends with the request.

    Args:
        app: the application.
        trust: whose headers are read, as for ASGI. A WSGI server joins headers of one name by commas, so that a value with a comma counts as
            several; and some take `x_tenant` for `x-tenant`, which a gateway then has to remove, too.
        require: of these, those without which a request is refused with status 400.

    Raises:
        ConfigurationError: these are no keys.
    """

    def __init__(self, app: Application, *, trust: Sequence[ContextKey[Any]], require: Sequence[ContextKey[Any]] = ()) -> None:
        self._app = app
        self._keys = checked_keys(trust, require)
        self._require = tuple(require)
        self._names = {"HTTP_" + key.header.upper().replace("-", "_"): key.header for key in self._keys}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve a request."""
        headers = [
            # A server has joined several headers by commas, which nobody can tell from one.
            (header, part)
            for name, header in self._names.items()
            if name in environ
            for part in ([environ[name]] if header in LISTS else environ[name].split(","))
        ]
        try:
            fields = fields_of(headers, self._keys, self._require)
        except Refused as refused:
            body = refused.reason.encode()
            start_response("400 Bad Request", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
            return [body]
        context = copy_context()
        context.run(bind_fields, fields)
        result = context.run(self._app, environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(result, list | tuple) or (isinstance(wrapper, type) and isinstance(result, wrapper)):
            return result  # nothing of the application runs any more
        return _Body(result, context)


class _Body:
    """A body whose parts are made in the context of its request."""

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._context = context
        self._close = getattr(body, "close", None)
        self._parts: Iterator[bytes] = context.run(iter, body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        """What servers call in the end, whatever happens."""
        if self._close is not None:
            self._context.run(self._close)
