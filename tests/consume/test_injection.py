"""What a handler's parameters stand for is worked out at start; what cannot be worked out says which parameter, and what to do."""

from __future__ import annotations

import functools
import sqlite3
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import aiosqlite
import asyncpg
import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderCancelled, OrderPlaced
from tidings import Envelope, Publish
from tidings.consume.injection import Need, Plan, plan
from tidings.consume.providers import Providers
from tidings.errors import ConfigurationError, UnresolvedParameter

if TYPE_CHECKING:
    from decimal import Decimal as Money

MODULE = __name__


class Clock:
    pass


class Mailer:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


class Unknown:
    pass


class HasOrder(Protocol):
    @property
    def order_id(self) -> str: ...


@dataclass(frozen=True)
class Base:
    pass


@dataclass(frozen=True)
class Derived(Base):
    pass


def resolve(
    function: Callable[..., Any],
    *events: type[Any],
    batch: int | None = None,
    providers: Providers | None = None,
    async_engine: bool = True,
    driver: str | None = None,
) -> Plan:
    return plan(function, events or (OrderPlaced,), batch, providers or Providers(), async_engine=async_engine, driver=driver)


def refusal(function: Callable[..., Any], *events: type[Any], kind: type[Exception] = ConfigurationError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        resolve(function, *events, **options)
    return str(caught.value)


def needs(found: Plan) -> dict[str, Need]:
    return {parameter.name: parameter.need for parameter in found.parameters}


# --- what there is to ask for


def test_an_async_handler_may_ask_for_everything_asynchronous() -> None:
    async def handle(
        event: OrderPlaced,
        envelope: Envelope,
        publish: Publish,
        session: AsyncSession,
        connection: AsyncConnection,
        driver: asyncpg.Connection,
    ) -> None: ...

    found = resolve(handle)
    assert needs(found) == {
        "envelope": Need.ENVELOPE,
        "publish": Need.PUBLISH,
        "session": Need.ASYNC_SESSION,
        "connection": Need.ASYNC_CONNECTION,
        "driver": Need.DRIVER,
    }
    assert (found.asynchronous, found.transactional, found.session, found.simple) == (True, True, AsyncSession, True)


def test_a_plain_def_may_ask_for_everything_synchronous() -> None:
    def handle(
        event: OrderPlaced, envelope: Envelope, publish: Publish, session: Session, connection: Connection, driver: sqlite3.Connection
    ) -> None: ...

    found = resolve(handle, async_engine=False)
    assert list(needs(found).values()) == [Need.ENVELOPE, Need.PUBLISH, Need.SESSION, Need.CONNECTION, Need.DRIVER]
    assert (found.asynchronous, found.transactional, found.session) == (False, True, Session)


def test_a_plain_def_may_ask_for_a_session_of_an_async_engine() -> None:
    def handle(event: OrderPlaced, session: Session, connection: Connection) -> None: ...

    assert resolve(handle).transactional


@pytest.mark.parametrize("kind", [Envelope, None])
def test_a_handler_that_asks_for_nothing_of_the_database_is_plain(kind: Any) -> None:
    async def handle(event: OrderPlaced) -> None: ...
    async def handle_with_envelope(event: OrderPlaced, envelope: Envelope) -> None: ...

    assert not resolve(handle if kind is None else handle_with_envelope).transactional


def test_a_session_class_of_the_users_own_is_made_as_such() -> None:
    class TenantSession(AsyncSession):
        pass

    async def handle(event: OrderPlaced, session: TenantSession) -> None: ...

    handle.__annotations__["session"] = TenantSession
    assert resolve(handle).session is TenantSession


def test_a_batch_gets_lists() -> None:
    async def handle(events: list[OrderPlaced], envelopes: list[Envelope], session: AsyncSession) -> None: ...
    async def handle_sequence(events: Sequence[OrderPlaced], envelopes: Sequence[Envelope]) -> None: ...

    assert needs(resolve(handle, batch=10))["envelopes"] is Need.ENVELOPES
    assert needs(resolve(handle_sequence, batch=10))["envelopes"] is Need.ENVELOPES
    assert resolve(handle, batch=10).batch == 10


def test_one_handler_for_several_events() -> None:
    async def handle(event: OrderPlaced | OrderCancelled) -> None: ...
    async def handle_union(event: typing.Union[OrderPlaced, OrderCancelled]) -> None: ...  # noqa: UP007
    async def handle_anything(event: object) -> None: ...
    async def handle_any(event: Any) -> None: ...
    async def handle_batch(events: list[OrderPlaced | OrderCancelled]) -> None: ...

    for function in (handle, handle_union, handle_anything, handle_any):
        assert resolve(function, OrderPlaced, OrderCancelled).events == (OrderPlaced, OrderCancelled)
    assert resolve(handle_batch, OrderPlaced, OrderCancelled, batch=2).events == (OrderPlaced, OrderCancelled)


def test_an_event_may_be_taken_as_what_it_derives_from() -> None:
    async def handle(event: Base) -> None: ...

    assert resolve(handle, Derived).events == (Derived,)


def test_an_event_may_be_taken_as_a_protocol() -> None:
    async def handle(event: HasOrder) -> None: ...
    async def handle_batch(events: list[HasOrder]) -> None: ...

    resolve(handle, OrderPlaced, OrderCancelled)
    resolve(handle_batch, OrderPlaced, batch=10)


def test_an_event_parameter_without_annotation_takes_anything() -> None:
    async def handle(event): ...  # type: ignore[no-untyped-def]

    resolve(handle)


def test_annotated_parameters_mean_what_they_annotate() -> None:
    async def handle(
        event: Annotated[OrderPlaced, "x"], session: Annotated[AsyncSession, "y"], envelope: Annotated[Envelope, 1]
    ) -> None: ...

    assert list(needs(resolve(handle)).values()) == [Need.ASYNC_SESSION, Need.ENVELOPE]


def test_a_parameter_with_a_default_that_nobody_provides_keeps_it() -> None:
    async def handle(event: OrderPlaced, retries: int = 3, unknown: Unknown | None = None, untyped=None) -> None: ...  # type: ignore[no-untyped-def]

    assert resolve(handle).parameters == ()


def test_a_parameter_with_a_default_that_somebody_provides_gets_it() -> None:
    async def handle(event: OrderPlaced, session: AsyncSession | None = None, *, envelope: Envelope = None) -> None: ...  # type: ignore[assignment]

    assert needs(resolve(handle)) == {"envelope": Need.ENVELOPE}


def test_keyword_only_parameters_are_injected_and_variadic_ones_left_alone() -> None:
    async def handle(event: OrderPlaced, *args: int, session: AsyncSession, **kwargs: int) -> None: ...

    assert needs(resolve(handle)) == {"session": Need.ASYNC_SESSION}


# --- kinds of functions


class Handler:
    async def method(self, event: OrderPlaced, session: AsyncSession) -> None: ...

    def plain(self, event: OrderPlaced, session: Session) -> None: ...

    @staticmethod
    async def static(event: OrderPlaced, session: AsyncSession) -> None: ...

    @classmethod
    async def of_class(cls, event: OrderPlaced, session: AsyncSession) -> None: ...


class AsyncCallable:
    async def __call__(self, event: OrderPlaced, session: AsyncSession) -> None: ...


class PlainCallable:
    def __call__(self, event: OrderPlaced, session: Session) -> None: ...


async def with_options(verbose: bool, event: OrderPlaced, session: AsyncSession, *, retries: int) -> None: ...


def decorated(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        await function(*args, **kwargs)

    return wrapper


@decorated
async def under_a_decorator(event: OrderPlaced, session: AsyncSession) -> None: ...


@pytest.mark.parametrize(
    ("function", "asynchronous"),
    [
        (Handler().method, True),
        (Handler().plain, False),
        (Handler.static, True),
        (Handler.of_class, True),
        (AsyncCallable(), True),
        (PlainCallable(), False),
        (functools.partial(with_options, True, retries=3), True),
        (functools.partial(Handler().method), True),
        (functools.partial(functools.partial(with_options, False), retries=1), True),
        (functools.partial(PlainCallable()), False),
        (under_a_decorator, True),
    ],
    ids=["method", "plain method", "static", "class method", "callable", "plain callable", "partial", "partial of a method",
         "partial of a partial", "partial of a callable", "decorated"],
)  # fmt: skip
def test_functions_of_every_kind(function: Callable[..., Any], asynchronous: bool) -> None:
    found = resolve(function)
    assert found.asynchronous is asynchronous
    assert needs(found)["session"] is (Need.ASYNC_SESSION if asynchronous else Need.SESSION)


# --- provided values


def test_a_value_a_factory_and_a_context_manager() -> None:
    @contextmanager
    def mailer(clock: Clock) -> Iterator[Mailer]:
        yield Mailer(clock)

    providers = Providers()
    providers.add(Clock, Clock())
    providers.add(Mailer, mailer)

    def handle(event: OrderPlaced, mailer: Mailer, clock: Clock) -> None: ...

    found = resolve(handle, providers=providers)
    assert [(p.name, p.need, [inner.name for inner in p.inner]) for p in found.parameters] == [
        ("mailer", Need.PROVIDED, ["clock"]),
        ("clock", Need.PROVIDED, []),
    ]
    assert not found.simple
    assert not found.transactional


def test_a_provider_that_needs_the_session_makes_the_handler_transactional() -> None:
    def mailer(session: AsyncSession) -> Mailer:
        raise NotImplementedError

    providers = Providers()
    providers.add(Mailer, mailer)

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    found = resolve(handle, providers=providers)
    assert found.transactional
    assert found.session is AsyncSession


def test_a_class_is_its_own_factory() -> None:
    providers = Providers()
    providers.add(Clock, Clock)
    providers.add(Mailer, Mailer)

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    (parameter,) = resolve(handle, providers=providers).parameters
    assert [inner.kind for inner in parameter.inner] == [Clock]


def test_a_users_provider_beats_ours() -> None:
    providers = Providers()
    providers.add(AsyncSession, lambda: None)

    async def handle(event: OrderPlaced, session: AsyncSession) -> None: ...

    found = resolve(handle, providers=providers)
    assert needs(found) == {"session": Need.PROVIDED}
    assert not found.transactional


def test_types_of_the_same_name_are_not_a_circle() -> None:
    class Settings:
        pass

    Outer = type("Settings", (), {"__qualname__": Settings.__qualname__})

    def outer(inner: Settings) -> object:
        raise NotImplementedError

    outer.__annotations__["inner"] = Settings
    providers = Providers()
    providers.add(Outer, outer)
    providers.add(Settings, Settings)

    async def handle(event: OrderPlaced, settings: Any) -> None: ...

    handle.__annotations__["settings"] = Outer
    (parameter,) = resolve(handle, providers=providers).parameters
    assert [inner.kind for inner in parameter.inner] == [Settings]


# --- refusals


def test_no_parameter_at_all() -> None:
    async def handle() -> None: ...
    async def handle_batch() -> None: ...
    async def handle_keyword(*, event: OrderPlaced) -> None: ...

    name = f"{MODULE}.test_no_parameter_at_all.<locals>"
    assert refusal(handle) == f"handler {name}.handle takes no event: its first parameter has to be the event"
    assert refusal(handle_batch, batch=2) == f"handler {name}.handle_batch takes no event: its first parameter has to be the events, a list"
    assert refusal(handle_keyword) == f"handler {name}.handle_keyword takes no event: its first parameter has to be the event"


def test_another_event_class() -> None:
    async def handle(event: OrderCancelled) -> None: ...

    label = f"handler {MODULE}.test_another_event_class.<locals>.handle"
    assert refusal(handle) == f"{label} subscribes to OrderPlaced but its parameter 'event' is OrderCancelled"
    assert refusal(handle, OrderPlaced, OrderCancelled) == f"{label} subscribes to OrderPlaced but its parameter 'event' is OrderCancelled"


def test_the_session_first() -> None:
    async def handle(session: AsyncSession, event: OrderPlaced) -> None: ...

    assert refusal(handle).endswith("handle subscribes to OrderPlaced but its parameter 'session' is AsyncSession")


@pytest.mark.parametrize("hint", ["OrderPlaced", "typing.Union[list[OrderPlaced], None]", "dict[str, OrderPlaced]", "str"])
def test_a_batch_without_a_list(hint: str) -> None:
    async def handle(events: Any) -> None: ...

    handle.__annotations__["events"] = hint
    message = refusal(handle, batch=10)
    assert "with batch=10 the parameter 'events' is a list of events, list[OrderPlaced], not " in message


def test_a_list_without_a_batch() -> None:
    async def handle(events: list[OrderPlaced]) -> None: ...

    assert refusal(handle).endswith("handle subscribes to OrderPlaced but its parameter 'events' is list")


def test_a_list_of_another_class() -> None:
    async def handle(events: list[OrderCancelled]) -> None: ...

    assert refusal(handle, batch=10).endswith("handle subscribes to OrderPlaced but its parameter 'events' is OrderCancelled")


def test_a_type_that_nobody_provides() -> None:
    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    assert refusal(handle, kind=UnresolvedParameter) == (
        f"handler {MODULE}.test_a_type_that_nobody_provides.<locals>.handle: parameter 'mailer' cannot be resolved: nobody provides Mailer. "
        "Known are Envelope, Publish, Execute or ExecuteSync, Session or AsyncSession, Connection or AsyncConnection, the driver's connection; provide another with "
        "service.provide(Type, value_or_factory), or give the parameter a default"
    )


def test_a_refusal_names_what_is_provided() -> None:
    providers = Providers()
    providers.add(Clock, Clock())

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    assert "the driver's connection, Clock; provide another" in refusal(handle, kind=UnresolvedParameter, providers=providers)


def test_a_parameter_without_annotation() -> None:
    async def handle(event: OrderPlaced, session) -> None: ...  # type: ignore[no-untyped-def]

    assert "parameter 'session' cannot be resolved: it has no annotation" in refusal(handle, kind=UnresolvedParameter)


def test_a_type_that_is_imported_for_type_checkers_only() -> None:
    async def handle(event: OrderPlaced, price: Money) -> None: ...

    assert refusal(handle, kind=UnresolvedParameter) == (
        f"handler {MODULE}.test_a_type_that_is_imported_for_type_checkers_only.<locals>.handle: the annotation 'Money' of parameter 'price' "
        "cannot be resolved (name 'Money' is not defined); import the type at module level, not under TYPE_CHECKING"
    )


def test_a_parameter_that_nobody_asks_for_may_be_unresolvable() -> None:
    async def handle(event: OrderPlaced, session: AsyncSession) -> Money: ...

    assert needs(resolve(handle)) == {"session": Need.ASYNC_SESSION}


def test_a_type_of_a_provider_that_cannot_be_resolved() -> None:
    def mailer(price: Money) -> Mailer:
        raise NotImplementedError

    providers = Providers()
    providers.add(Mailer, mailer)

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    assert refusal(handle, kind=UnresolvedParameter, providers=providers).startswith(
        "provider of Mailer: the annotation 'Money' of parameter 'price' cannot be resolved"
    )


def test_a_provider_of_a_provider_that_nobody_provides() -> None:
    providers = Providers()
    providers.add(Mailer, Mailer)

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    assert refusal(handle, kind=UnresolvedParameter, providers=providers).startswith(
        f"handler {MODULE}.test_a_provider_of_a_provider_that_nobody_provides.<locals>.handle -> Mailer: parameter 'clock' cannot be "
        "resolved: nobody provides Clock."
    )


def test_providers_that_need_one_another() -> None:
    def clock(mailer: Mailer) -> Clock:
        raise NotImplementedError

    providers = Providers()
    providers.add(Mailer, Mailer)
    providers.add(Clock, clock)

    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    assert refusal(handle, kind=UnresolvedParameter, providers=providers).endswith(
        "handle: providers need one another in a circle: Mailer -> Clock -> Mailer"
    )


def test_a_synchronous_session_in_an_async_handler() -> None:
    async def handle(event: OrderPlaced, session: Session) -> None: ...
    async def handle_connection(event: OrderPlaced, connection: Connection) -> None: ...

    tail = ": ask for the asynchronous kind, or use a plain def"
    assert refusal(handle).endswith(f"handle is async and would block its event loop with 'session'{tail}")
    assert refusal(handle_connection).endswith(f"handle_connection is async and would block its event loop with 'connection'{tail}")


def test_an_asynchronous_session_in_a_plain_def() -> None:
    def handle(event: OrderPlaced, session: AsyncSession) -> None: ...
    def handle_connection(event: OrderPlaced, connection: AsyncConnection) -> None: ...

    tail = " is a plain def and cannot await: make it async def, or ask for the synchronous kind in "
    assert refusal(handle).endswith(f"handle{tail}'session'")
    assert refusal(handle_connection).endswith(f"handle_connection{tail}'connection'")


def test_an_asynchronous_session_of_a_synchronous_engine() -> None:
    async def handle(event: OrderPlaced, session: AsyncSession) -> None: ...

    assert refusal(handle, async_engine=False).endswith(
        "handle: 'session' needs a store with an AsyncEngine: SQLStore(create_async_engine(...)), or a plain def handler"
    )


@pytest.mark.parametrize(
    ("kind", "async_engine", "expected"),
    [
        (asyncpg.Connection, False, "asyncpg.Connection; that needs an async def handler and a store with an AsyncEngine on that driver"),
        (
            aiosqlite.Connection,
            False,
            "aiosqlite.Connection; that needs an async def handler and a store with an AsyncEngine on that driver",
        ),
        (
            psycopg.AsyncConnection,
            False,
            "psycopg.AsyncConnection; that needs an async def handler and a store with an AsyncEngine on that",
        ),
        (psycopg.Connection, True, "psycopg.Connection; that needs a plain def handler and a store with an Engine on that driver"),
        (sqlite3.Connection, True, "sqlite3.Connection; that needs a plain def handler and a store with an Engine on that driver"),
    ],
)
def test_a_drivers_connection_that_the_engine_cannot_have(kind: Any, async_engine: bool, expected: str) -> None:
    async def handle(event: OrderPlaced, connection: Any) -> None: ...
    def handle_plain(event: OrderPlaced, connection: Any) -> None: ...

    for function in (handle, handle_plain):
        function.__annotations__["connection"] = kind
        assert f"'connection' asks for {expected}" in refusal(function, async_engine=async_engine)


@pytest.mark.parametrize(("engine", "fits"), [("asyncpg", True), ("aiosqlite", False), ("psycopg", False), (None, True)])
def test_the_connection_of_another_driver_than_the_engines(engine: str | None, fits: bool) -> None:
    async def handle(event: OrderPlaced, connection: asyncpg.Connection) -> None: ...

    if fits:
        assert needs(resolve(handle, driver=engine)) == {"connection": Need.DRIVER}
    else:
        message = refusal(handle, driver=engine)
        assert "asks for asyncpg.Connection; that needs an async def handler and a store with an AsyncEngine on that driver" in message


def test_a_connection_that_commits_in_ordinary_use_shares_its_transaction_with_nobody() -> None:
    async def on_asyncpg(event: OrderPlaced, connection: asyncpg.Connection) -> None: ...
    async def on_aiosqlite(event: OrderPlaced, connection: aiosqlite.Connection) -> None: ...
    def on_sqlite3(event: OrderPlaced, connection: sqlite3.Connection) -> None: ...
    def on_psycopg(event: OrderPlaced, connection: psycopg.Connection) -> None: ...

    assert not resolve(on_asyncpg).alone
    assert resolve(on_aiosqlite).alone
    assert resolve(on_sqlite3, async_engine=False).alone
    assert resolve(on_psycopg, async_engine=False).alone


def test_two_kinds_of_session() -> None:
    class TenantSession(AsyncSession):
        pass

    async def handle(event: OrderPlaced, session: AsyncSession, other: Any) -> None: ...

    handle.__annotations__["other"] = TenantSession
    assert refusal(handle).endswith("handle asks for two kinds of session: AsyncSession, TenantSession; one transaction has one")


def test_an_async_provider_in_a_plain_def() -> None:
    async def clock() -> Clock:
        return Clock()

    @asynccontextmanager
    async def mailer() -> AsyncIterator[Mailer]:
        yield Mailer(Clock())

    def nested(mailer: Mailer) -> Unknown:
        return Unknown()

    providers = Providers()
    providers.add(Clock, clock)
    providers.add(Mailer, mailer)
    providers.add(Unknown, nested)

    def handle(event: OrderPlaced, it: Any) -> None: ...

    for kind, name in ((Clock, "it"), (Mailer, "it"), (Unknown, "mailer")):
        handle.__annotations__["it"] = kind
        assert refusal(handle, providers=providers).endswith(
            f"handle is a plain def and cannot await the provider of '{name}': make it async def"
        )


def test_a_generator_would_never_run() -> None:
    def handle(event: OrderPlaced) -> Iterator[int]:
        yield 1

    async def handle_async(event: OrderPlaced) -> AsyncIterator[int]:
        yield 1

    assert refusal(handle).endswith("handle is a generator: calling it runs nothing. Remove the yield")
    assert refusal(handle_async).endswith("handle_async is a generator: calling it runs nothing. Remove the yield")


def test_an_injected_parameter_that_is_positional_only() -> None:
    async def handle(event: OrderPlaced, session: AsyncSession, /) -> None: ...

    assert refusal(handle).endswith(
        "handle: parameter 'session' is positional-only, and what is injected is given by name: move it behind the '/'"
    )


def test_a_positional_only_event_is_fine() -> None:
    async def handle(event: OrderPlaced, /, session: AsyncSession) -> None: ...

    assert needs(resolve(handle)) == {"session": Need.ASYNC_SESSION}


# --- providers


def test_a_type_is_provided_once() -> None:
    providers = Providers()
    providers.add(Clock, Clock())
    with pytest.raises(ConfigurationError, match="Clock is provided twice: keep one of them"):
        providers.add(Clock, Clock)


def test_a_bare_generator_is_no_provider() -> None:
    def clock() -> Iterator[Clock]:
        yield Clock()

    async def clock_async() -> AsyncIterator[Clock]:
        yield Clock()

    for factory in (clock, clock_async):
        with pytest.raises(ConfigurationError, match="the provider of Clock is a bare generator: decorate it with @contextmanager or"):
            Providers().add(Clock, factory)


def test_neither_an_instance_nor_a_function() -> None:
    with pytest.raises(ConfigurationError, match="the provider of Clock is 'noon': give an instance of it, or a function that makes one"):
        Providers().add(Clock, "noon")


def test_a_callable_instance_is_a_value() -> None:
    class Tick:
        def __call__(self) -> int:
            return 1

    tick = Tick()
    providers = Providers()
    providers.add(Tick, tick)
    found = providers.get(Tick)
    assert found is not None
    assert found.value is tick


def test_a_generic_alias_is_a_type_too() -> None:
    providers = Providers()
    providers.add(dict[str, int], {"a": 1})

    async def handle(event: OrderPlaced, counts: dict[str, int]) -> None: ...

    (parameter,) = resolve(handle, providers=providers).parameters
    assert parameter.provider is not None
    assert parameter.provider.value == {"a": 1}


def test_an_annotation_that_cannot_be_hashed_is_provided_by_nobody() -> None:
    async def handle(event: OrderPlaced, counts: Any) -> None: ...

    handle.__annotations__["counts"] = Annotated[int, []]
    assert "parameter 'counts' cannot be resolved: nobody provides int" in refusal(handle, kind=UnresolvedParameter)


def test_a_class_that_is_an_async_context_manager_needs_an_async_handler() -> None:
    class Client(AbstractAsyncContextManager["Client"]):
        async def __aexit__(self, *_: object) -> None: ...

    providers = Providers()
    providers.add(Client, Client)
    found = providers.get(Client)
    assert found is not None
    assert found.asynchronous
