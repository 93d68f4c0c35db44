"""`Publisher`: turns an event into a row to be, at the call, so that a mistake surfaces where it was made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

from tidings import clock
from tidings.context.binding import bound, current_envelope
from tidings.context.keys import CARRIED
from tidings.envelope import RESERVED_HEADERS, Envelope
from tidings.errors import InvalidEvent
from tidings.ids import slot_of, uuid7
from tidings.publish.filters import Publication, PublishFilter, check_result
from tidings.publish.headers import inherited, user_headers, written
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import UNSET

if TYPE_CHECKING:
    from tidings.context.keys import ContextKey
    from tidings.observability.tracing import Tracing
    from tidings.stores.sql.statement import Command

__all__ = ["EventType", "Identity", "PublishStatements", "Publisher"]

#: Which database a connection leads to, e.g. `("postgresql", host, port, database)` or `("sqlite", path)`.
Identity = tuple[str, ...]

_logger = logging.getLogger("tidings.publish")


class EventType(Protocol):
    """What a publisher needs of an event type of a contract."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int | None: ...
    @property
    def lock_keys(self) -> bool: ...
    def topic(self, environment: str | None, /) -> str: ...
    def encoder(self) -> Callable[[Any], str]: ...
    def key_of(self, event: Any, /) -> str | None: ...


class PublishStatements(Protocol):
    """What a publisher needs of a store; `outbox` is the table's qualified name.

    `lookup` is a command to run before anything else, whose rows `resolve` wants; None when the store's schema is known.
    """

    @property
    def outbox(self) -> str: ...
    def lookup(self) -> Command | None: ...
    def resolve(self, rows: Sequence[Sequence[Any]], /) -> None: ...
    def publish(self, events: Sequence[Outgoing], /) -> list[Command]: ...
    def script(self, events: Sequence[Outgoing], /) -> str | None: ...
    def cancel_scheduled(self, ids: Sequence[UUID], /) -> Command: ...


class DomainSide(Protocol):
    """What the consuming side needs of the domain side."""

    @property
    def empty(self) -> bool: ...
    def session_class(self, base: type[Any], /) -> type[Any]: ...
    def execute_in(self, session: Any, asynchronous: bool, works: list[Any], /) -> Any: ...


class _Known(NamedTuple):
    """What every event of a class has in common, looked up once."""

    name: str
    version: int | None
    topic: str
    label: str
    lock_keys: bool
    encode: Callable[[Any], str]
    key_of: Callable[[Any], str | None]


