"""What a transaction will write, in publish order, and the steps that write it: logic without I/O, shared by all kinds of connections."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import Publisher

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["Cancellation", "Captured", "Entry", "Receipt", "Rows", "insertion", "plain_events", "surviving"]

#: What running a command gives: its rows.
Rows = Sequence[Sequence[Any]]


class Cancellation:
    """Whether a scheduled event was still waiting when it was cancelled.

    Attributes:
        event_id: the scheduled event's id.
        cancelled: None until the transaction that cancels has committed; then False if the event had been published already, was
            cancelled before, or never existed.
    """

    __slots__ = ("cancelled", "event_id")

    def __init__(self, event_id: UUID) -> None:
        if not isinstance(event_id, UUID):
            raise TypeError(f"cancel wants the UUID that publish has returned, not {event_id!r:.100}")
        self.event_id = event_id
        self.cancelled: bool | None = None

    def __repr__(self) -> str:
        return f"Cancellation({self.event_id}, cancelled={self.cancelled})"


#: One thing that a transaction will do just before it commits, with the savepoints of the SQLAlchemy connection that were open when it was
#: asked for: rolling one of them back takes the entry with it. A plain tuple, because there is one for every event.
Entry = tuple[Publisher, Outgoing | Cancellation, tuple[str, ...]]


class Receipt:
    """What was written and waits for the commit.

    Attributes:
        savepoints: as in `Entry`, rolling one of them back makes the receipt void.
    """

    __slots__ = ("_events", "_outcomes", "savepoints")

    def __init__(self, events: Sequence[tuple[Publisher, Sequence[Outgoing]]], outcomes: Sequence[tuple[Cancellation, bool]]) -> None:
        self._events = events
        self._outcomes = outcomes
        self.savepoints: tuple[str, ...] = ()

    def confirm(self) -> None:
        """Tell everyone that the commit has happened."""
        for cancellation, cancelled in self._outcomes:
            cancellation.cancelled = cancelled
        for publisher, events in self._events:
            publisher.committed(events)


class Captured:
    """Events that go to a sink and not into the outbox.

    Attributes:
        outbox: the table whose events are captured; None captures all.
    """

    __slots__ = ("events", "outbox")

    def __init__(self, outbox: str | None) -> None:
        self.outbox = outbox
        self.events: list[Outgoing] = []


def surviving(entries: Sequence[Entry], rolled_back: Collection[str]) -> Sequence[Entry]:
    """Return the entries that no savepoint has taken with it."""
    return [entry for entry in entries if not any(name in rolled_back for name in entry[2])] if rolled_back else entries


def plain_events(entries: Sequence[Entry]) -> list[Outgoing] | None:
    """Return the events if that is all there is, from one publisher whose store's schema is known: what `insertion` would find out, sooner."""
    publisher = entries[0][0]
    events: list[Outgoing] = []
    for other, item, _ in entries:
        if other is not publisher or not isinstance(item, Outgoing):
            return None
        events.append(item)
    return events if publisher.statements.lookup() is None else None


def insertion(entries: Sequence[Entry], captured: Captured | None = None) -> Generator[Command, Rows, Receipt]:
    """Yield the commands that write these entries; each expects its rows to be sent back.

    Events are inserted last (invariant 5): one INSERT into the log for each store, after whatever else there is to do.
    """
    publishers = {entry[0]: None for entry in entries}
    for publisher in publishers:
        # The schema of a store that was never opened (a process that only publishes) is found by its first insertion.
        lookup = publisher.statements.lookup()
        if lookup is not None:
            publisher.statements.resolve((yield lookup))
    # By table: two services that share their tables share the INSERT, so that it takes all locks of keys in one ascending order.
    stores: dict[str, list[Publisher]] = {}
    for publisher in publishers:
        stores.setdefault(publisher.statements.outbox, []).append(publisher)
    outcomes: list[tuple[Cancellation, bool]] = []
    unsent: dict[str, list[Outgoing]] = {}
    for outbox, sharing in stores.items():
        events: list[Outgoing] = []
        cancelled: list[Cancellation] = []
        for publisher, item, _ in entries:
            if publisher not in sharing:
                continue
            if isinstance(item, Outgoing):
                events.append(item)
            elif _take(events, item.event_id) or (captured is not None and _take(captured.events, item.event_id)):
                outcomes.append((item, True))
            else:
                cancelled.append(item)
        unsent[outbox] = events
        if cancelled:
            rows = yield sharing[0].statements.cancel_scheduled([item.event_id for item in cancelled])
            waiting = {_as_uuid(row[0]) for row in rows}
            for item in cancelled:
                outcomes.append((item, item.event_id in waiting))
                waiting.discard(item.event_id)
    written: list[tuple[Publisher, Sequence[Outgoing]]] = []
    for outbox, events in unsent.items():
        if not events:
            continue
        if captured is not None and captured.outbox in (None, outbox):
            captured.events += events
            continue
        for command in stores[outbox][0].statements.publish(events):
            _ = yield command
        sharing = stores[outbox]
        if len(sharing) == 1:
            written.append((sharing[0], events))
        else:
            written += [(publisher, [event for event in events if event.source == publisher.source]) for publisher in sharing]
    return Receipt(written, outcomes)


def _take(events: list[Outgoing], event_id: UUID) -> bool:
    """Remove a scheduled event that this very transaction would have stored."""
    for index, event in enumerate(events):
        if event.id == event_id and event.due is not None:
            del events[index]
            return True
    return False


def _as_uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(value.decode() if isinstance(value, bytes) else str(value))
