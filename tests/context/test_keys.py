"""Keys and bindings by themselves: what can be bound, what wins, and where it ends."""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

import pytest

from tests.publish.shop import OrderPlaced
from tests.publish.test_preparing import envelope, publisher
from tidings import context
from tidings.context import BAGGAGE, CORRELATION, ENVIRONMENT, TENANT, ContextKey, InvalidContext
from tidings.context.binding import common, current_envelope
from tidings.errors import ConfigurationError

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REGION = ContextKey("x-region")
USER = ContextKey("x-user", parse=int)


def published(**options: Any) -> dict[str, str]:
    headers: dict[str, str] = json.loads(publisher().prepare(OrderPlaced("a"), **options).headers)
    return headers


@pytest.mark.parametrize(
    "header", ["", "X-Region", "x region", "x:y", "tenantid", "traceparent", "hops", "ce-id", "cap-msg-id", "é", "x" * 101, 3]
)
def test_a_header_that_cannot_be_one_is_refused(header: Any) -> None:
    with pytest.raises(ConfigurationError, match="ContextKey"):
        ContextKey(header)


@pytest.mark.parametrize("options", [{"longest": 0}, {"longest": 5000}, {"longest": "9"}, {"invalid": "ignore"}])
def test_wrong_options_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="x-region"):
        ContextKey("x-region", **options)


@pytest.mark.parametrize("text", ["", " a", "a ", "a\nb", "a\tb", "a\0b", "\x1b[0m", "\ud800", "x" * 257])
def test_a_value_that_cannot_travel_is_refused_where_it_is_bound(text: str) -> None:
    with pytest.raises(InvalidContext, match="x-tenant"):
        context.bind(tenant=text).__enter__()
    with pytest.raises(InvalidContext, match="x-region"):
        REGION.of(text)
    assert context.current() == context.Context({})


def test_inner_bindings_win_and_end() -> None:
    with context.bind(REGION.of("eu"), tenant="outer", environment="canary"):
        with context.bind(TENANT.of(None), REGION.of("us")):
            assert (TENANT.get(), REGION.get(), ENVIRONMENT.get()) == (None, "us", "canary")
            assert published() == {"x-region": "us", "x-env": "canary"}
        assert published() == {"x-region": "eu", "tenantid": "outer", "x-env": "canary"}
    assert published() == {}


def test_values_have_types() -> None:
    with context.bind(USER.of(7)) as bound:
        assert (USER.get(), bound.get(USER)) == (7, 7)
        assert published() == {"x-user": "7"}


def test_headers_that_are_given_win() -> None:
    with context.bind(REGION.of("eu"), environment="canary"):
        assert published(headers={"x-region": "us"}) == {"x-region": "us", "x-env": "canary"}


def test_what_is_bound_in_a_handler_wins_over_its_event() -> None:
    cause = envelope(tenant="theirs", traceparent=TRACEPARENT, tracestate="a=1", headers={"x-env": "canary", "baggage": "k=v"})
    token = current_envelope.set(cause)
    try:
        with context.bind(tenant="mine", correlation_id="other flow", traceparent=TRACEPARENT.replace("01", "00")):
            headers = published()
        assert (TENANT.get(), CORRELATION.get(), BAGGAGE.get()) == ("theirs", cause.correlation_id, "k=v")
    finally:
        current_envelope.reset(token)
    assert (headers["tenantid"], headers["correlationid"], headers["x-env"], headers["baggage"]) == ("mine", "other flow", "canary", "k=v")
    # It was the other trace's.
    assert "tracestate" not in headers


def test_what_is_bound_around_a_handler_does_not_count_in_it() -> None:
    with context.bind(tenant="outside", environment="outside"):
        token = current_envelope.set(envelope())
        try:
            assert (TENANT.get(), ENVIRONMENT.get()) == (None, None)
            assert not {"tenantid", "x-env"} & published().keys()
        finally:
            current_envelope.reset(token)
        assert TENANT.get() == "outside"


def test_hostile_context_of_an_event_is_neither_read_nor_handed_on() -> None:
    cause = envelope(tenant="a\nb", traceparent="\x00", headers={"x-env": "a\nb", "baggage": "x" * 5000, "x-user": "7"})
    token = current_envelope.set(cause)
    try:
        assert (TENANT.get(), ENVIRONMENT.get(), BAGGAGE.get(), USER.get()) == (None, None, None, 7)
        assert not {"x-env", "baggage", "x-user", "tenantid", "traceparent"} & published().keys()
    finally:
        current_envelope.reset(token)


def test_a_batch_of_one_mind_keeps_everything() -> None:
    first = envelope(tenant="a", headers={"x-env": "e"})
    assert common([first]) is first
    assert common([first, first]) is first


def test_a_batch_of_several_minds_keeps_what_is_common() -> None:
    first = envelope(tenant="a", traceparent=TRACEPARENT, headers={"x-env": "e", "x-region": "eu", "x-user": "1"})
    second = envelope(tenant="b", hops=9, headers={"x-env": "e", "x-region": "us"})
    found = common([first, second])
    assert (found.id, found.hops, found.tenant, found.traceparent, found.headers) == (second.id, 9, None, None, {"x-env": "e"})


async def test_tasks_and_threads_have_a_copy() -> None:
    async def task() -> str | None:
        with context.bind(tenant="inner"):
            await asyncio.sleep(0)
        return TENANT.get()

    with context.bind(tenant="a"):
        assert await asyncio.create_task(task()) == "a"
        assert await asyncio.to_thread(TENANT.get) == "a"
        copied = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, copied.run, TENANT.get) == "a"
        late = asyncio.create_task(task())
    assert await late == "a"
    assert TENANT.get() is None
