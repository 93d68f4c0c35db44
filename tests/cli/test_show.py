"""`tidings show`, `top`, `limits`: what is in the store, safe for a terminal, and as JSON for scripts."""

from __future__ import annotations

import asyncio
import io
import sys
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text

from tests.cli.conftest import CommandLine
from tests.cli.till import fill, make_engine
from tests.services.databases import Database
from tidings.cli.progress import progress
from tidings.consume.counters import percentile
from tidings.consume.failures import this_process
from tidings.ids import event_key, uuid7
from tidings.stores import SQLStore
from tidings.stores.base import Claim, Verdict

HERE = ":".join(map(str, this_process()))


def now_of(database: Database) -> str:
    return "now()" if database.kind == "postgresql" else "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


def execute(database: Database, *statements: str) -> None:
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def ids(database: Database, statement: str) -> list[str]:
    async def run() -> list[str]:
        engine = make_engine(database)
        async with engine.connect() as connection:
            found = [str(UUID(str(row[0]))) for row in await connection.execute(text(statement))]
        await engine.dispose()
        return found

    return asyncio.run(run())


def test_an_event_that_was_handled_shows_its_way(cli: CommandLine, filled: Database) -> None:
    (event_id,) = ids(filled, "select id from tidings_outbox where key = 'a-1'")
    ended = cli("show", event_id, store=filled)
    assert ended.exit_code == 0
    assert "sale.made v2, key a-1" in ended.out
    assert "published by till to topic sale.made, position 1" in ended.out
    assert f"handled for till/book by {HERE}" in ended.out
    assert "group till of till has read it" in ended.out
    assert '"text": "tea"' in ended.out
    found = cli("show", event_id, "--json", store=filled).json
    assert (found["id"], found["data"]["text"]) == (event_id, "tea")
    assert [(item["subscription"], item["worker"]) for item in found["ended"]] == [("till/book", HERE)]


def test_an_event_from_elsewhere_is_found_in_the_inbox_by_its_producer_or_its_millisecond(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    event_id, foreign = str(uuid7()), "order/4711"
    execute(
        database,
        f"insert into tidings_inbox (event_key, subscription_id, handled_at) select '{event_key('shop', event_id)}', id, {now_of(database)} "
        "from tidings_subscriptions where name = 'book'",
        f"insert into tidings_inbox (event_key, subscription_id, outcome, handled_at) select '{event_key('/legacy', foreign)}', id, 2, {now_of(database)} "
        "from tidings_subscriptions where name = 'book'",
    )
    exact = cli("show", event_id, "--source", "/shop", store=database)
    assert exact.exit_code == 0
    assert f"event {event_id} of shop: it is over, and came from elsewhere" in exact.out
    assert "handled for till/book\n" in exact.out
    near = cli("show", event_id, "--json", store=database).json
    assert (near["certain"], near["source"]) == (False, None)
    assert [item["subscription"] for item in near["ended"]] == ["till/book"]
    assert "--source PRODUCER says whether" in near["note"]
    assert "discarded for till/book" in cli("show", foreign, "--source", "/legacy", store=database).out
    for words in ((event_id, "--source", "other"), (foreign, "--source", "other"), (str(uuid7()),)):
        ended = cli("show", *words, store=database)
        assert (ended.exit_code, "there is no event" in ended.err) == (1, True), words
    assert "add --source PRODUCER" in cli("show", foreign, store=database).err


def test_dead_waiting_scheduled_and_unread_events_say_so(cli: CommandLine, filled: Database) -> None:
    dead, behind, _ = ids(filled, "select id from tidings_outbox where key = 'bad' order by position")
    ended = cli("show", dead, store=filled)
    assert f"attempt 1 of till/book failed in {HERE}: tests.cli.till.Refused" in ended.out
    assert "till/book: is dead" in ended.out
    assert "\x1b" not in ended.out
    assert "\u202e" not in ended.out
    assert "waits behind event" in cli("show", behind, store=filled).out
    (scheduled,) = ids(filled, "select id from tidings_scheduled")
    assert "scheduled for" in cli("show", scheduled, store=filled).out
    (unread,) = ids(filled, "select id from tidings_outbox where key = 'a-3'")
    assert "has not read it" in cli("show", unread, store=filled).out


def test_an_event_whose_id_lies_about_its_time_is_found_too(cli: CommandLine, database: Database) -> None:
    strange = "01234567-89ab-4def-8123-456789abcdef"

    async def prepare() -> None:
        engine = make_engine(database)
        await SQLStore(engine).upgrade()
        now = "" if database.kind == "postgresql" else ", time"
        value = "" if database.kind == "postgresql" else ", '2020-01-01T00:00:00.000Z'"
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    f"insert into tidings_outbox (id, source, name, topic, headers, data{now}) values ('{strange}', 'a', 'b', 'c', '{{}}', '{{}}'{value})"
                )
            )
        await engine.dispose()

    asyncio.run(prepare())
    assert "published by a to topic c" in cli("show", strange, store=database).out


