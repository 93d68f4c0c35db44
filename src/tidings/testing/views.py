"""What a harness shows: what was published, handled and parked, read from the store at the moment of the question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload
from uuid import UUID

from tidings.consume.outcome import Outcome
from tidings.testing.assertions import explained, matching, nothing
from tidings.testing.reading import Reading
from tidings.testing.seen import Handled, ParkedEvent, Published, ScheduledEvent

__all__ = ["Views"]

E = TypeVar("E")


class Views:
    """The part of a harness that only looks. Nothing here awaits."""

    def _read(self) -> Reading:
        raise NotImplementedError

    def _put(self) -> set[UUID]:
        raise NotImplementedError

    @overload
    def published(self, /) -> Published[Any]: ...
    @overload
    def published(self, event_type: type[E], /) -> Published[E]: ...
    def published(self, event_type: type[Any] | None = None, /) -> Published[Any]:
        """Return the events in the log, of one class or all, in order; what `deliver` put there is left out.

        Events of a transaction that has not committed are not there, and scheduled ones only when they are due.
        """
        put = self._put()
        return Published(
            (event, envelope)
            for event, envelope in self._read().log()
            if envelope.id not in put and (event_type is None or type(event) is event_type)
        )

    @property
    def scheduled(self) -> list[ScheduledEvent]:
        """The events that wait for their time, the next first."""
        return self._read().scheduled()

    @property
    def handled(self) -> list[Handled]:
        """What subscriptions have handled, in the order of their transactions; each event once for each subscription."""
        return self._read().finished(Outcome.HANDLED)

    @property
    def discarded(self) -> list[Handled]:
        """What handlers have discarded by raising `Discard`."""
        return self._read().finished(Outcome.DISCARDED)

    @property
    def expired(self) -> list[Handled]:
        """What had expired before a handler saw it."""
        return self._read().finished(Outcome.EXPIRED)

    @property
    def dead(self) -> list[ParkedEvent]:
        """The events that are not tried again."""
        return [parked for parked in self._read().parked() if parked.state == "dead"]

    @property
    def retrying(self) -> list[ParkedEvent]:
        """The events that have failed and will be tried again."""
        return [parked for parked in self._read().parked() if parked.state == "retrying"]

    @property
    def blocked(self) -> list[ParkedEvent]:
        """The events that wait behind a dead or retrying one of the same key."""
        return [parked for parked in self._read().parked() if parked.state == "blocked"]

    def assert_published(self, event_type: type[E], where: Callable[[E], bool] | None = None, /, **fields: Any) -> E:
        """Return the first published event of a class that has these values in its fields, and that the predicate accepts.

        Raises:
            AssertionError: there is none; the message lists what there is, and what has failed.
            TypeError: the class has no such field.
        """
        __tracebackhide__ = True
        return matching(self.published(), event_type, where, fields, once=False, context=self._context())

    def assert_published_once(self, event_type: type[E], where: Callable[[E], bool] | None = None, /, **fields: Any) -> E:
        """Do what `assert_published` does, and fail if there are several.

        Raises:
            AssertionError: there is none, or there are several.
            TypeError: the class has no such field.
        """
        __tracebackhide__ = True
        return matching(self.published(), event_type, where, fields, once=True, context=self._context())

    def assert_nothing_published(self, event_type: type[Any] | None = None, /) -> None:
        """Fail if anything was published or scheduled, of this class if one is given.

        Raises:
            AssertionError: something was.
        """
        __tracebackhide__ = True
        nothing([*self.published(), *(item.event for item in self.scheduled)], event_type, self._context())

    def assert_nothing_failed(self) -> None:
        """Fail if an event is dead, retrying or blocked.

        Raises:
            AssertionError: one is; the message has the traceback of the first.
        """
        __tracebackhide__ = True
        parked = self._read().parked()
        if parked:
            trace = next((f"\n{item.traceback}" for item in parked if item.traceback), "")
            raise AssertionError("not everything was handled:\n" + "\n".join(f"  {item}" for item in parked) + trace)

    def _context(self) -> str:
        reading = self._read()
        parts = []
        if scheduled := reading.scheduled():
            parts.append("scheduled:\n" + "\n".join(f"  {item}" for item in scheduled))
        if parked := reading.parked():
            parts.append("not handled:\n" + "\n".join(f"  {item}" for item in parked))
        return "".join(f"\n{part}" for part in parts)

    def picture(self) -> str:
        """Return everything that there is, to print it."""
        return explained(self.published()) + self._context()
