"""Blocked keys and failures: a filter never says that there are none before everything was looked at, and pages miss none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Connection, create_engine, text

from tests.cli.conftest import CommandLine, cli
from tests.cli.till import fill
from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import add_dead
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.ids import lane_of
from tidings.stores.sql import views_parked
from tidings.stores.sql.statement import Command

__all__ = ["cli"]

ERROR = ("shop.Declined", "the card was declined", "cccc")
AT_ONCE = "2026-01-01T00:00:00.000Z"


@pytest.fixture
async def client(fresh: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a dashboard whose searches look through five lanes at a time."""
    monkeypatch.setattr("tidings.stores.sql.views_keys._WINDOW", 5)
    monkeypatch.setattr(views_parked, "_WINDOW", 5)
    async with client_of(Dashboard(open_store(fresh))) as made:
        yield made


def park(database: Database, *lanes: tuple[str, str, str | None], state: str = "dead", at_once: bool = False) -> None:
    """Park events by subscription, key and lane (that of the key, if it is None), in this order or all at one time."""
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        numbers = {row.name: row.id for row in connection.execute(text("select name, id from tidings_subscriptions"))}
        for place, (subscription, key, lane) in enumerate(lanes):
            add_dead(connection, numbers[subscription], key, "sale.made", b"{}", ERROR, state=state, lane=lane)
            as_time = "cast(:at as timestamptz)" if database.kind == "postgresql" else ":at"
            at = AT_ONCE if at_once else f"2026-01-01T00:00:{place:02}.000Z"
            connection.execute(
                text(f"update tidings_lanes set blocked_at = {as_time}, due_at = {as_time} where key = :key"), {"at": at, "key": key}
            )
    engine.dispose()


async def walked(client: httpx.AsyncClient, **query: Any) -> tuple[list[tuple[str, str]], int]:
    """Return the keys of all pages, and how many pages there were."""
    found: list[tuple[str, str]] = []
    pages = 0
    while True:
        answer = await client.get("/api/keys", params=query)
        assert answer.status_code == 200, answer.text
        page, pages = answer.json(), pages + 1
        found += [(row["label"], row["key"]) for row in page["keys"]]
        if page["after"] is None:
            return found, pages
        query["after"] = page["after"]


MANY = [("watch", f"m-{number}", None) for number in range(12)]


async def test_a_filter_by_subscription_finds_what_is_behind_the_window(client: httpx.AsyncClient, fresh: Database) -> None:
    park(fresh, *MANY)
    first = (await client.get("/api/keys?subscription=till/book")).json()
    assert (first["keys"], first["searched"]) == ([], 5)
    page = await client.get("/keys?subscription=till/book")
    assert "No key" not in page.text
    assert "Search further" in page.text
    assert "Looked through 5 keys" in page.text
    assert await walked(client, subscription="till/book") == ([("till/book", "bad")], 3)
    empty = (await client.get("/keys?subscription=till/no-such&after=" + "2027-01-01T00:00:00%2B00:00~" + "0" * 32 + "~0")).text
    assert "No further key is blocked by a dead event among those that match" in empty


async def test_a_key_is_looked_up_wherever_it_is(client: httpx.AsyncClient, fresh: Database) -> None:
    park(fresh, *MANY, ("book", "the-one", None), ("watch", "the-one", None))
    first = (await client.get("/api/keys?key=the-one")).json()
    assert {row["label"] for row in first["keys"]} == {"till/book", "security/watch"}
    found, _ = await walked(client, key="the-one", limit=1)
    assert sorted(found) == [("security/watch", "the-one"), ("till/book", "the-one")]
    found, _ = await walked(client, key="the-one", subscription="watch")
    assert found == [("security/watch", "the-one")]


async def test_an_event_that_was_set_aside_is_found_by_its_key_as_well(client: httpx.AsyncClient, fresh: Database) -> None:
    park(fresh, *MANY, ("book", "one", uuid4().hex), ("book", "one", None), ("watch", "one", uuid4().hex))
    for limit in (1, 2, 3, 50):
        found, _ = await walked(client, key="one", limit=limit)
        assert sorted(found) == [("security/watch", "one"), ("till/book", "one"), ("till/book", "one")], limit


@pytest.mark.parametrize("state", ["dead", "retrying"])
async def test_pages_miss_no_subscription_of_a_key(client: httpx.AsyncClient, fresh: Database, state: str) -> None:
    park(fresh, *((name, key, None) for key in ("x", "y") for name in ("book", "watch")), state=state, at_once=True)
    found, _ = await walked(client, state=state, limit=1)
    expected = [(name, key) for key in sorted("xy", key=lane_of) for name in ("till/book", "security/watch")]
    assert found[:4] == expected


