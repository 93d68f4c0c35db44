"""`tidings doctor` finds what is wrong and says what to do, and is content with what is well."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.cli.conftest import CommandLine
from tests.cli.test_status import reader, status
from tests.cli.till import handlers, make_engine, till
from tests.services.databases import Database
from tidings import Service
from tidings.cli.doctor import Facts, findings
from tidings.cli.retained import Retained
from tidings.stores import SQLStore
from tidings.stores.sql.brokers import Broker
from tidings.stores.sql.doctor import Holder, Server
from tidings.stores.sql.queries import Backlog, Subscription, Worker
from tidings.transports.base import Kept

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORKER = Worker("w1", "till", None, "consume,relay", "host", 1, "0", NOW, NOW, True)


def facts(**changes: Any) -> Facts:
    usual = Facts(with_workers(), Server("15.4", "on", True, 100, 3, 10), False, [], [], [], [], [], 0.0, 0.01)
    return usual._replace(**changes)


def with_workers(**changes: Any) -> Any:
    from dataclasses import replace

    return replace(status(**changes), workers=[WORKER])


def problems(found: Facts) -> list[str]:
    return [finding.says for finding in findings(found) if finding.level == "problem"]


def test_nothing_is_said_of_what_is_well() -> None:
    assert all(finding.level == "ok" for finding in findings(facts()))


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({"server": Server("15.4", "off", True, 100, 3, 10)}, "note", "synchronous_commit is off"),
        ({"server": Server("15.4", "on", False, 100, 3, 10)}, "problem", "autovacuum is off"),
        ({"unvacuumed": ["tidings_lanes"]}, "problem", "switched off for tidings_lanes"),
        ({"server": Server("15.4", "on", True, 100, 3, 80)}, "note", "80 of 97 connections"),
        ({"server": Server("15.4", "on", True, 100, 3, 97)}, "problem", "97 of 97 connections"),
        ({"schema": ["journal_mode is 'delete'"]}, "problem", "journal_mode"),
        ({"drift": ["index tidings_outbox_tx of tidings_outbox is missing"]}, "problem", "tidings db sql"),
        ({"drift": ["column tidings_outbox.mine is not ours"]}, "note", "is not ours"),
        ({"holders": [Holder("transaction", "17 app (idle in transaction)", 120.0, True)]}, "problem", "events that it has published wait for its commit"),
        ({"holders": [Holder("transaction", "17 report (active)", 120.0, False)]}, "note", "nothing is vacuumed behind it"),
        ({"holders": [Holder("prepared", "x1", 120.0, True)]}, "problem", "commit or roll it back"),
        ({"holders": [Holder("slot", "replica", None, False)]}, "note", "drop it"),
        ({"skew": 30.0}, "problem", "30.0 s ahead of"),
        ({"skew": -30.0}, "problem", "30.0 s behind"),
        ({"skew": 0.9}, "ok", "differ by less than"),
        ({"brokers": {"rabbitmq": "connection refused"}}, "problem", "rabbitmq cannot be reached from here: connection refused"),
        ({"brokers": {"rabbitmq": None}}, "ok", "rabbitmq can be reached"),
        ({"missing": ["till/old"]}, "problem", "till/old is registered, and the code does not have it"),
        ({"retention": (7 * 86400.0, 86400.0)}, "problem", "inbox_retention (24 h) is shorter than outbox_retention (7 d)"),
        ({"waiting_for_code": [("till", "till/book", 3)]}, "note", "3 events of till/book wait for newer code"),
        ({"waiting_for_code": [("till", "till/book", 1)]}, "note", "1 event of till/book waits for newer code"),
        ({"status": with_workers(readers=[reader(owner=None)])}, "note", "nobody reads for till/till@log"),
        ({"status": with_workers(backlog=Backlog(5, NOW - timedelta(days=3)))}, "problem", "the log cannot be purged behind them"),
        ({"status": status()}, "note", "no live worker of service 'till'"),
    ],
)  # fmt: skip
def test_each_trouble_is_found(changes: dict[str, Any], level: str, says: str) -> None:
    found = [finding for finding in findings(facts(**changes)) if says in finding.says]
    assert [finding.level for finding in found] == [level]


BOOK = Subscription(1, "till", "till", "book", ("sale.made",), True, "active")
RELAY = Subscription(2, "till", "relay:rabbitmq", "relay:rabbitmq", (), True, "active")
UNREAD = reader(owner=None, lease_until=None)
RELAYED = reader(reader="till/relay:rabbitmq@log", group="relay:rabbitmq")
REFUSED = RELAY._replace(breaker="open", breaker_since=NOW - timedelta(minutes=3), breaker_reason="refused")
WAITING = Backlog(5, NOW - timedelta(seconds=3))
OLD = Backlog(5, NOW - timedelta(days=3))


def alive(found: Any, roles: str) -> Any:
    from dataclasses import replace

    return replace(found, workers=[WORKER._replace(roles=roles)])


def broker(state: Any) -> Broker:
    return Broker("rabbitmq", "till", "RabbitMQ", "amqp://mq", state, None, None, None, [])


def brokers(found: Any, state: Any) -> Any:
    from dataclasses import replace

    return replace(found, brokers=[broker(state)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # A service that was stopped: nothing waits, events wait, they wait for long, keys wait.
        ({"status": status(readers=[UNREAD])}, [("workers", "run one, or 'tidings services forget till' if it is gone for good")]),
        ({"status": status(readers=[UNREAD], backlog=WAITING)}, [("status", "run service 'till' with role 'consume', or 'tidings groups retire till'")]),
        ({"status": status(readers=[UNREAD], backlog=OLD)}, [("status", "its oldest events are 3 d old: the log cannot be purged behind them")]),
        ({"status": status(readers=[UNREAD], subscription=BOOK._replace(overdue=2))}, [("status", "nobody tries 2 keys again")]),
        ({"status": brokers(status(readers=[UNREAD]), "unknown")}, [("workers", "run one, or")]),
        ({"status": status(readers=[UNREAD, RELAYED._replace(owner=None)])}, [("workers", "run one, or")]),
        # It runs, and a part of it does not.
        ({"status": alive(status(readers=[UNREAD]), "relay")}, [("workers", "no live worker of service 'till' handles events (role 'consume')")]),
        ({"status": alive(status(readers=[UNREAD], backlog=WAITING), "relay")}, [("status", "with role 'consume'")]),
        (
            {"status": alive(status(readers=[reader(), RELAYED._replace(owner=None)]), "consume")},
            [("readers", "nobody reads for till/relay:rabbitmq@log")],
        ),
        ({"status": with_workers(readers=[reader(moved_at=NOW - timedelta(days=3))], backlog=OLD)}, [("status", "has not moved for 3 d")]),
        ({"status": with_workers(backlog=OLD)}, [("retention", "the log cannot be purged behind them")]),
        # A broker that is down: its relay stands back, and nobody reads for it meanwhile.
        (
            {"status": with_workers(readers=[RELAYED._replace(owner=None)], subscription=REFUSED)},
            [("status", "relay:rabbitmq of till: its broker has been down for 3 min")],
        ),
        (
            {"status": with_workers(subscription=REFUSED), "brokers": {"rabbitmq": "refused"}, "service": "till"},
            [("status", "its broker has been down for 3 min, the events wait in the log: refused")],
        ),
        (
            {"status": with_workers(subscription=REFUSED), "brokers": {"rabbitmq": "refused"}, "service": "shop"},
            [("broker", "rabbitmq cannot be reached from here"), ("status", "its broker has been down")],
        ),
        (
            {"brokers": {"kafka": "refused"}, "retention": (1.0, 1.0), "retained": [Retained("kafka", "till", ("orders",), True, None)]},
            [("broker", "kafka cannot be reached from here: refused")],
        ),
        # A subscription that the code does not have.
        (
            {"status": with_workers(subscription=BOOK._replace(overdue=1)), "missing": ["till/book"], "service": "till"},
            [("subscriptions", "till/book is registered, and the code does not have it")],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once(changes: dict[str, Any], says: list[tuple[str, str]]) -> None:
    found = [finding for finding in findings(facts(**changes)) if finding.level != "ok"]
    assert [finding.check for finding in found] == [check for check, _ in says]
    for finding, (_, part) in zip(found, says, strict=True):
        assert part in finding.says


def execute(database: Database, *statements: str) -> None:
    async def run() -> None:
        engine = make_engine(database)
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


def prepared(database: Database) -> None:
    async def run() -> None:
        engine = make_engine(database)
        await SQLStore(engine).upgrade()
        await engine.dispose()

    asyncio.run(run())


def test_fresh_tables_are_well(cli: CommandLine, database: Database) -> None:
    prepared(database)
    ended = cli("doctor", store=database)
    assert ended.exit_code == 0, ended.out
    assert "all columns and indexes are there" in ended.out
    found = cli("doctor", "--json", store=database).json
    assert {finding["level"] for finding in found} <= {"ok", "note"}


def test_an_index_that_was_dropped_and_a_column_that_is_not_ours_are_found(cli: CommandLine, database: Database) -> None:
    prepared(database)
    execute(database, "drop index tidings_deliveries_lane", "alter table tidings_lanes add column mine integer")
    ended = cli("doctor", store=database)
    assert ended.exit_code == 1
    assert "PROBLEM  tables: index tidings_deliveries_lane of tidings_deliveries is missing" in ended.out
    assert "column tidings_lanes.mine is not ours" in ended.out


def test_a_transaction_that_holds_everybody_up_is_found(cli: CommandLine, postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.cli.doctor._LONG", 0.0)
    prepared(postgresql)
    with psycopg.connect(postgresql.dsn, application_name="forgetful") as connection:
        connection.execute("create table left_open (a int)")
        ended = cli("doctor", store=postgresql)
        assert ended.exit_code == 1
        assert "forgetful (idle in transaction)" in ended.out
        assert "events that it has published wait for its commit" in ended.out
    execute(postgresql, "alter table tidings_lanes set (autovacuum_enabled = false)")
    assert "autovacuum is switched off for tidings_lanes" in cli("doctor", store=postgresql).out


def test_the_code_is_compared_with_what_the_store_knows(
    cli: CommandLine, filled: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "till_app.py").write_text(
        "from tests.cli.till import *\nfrom tests.services.databases import Database\nfrom tidings.testing.memory import Memory\n"
        f"engine = make_engine(Database({filled.kind!r}, {filled.url!r}, {filled.sync_url!r}, {filled.dsn!r}))\n"
        "broker = Memory()\nbroker.stop()\n"
        "service = Service('till', contracts=[till], store=SQLStore(engine), transport=[broker], inbox_retention=timedelta(days=1))\n"
    )
    ended = cli("doctor", "--service", "till_app:service", "--app-dir", str(tmp_path))
    assert ended.exit_code == 1
    for says in (
        "till/book is registered, and the code does not have it",
        "memory cannot be reached from here",
        "inbox_retention (24 h) is shorter",
    ):
        assert says in ended.out


DAY = 86400.0


def kept(seconds: float | None, *, by_position: bool = False, sooner: str = "") -> dict[str, Any]:
    found = Retained("kafka", "till", ("orders", "parcels"), by_position, Kept(seconds, "retention.ms", sooner))
    return {"retention": (7 * DAY, 14 * DAY), "retained": [found]}


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        (kept(7 * DAY), "ok", "kafka keeps orders, parcels for 7 d (retention.ms), longer than handlers may be away"),
        (kept(3 * DAY), "ok", "longer than handlers may be away"),
        (kept(14 * DAY), "ok", "longer than handlers may be away"),
        (kept(15 * DAY), "problem", "orders, parcels for 15 d (retention.ms), longer than the inbox remembers what group 'till' has handled"),
        (kept(None), "problem", "for ever (retention.ms), longer than the inbox remembers"),
        (kept(None), "problem", "when its place at the broker expires or is reset, older events come again"),
        (kept(15 * DAY, by_position=True), "note", "whoever sets its position in the store back"),
        (kept(2 * DAY), "problem", "what group 'till' has not received by then is lost, and handlers may be away for 3 d"),
        (kept(2 * DAY, by_position=True), "problem", "is lost"),
        ({**kept(2 * DAY), "outage": DAY}, "ok", "longer than handlers may be away"),
        (kept(7 * DAY, sooner="retention.bytes=1,000"), "note", "takes messages of orders, parcels away earlier when there are many (retention.bytes"),
        ({"retention": (DAY, DAY), "retained": [Retained("nats", "till", tuple("abcde"), True, None)]}, "note", "how long it keeps a, b, c and 2 more"),
    ],
)  # fmt: skip
def test_how_long_a_broker_keeps_messages_is_compared(changes: dict[str, Any], level: str, says: str) -> None:
    found = [finding for finding in findings(facts(**changes)) if says in finding.says]
    assert [(finding.level, finding.check) for finding in found] == [(level, "retention")]


def test_the_brokers_that_a_service_reads_are_asked(cli: CommandLine, filled: Database, tmp_path: Any) -> None:
    (tmp_path / f"asking_{filled.kind}.py").write_text(
        "from tests.cli.till import *\nfrom tests.services.databases import Database\nfrom tidings import Subscriptions\n"
        "from tidings.testing.memory import Memory\nfrom tidings.transports.base import Kept\n"
        f"engine = make_engine(Database({filled.kind!r}, {filled.url!r}, {filled.sync_url!r}, {filled.dsn!r}))\n"
        "class Keeping(Memory):\n"
        "    async def kept(self, topics):\n"
        "        return {topic: Kept(90 * 86400.0, 'keep') for topic in topics}\n"
        "handlers = Subscriptions()\n"
        "@handlers.subscribe(SaleMade)\n"
        "async def post(event: SaleMade) -> None: ...\n"
        "service = Service('post', contracts=[till], subscriptions=[handlers], store=SQLStore(engine), transport=Keeping('prefix'))\n"
    )
    asked = ("doctor", "--service", f"asking_{filled.kind}:service", "--app-dir", str(tmp_path))
    ended = cli(*asked)
    assert ended.exit_code == 1
    assert "PROBLEM  retention: memory keeps sale.made for 90 d (keep), longer than the inbox remembers what group 'post'" in ended.out
    assert "is lost" not in ended.out
    assert "what group 'post' has not received by then is lost, and handlers may be away for 100 d" in cli(*asked, "--outage", "100").out


def test_another_environments_subscriptions_are_not_missing(cli: CommandLine, database: Database, tmp_path: Any) -> None:
    (tmp_path / f"lanes_{database.kind}.py").write_text(
        "from tests.cli.till import *\nfrom tests.services.databases import Database\nfrom tidings import Subscriptions\n"
        f"engine = make_engine(Database({database.kind!r}, {database.url!r}, {database.sync_url!r}, {database.dsn!r}))\n"
        "def made(environment, *subscriptions):\n"
        "    return Service('till', contracts=[till], subscriptions=subscriptions, store=SQLStore(engine), environment=environment,\n"
        "        route_by_environment=True)\n"
        "main, canary, less = made('main', handlers), made('canary', handlers), made('canary')\n"
    )
    prepared(database)

    async def run() -> None:
        engine = make_engine(database)
        for environment in ("main", "canary"):
            service = Service(
                "till",
                contracts=[till],
                subscriptions=[handlers],
                store=SQLStore(engine),
                environment=environment,
                route_by_environment=True,
            )
            async with service:
                pass
        await engine.dispose()

    asyncio.run(run())
    asked = ("doctor", "--app-dir", str(tmp_path), "--service", f"lanes_{database.kind}:")
    for environment in ("main", "canary"):
        ended = cli(*asked[:-1], asked[-1] + environment)
        assert "is registered, and the code does not have it" not in ended.out
        assert ended.exit_code == 0, ended.out
    ended = cli(*asked[:-1], asked[-1] + "less")
    assert ended.exit_code == 1
    assert "till@canary/book is registered, and the code does not have it" in ended.out
    assert " till/book is registered" not in ended.out
