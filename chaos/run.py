"""One run: sets the stage, lets the schedule have its way, stops the faults, waits until everything is handled, and balances the books."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from chaos import workload
from chaos.broker import Broker
from chaos.cluster import Cluster
from chaos.crew import Crew
from chaos.databases import make_engine, make_sync_engine
from chaos.facts import Facts, read_database
from chaos.faults import Faults
from chaos.ledger import Balance, balance
from chaos.leftovers import leftovers
from chaos.schedule import Fault, schedule
from chaos.settings import Settings
from chaos.watch import Watch
from chaos.worker import CALM
from tidings.operations import Operations
from tidings.stores import SQLStore

__all__ = ["Result", "run"]

logger = logging.getLogger("chaos")

#: Seconds without any progress after which the rest counts as stuck: more than every lease and pause that a run has.
_STUCK = 45.0
#: Calls of a plain handler that one disturbance may repeat: 50 of the reader's workers, and one in each of 16 lanes; for each worker
#: that was at it. See the guarantees.
_REPEATS = 66
#: Seconds until the broker has handed out again what a dead process held, with some to spare: what was handled by others is a duplicate then.
_HANDED_OUT = 7.0
#: Messages of the library that say that it met something it did not expect.
_MISTAKES = (
    "reading stopped", "receiving stopped", "could not be worked on", "ended with an error", " failed; trying again in 5 s",
    "Task exception was never", "was not sent (", "cannot understand", " are missing: ",
)  # fmt: skip


@dataclass(slots=True)
class Result:
    """How a run ended.

    Attributes:
        differences: everything that is not as it should be.
        drained: seconds from the last fault until everything was handled.
    """

    settings: Settings
    faults: Sequence[Fault]
    injected: dict[str, int] = field(default_factory=dict)
    balance: Balance = field(default_factory=Balance)
    differences: list[str] = field(default_factory=list)
    transactions: dict[str, int] = field(default_factory=dict)
    published: int = 0
    take_overs: int = 0
    parked: tuple[int, int, int] = (0, 0, 0)
    drained: float = 0.0


async def run(settings: Settings, directory: Path, cluster: Cluster | None, broker: Broker | None = None) -> Result:
    """Run, and return how it ended. Nothing is left running."""
    result = Result(settings, schedule(settings))
    engine = make_engine(settings.url, poolclass=NullPool)
    await _prepare(settings, engine)
    settings.write(directory)
    eyes = make_sync_engine(settings.sync_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    crew = Crew(directory, random.Random(f"{settings.seed}:crew"))
    watch = Watch(eyes)
    operations = Operations(SQLStore(engine), workload.SERVICE)
    faults = Faults(crew, operations, eyes, cluster, broker, random.Random(f"{settings.seed}:targets"))
    try:
        if broker is not None:
            await broker.open()
        crew.add("worker", settings.workers)
        crew.add("publisher", settings.publishers)
        await _disturb(settings, result.faults, crew, faults, watch)
        result.injected = dict(faults.counts)
        since = time.monotonic()
        if cluster is not None:
            cluster.wait()
        if broker is not None:
            await broker.calm()
        crew.continue_all()
        # Calm must be there before the last event is: nothing fails from now on.
        (directory / CALM).touch()
        await asyncio.to_thread(crew.dismiss, "publisher")
        await _drain(crew, operations, watch, directory, result)
        result.drained = time.monotonic() - since
        if broker is not None:
            await _look_after(crew, _HANDED_OUT)
        await asyncio.to_thread(crew.dismiss, "worker")
        with eyes.connect() as connection:
            facts = read_database(connection, directory)
        if broker is not None:
            result.differences += await leftovers(settings, directory, {reader.group: reader.place for reader in facts.readers})
        _conclude(facts, crew, watch, directory, result)
    finally:
        crew.kill_all()
        if broker is not None:
            await broker.close()
        eyes.dispose()
        await engine.dispose()
    return result


async def _prepare(settings: Settings, engine: sa.ext.asyncio.AsyncEngine) -> None:
    store = SQLStore(engine)
    await store.upgrade()
    store.close()
    async with engine.begin() as connection:
        await connection.run_sync(workload.tables.create_all)
        await connection.execute(sa.insert(workload.sequences), [{"account": account, "last": 0} for account in workload.ACCOUNTS])


async def _disturb(settings: Settings, plan: Sequence[Fault], crew: Crew, faults: Faults, watch: Watch) -> None:
    waiting = list(plan)
    looked = 0.0
    while (now := time.time() - settings.started) < settings.seconds:
        crew.look()
        await faults.look(now)
        while waiting and waiting[0].at <= now:
            fault = waiting.pop(0)
            logger.info("%s", fault)
            await faults.inject(fault)
        if now - looked > 0.3:
            looked = now
            await asyncio.to_thread(watch.look)
        await asyncio.sleep(0.02)


async def _drain(crew: Crew, operations: Operations, watch: Watch, directory: Path, result: Result) -> None:
    """Redrive what is dead, resume what is paused, until nothing is left or nothing changes any more."""
    last: tuple[int, ...] | None = None
    changed = time.monotonic()
    while True:
        crew.look()
        for subscription in workload.subscriptions_of(result.settings.transport):
            await _try(operations.resume(subscription))
        await _try(operations.redrive())
        await asyncio.to_thread(watch.look)
        progress = await asyncio.to_thread(watch.progress)
        if progress != last:
            last, changed = progress, time.monotonic()
        elif progress is not None and progress[1:] == (0, 0) and await asyncio.to_thread(_finished, watch, directory):
            return
        elif time.monotonic() - changed > _STUCK:
            result.differences.append(f"nothing has changed for {_STUCK:.0f} s, and not everything is handled; see below")
            return
        await asyncio.sleep(0.3)


async def _look_after(crew: Crew, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        crew.look()
        await asyncio.sleep(0.1)


def _finished(watch: Watch, directory: Path) -> bool:
    try:
        with watch.engine.connect() as connection:
            facts = read_database(connection, directory)
    except DBAPIError:
        return False
    found = balance(facts, 1 << 60)
    return all(reader.drained for reader in facts.readers) and not any("is not in the inbox" in text for text in found.differences)


async def _try(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except (DBAPIError, OSError) as error:
        logger.info("an operator's action failed: %s", str(error).partition("\n")[0])


def _conclude(facts: Facts, crew: Crew, watch: Watch, directory: Path, result: Result) -> None:
    result.balance = balance(facts, _REPEATS * _disturbances(facts, result))
    result.differences += crew.surprises + watch.differences + result.balance.differences
    if watch.looks == 0:
        result.differences.append("nobody could look at lanes and deliveries during the run")
    for log in sorted(directory.glob("*.log")):
        if log.name.startswith(("worker", "publisher")):
            result.differences += _mistakes(log)
    for transaction in facts.transactions:
        result.transactions[transaction.end] = result.transactions.get(transaction.end, 0) + 1
    result.published = len(facts.log)
    result.take_overs = sum(reader.token for reader in facts.readers)
    result.parked = (watch.lanes, watch.parked, watch.dead)


def _disturbances(facts: Facts, result: Result) -> int:
    """Return how often a worker was disturbed at most. Where a broker divides the events, what hits no certain process hits all of them."""
    everyone = result.settings.workers if result.settings.transport else 1
    injected = sum(count if what.endswith("worker") else count * everyone for what, count in result.injected.items())
    return injected + sum(reader.token for reader in facts.readers)


def _mistakes(log: Path) -> list[str]:
    """Return what the library logged as a mistake of its own, each kind once, with its traceback."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[str, str] = {}
    for place, line in enumerate(lines):
        if any(mistake in line for mistake in _MISTAKES):
            rest = [line]
            for other in lines[place + 1 :]:
                if " tidings." in other[:60] or other.startswith("---"):
                    break
                rest.append(other)
            found.setdefault(rest[-1], "\n".join(rest[-40:]))
    return [f"{log.name}: the library met something unexpected:\n{text}" for text in found.values()]
