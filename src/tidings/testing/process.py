"""One process of a service, run step by step: the engine's own receivers and retrier, and no task that outlives a step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from tidings.consume.breaker import Breaker, Circuit
from tidings.consume.company import Company
from tidings.consume.deliveries import Retrier
from tidings.consume.gate import Gatekeeper
from tidings.consume.receiver import Receiver
from tidings.consume.routing import Compiled
from tidings.consume.tuning import Tuning
from tidings.ids import uuid7
from tidings.runtime import Runtime
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql
from tidings.testing.crashes import Fate, Life, MortalExecution, mortal
from tidings.testing.reading import Pending, pending

__all__ = ["Process"]

#: Scheduled events that are moved in one transaction.
_BATCH = 500

#: Seconds; more than any test takes. Leases and checkpoints are written when a step ends, and not by the clock.
_NEVER = 3600.0


class Process:
    """What runs between a start and a stop, or a crash.

    Args:
        runtime: the runtime that has registered the subscriptions; its own tasks are stopped.
        concurrent: whether handlers run side by side and share transactions, as in production. Otherwise each runs by itself, and its
            turn does not depend on time.
    """

    def __init__(self, runtime: Runtime, fate: Fate, *, concurrent: bool) -> None:
        self._life = life = Life(fate)
        self._store = mortal(runtime.store, life)
        self._worker = str(uuid7())
        compiled = [_prepared(item, concurrent=concurrent) for item in runtime.subscriptions]
        self._ids = [item.id for item in compiled]
        self._gates = Gatekeeper(runtime.service, runtime.limit, self._store, self._worker, _NEVER, patient=False)
        self._compiled = compiled
        for item in compiled:
            item.gate = self._gates.gate(item.label, item.limit)
        execution = partial(MortalExecution, life=life)
        groups = list(dict.fromkeys(item.group for item in compiled))
        slots = asyncio.Semaphore(runtime._slots(len(groups)) if concurrent else 1)
        company = Company()
        tuning = Tuning()
        tuning.lease = tuning.checkpoint_seconds = _NEVER
        self._receivers = [
            Receiver(
                runtime.service, group, [item for item in compiled if item.group == group], self._store, runtime.publisher, self._worker,
                slots, runtime.counters, runtime._died, tuning, execution, company,
            )
            for group in groups
        ]  # fmt: skip
        self._retrier = Retrier(
            compiled, self._store, runtime.publisher, self._worker, slots, runtime.counters, runtime._died, execution, company
        )  # fmt: skip

    async def take_over(self) -> None:
        """Let the leases of the processes before this one run out."""
        await self._store.transact(self._end_leases)

    async def settle(self, steps: int) -> bool:
        """Publish what is due, read the log to its end, try again what is due, and begin anew, until there is nothing more to do.

        Returns:
            False when there still is after that many rounds.

        Raises:
            Died: the process has come to a crash point.
            LeaseLost: another worker reads for this service.
            StoreDown: the database cannot be used.
        """
        read_to = -1
        for _ in range(steps):
            there = await self._store.call(pending, self._store)
            moved = await self._move() if there.scheduled else 0
            if there.end != read_to:
                read_to = there.end
                for receiver in self._receivers:
                    await receiver.read_to_end()
                    self._life.settle()
            elif not moved and not await self._work(there):
                return True
        return False

    async def due_in(self) -> float | None:
        """Return the seconds until something is due, or None."""
        lanes = self._store.lanes
        waiting = await self._store.call(lanes.next_due, await self._store.call(lanes.unpaused, self._ids))
        times = [waiting, await self._store.call(self._store.upkeep.due_in)]
        times += [item.gate.wait for item in self._compiled if item.gate is not None]
        return min((time for time in times if time is not None and time > 0), default=None)

    def close(self) -> None:
        """End what the process holds."""
        self._store.close()

    async def _move(self) -> int:
        store = self._store
        lease = await store.call(store.leases.acquire, "task:mover", self._worker, 10.0)
        if lease is None:
            return 0
        total = 0
        while count := await store.transact(store.upkeep.move_due, lease, _BATCH):
            total += count
        await store.call(store.leases.release, lease)
        return total

    async def _work(self, there: Pending) -> int:
        worked = await self._retrier.work_due() if there.lanes and self._ids else 0
        self._life.settle()
        return worked

    def _end_leases(self, connection: Connection) -> None:
        names, dialect = self._store.names, self._store.dialect
        readers = [receiver.reader for receiver in self._receivers]
        free = "set lease_until = null, owner = null where"
        # In the middle of an attempt, which counts.
        past = f"set lease_until = {dialect.after('-1')} where lease_until is not null and"
        among = dialect.among("reader", "$1", "text"), dialect.among("subscription_id", "$1", "int")
        run(
            connection,
            Command(Sql(f"delete from {names.permits} where {dialect.among('scope', '$1', 'text')}"), (dialect.items(self._gates.names),)),
        )
        run(connection, Command(Sql(f"update {names.checkpoints} {free} {among[0]}"), (dialect.items(readers),)))
        run(connection, Command(Sql(f"update {names.lanes} {past} {among[1]}"), (dialect.items(self._ids),)))


def _prepared(compiled: Compiled, *, concurrent: bool) -> Compiled:
    """Return the subscription without what depends on chance or time: jitter, the circuit breaker, and who shares a transaction."""
    options = compiled.options if concurrent else replace(compiled.options, concurrency=1, shared=False)
    return replace(
        compiled, options=options, retry=replace(compiled.retry, jitter=0.0), circuit=Circuit(Breaker.off(), label=compiled.label)
    )
