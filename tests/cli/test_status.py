from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.cli.conftest import CommandLine, Ended
from tests.cli.till import SaleMade, fill, handled, make_engine, make_service, publish
from tests.services.databases import Database
from tidings.observability.status import Status, problems_of
from tidings.stores import SQLStore
from tidings.stores.sql.queries import Backlog, Queries, Reader, Scheduled, Subscription

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOTHING = Backlog(0, None)
UNSCHEDULED = Scheduled(0, None)
BOOK = Subscription(1, "till", "till", "book", ("sale.made",), True, "active")


def reader(**changes: object) -> Reader:
    usual = Reader(
        "till/till@log", "till", "till", "log", "active", "w1", "host", 1, NOW + timedelta(seconds=7), NOW - timedelta(seconds=5), 0,
        (None, None, 0),
    )  # fmt: skip
    return usual._replace(**changes)  # type: ignore[arg-type]


def status(
    *, readers: list[Reader] | None = None, backlog: Backlog = NOTHING, subscription: Subscription | None = None,
    scheduled: Scheduled = UNSCHEDULED, replica: bool = False,
) -> Status:  # fmt: skip
    readers = [reader()] if readers is None else readers
    return Status(
        NOW, replica, 1, readers, {item.reader: backlog for item in readers if item.state != "retired"},
        [subscription or BOOK], [], scheduled, [],
    )  # fmt: skip


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def received(*, breaker: str | None = None, active: str = "active", **changes: object) -> Status:
    """A group that receives from a broker."""
    book = Subscription(1, "till", "till", "book", ("sale.made",), True, active)
    source = reader(**{"reader": "till/till@rabbitmq", "kind": "queue", **changes})
    inbound = Subscription(2, "till", "till", "inbound:rabbitmq", (), False, "active", breaker=breaker)
    return replace(status(readers=[source]), subscriptions=[book, inbound])


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (status(), None),
        (status(backlog=Backlog(5, ago(3))), None),
        (status(readers=[reader(owner=None, lease_until=None)]), None),
        (status(readers=[reader(owner=None, lease_until=None)], backlog=Backlog(5, ago(3))), "no worker reads for it"),
        (
            status(readers=[reader(lease_until=ago(1))], backlog=Backlog(5, ago(3))),
            "no worker reads for it: run service 'till' with role 'consume'",
        ),
        (
            status(readers=[reader(reader="till/till@canary@log", group="till@canary", owner=None)], backlog=Backlog(5, ago(3))),
            "run service 'till' in environment 'canary' with role 'consume', or 'tidings groups retire till@canary'",
        ),
        (status(readers=[reader(moved_at=ago(90))], backlog=Backlog(5, ago(100))), "has not moved for 90 s"),
        (status(readers=[reader(moved_at=ago(90))], backlog=Backlog(5, ago(10))), None),
        (
            status(readers=[reader(moved_at=ago(90))], backlog=Backlog(5, ago(100)), subscription=BOOK._replace(state="paused")),
            "subscription till/book is paused, and events wait in the log, the oldest for 100 s: 'tidings subscriptions resume till/book --of till'",
        ),
        (status(readers=[reader(moved_at=ago(9))], backlog=Backlog(5, ago(100)), subscription=BOOK._replace(state="paused")), None),
        (
            status(readers=[reader(moved_at=ago(90))], backlog=Backlog(5, ago(100)), subscription=BOOK._replace(breaker="open")),
            "till/book: its breaker has been open, its events wait in the log",
        ),
        (
            status(
                readers=[reader(moved_at=ago(90), lease_until=ago(1))],
                backlog=Backlog(5, ago(100)),
                subscription=BOOK._replace(state="paused"),
            ),
            "no worker reads for it",
        ),
        (status(readers=[reader(moved_at=ago(9000))]), None),
        (status(readers=[reader(state="paused", owner=None)], backlog=Backlog(5, ago(9000))), None),
        (status(readers=[reader(state="retired", owner=None)]), None),
        (status(subscription=Subscription(1, "till", "till", "book", (), True, "active", dead=2, waiting=5)), "2 dead events, 5 waiting"),
        (status(subscription=Subscription(1, "till", "till", "book", (), True, "retired", dead=2, waiting=5)), None),
        (status(subscription=Subscription(1, "till", "till", "book", (), True, "active", retrying=2)), None),
        (
            status(subscription=Subscription(1, "till", "till", "book", (), True, "active", retrying=2, overdue=1)),
            "nobody tries 1 key again",
        ),
        (
            status(
                subscription=Subscription(
                    1,
                    "till",
                    "till",
                    "book",
                    (),
                    True,
                    "active",
                    breaker="open",
                    breaker_since=ago(180),
                    breaker_reason="10 keys failed in a row: no",
                )
            ),
            "till/book: its breaker has been open for 3 min, its events wait in the log: 10 keys failed in a row: no",
        ),
        (status(subscription=Subscription(1, "till", "till", "book", (), True, "active", breaker="closed")), None),
        (status(subscription=Subscription(1, "till", "till", "book", (), True, "retired", breaker="open")), None),
        (status(scheduled=Scheduled(1, NOW + timedelta(hours=1))), None),
        (status(scheduled=Scheduled(1, ago(5))), None),
        (status(scheduled=Scheduled(1, ago(60))), "role 'schedule'"),
        (status(replica=True), "a replica"),
        (received(), None),
        (
            received(owner=None, lease_until=None),
            "group 'till' receives from rabbitmq, and no worker reads for it: what is sent to it waits at the broker",
        ),
        (received(lease_until=ago(1)), "run service 'till' with role 'consume', or 'tidings groups retire till'"),
        (received(kind="stream", lease_until=ago(1)), "receives from rabbitmq, and no worker reads for it"),
        (received(state="retired", owner=None), None),
        (received(breaker="open", owner=None), "its broker has been down"),
        (received(active="paused", owner=None), None),
    ],
)
def test_what_is_not_well_is_said_and_nothing_else(found: Status, says: str | None) -> None:
    problems = problems_of(found)
    assert len(problems) == (says is not None)
    assert says is None or says in problems[0]