class Publisher:
    """What all of one service's publishing has in common.

    Attributes:
        domain: the service's domain side, if it has one: what sees the domain events of the sessions that handlers are given.

    Args:
        source: the publishing service's name.
        event_type: looks up the event type of an event class; raises for a class that no contract has.
        statements: the statements of the store's dialect.
        environment: given to the topic namer.
        max_message_bytes: bound on data plus headers, in bytes of UTF-8.
        same_database: whether a SQLAlchemy Engine or Connection leads to the store's database.
        same_identity: the same for the connection of a driver, told by its identity; called only where the driver knows it.
        wake: called after a commit that published; it must return at once.
        scheduled: called after a commit that scheduled, too; likewise.
        count: told how many events a commit published, and how many it scheduled; called in the committing thread.
        collision: says why no transport could carry a header of this name.
        context: what handlers hand on of the events that they handle, besides what is always handed on.
        filters: called with each publication, in this order.
    """

    def __init__(
        self,
        source: str,
        event_type: Callable[[type], EventType],
        statements: PublishStatements,
        *,
        environment: str | None = None,
        max_message_bytes: int = 1 << 20,
        same_database: Callable[[Any], bool] = lambda _: True,
        same_identity: Callable[[Identity], bool] = lambda _: True,
        wake: Callable[[], None] = lambda: None,
        scheduled: Callable[[], None] = lambda: None,
        collision: Callable[[str], str | None] = lambda _: None,
        count: Callable[[int, int], None] = lambda _, __: None,
        context: Sequence[ContextKey[Any]] = (),
        filters: Sequence[PublishFilter] = (),
    ) -> None:
        self.source = source
        self.statements = statements
        self.same_database = same_database
        self.same_identity = same_identity
        self._event_type = event_type
        self._environment = environment
        self._max_message_bytes = max_message_bytes
        self._wake = wake
        self._scheduled = scheduled
        self._count = count
        self._collision = collision
        self._known: dict[type, _Known] = {}
        self._no_headers = written({})
        self._carried = tuple(dict.fromkeys(key.field for key in (*CARRIED, *context)))
        self._filters = tuple(filters)
        self.domain: DomainSide | None = None
        #: Makes spans, in a service that is traced.
        self.tracing: Tracing | None = None

    def prepare(
        self,
        event: object,
        key: object = UNSET,
        delay: timedelta | None = None,
        at: datetime | None = None,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
        context: Envelope | None = None,
    ) -> Outgoing:
        """Encode an event as it is now.

        Args:
            event: an instance of an event class of a contract.
            key: partition key instead of the one that the contract takes from the event; None for no key.
            delay: publish it that long after the transaction's insert, by the database's clock; zero is at once.
            at: publish it at that time (aware), or at once if it has passed.
            expires: handlers no longer get it from then on; a timedelta counts from now.
            headers: the user's own headers.
            context: the event that causes this one; None takes the one being handled, if any.

        Raises:
            InvalidEvent: it does not fit its contract, its key, times or headers are unusable, or it is too large.
            TypeError: `delay`, `at` or `expires` is of another type.
        """
        name, version, topic, label, lock_keys, encode, key_of = self._known.get(type(event)) or self._look_up(type(event))
        data = encode(event)
        partition_key = key_of(event) if key is UNSET else _normalize_key(key)
        due = None if delay is None and at is None else _due(label, delay, at)
        cause = context or current_envelope.get()
        event_id = uuid7()
        text = None
        if headers is None and expires is None and cause is None and bound.get() is None and not self._filters:
            text = self._no_headers if self.tracing is None else self.tracing.alone()
        if text is None:
            fields = {} if cause is None else inherited(cause, self._carried)
            around = bound.get()
            if around is not None and around.cause is cause:
                for field, bound_text in around.fields.items():
                    if bound_text is None:
                        fields.pop(field, None)
                    else:
                        fields[field] = bound_text
            if expires is not None:
                fields["expires"] = _expiry(label, expires, due)
            if headers:
                fields.update(user_headers(label, headers, self._collision))
            if self._filters:
                fields = self._filtered(event, label, name, version, topic, partition_key, due, fields)
            if self.tracing is not None:
                self.tracing.published(name, version, topic, event_id, fields)
            text = written(fields)
        # A character takes four bytes at most: only what comes near the limit is measured.
        if 4 * (len(data) + len(text)) > self._max_message_bytes:
            self._check_size(label, data, text)
        if partition_key is None:
            return Outgoing(event_id, self.source, name, version, topic, None, None, False, text, data, due)
        return Outgoing(event_id, self.source, name, version, topic, partition_key, slot_of(partition_key), lock_keys, text, data, due)

    def committed(self, events: Sequence[Outgoing]) -> None:
        """Count what was committed, and tell the service's own readers. Never raises: the commit has happened."""
        scheduled = 0
        for event in events:
            if event.due is not None:
                scheduled += 1
        try:
            self._count(len(events) - scheduled, scheduled)
            if _logger.isEnabledFor(logging.DEBUG):
                _say(events)
            self._wake()
            if scheduled:
                self._scheduled()
        except Exception:
            _logger.exception("waking the readers of %s failed; they find the events at their next poll", self.source)

    def _filtered(
        self, event: object, label: str, name: str, version: int | None, topic: str, key: str | None, due: datetime | timedelta | None,
        fields: Mapping[str, str],
    ) -> dict[str, str]:  # fmt: skip
        """Return the headers as the filters leave them; those that Tidings writes itself are not theirs to change."""
        ours = {field: text for field, text in fields.items() if field in RESERVED_HEADERS}
        own = {field: text for field, text in fields.items() if field not in RESERVED_HEADERS}
        publication = Publication(event, name, version, topic, key, ours.get("tenantid"), due is not None, own)
        for each in self._filters:
            check_result(each, each(publication))
        return {**ours, **user_headers(label, publication.headers, self._collision)}

    def _look_up(self, event_class: type) -> _Known:
        kind = self._event_type(event_class)
        label = kind.name if kind.version is None else f"{kind.name} v{kind.version}"
        topic = kind.topic(self._environment)
        known = self._known[event_class] = _Known(kind.name, kind.version, topic, label, kind.lock_keys, kind.encoder(), kind.key_of)
        return known

    def _check_size(self, label: str, data: str, headers: str) -> None:
        size = len(data.encode("utf-8", "surrogatepass")) + len(headers)
        if size > self._max_message_bytes:
            raise InvalidEvent(
                f"{label}: {size:,} bytes ({size - len(headers):,} of data, {len(headers):,} of headers) are more than max_message_bytes="
                f"{self._max_message_bytes:,}: publish a reference to the data instead"
            )


def _say(events: Sequence[Outgoing]) -> None:
    for event in events:
        _logger.debug(
            "%s %s", "published" if event.due is None else "scheduled", event.name,
            extra={"event_id": str(event.id), "event_name": event.name, "key": event.key, "topic": event.topic},
        )  # fmt: skip


def _normalize_key(key: object) -> str | None:
    from tidings.contracts import normalize_key

    return normalize_key(key)


def _due(label: str, delay: timedelta | None, at: datetime | None) -> datetime | timedelta | None:
    if delay is not None and at is not None:
        raise InvalidEvent(f"{label}: delay={delay} and at={at} say two different times: give one of them")
    if at is not None:
        return _aware(label, "at", at)
    if not isinstance(delay, timedelta):
        raise TypeError(f"{label}: delay={delay!r} is not a datetime.timedelta")
    if delay < timedelta(0):
        raise InvalidEvent(f"{label}: delay={delay} is negative: an event cannot be published in the past")
    _later(label, "delay", delay)
    return delay or None


def _expiry(label: str, expires: timedelta | datetime, due: datetime | timedelta | None) -> str:
    end = _later(label, "expires", expires) if isinstance(expires, timedelta) else _aware(label, "expires", expires)
    now = clock.now()
    if end <= now:
        raise InvalidEvent(f"{label}: expires={expires} has passed already: nobody would ever handle it")
    start = due if isinstance(due, datetime) else now + (due or timedelta(0))
    if end <= start:
        raise InvalidEvent(f"{label}: expires={expires} is before the event is due at {start.isoformat()}: nobody would ever handle it")
    return end.isoformat().replace("+00:00", "Z")


def _aware(label: str, name: str, value: datetime) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{label}: {name}={value!r} is not a datetime")
    if value.utcoffset() is None:
        raise InvalidEvent(f"{label}: {name}={value} has no time zone: give an aware datetime, for example with tzinfo=datetime.UTC")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(f"{label}: {name}={value} is beyond what a datetime in UTC can say") from None


def _later(label: str, name: str, value: timedelta) -> datetime:
    try:
        return clock.now() + value
    except OverflowError:
        raise InvalidEvent(f"{label}: {name}={value} ends after the year 9999") from None
