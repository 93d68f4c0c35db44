"""Doing what the schedule says, to our own processes, database and broker."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections import Counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from chaos.broker import Broker
from chaos.cluster import Cluster
from chaos.crew import Crew
from chaos.schedule import Fault
from tidings.operations import Operations

__all__ = ["Faults"]

logger = logging.getLogger("chaos.faults")

_BACKENDS = sa.text("""
    select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
    order by pid
""")


class Faults:
    """Injects faults. One that hits nobody, because its target is gone already, is not counted.

    Attributes:
        counts: how often each fault was injected.
    """

    def __init__(
        self, crew: Crew, operations: Operations, engine: Engine, cluster: Cluster | None, broker: Broker | None, chance: random.Random
    ) -> None:  # fmt: skip
        self.counts: Counter[str] = Counter()
        self._crew = crew
        self._operations = operations
        self._engine = engine
        self._cluster = cluster
        self._broker = broker
        self._chance = chance
        self._later: list[tuple[float, str]] = []

    async def inject(self, fault: Fault) -> None:
        """Inject one."""
        try:
            done = await self._inject(fault)
        except (DBAPIError, OSError) as error:
            # The database is away, by another fault.
            logger.info("%s: %s", fault.what, str(error).partition("\n")[0])
            return
        if done:
            self.counts[fault.what] += 1

    async def look(self, now: float) -> None:
        """Resume subscriptions whose time is over."""
        for entry in [entry for entry in self._later if entry[0] <= now]:
            try:
                await self._operations.resume(entry[1])
            except (DBAPIError, OSError):
                continue
            self._later.remove(entry)

    async def _inject(self, fault: Fault) -> Any:
        crew = self._crew
        verb, _, kind = fault.what.partition(" ")
        if kind in ("worker", "publisher"):
            member = crew.member(kind, int(fault.target))  # type: ignore[arg-type]
            if verb == "kill":
                return crew.kill(member)
            return crew.pause(member, fault.seconds) if verb == "stop" else crew.end(member)
        if kind == "broker":
            return self._disturb(verb, fault)
        if fault.what == "redrive":
            return await self._operations.redrive()
        if fault.what == "redrive one":
            return await self._operations.redrive(subscription=fault.target, rate=20.0)
        if fault.what == "pause":
            self._later.append((fault.at + fault.seconds, fault.target))
            return await self._operations.pause(fault.target)
        if fault.what in ("cut some", "cut all"):
            return self._cut(1.0 if fault.what == "cut all" else self._chance.uniform(0.05, 0.5))
        if fault.what == "kill backend":
            return self._kill_backend()
        assert self._cluster is not None
        number = signal.SIGQUIT if fault.what == "restart immediate" else signal.SIGINT
        await asyncio.to_thread(self._cluster.stop, number)
        self._cluster.start()
        return True

    def _disturb(self, verb: str, fault: Fault) -> int | bool:
        broker = self._broker
        assert broker is not None
        if verb == "cut":
            return broker.cut(1.0 if fault.target == "all" else self._chance.uniform(0.05, 0.5), self._chance)
        if verb in ("kill", "restart"):
            return broker.kill(fault.seconds, gently=verb == "restart")
        return broker.refuse(fault.seconds) if verb == "refuse" else broker.silence(fault.seconds)

    def _cut(self, part: float) -> int:
        with self._engine.connect() as connection:
            pids = [pid for (pid,) in connection.execute(_BACKENDS) if self._chance.random() < part]
            for pid in pids:
                connection.execute(sa.text("select pg_terminate_backend(:pid)"), {"pid": pid})
        return len(pids)

    def _kill_backend(self) -> bool:
        """Kill a server process as the kernel does when memory runs out: the server throws out everyone and recovers."""
        with self._engine.connect() as connection:
            pids = [pid for (pid,) in connection.execute(_BACKENDS)]
        if not pids:
            return False
        try:
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return False
        return True
