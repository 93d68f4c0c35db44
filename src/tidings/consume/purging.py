"""Deleting what is old enough, for all services that share the tables: under one lease, each by its own word on how long it is needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.outcome import Outcome
from tidings.consume.parking import guarded
from tidings.errors import ConfigurationError
from tidings.ids import uuid7
from tidings.stores.base import Lease, Retention
from tidings.stores.sql.audit import Audit
from tidings.stores.sql.stats import FINE, MINUTES
from tidings.stores.sql.store import SQLStore
from tidings.stores.sql.upkeep import PURGER

__all__ = ["PURGER", "Purger", "purge"]

logger = logging.getLogger("tidings.upkeep")

_BATCH = 5000
#: Dead events are discarded one by one.
_DEAD = 500
#: Seconds for which one who deletes by hand has the lease; many times what a batch takes.
_LEASE = 60.0
#: Seconds between two times that old counts are rolled up; more than the age of anything.
_ROLLED = 60.0
_EVER = 4e9
_DAY = 86400.0


async def purge(store: SQLStore, progress: Callable[[int], object] = lambda _: None) -> int | None:
    """Delete everything that is old enough, now, by what the services have said; return how many rows, or None while a worker does it.

    Args:
        progress: told how many rows are gone so far, after each batch.

    Raises:
        ConfigurationError: no service has run on these tables, so nobody has said how long anything is kept.
    """
    known = await store.call(store.upkeep.retentions, PURGER)
    wanted = {service: retention for service, retention in known.items() if retention.outbox}
    if not wanted:
        raise ConfigurationError("no service has said how long these tables are kept: each does when it starts to run (tidings run)")
    lease = await store.call(store.leases.acquire, PURGER, f"purge:{uuid7()}", _LEASE)
    if lease is None:
        return None
    service, retention = max(wanted.items(), key=lambda item: item[1].inbox)
    purger = Purger(store, service, retention)
    try:
        before = -1
        while purger.deleted > before:
            before = purger.deleted
            await purger.step(lease)
            progress(purger.deleted)
            if not await store.call(store.leases.renew, lease, _LEASE):
                break  # somebody goes on
    finally:
        await store.call(store.leases.release, lease)
    return purger.deleted


@dataclass(slots=True)
class Purger:
    """Deletes old rows in small batches: of the log, what every reader has read; of the inbox, what can no longer come again; rolls up counts.

    The log is kept as long as any of the services wants it: each may read what the others have published. Everything else belongs to one of them.

    Attributes:
        service, retention: of the process; the others have written theirs into the store when they started.
        deleted: how many rows, so far.
    """

    store: SQLStore
    service: str
    retention: Retention
    deleted: int = 0
    _rolled: dict[int, float] = field(default_factory=dict)

    async def step(self, lease: Lease) -> float:
        """Delete one batch of each; return the seconds until the next."""
        store = self.store
        known = {**await guarded(store.call(store.upkeep.retentions, lease.reader)), self.service: self.retention}
        longest = max(retention.outbox for retention in known.values())
        counts = [await guarded(store.transact(store.upkeep.purge_log, lease, longest, _BATCH))]
        for seconds, services, others in self._by_inbox(known):
            arguments = (lease, seconds, _BATCH, services, others)
            counts.append(await guarded(store.transact(store.upkeep.purge_inbox, *arguments)))
            counts.append(await guarded(store.transact(store.upkeep.purge_attempts, *arguments)))
            counts.append(await guarded(store.transact(store.commands.purge_keys, *arguments)))
        # A little longer than the rows that name them, which go in batches.
        remembered = max(retention.inbox for retention in known.values())
        counts.append(await guarded(store.transact(store.numbers.purge, lease, remembered + _DAY, _BATCH)))
        for service, retention in known.items():
            if retention.dead is not None:
                counts.append(await guarded(store.transact(self._give_up, lease, service, retention.dead)))
            if retention.audit is not None:
                counts.append(await guarded(store.transact(store.commands.purge_audit, lease, service, retention.audit, _BATCH)))
        counts.append(await self._purge_operations(lease, [retention.operations for retention in known.values() if retention.outbox]))
        await self._roll_up(lease)
        self.deleted += sum(counts)
        if any(counts):
            logger.info("purged %d rows", sum(counts), extra={"rows": sum(counts)})
        return 0.1 if max(counts) >= _BATCH else 60.0

    def _by_inbox(self, known: Mapping[str, Retention]) -> list[tuple[float, list[str], bool]]:
        """Return each retention with its services; that of this process with all others' services instead, as it is also that of nobody's rows."""
        mine = self.retention.inbox
        groups: dict[float, list[str]] = {}
        for service, retention in known.items():
            if retention.inbox != mine:
                groups.setdefault(retention.inbox, []).append(service)
        return [
            (mine, [service for group in groups.values() for service in group], True),
            *((each, group, False) for each, group in groups.items()),
        ]

    async def _purge_operations(self, lease: Lease, wanted: Collection[float | None]) -> int:
        """Delete what operators did long ago; whose service was forgotten has no say."""
        seconds = [each for each in wanted if each is not None]
        if len(seconds) < len(wanted):
            return 0
        audit = Audit(self.store.names, self.store.dialect)
        return await guarded(self.store.transact(audit.purge, lease, max(seconds), _BATCH))

    def _give_up(self, connection: Connection, lease: Lease, service: str, seconds: float) -> int:
        """Discard events of a service that have been dead for so long; nothing waits behind them."""
        dropped = self.store.upkeep.drop_dead(connection, lease, service, seconds, _DEAD)
        for row in dropped:
            self.store.inbox.record(connection, row.subscription_id, [row.event_key], Outcome.DISCARDED)
            logger.warning(
                "event %s of %s was discarded: it was dead for longer than dead_retention (%.1f days)", row.event_id, row.subscription,
                seconds / 86400, extra={"id": row.event_id, "subscription": row.subscription, "service": service},
            )  # fmt: skip
        return len(dropped)

    async def _roll_up(self, lease: Lease) -> None:
        """Once a minute under one lease; the first time everything that there is."""
        now = elapsed()
        last = self._rolled.get(lease.token)
        if last is not None and now - last < _ROLLED:
            return
        stats = self.store.stats
        # What was rolled up before need not be looked through again.
        past = _EVER if last is None else now - last + 2 * 3600.0
        await guarded(self.store.transact(stats.roll, lease, "hour", MINUTES, MINUTES + past))
        await guarded(self.store.transact(stats.roll, lease, "minute", FINE, FINE + past))
        if last is None or int(now // 3600) != int(last // 3600):
            await guarded(self.store.transact(stats.forget, lease))
        self._rolled = {lease.token: now}
