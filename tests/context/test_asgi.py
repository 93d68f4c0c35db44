"""The ASGI middleware binds what is trusted of a request's headers for as long as the request is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from tidings import context
from tidings.context import BAGGAGE, CORRELATION, ENVIRONMENT, TENANT, TRACE, ContextKey
from tidings.context.asgi import ContextMiddleware
from tidings.context.keys import TRACESTATE
from tidings.errors import ConfigurationError

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USER = ContextKey("x-user", parse=int)
ALL = [TENANT, ENVIRONMENT, CORRELATION, TRACE, BAGGAGE, USER]


async def serve(app: Any, *headers: tuple[str, str], kind: str = "http", method: str = "GET") -> list[Message]:
    """Serve one request as a server does; return what was sent."""
    sent: list[Message] = []
    came: list[Message] = [{"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}]

    async def receive() -> Message:
        return came.pop(0) if came else {"type": f"{kind}.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    await app({"type": kind, "method": method, "path": "/", "headers": raw}, receive, send)
    assert context.current() == context.Context({})
    return sent


class App:
    """Notes the context that it is called in."""

    def __init__(self) -> None:
        self.seen: list[context.Context] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.seen.append(context.current())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def seen(*headers: tuple[str, str], trust: Any = ALL) -> dict[str, str]:
    app = App()
    await serve(ContextMiddleware(app, trust=trust), *headers)
    (found,) = app.seen
    return dict(found.fields)


async def test_what_is_trusted_is_bound() -> None:
    found = await seen(
        ("X-Tenant", "acme"), ("x-env", "canary"), ("x-correlation-id", "flow"), ("traceparent", TRACEPARENT), ("tracestate", "a=1"),
        ("tracestate", "b=2"), ("baggage", "k=v"), ("x-user", " 7 "), ("x-other", "no"),
    )  # fmt: skip
    assert found == {
        "tenantid": "acme", "x-env": "canary", "correlationid": "flow", "traceparent": TRACEPARENT, "tracestate": "a=1,b=2",
        "baggage": "k=v", "x-user": "7",
    }  # fmt: skip


async def test_nothing_is_trusted_that_is_not_named() -> None:
    headers = [("x-tenant", "acme"), ("x-env", "canary"), ("traceparent", TRACEPARENT), ("tenantid", "acme"), ("hops", "3")]
    assert await seen(*headers, trust=[]) == {}
    assert await seen(*headers, trust=[ENVIRONMENT]) == {"x-env": "canary"}


@pytest.mark.parametrize(
    "headers",
    [
        [("x-tenant", "a\nb")],
        [("x-tenant", "a\x00b")],
        [("x-tenant", "a\x1b[31m")],
        [("x-tenant", "\x7f")],
        [("x-tenant", "")],
        [("x-tenant", "   ")],
        [("x-tenant", "x" * 257)],
        [("x-tenant", "caf\xe9")],
        [("x-tenant", "a"), ("x-tenant", "b")],
        [("x-tenant", "a"), ("x-tenant", "a")],
        [("x-env", "e" * 65)],
        [("x-user", "seven")],
        [("x-user", "9" * 200)],
    ],
)
async def test_a_hostile_value_ends_the_request(headers: list[tuple[str, str]]) -> None:
    app = App()
    start, body = await serve(ContextMiddleware(app, trust=[TENANT, ENVIRONMENT, ContextKey("x-user", parse=int, longest=10)]), *headers)
    assert (start["status"], app.seen) == (400, [])
    assert headers[0][0].encode() in body["body"]
    # Nothing of what was sent comes back.
    assert not any(value.strip() and len(value) > 1 and value.encode("latin-1") in body["body"] for _, value in headers)


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")],
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01")],
        [("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        [("traceparent", TRACEPARENT.upper())],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
        [("traceparent", "x"), ("tracestate", "a=1")],
        [("tracestate", "a=1")],
        [("x-correlation-id", "a\x01b")],
        [("x-correlation-id", "a" * 300)],
        [("baggage", "k=" + "v" * 5000)],
        [("baggage", "k=\x01")],
    ],
)
async def test_a_trace_that_is_none_is_dropped(headers: list[tuple[str, str]]) -> None:
    assert await seen(*headers) == {}


async def test_a_long_tracestate_is_dropped_and_its_trace_is_not() -> None:
    assert await seen(("traceparent", TRACEPARENT), ("tracestate", "a=" + "1" * 600)) == {"traceparent": TRACEPARENT}


async def test_a_required_header_is_required() -> None:
    app = App()
    middleware = ContextMiddleware(app, trust=[TENANT, TRACE], require=[TENANT])
    start, body = await serve(middleware, ("traceparent", TRACEPARENT))
    assert (start["status"], body["body"], app.seen) == (400, b"x-tenant: this header is required", [])
    (start, _) = await serve(middleware, ("x-tenant", "a"))
    assert start["status"] == 200


@pytest.mark.parametrize("given", [{"trust": ["x-tenant"]}, {"trust": [], "require": [TENANT]}, {"trust": [TENANT, TENANT]}])
def test_wrong_keys_are_refused_at_once(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        ContextMiddleware(App(), **given)


async def test_a_streamed_body_and_background_work_have_the_context() -> None:
    found: list[str | None] = []

    async def streaming(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

        async def parts() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                found.append(TENANT.get())
                found.append(await asyncio.to_thread(TENANT.get))
                await send({"type": "http.response.body", "body": b"x", "more_body": True})

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(parts())
        await send({"type": "http.response.body", "body": b""})
        found.append(TENANT.get())  # what a framework runs in the background, after the response

    await serve(ContextMiddleware(streaming, trust=[TENANT]), ("x-tenant", "a"))
    assert found == ["a"] * 7


async def test_requests_side_by_side_do_not_see_each_other() -> None:
    wrong: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        (expected,) = (value.decode() for _, value in scope["headers"])
        for _ in range(5):
            if TENANT.get() != expected:
                wrong.append(expected)
            with context.bind(tenant="inner"):
                await asyncio.sleep(0)

    middleware = ContextMiddleware(app, trust=[TENANT])
    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(serve(middleware, ("x-tenant", f"t{number}")))
    assert wrong == []


async def test_an_error_resets_the_context_too() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError(TENANT.get())

    with pytest.raises(ValueError, match="acme"):
        await serve(ContextMiddleware(app, trust=[TENANT]), ("x-tenant", "acme"))
    assert TENANT.get() is None


async def test_websockets_have_the_context_and_are_refused_before_they_are_accepted() -> None:
    found: list[str | None] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        found.append(TENANT.get())

    middleware = ContextMiddleware(app, trust=[TENANT])
    assert await serve(middleware, ("x-tenant", "a"), kind="websocket") == [{"type": "websocket.accept"}]
    assert found == ["a"]
    (closed,) = await serve(middleware, ("x-tenant", "\x01"), kind="websocket")
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


async def test_the_lifespan_passes_through() -> None:
    called: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        called.append(scope["type"])

    await ContextMiddleware(app, trust=[TENANT], require=[TENANT])({"type": "lifespan"}, asyncio.sleep, asyncio.sleep)  # type: ignore[arg-type]
    assert called == ["lifespan"]


def test_tracestate_comes_with_the_trace() -> None:
    ContextMiddleware(App(), trust=[TRACE, TRACESTATE])
