"""Context keys keep their types, filters have the shape that they need."""

from __future__ import annotations

from tidings import Service, context
from tidings.context import TENANT, ContextKey
from tidings.context.asgi import ContextMiddleware
from tidings.filters import Call, HandlerFilter, Next, Publication, PublishFilter
from tidings.stores import SQLStore

REGION = ContextKey("x-region")
USER = ContextKey("x-user", parse=int)

region: str | None = REGION.get()
user: int | None = USER.get()
tenant: str | None = TENANT.get()
wrong: str | None = USER.get()  # E: a user is a number

with context.bind(REGION.of("eu"), USER.of(7), TENANT.of(None), tenant="acme") as bound:
    number: int | None = bound.get(USER)
    text: str | None = bound.get(USER)  # E: a user is a number
USER.of("seven")  # E: no number
context.bind(REGION)  # E: a key has no value
context.bind(tenant=7)  # E: text only
ContextKey("x-user", parse=len, text=lambda value: value)  # E: a text is written
ContextMiddleware(lambda scope, receive, send: send({}), trust=["x-tenant"])  # E: keys, not names


def stamp(publication: Publication) -> None:
    publication.headers["a"] = "b"
    publication.headers["a"] = 1  # E: text only


async def stamp_later(publication: Publication) -> None:
    """Publishing is never awaited."""


async def around(call: Call, following: Next) -> None:
    await following()


def not_awaited(call: Call, following: Next) -> None:
    """Is awaited."""


right_publish: PublishFilter = stamp
wrong_publish: PublishFilter = stamp_later  # E: must not be async
right_handler: HandlerFilter = around
wrong_handler: HandlerFilter = not_awaited  # E: has to be async


def service(store: SQLStore) -> None:
    Service("a", store=store, context=[REGION, USER], publish_filters=[stamp], handler_filters=[around], max_hops=3)
    Service("a", store=store, context=["x-region"])  # E: a key, not a name
    Service("a", store=store, publish_filters=[around])  # E: another kind of filter