def test_one_screen_says_that_something_is_not_well(cli: CommandLine, filled: Database) -> None:
    ended = cli("status", store=filled)
    assert ended.exit_code == 1
    assert "not well:" in ended.out
    assert "group 'till' has a backlog and no worker reads for it" in ended.out
    assert "subscription till/book: 1 dead event, 2 waiting behind" in ended.out
    assert "scheduled: 1, the next one is due in" in ended.out
    assert "workers: none" in ended.out


def test_the_same_as_json(cli: CommandLine, filled: Database) -> None:
    ended = cli("status", "--json", store=filled)
    assert ended.exit_code == 1
    found = ended.json
    assert found["well"] is False
    assert len(found["problems"]) == 3, "two groups have not read the last sale, and one event is dead"
    readers = {item["group"]: item for item in found["readers"] if item["kind"] == "log"}
    assert readers["till"]["backlog"] == 1
    (book,) = (item for item in found["subscriptions"] if item["name"] == "book")
    assert (book["dead"], book["waiting"], book["parked"], book["retrying"]) == (1, 2, 3, 0)
    assert book["recently"] == {"handled": 2, "failed": 1, "duplicates": 0}
    assert found["scheduled"]["events"] == 1


def test_when_all_is_well_the_exit_code_is_zero_and_a_worker_is_seen(cli: CommandLine, database: Database) -> None:
    async def look() -> list[Ended]:
        engine = make_engine(database)
        await SQLStore(engine).upgrade()
        async with make_service(engine) as service:
            async with asyncio.timeout(20):
                while not (service._runtime and all(receiver.lease for receiver in service._runtime.receivers)):
                    await asyncio.sleep(0.01)
            ended = [await asyncio.to_thread(cli, "status", *options, store=database) for options in ((), ("--json",))]
        await engine.dispose()
        return ended

    plain, machine = asyncio.run(look())
    assert plain.exit_code == machine.exit_code == 0
    assert "all is well" in plain.out
    found = machine.json
    assert found["well"] is True
    (worker,) = found["workers"]
    assert worker["service"] == "till"
    assert worker["alive"] is True
    assert {item["owner"] for item in found["readers"] if item["kind"] == "log"} == {worker["id"]}
    assert {item["pid"] for item in found["readers"]} == {worker["pid"]}


