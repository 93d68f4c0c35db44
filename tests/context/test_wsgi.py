"""The WSGI middleware, behind the standard library's own server and validator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from tidings import context
from tidings.context import ENVIRONMENT, TENANT, TRACE
from tidings.context.wsgi import ContextMiddleware

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Start = Callable[..., Any]


def call(app: Any, *, read: bool = True, **environ: Any) -> tuple[str, list[bytes]]:
    """Call an application as a server does."""
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = app(environ, lambda status, headers, error=None: statuses.append(status))
    parts = list(body) if read else [next(iter(body))]
    if hasattr(body, "close"):
        body.close()
    assert context.current() == context.Context({})
    return statuses[0], parts


def answering(found: list[Any]) -> Any:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        found.append(dict(context.current().fields))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return app


def test_what_is_trusted_is_bound_and_reset() -> None:
    found: list[Any] = []
    middleware = ContextMiddleware(answering(found), trust=[TENANT, TRACE])
    assert call(middleware, HTTP_X_TENANT="acme", HTTP_TRACEPARENT=TRACEPARENT, HTTP_X_ENV="canary") == ("200 OK", [b"ok"])
    assert found == [{"tenantid": "acme", "traceparent": TRACEPARENT}]


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "", "a,b", "x" * 257, "caf\xe9"])
def test_a_hostile_value_ends_the_request(value: str) -> None:
    found: list[Any] = []
    status, body = call(ContextMiddleware(answering(found), trust=[TENANT]), HTTP_X_TENANT=value)
    assert (status, found) == ("400 Bad Request", [])
    assert body[0].startswith(b"x-tenant: ")


def test_a_required_header_is_required() -> None:
    found: list[Any] = []
    assert call(ContextMiddleware(answering(found), trust=[TENANT], require=[TENANT]))[0] == "400 Bad Request"


class Stream:
    """A body that is made after the application has returned."""

    def __init__(self, found: list[Any], fail: bool = False) -> None:
        self.found = found
        self.fail = fail
        self.left = 3

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.found.append(TENANT.get())
        if self.fail:
            raise ValueError("no luck")
        if not self.left:
            raise StopIteration
        self.left -= 1
        return b"x"

    def close(self) -> None:
        self.found.append(("closed", TENANT.get()))


def test_a_streamed_body_has_the_context_until_it_is_closed() -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Start) -> Stream:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Stream(found)

    assert call(ContextMiddleware(app, trust=[TENANT]), HTTP_X_TENANT="a") == ("200 OK", [b"x"] * 3)
    assert found == ["a"] * 4 + [("closed", "a")]


def test_a_generator_may_bind_across_its_parts() -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        with context.bind(environment="inner"):
            for _ in range(2):
                found.append((TENANT.get(), ENVIRONMENT.get()))
                yield b"x"
        found.append((TENANT.get(), ENVIRONMENT.get()))

    middleware = ContextMiddleware(app, trust=[TENANT])
    call(middleware, HTTP_X_TENANT="a")
    assert found == [("a", "inner"), ("a", "inner"), ("a", None)]
    call(middleware, HTTP_X_TENANT="a", read=False)  # a client that has gone


def test_a_file_is_left_to_the_server(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")

    def app(environ: dict[str, Any], start_response: Start) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(environ)
    with closing(ContextMiddleware(app, trust=[TENANT])(environ, lambda *_: None)) as body:  # type: ignore[type-var]
        assert isinstance(body, FileWrapper)


def test_an_error_in_a_body_leaves_nothing_behind() -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Start) -> Stream:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Stream(found, fail=True)

    with pytest.raises(ValueError, match="no luck"):
        call(ContextMiddleware(app, trust=[TENANT]), HTTP_X_TENANT="a")
    assert TENANT.get() is None


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_real_server_serves_through_it() -> None:
    found: list[Any] = []
    # The validator complains about everything that the protocol does not allow, on both sides.
    app = validator(ContextMiddleware(validator(answering(found)), trust=[TENANT]))
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            statuses = []
            for tenant in ("acme", "b" * 300, None, "beta"):
                connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
                connection.request("GET", "/", headers={} if tenant is None else {"X-Tenant": tenant})
                statuses.append(connection.getresponse().status)
                connection.close()
        finally:
            server.shutdown()
            thread.join()
    assert statuses == [200, 400, 200, 200]
    assert found == [{"tenantid": "acme"}, {}, {"tenantid": "beta"}]