def test_what_is_not_there_and_what_is_no_id(cli: CommandLine, filled: Database) -> None:
    missing = cli("show", str(uuid7()), store=filled)
    assert (missing.exit_code, "was purged, or never committed here" in missing.err) == (1, True)
    assert cli("show", "17", store=filled).exit_code == 2


def test_top_through_a_pipe_looks_once(cli: CommandLine, filled: Database) -> None:
    ended = cli("top", "--once", store=filled)
    assert ended.exit_code == 0
    for word in ("till/book", "security/watch", "backlog", "lag p99", "took p50", "dead"):
        assert word in ended.out
    assert "≤" in ended.out, "the histograms of the last minute are there"
    assert "\x1b" not in ended.out


def test_limits_lists_who_holds_permits(cli: CommandLine, database: Database) -> None:
    async def prepare() -> None:
        engine = make_engine(database)
        store = SQLStore(engine)
        await store.upgrade()
        await store.transact(store.limits.ask, "till/till/book", "w1", 30.0, lambda *_: Verdict(Claim(2, 5), 90.0))
        await engine.dispose()

    asyncio.run(prepare())
    (found,) = cli("limits", "--json", store=database).json
    assert (found["scope"], found["held"], found["wanted"]) == ("till/till/book", 2, 5)
    assert 80 < found["ahead"] <= 90
    assert "till/till/book" in cli("limits", store=database).out


def test_without_limits_it_says_so(cli: CommandLine, database: Database) -> None:
    assert cli("db", "upgrade", store=database).exit_code == 0
    assert cli("limits", store=database).out == "no limit is in use\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_work_shows_a_bar_where_somebody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("redriving keys", 10) as told:
        told(5)
    assert "redriving keys" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    lines: list[int] = []
    with progress("redriving keys", 10, lambda done, total=None, /: lines.append(done)) as told:
        told(5)
    assert lines == [5]
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [({}, 0.5, None), ({"1": 99, "500": 1}, 0.5, 0.001), ({"1": 98, "500": 2}, 0.99, 0.5), ({"inf": 1}, 0.5, float("inf")), ({"20": 1}, 1.0, 0.02)],
)  # fmt: skip
def test_percentiles_are_bounds_of_buckets(counts: dict[str, int], share: float, seconds: float | None) -> None:
    assert percentile(counts, share) == seconds


def test_attempts_are_shown_of_an_event_that_is_over(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    dead, *_ = ids(database, "select id from tidings_outbox where key = 'bad' order by position")
    assert cli("dead", "discard", "--event-id", dead, "--reason", "a test", "--yes", store=database).exit_code == 0
    out = cli("show", dead, store=database).out
    assert f"attempt 1 of till/book failed in {HERE}: tests.cli.till.Refused" in out
    assert "discarded for till/book" in out
    (ended,) = cli("show", dead, "--json", store=database).json["ended"]
    assert [attempt["attempt"] for attempt in ended["attempts"]] == [1]


def test_numbers_are_shown_as_they_are_written(cli: CommandLine, database: Database) -> None:
    event_id = str(uuid7())
    numbers = ["0.12345678901234567890123", "1e400", "1.10", "-0", "12345678901234567890123"]
    # A payload cannot make a number of its text.
    data = "[" + ", ".join([*numbers, '"1.50"', "true"]) + "]"
    time, value = ("", "") if database.kind == "postgresql" else (", time", ", '2020-01-01T00:00:00.000Z'")

    async def prepare() -> None:
        engine = make_engine(database)
        await SQLStore(engine).upgrade()
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    f"insert into tidings_outbox (id, source, name, topic, headers, data{time}) "
                    f"values ('{event_id}', 'a', 'b', 'c', '{{}}', :data{value})"
                ),
                {"data": data},
            )
        await engine.dispose()

    asyncio.run(prepare())
    lines = cli("show", event_id, store=database).out.partition("\ndata\n")[2].split()
    assert lines == ["[", *(f"{number}," for number in numbers), '"1.50",', "true", "]"]
    assert " ".join(cli("show", event_id, "--json", store=database).out.partition('"data": ')[2].split()).startswith(f"[ {data[1:-1]} ],")
    assert f'"data": {data}' in cli("tail", "--json", store=database).out