async def test_a_search_among_failures_misses_none_when_others_leave_meanwhile(
    client: httpx.AsyncClient, fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(fresh, *MANY[:6], ("book", "sought", None), *MANY[6:])
    engine = create_engine(fresh.sync_url)
    left: list[int] = []

    def run(connection: Connection, command: Command) -> Any:
        """Run a statement, after the first one let the three newest failures leave."""
        rows = original(connection, command)
        if not left:
            with engine.begin() as other:
                newest = other.execute(text("select number from tidings_deliveries order by number desc limit 3")).scalars()
                left.extend(newest)
                other.execute(text("delete from tidings_deliveries where number >= :last"), {"last": left[-1]})
        return rows

    original = views_parked.run
    monkeypatch.setattr(views_parked, "run", run)
    query: dict[str, Any] = {"key": "sought"}
    page = (await client.get("/api/failures", params=query)).json()
    assert (page["failures"], page["searched"]) == ([], 5)
    found: list[str] = []
    while page["before"] is not None:
        query["before"] = page["before"]
        page = (await client.get("/api/failures", params=query)).json()
        found += [row["key"] for row in page["failures"]]
    engine.dispose()
    assert (found, len(left)) == (["sought"], 3)


def later(database: Database, **values: str) -> None:
    """Let what is retrying be due in an hour; set more columns of the lanes of a key."""
    engine = create_engine(database.sync_url)
    hour = "clock_timestamp() + interval '1 hour'" if database.kind == "postgresql" else "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '1 hour')"
    with engine.begin() as connection:
        connection.execute(text(f"update tidings_lanes set due_at = {hour} where state = 'retrying'"))
        for key, column in values.items():
            connection.execute(text(f"update tidings_lanes set {column} = {hour} where key = :key"), {"key": key})
    engine.dispose()


async def due(client: httpx.AsyncClient) -> dict[str, bool]:
    """Return of each key that is retrying whether it is due."""
    rows = (await client.get("/api/keys?state=retrying")).json()["keys"]
    return {row["key"]: datetime.fromisoformat(row["due_at"]) < datetime.now(UTC) + timedelta(minutes=30) for row in rows}


async def test_a_key_that_waits_for_another_attempt_is_tried_now(client: httpx.AsyncClient, fresh: Database) -> None:
    park(fresh, ("book", "x", None), ("book", "y", None), ("book", "under-way", None), state="retrying")
    later(fresh, **{"under-way": "lease_until"})
    row = next(row for row in (await client.get("/api/keys?state=retrying")).json()["keys"] if row["key"] == "x")
    for page in ("/keys?state=retrying", f"/deliveries/{row['number']}"):
        assert f"/actions/try-now?number={row['number']}" in (await client.get(page)).text
    page = await client.get(f"/actions/try-now?number={row['number']}&back=/keys")
    assert "1 key that waits for another attempt" in page.text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text))
    assert (await client.post("/actions/try-now", data=hidden)).status_code == 303
    assert await due(client) == {"x": True, "y": False, "under-way": False}
    entry = (await client.get("/api/audit")).json()["entries"][0]
    assert (entry["action"], entry["target"]["number"], entry["outcome"]) == ("try now", row["number"], "done")
    planned = (await client.post("/api/actions/try-now", json={"all": True, "dry_run": True})).json()
    assert planned == {"status": "planned", "changed": 1, "sentence": "1 key that waits for another attempt"}
    by_kind = (await client.post("/api/actions/try-now", json={"fingerprint": "cccc", "dry_run": True})).json()
    assert by_kind["changed"] == 1
    done = (await client.post("/api/actions/try-now", json={"all": True})).json()
    assert done == {"status": "done", "changed": 1, "sentence": "1 key is tried now"}
    assert await due(client) == {"x": True, "y": True, "under-way": False}
    assert [item["key"] for item in (await client.get("/api/keys")).json()["keys"]] == ["bad"], "dead ones stay dead"


async def test_what_is_offered_for_failures_concerns_what_is_listed(client: httpx.AsyncClient, fresh: Database) -> None:
    park(fresh, ("book", "x", None), state="retrying")
    every, retrying = [(await client.get(f"/failures{query}")).text for query in ("", "?state=retrying")]
    assert "Redrive everything" in every
    assert "Discard everything" in every
    assert "Try everything now" in retrying
    assert "Redrive" not in retrying
    assert "Discard" not in retrying


def test_the_command_line_tries_a_key_now(cli: CommandLine, fresh_and_retrying: Database) -> None:
    store = fresh_and_retrying
    assert cli("keys", "try-now", "--key", "x", "--dry-run", store=store).out == "1 key waits for another attempt, with 1 event\n"
    assert cli("keys", "try-now", "--key", "x", "--yes", store=store).out == "1 key is tried now\n"
    assert cli("keys", "try-now", "--all", "--dry-run", store=store).out == "0 keys wait for another attempt, with 0 events\n"
    assert cli("keys", "try-now", "--subscription", "boook", "--yes", store=store).exit_code == 1


@pytest.fixture
def fresh_and_retrying(database: Database) -> Database:
    asyncio.run(fill(database))
    park(database, ("book", "x", None), state="retrying")
    later(database)
    return database
