"""`Operations`: what operators do about parked events, as Python; `tidings dead`, `tidings keys` and the rest of the command line call this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from tidings.clock import check_aware
from tidings.errors import ConfigurationError
from tidings.stores.sql.amend import Amend
from tidings.stores.sql.audit import Audit
from tidings.stores.sql.driver import run
from tidings.stores.sql.queries import Queries, Subscription
from tidings.stores.sql.repair import BlockedKey, Heads, Standing
from tidings.stores.sql.retire import Retire
from tidings.stores.sql.services import Forgotten, Services, ServiceState
from tidings.stores.sql.store import SQLStore

__all__ = ["Matched", "Operations"]

logger = logging.getLogger("tidings.operations")

_BATCH = 500


class Matched(NamedTuple):
    """What a filter matches: lanes (keys), and the events in them, those behind the heads included."""

    lanes: int
    events: int


class Operations:
    """Redrive, try now, discard, pause, retire. Those about events take the same filters; all but `try_now` change dead lanes only, `discard` others if it is told so.

    Filters (None leaves one out): `number` of the delivery or `event_id` of the lane's head; `subscription` as `group/name` or the name
    alone; `event` name; `key`; `fingerprint` of the error; `since` and `until` bound the time of the last failure (aware).

    Whatever changes something is written into the table `audit`, in the same transaction.

    Args:
        actor: who does it, for the audit.

    Attributes:
        entry: the number in the audit of what was done last.
    """

    entry: int | None = None

    def __init__(self, store: SQLStore, service: str | None = None, actor: str = "code") -> None:
        self._store = store
        self._service = service
        self._actor = actor

    async def count(
        self, *, number: int | None = None, event_id: str | None = None, subscription: str | None = None, event: str | None = None,
        key: str | None = None, fingerprint: str | None = None, since: datetime | None = None, until: datetime | None = None,
        state: Standing = "dead",
    ) -> Matched:  # fmt: skip
        """Return how much the filters match: the dry run of `redrive` and `discard`, and of `try_now` with `state="retrying"`.

        With `state="idle"` it is that of `discard(state="retrying")`: what is retrying, and is not being tried at this moment.
        """
        heads = self._heads(number, event_id, subscription, event, key, fingerprint, since, until)
        return Matched(*await self._store.call(self._store.repair.count, heads, state))

    async def redrive(
        self, *, number: int | None = None, event_id: str | None = None, subscription: str | None = None, event: str | None = None,
        key: str | None = None, fingerprint: str | None = None, since: datetime | None = None, until: datetime | None = None,
        rate: float | None = None, progress: Callable[[int], None] = lambda _: None,
    ) -> int:  # fmt: skip
        """Let dead lanes be tried again from their heads, in order; return how many.

        An event that was set aside (`on_dead="continue"`) comes back out of order: its key has gone on without it.

        Args:
            rate: how many lanes become due each second; None is all at once.
            progress: told how many there were so far, after each batch.

        Raises:
            ConfigurationError: the rate is not positive, or a time has no zone.
        """
        if rate is not None and not rate > 0:
            raise ConfigurationError(f"rate={rate!r} is not positive: give lanes per second, or nothing")
        heads = self._heads(number, event_id, subscription, event, key, fingerprint, since, until)

        def batch(connection: Connection, total: int) -> tuple[int, bool]:
            # The batches of a rate follow one another.
            delay = 0.0 if rate is None else total / rate
            done = self._store.repair.redrive(connection, heads, rate=rate, start=delay, limit=_BATCH)
            return done, done == _BATCH

        total = await self._repeat("redrive", {**heads._asdict(), "rate": rate}, batch, progress)
        logger.info("redrove %d lanes", total, extra={"filter": heads._asdict()})
        return total

    async def try_now(
        self, *, number: int | None = None, event_id: str | None = None, subscription: str | None = None, event: str | None = None,
        key: str | None = None, fingerprint: str | None = None, since: datetime | None = None, until: datetime | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:  # fmt: skip
        """Let lanes that wait for another attempt be tried at once, without their delay; return how many.

        It is the next attempt, not another one: a lane that has one left is dead if it fails. What is due or under way already is left alone.

        Args:
            progress: told how many there were so far, after each batch.

        Raises:
            ConfigurationError: a time has no zone.
        """
        heads = self._heads(number, event_id, subscription, event, key, fingerprint, since, until)

        def batch(connection: Connection, _: int) -> tuple[int, bool]:
            # What is due does not wait any more, so no round meets the same one twice.
            done = self._store.repair.try_now(connection, heads, limit=_BATCH)
            return done, done == _BATCH

        total = await self._repeat("try now", heads._asdict(), batch, progress)
        logger.info("let %d lanes be tried now", total, extra={"filter": heads._asdict()})
        return total

    async def discard(
        self, *, reason: str, whole: bool = False, number: int | None = None, event_id: str | None = None, subscription: str | None = None,
        event: str | None = None, key: str | None = None, fingerprint: str | None = None, since: datetime | None = None,
        until: datetime | None = None, state: Literal["dead", "retrying"] = "dead", progress: Callable[[int], None] = lambda _: None,
    ) -> int:  # fmt: skip
        """Give up the heads of dead lanes, and let what waits behind them go on; return how many events were given up.

        Args:
            reason: why; it is logged with the filter.
            whole: give up everything in those lanes, not only the heads.
            state: `retrying` gives up what is still to be tried again, without its other attempts. What is being tried at this moment is left
                alone.
            progress: told how many there were so far, after each batch.

        Raises:
            ConfigurationError: there is no reason, there is no such state, or a time has no zone.
        """
        if state not in ("dead", "retrying"):
            raise ConfigurationError(f"state={state!r}: give 'dead' or 'retrying'")
        if not reason.strip():
            raise ConfigurationError("discard needs a reason: it is the last that anyone hears of these events")
        heads = self._heads(number, event_id, subscription, event, key, fingerprint, since, until)

        place: tuple[str, int] | None = None

        def batch(connection: Connection, _: int) -> tuple[int, bool]:
            nonlocal place
            repair = self._store.repair
            # A lane that goes on is no longer dead, so no round meets the same one twice; those that are retrying follow one another.
            if state == "dead":
                found = repair.discard(connection, heads, whole=whole, limit=_BATCH)
            else:
                found = repair.discard_idle(connection, heads, whole=whole, limit=_BATCH, after=place)
            place = found.last
            return found.events, found.lanes == _BATCH

        target = {**heads._asdict(), "whole": whole or None, "state": None if state == "dead" else state, "reason": reason}
        total = await self._repeat("discard", target, batch, progress)
        logger.warning("discarded %d event%s: %s", total, "" if total == 1 else "s", reason, extra={"filter": heads._asdict()})
        return total

    async def blocked(
        self, *, subscription: str | None = None, state: str | None = None, key: str | None = None, limit: int = 100
    ) -> list[BlockedKey]:
        """Return the keys that something is parked of, with head, error, depth and age; the longest blocked first.

        Args:
            state: `retrying` or `dead`; None is both.
        """
        heads = self._heads(None, None, subscription, None, key, None, None, None)
        return await self._store.call(self._store.repair.blocked, heads, state=state, limit=limit)

    async def subscriptions(self) -> list[Subscription]:
        """Return the service's subscriptions: state, parked keys, and the circuit breaker as it is in the process that reads now.

        Any process may ask. `breaker` is `closed`, `open`, `half-open`, or None while no process reads for the group.
        """
        found = await self._store.call(Queries(self._store.names, self._store.dialect).subscriptions)
        return [item for item in found if self._service in (None, item.service)]

    async def pause(self, subscription: str) -> bool:
        """Let a subscription take nothing more, across restarts, until `resume`; False when there is none of that name."""
        return await self._switch("pause", subscription, paused=True)

    async def resume(self, subscription: str) -> bool:
        """Let a paused subscription go on; False when there is none of that name."""
        return await self._switch("resume", subscription, paused=False)

    async def retire_subscription(self, group: str, name: str) -> bool:
        """Forget a subscription that no code has any more; False when there is none of that name that is not retired.

        Events are no longer kept for it. What is parked in it stays, untouched.

        Raises:
            ConfigurationError: these operations are of no service.
        """
        service = self._required()

        def work(connection: Connection) -> bool:
            found = self._store.registry.retire(connection, service, group, name)
            target = {"service": service, "subscription": f"{group}/{name}"}
            self.entry = self._audit.add(connection, self._actor, "retire subscription", target, *_done(found))
            return found

        return await self._store.transact(work)

    async def retire_group(self, group: str) -> bool:
        """Forget a group that no code has any more, with its subscriptions; False when there is none of that name that is not retired.

        The log does not wait for it any more.

        Raises:
            ConfigurationError: these operations are of no service.
            StillRunning: a worker reads for it.
        """
        service = self._required()

        def work(connection: Connection) -> bool:
            found = Retire(self._store.names, self._store.dialect).group(connection, service, group)
            self.entry = self._audit.add(connection, self._actor, "retire group", {"service": service, "group": group}, *_done(found))
            return found

        return await self._store.transact(work)

    async def services(self) -> list[ServiceState]:
        """Return every service on these tables, also one that is gone, with how long it wants things kept."""
        return await self._store.call(self._services.list)

    async def forget_service(self, name: str) -> Forgotten | None:
        """Forget a service that is gone for good; return what that has retired, or None when there is nothing left of it.

        Its word on how long the log is kept is taken back, its groups and subscriptions are retired, and its alerts are over. What is parked in
        them stays until it is discarded, and what it has handled is remembered for its `inbox_retention`, so that it may come back: then it reads on
        where it was, as far as the log still has that.

        Raises:
            StillRunning: a worker of it is alive.
        """

        def work(connection: Connection) -> Forgotten | None:
            found = self._services.forget(connection, name)
            self.entry = self._audit.add(connection, self._actor, "forget service", {"service": name}, *_done(found is not None))
            return found

        return await self._store.transact(work)

    async def edit(self, number: int, data: bytes) -> str | None:
        """Retry a dead event as a new one with other data, in its place; return the new event's id, None if it is no longer dead.

        Only the subscription that could not handle the old one gets the new one; it has the old one's correlation, and it as its cause.

        Raises:
            ConfigurationError: the event's headers cannot be understood, or the arguments are no number and no bytes.
        """
        _check_number(number)
        if not isinstance(data, bytes):
            raise ConfigurationError(f"data={data!r:.100} is not bytes: give the new payload as JSON in UTF-8")
        amend = Amend(self._store.names, self._store.dialect)

        def work(connection: Connection) -> str | None:
            new = amend.edit(connection, number, data)
            self.entry = self._audit.add(connection, self._actor, "edit", {"number": number, "new_id": new}, *_done(new is not None))
            return new

        return await self._store.transact(work)

    async def cancel_scheduled(self, event_id: UUID) -> bool:
        """Let a scheduled event never be published; False when it does not wait any more.

        Raises:
            ConfigurationError: it is no UUID.
        """
        _check_id(event_id)

        def work(connection: Connection) -> bool:
            found = bool(run(connection, self._store.publishing.cancel_scheduled([event_id])))
            self.entry = self._audit.add(connection, self._actor, "cancel", {"event_id": str(event_id)}, *_done(found))
            return found

        return await self._store.transact(work)

    async def run_scheduled(self, event_id: UUID) -> bool:
        """Let a scheduled event be published now; False when it does not wait any more.

        Raises:
            ConfigurationError: it is no UUID.
        """
        _check_id(event_id)
        amend = Amend(self._store.names, self._store.dialect)

        def work(connection: Connection) -> bool:
            found = amend.run_now(connection, str(event_id))
            self.entry = self._audit.add(connection, self._actor, "run now", {"event_id": str(event_id)}, *_done(found))
            return found

        return await self._store.transact(work)

    @property
    def _services(self) -> Services:
        store = self._store
        return Services(store.names, store.dialect, store.registry, store.upkeep)

    @property
    def _audit(self) -> Audit:
        return Audit(self._store.names, self._store.dialect)

    async def _repeat(
        self, action: str, target: Mapping[str, Any], batch: Callable[[Connection, int], tuple[int, bool]], progress: Callable[[int], None]
    ) -> int:
        """Run batches, each a short transaction with what the audit says of it; return the sum. A batch says how many it was, and whether there may be more."""
        number: int | None = None
        total = 0

        def step(connection: Connection) -> tuple[int, int, bool]:
            entry = self._audit.add(connection, self._actor, action, target, outcome="running") if number is None else number
            done, more = batch(connection, total)
            self._audit.change(connection, entry, done, "running" if more else "done")
            return entry, done, more

        while True:
            try:
                number, done, more = await self._store.transact(step)
                self.entry = number
                total += done
                progress(total)
            except (Exception, asyncio.CancelledError) as error:
                if number is not None:
                    # What was done until then stays done; nobody should wait for the rest.
                    outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else f"failed: {type(error).__name__}"
                    await self._store.transact(self._audit.change, number, 0, outcome)
                raise
            if not more:
                return total

    async def _switch(self, action: str, subscription: str, *, paused: bool) -> bool:
        service = self._required()

        def work(connection: Connection) -> bool:
            found = self._store.repair.pause(connection, service, subscription, paused=paused)
            self.entry = self._audit.add(connection, self._actor, action, {"service": service, "subscription": subscription}, *_done(found))
            return found

        return await self._store.transact(work)

    def _required(self) -> str:
        if self._service is None:
            raise ConfigurationError("say which service: subscriptions of two services may have one name")
        return self._service

    def _heads(
        self, number: int | None, event_id: str | None, subscription: str | None, event: str | None, key: str | None,
        fingerprint: str | None, since: datetime | None, until: datetime | None,
    ) -> Heads:  # fmt: skip
        check_aware(since=since, until=until)
        if number is not None:
            _check_number(number)
        return Heads(number, event_id, self._service, subscription, event, key, fingerprint, since, until)


def _check_number(number: object) -> None:
    if not isinstance(number, int):
        raise ConfigurationError(f"number={number!r} is no number of a delivery: give a whole number")


def _check_id(event_id: object) -> None:
    if not isinstance(event_id, UUID):
        raise ConfigurationError(f"event_id={event_id!r} is no UUID: give the one that publish has returned")


def _done(found: bool) -> tuple[int, str]:
    return (1, "done") if found else (0, "not found")
