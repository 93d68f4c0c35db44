"""Recording what code publishes, without a database. Events go through their contracts, so that an invalid one fails as in production."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload
from uuid import UUID

import msgspec

from tidings import clock
from tidings.consume.received import Received
from tidings.contracts import Contract, EventType
from tidings.errors import ContractError
from tidings.publish.buffer import Cancellation
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import Publish
from tidings.publish.publisher import Publisher
from tidings.testing.assertions import matching, nothing
from tidings.testing.seen import Published

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["Recording", "RecordingPublish", "recording"]

E = TypeVar("E")


class RecordingPublish(Publish):
    """A `Publish` for unit tests: `publish = RecordingPublish(orders)`; it keeps what it is called with.

    An event is encoded and read back, so that `events` holds what a subscriber would get. It is kept at the call: there is no transaction.

    Args:
        contracts: whose events it takes.
        source: the publishing service.
        environment: for topic namers that use it.
    """

    def __init__(self, *contracts: Contract, source: str = "test", environment: str | None = "test") -> None:
        types: dict[type, EventType[Any]] = {event_type.cls: event_type for contract in contracts for event_type in contract}

        def type_of(cls: type) -> EventType[Any]:
            if cls not in types:
                raise ContractError(
                    f"{cls.__qualname__} is in none of the contracts given: {', '.join(c.name for c in contracts) or 'none'}"
                )
            return types[cls]

        self._open(Publisher(source, type_of, _NoStore(), environment=environment), type_of)

    def _open(self, publisher: Publisher, type_of: Callable[[type], Any]) -> None:
        super().__init__(publisher, self._keep)
        self._pairs: list[tuple[Any, Outgoing]] = []
        self._kinds: dict[tuple[str, int | None], Any] = {}
        self._type_of = type_of

    def __call__(self, event: object, /, **options: Any) -> UUID:
        event_type = self._type_of(type(event))
        self._kinds[event_type.name, event_type.version] = event_type
        return super().__call__(event, **options)

    @property
    def events(self) -> list[Any]:
        """What was published, in order."""
        return list(self.published())

    @overload
    def published(self, /) -> Published[Any]: ...
    @overload
    def published(self, event_type: type[E], /) -> Published[E]: ...
    def published(self, event_type: type[Any] | None = None, /) -> Published[Any]:
        """Return what was published, of one class or all, in order; with `.envelopes`."""
        return Published((event, _envelope(out)) for event, out in self._pairs if event_type is None or type(event) is event_type)

    def assert_published(self, event_type: type[E], where: Callable[[E], bool] | None = None, /, **fields: Any) -> E:
        """Return the first event of a class that has these values in its fields, and that the predicate accepts.

        Raises:
            AssertionError: there is none.
            TypeError: the class has no such field.
        """
        __tracebackhide__ = True
        return matching(self.events, event_type, where, fields, once=False, context="")

    def assert_published_once(self, event_type: type[E], where: Callable[[E], bool] | None = None, /, **fields: Any) -> E:
        """Do what `assert_published` does, and fail if there are several.

        Raises:
            AssertionError: there is none, or there are several.
            TypeError: the class has no such field.
        """
        __tracebackhide__ = True
        return matching(self.events, event_type, where, fields, once=True, context="")

    def assert_nothing_published(self, event_type: type[Any] | None = None, /) -> None:
        """Fail if anything was published, of this class if one is given.

        Raises:
            AssertionError: something was.
        """
        __tracebackhide__ = True
        nothing(self.events, event_type, "")

    def _keep(self, outgoing: Outgoing) -> None:
        event_type = self._kinds[outgoing.name, outgoing.version]
        self._pairs.append((event_type.decode(outgoing.data), outgoing))

    def _cancel(self, event_id: UUID) -> bool:
        for index, (_, outgoing) in enumerate(self._pairs):
            if outgoing.id == event_id and outgoing.due is not None:
                del self._pairs[index]
                return True
        return False


class Recording(RecordingPublish):
    """What `recording(service)` gives.

    Attributes:
        publish: the recorder itself, to hand to a handler.
        execute: the recorder of commands; nothing executes them.
        domain_events: what was recorded by `service.record`, `service.track` and in units of work.
    """

    def __init__(self, service: Service) -> None:
        from tidings.testing.domain import Doubles

        self._open(service.publisher, service._type_of)
        self.doubles = Doubles(self)
        self.execute = self.doubles.execute
        self.domain_events: list[Any] = self.doubles.recorded

    @property
    def publish(self) -> RecordingPublish:
        """Itself: `handler(event, publish=published.publish)`."""
        return self

    def block(self, connection: object = None, /) -> _Block:
        """Return what `service.publishing(connection)` gives meanwhile."""
        return _Block(self)

    def on_session(self, session: object, event: object, /, **options: Any) -> UUID:
        """Do what `service.publish(session, event)` does meanwhile; the session is not looked at."""
        return self(event, **options)

    def cancel(self, session: object, event_id: UUID, /) -> Cancellation:
        """Do what `service.cancel` does meanwhile: forget a scheduled event."""
        cancellation = Cancellation(event_id)
        cancellation.cancelled = self._cancel(event_id)
        return cancellation


@contextmanager
def recording(service: Service) -> Iterator[Recording]:
    """Record what is published with a service, without a database.

    `with recording(service) as published: place_order(...)`, and then `published.assert_published(OrderPlaced)`.

    `service.publish`, `service.publishing` and `service.cancel` take any session or connection meanwhile, even None, and do not look at it.
    So do `service.record` and `service.track`; `service.unit_of_work` gives one without a database, and `service.execute` keeps the command in
    `.execute` and returns None. Handlers and converters of domain events are not called: a unit test calls them, as the functions that they are.
    What a transaction that rolls back has published is recorded all the same; a `Harness` tells the two apart.

    Raises:
        RuntimeError: the service is being recorded already.
    """
    own = vars(service)
    if "publish" in own:
        raise RuntimeError(f"service {service.name!r} is being recorded already")
    recorder = Recording(service)
    doubles = recorder.doubles
    replaced: dict[str, Any] = {
        "publish": recorder.on_session, "publishing": recorder.block, "cancel": recorder.cancel, "execute": doubles.execute,
        "execute_sync": doubles.execute.sync, "unit_of_work": doubles.unit_of_work, "record": doubles.record, "track": doubles.track,
    }  # fmt: skip
    own.update(replaced)
    try:
        yield recorder
    finally:
        for name in replaced:
            own.pop(name, None)


class _Block:
    """A block that publishes nowhere; `with` and `async with`."""

    def __init__(self, recorder: RecordingPublish) -> None:
        self._recorder = recorder

    def __enter__(self) -> RecordingPublish:
        return self._recorder

    def __exit__(self, *_: object) -> None:
        return None

    async def __aenter__(self) -> RecordingPublish:
        return self._recorder

    async def __aexit__(self, *_: object) -> None:
        return None


class _NoStore:
    """The statements of no store: nothing is ever inserted."""

    outbox = ""

    def lookup(self) -> None:
        return None

    def resolve(self, rows: object, /) -> None:
        raise NotImplementedError

    def publish(self, events: object, /) -> NoReturn:
        raise NotImplementedError

    def script(self, events: object, /) -> NoReturn:
        raise NotImplementedError

    def cancel_scheduled(self, ids: object, /) -> NoReturn:
        raise NotImplementedError


def _envelope(outgoing: Outgoing) -> Any:
    due = outgoing.due
    time = clock.now()
    received = Received.of(
        str(outgoing.id), outgoing.source, outgoing.name, outgoing.version, outgoing.topic, outgoing.key, time, None,
        outgoing.headers, outgoing.data,
    )  # fmt: skip
    scheduled_for = time + due if isinstance(due, timedelta) else due
    assert scheduled_for is None or isinstance(scheduled_for, datetime)
    return msgspec.structs.replace(received.envelope(1, ""), subscription=None, scheduled_for=scheduled_for)