def test_a_breaker_that_is_open_is_seen_with_its_reason_as_long_as_its_process_reads(cli: CommandLine, database: Database) -> None:
    async def look() -> list[Ended]:
        engine = make_engine(database)
        store = SQLStore(engine)
        await store.upgrade()
        async with make_service(engine) as service:
            runtime = service._runtime
            assert runtime is not None
            async with asyncio.timeout(20):
                while not all(receiver.lease for receiver in runtime.receivers):
                    await asyncio.sleep(0.01)
            (book,) = (item for item in runtime.subscriptions if item.name == "book")
            for number in range(10):
                book.circuit.failed(str(number), "ConnectionError: \x1b[2Jthe bank is down")
            async with asyncio.timeout(20):
                while not any(item.breaker == "half-open" for item in await service.operations.subscriptions()):
                    await asyncio.sleep(0.01)
            commands = (("status",), ("status", "--json"), ("subscriptions", "list"), ("subscriptions", "list", "--json"))
            ended = [await asyncio.to_thread(cli, *words, store=database) for words in commands]
        ended.append(await asyncio.to_thread(cli, "subscriptions", "list", "--json", store=database))
        await engine.dispose()
        return ended

    status, status_json, listed, listed_json, after = asyncio.run(look())
    assert status.exit_code == status_json.exit_code == 1
    assert "its events wait in the log: 10 keys failed in a row: ConnectionError: \\x1b[2Jthe bank is down" in status.out
    assert "half-open since 20" in listed.out
    for found in (status_json.json["subscriptions"], listed_json.json):
        (book,) = (item for item in found if item["name"] == "book")
        assert book["breaker"] == "half-open"
        assert book["breaker_reason"].startswith("10 keys failed in a row: ConnectionError")
        assert datetime.fromisoformat(book["breaker_since"]) <= datetime.now(UTC)
        assert {item["breaker"] for item in found if item["name"] != "book"} == {"closed"}
    assert {item["breaker"] for item in after.json} == {None}


async def backlogs(store: SQLStore) -> dict[str, int]:
    queries = Queries(store.names, store.dialect)
    await store.call(store.resolve)
    return {
        item.group: (await store.call(queries.backlog, item)).events for item in await store.call(queries.readers) if item.kind == "log"
    }


async def test_a_backlog_is_what_the_checkpoint_has_not_passed(database: Database) -> None:
    engine = make_engine(database)
    store = SQLStore(engine)
    await fill(database)
    before = await backlogs(store)
    assert before["till"] == 1
    await publish(engine, SaleMade("a-4"), SaleMade("a-5"))
    assert await backlogs(store) == {group: count + 2 for group, count in before.items()}
    await handled(engine, 3)
    assert (await backlogs(store))["till"] == 0
    await engine.dispose()


async def test_a_backlog_counts_what_was_committed_late_and_what_is_left_of_a_window(postgresql: Database) -> None:
    engine = make_engine(postgresql)
    store = SQLStore(engine)
    await store.upgrade()
    service = make_service(engine)
    await service.start()
    await service.stop()
    start = await backlogs(store)
    assert start == {"till": 0, "security": 0}
    async with AsyncSession(engine) as slow:
        service.publish(slow, SaleMade("slow"))
        await slow.execute(text("select pg_current_xact_id()"))
        await publish(engine, SaleMade("a"), SaleMade("b"))
        async with engine.begin() as connection:
            # A reader that has fixed a window over what there is now, and has read its first row.
            await connection.execute(
                text("""
                update tidings_checkpoints set current = pg_current_snapshot(), position = (select min(position) from tidings_outbox)
                where group_name = 'till' and kind = 'log'
            """)
            )
        assert await backlogs(store) == {"till": 1, "security": 2}
        await slow.commit()
    assert await backlogs(store) == {"till": 2, "security": 3}
    await publish(engine, SaleMade("c"))
    assert await backlogs(store) == {"till": 3, "security": 4}
    await engine.dispose()
