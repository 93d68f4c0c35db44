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
from tests.cli.till import make_engine
from tests.services.databases import Database
from tidings.cli.doctor import Facts, findings
from tidings.cli.retained import Retained
from tidings.stores import SQLStore
from tidings.stores.sql.doctor import Holder, Server
from tidings.stores.sql.queries import Backlog, Worker
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
        ({"status": with_workers(readers=[reader(owner=None)])}, "note", "nobody reads for till/till@log"),
        ({"status": with_workers(backlog=Backlog(5, NOW - timedelta(days=3)))}, "problem", "the log cannot be purged behind them"),
        ({"status": status()}, "note", "no live worker of service 'till'"),
    ],
)  # fmt: skip
def test_each_trouble_is_found(changes: dict[str, Any], level: str, says: str) -> None:
    found = [finding for finding in findings(facts(**changes)) if says in finding.says]
    assert [finding.level for finding in found] == [level]


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
