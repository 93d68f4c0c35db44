"""A publisher process: `python -m chaos.publisher DIRECTORY PLACE INCARNATION`. Runs random transactions until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from chaos.databases import make_engine
from chaos.journal import Journal
from chaos.process import end_with_parent, log_to_stderr
from chaos.program import Move, Part, Program, programs
from chaos.settings import Settings
from chaos.workload import ACCOUNTS, SERVICE, Deposited, Reminded, Withdrawn, bank, published, sequences
from tidings import Service
from tidings.stores import SQLStore

logger = logging.getLogger("chaos.publisher")

TASKS = 3
_EVENTS: dict[str, Any] = {"bank.deposited": Deposited, "bank.withdrawn": Withdrawn, "bank.reminded": Reminded}


class _RolledBack(Exception):
    """What a program raises that does not commit, or to leave a savepoint."""


class Publisher:
    """Runs programs, and writes down before each what it will publish, and after it how it ended."""

    def __init__(self, settings: Settings, engine: AsyncEngine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._service = Service(SERVICE, contracts=[bank], store=SQLStore(engine))
        self._styles: dict[str, Any] = {"session": self._on_session, "connection": self._on_connection, "driver": self._on_driver}
        self._dsn = settings.url.replace("+asyncpg", "")

    async def run(self, program: Program) -> None:
        """Run one transaction; faults that we make are taken as they come, anything else ends the process."""
        parts = [[[move.number for move in part.moves], part.savepoint] for part in program.parts]
        first = program.parts[0].moves[0].number
        self._journal.write(tx=first, does="begins", parts=parts)
        try:
            await self._styles[program.style](program)
        except _RolledBack:
            self._journal.write(tx=first, does="rolled back")
        # asyncpg calls it an internal error when a statement meets a server's farewell.
        except (DBAPIError, OSError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # Cut, restarted or locked out. Whether the transaction was committed, nobody knows.
            self._journal.write(tx=first, does="failed", error=f"{type(error).__name__}: {str(error)[:200]}")
            await asyncio.sleep(0.2)
        else:
            self._journal.write(tx=first, does="committed")

    async def _on_session(self, program: Program) -> None:
        async with AsyncSession(self._engine) as session, session.begin():
            await self._lock(session, program)
            for part in program.parts:
                if part.savepoint == "none":
                    await self._moves_on_session(session, part)
                    continue
                try:
                    async with session.begin_nested():
                        await self._moves_on_session(session, part)
                        if part.savepoint == "rolled back":
                            raise _RolledBack
                except _RolledBack:
                    pass
            await self._end(program)

    async def _moves_on_session(self, session: AsyncSession, part: Part) -> None:
        for move in part.moves:
            await session.execute(sa.insert(published), await self._row(session, move))
            self._service.publish(session, _EVENTS[move.name](move.number, move.account), delay=_delay(move))

    async def _on_connection(self, program: Program) -> None:
        async with self._engine.connect() as connection, self._service.publishing(connection) as publish:
            await self._lock(connection, program)
            for part in program.parts:
                if part.savepoint == "none":
                    await self._moves_on_connection(connection, publish, part)
                    continue
                savepoint = await connection.begin_nested()
                await self._moves_on_connection(connection, publish, part)
                await (savepoint.rollback() if part.savepoint == "rolled back" else savepoint.commit())
            await self._end(program)

    async def _moves_on_connection(self, connection: AsyncConnection, publish: Any, part: Part) -> None:
        for move in part.moves:
            await connection.execute(sa.insert(published), await self._row(connection, move))
            publish(_EVENTS[move.name](move.number, move.account), delay=_delay(move))

    async def _lock(self, connection: AsyncSession | AsyncConnection, program: Program) -> None:
        # All row locks first and in one order, so that publishers cannot deadlock.
        for account in _locked(program):
            await connection.execute(sa.update(sequences).where(sequences.c.account == account).values(last=sequences.c.last))
        await asyncio.sleep(program.hold)

    async def _row(self, connection: AsyncSession | AsyncConnection, move: Move) -> dict[str, Any]:
        sequence = None
        if move.account in ACCOUNTS and not move.delay:
            statement = sa.update(sequences).where(sequences.c.account == move.account).values(last=sequences.c.last + 1)
            sequence = await connection.scalar(statement.returning(sequences.c.last))
        return {"number": move.number, "name": move.name, "account": move.account, "sequence": sequence}

    async def _on_driver(self, program: Program) -> None:
        """Without SQLAlchemy."""
        connection = await asyncpg.connect(self._dsn, timeout=10)
        try:
            async with connection.transaction(), self._service.publishing(connection) as publish:
                for account in _locked(program):
                    await connection.execute("update sequences set last = last where account = $1", account)
                await asyncio.sleep(program.hold)
                for part in program.parts:
                    if part.savepoint == "none":
                        await self._moves_on_driver(connection, publish, part)
                        continue
                    try:
                        async with connection.transaction(), self._service.publishing(connection) as publish_inside:
                            await self._moves_on_driver(connection, publish_inside, part)
                            if part.savepoint == "rolled back":
                                raise _RolledBack
                    except _RolledBack:
                        pass
                await self._end(program)
        finally:
            await connection.close(timeout=5)

    async def _moves_on_driver(self, connection: Any, publish: Any, part: Part) -> None:
        for move in part.moves:
            sequence = None
            if move.account in ACCOUNTS and not move.delay:
                sequence = await connection.fetchval("update sequences set last = last + 1 where account = $1 returning last", move.account)
            await connection.execute(
                "insert into published (number, name, account, sequence) values ($1, $2, $3, $4)",
                move.number, move.name, move.account, sequence,
            )  # fmt: skip
            publish(_EVENTS[move.name](move.number, move.account), delay=_delay(move))

    async def _end(self, program: Program) -> None:
        await asyncio.sleep(program.linger)
        if not program.commits:
            raise _RolledBack


def _delay(move: Move) -> timedelta | None:
    return timedelta(seconds=move.delay) if move.delay else None


def _locked(program: Program) -> list[str]:
    return sorted({move.account for part in program.parts for move in part.moves if move.account in ACCOUNTS})


async def main(directory: Path, place: int, incarnation: int) -> None:
    """Publish until SIGTERM; transactions under way are finished."""
    settings = Settings.read(directory)
    engine = make_engine(settings.url, pool_size=TASKS, pool_timeout=20)
    publisher = Publisher(settings, engine, Journal(directory / "transactions.jsonl"))
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)

    async def work(task: int) -> None:
        chance = random.Random(f"{settings.seed}:publisher:{place}:{incarnation}:{task}")
        first = ((place * 1000 + incarnation) * TASKS + task) * 1_000_000
        styles: Any = ("session", "session", "connection", "driver") if settings.kind == "postgresql" else ("session", "connection")
        for program in programs(chance, first, styles):
            await publisher.run(program)
            try:
                async with asyncio.timeout(chance.expovariate(settings.rate / TASKS)):
                    await ending.wait()
                return
            except TimeoutError:
                continue

    async with asyncio.TaskGroup() as tasks:
        for task in range(TASKS):
            tasks.create_task(work(task))
    await engine.dispose()


if __name__ == "__main__":
    end_with_parent()
    log_to_stderr(logging.WARNING)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
