"""Two services on the same tables: their relays have one name, and are told apart everywhere."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.cli.conftest import CommandLine
from tests.cli.till import DrawerOpened, make_engine, till
from tests.dashboard.conftest import client_of
from tests.services.databases import Database
from tidings import Retry, Service, Subscriptions
from tidings.dashboard import Dashboard
from tidings.stores import SQLStore

RELAY = "relay:rabbitmq"


@pytest.fixture
async def two(fresh: Database, open_store: Any) -> SQLStore:
    """`shop` has sent 7 events in 10 ms each, and `bank` 3 in 5 s; an event of `bank` is dead."""
    store: SQLStore = open_store(fresh)
    await store.open()
    now = datetime.now(UTC)
    pg = fresh.kind == "postgresql"
    stamp: Any = now if pg else now.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    engine = create_engine(fresh.sync_url)
    with engine.begin() as connection:
        for service in ("shop", "bank"):
            made = connection.execute(
                text(
                    "insert into tidings_subscriptions (service, group_name, name, events, ordered, registered_at) "
                    f"values (:service, '{RELAY}', '{RELAY}', cast('[]' as {'json' if pg else 'text'}), :no, :now) returning id"
                ),
                {"service": service, "no": False, "now": stamp},
            ).scalar_one()
            connection.execute(
                text(
                    "insert into tidings_checkpoints (reader, shard, service, group_name, kind, moved_at) "
                    f"values ('{service}/{RELAY}@log', 0, '{service}', '{RELAY}', 'log', :now)"
                ),
                {"now": stamp},
            )
        connection.execute(
            text(
                "insert into tidings_lanes (lane, subscription_id, key, state, depth, attempts, due_at, blocked_at) "
                f"values (cast('00000000-0000-0000-0000-000000000001' as {'uuid' if pg else 'text'}), :id, 'k', 'dead', 1, 1, :now, :now)"
            ),
            {"id": made, "now": stamp},
        )
    engine.dispose()
    await store.transact(store.stats.count, "shop", {(RELAY, "relayed"): 7, (RELAY, "lag:10"): 7})
    await store.transact(store.stats.count, "bank", {(RELAY, "relayed"): 3, (RELAY, "failed"): 2, (RELAY, "lag:5000"): 3})
    return store


async def test_the_dashboard_gives_each_relay_what_it_has_sent(two: SQLStore) -> None:
    async with client_of(Dashboard(two)) as client:
        found = (await client.get("/api/overview")).json()
        relays = {item["service"]: item for item in found["subscriptions"] if item["label"] == RELAY}
        assert {name: (item["handled"], item["failed"]) for name, item in relays.items()} == {"shop": (7, 0), "bank": (3, 2)}
        assert relays["shop"]["lag_p99"] < 11 < relays["bank"]["lag_p99"]
        lags = {broker["service"]: broker["links"][0]["lag"] for broker in found["brokers"] if broker["name"] == "rabbitmq"}
        assert lags["shop"] < 11 < lags["bank"]
        assert any(f"{RELAY} of bank: 1 dead event" in problem for problem in found["problems"])
        page = (await client.get("/subscriptions")).text
        rows = re.findall(rf'<td data-label="Subscription"><a href="[^"]*">{RELAY}</a> <span class="dim">(\w+)</span></td>', page)
        assert sorted(rows) == ["bank", "shop"]


async def test_the_command_line_does(two: SQLStore, fresh: Database) -> None:
    cli = CommandLine()
    status = (await asyncio.to_thread(cli, "status", "--json", store=fresh)).json
    assert {item["service"]: item["sent"] for item in status["relays"]} == {"shop": 7, "bank": 3}
    top = (await asyncio.to_thread(cli, "top", "--once", store=fresh)).out
    (shop,) = (line.split() for line in top.splitlines() if line.startswith(f"{RELAY} of shop "))
    (bank,) = (line.split() for line in top.splitlines() if line.startswith(f"{RELAY} of bank "))
    assert (shop[3:5], bank[3:5]) == (["0.1/s", "0/s"], ["0.1/s", "0.0/s"])
    assert "≤ 10 ms" in " ".join(shop)
    assert "≤ 5 s" in " ".join(bank)


async def test_a_filter_by_service_stays_when_one_searches_on(two: SQLStore) -> None:
    async with client_of(Dashboard(two)) as client:
        for page in ("keys", "failures"):
            answer = (await client.get(f"/{page}?service=bank&subscription={RELAY}")).text
            assert '<input type="text" name="service" value="bank"' in answer
            assert 'name="service"' not in (await client.get(f"/{page}")).text.partition("<form")[2].partition("</form>")[0]


async def test_an_event_waits_for_the_relay_of_its_own_service_and_no_other(two: SQLStore, fresh: Database) -> None:
    engine = create_engine(fresh.sync_url)
    with engine.begin() as connection:
        (event_id,) = connection.execute(text("select id from tidings_outbox where key = 'a-1'")).scalars()
        before = await asyncio.to_thread(CommandLine(), "show", str(event_id), store=fresh)
        connection.execute(text("update tidings_outbox set source = 'bank' where key = 'a-2'"))
        (other,) = connection.execute(text("select id from tidings_outbox where key = 'a-2'")).scalars()
    engine.dispose()
    after = await asyncio.to_thread(CommandLine(), "show", str(other), store=fresh)
    assert "group till of till has read it" in before.out
    assert (before.out.count(RELAY), after.out.count(RELAY)) == (0, 1)


async def test_an_event_that_one_of_two_subscriptions_of_one_name_cannot_handle(fresh: Database, open_store: Any) -> None:
    """`till` and `bank` both have `security/watch`, and only `bank` fails."""
    handlers = Subscriptions()

    @handlers.subscribe(DrawerOpened, name="watch", group="security", retry=Retry(attempts=1))
    async def watch(event: DrawerOpened) -> None:
        raise ValueError("nobody may")

    engine = make_engine(fresh)
    service = Service("bank", contracts=[till], subscriptions=[handlers], store=SQLStore(engine))
    async with asyncio.timeout(20), service:
        while not service.counters.of("parked"):
            await asyncio.sleep(0.01)
    await engine.dispose()

    async with client_of(Dashboard(open_store(fresh))) as client:
        (opened,) = (await client.get("/api/events", params={"name": "drawer.opened"})).json()["events"]
        happened = (await client.get(f"/api/events/{opened['id']}")).json()["happened"]
        steps = {(step["who"], step["what"]) for step in happened[1:]}
        bank, mine = "security/watch of bank", "security/watch of till"
        assert steps == {(mine, "handled"), (bank, "attempt 1 failed"), (bank, "dead")}
        for page in ("keys", "failures"):
            rows = re.findall(r'data-label="Subscription">(.*?)</td>', (await client.get(f"/{page}")).text)
            shown = [re.sub("<[^>]*>", "", row) for row in rows]
            assert set(shown) == {"security/watch bank", "till/book"}, page
        problems = (await client.get("/api/overview")).json()["problems"]
    assert any(f"subscription {bank}: 1 dead event" in each and "--subscription security/watch --of bank'" in each for each in problems)

    cli = CommandLine()
    out = (await asyncio.to_thread(cli, "show", opened["id"], store=fresh)).out
    assert f"handled for {mine}" in out
    assert f"attempt 1 of {bank} failed" in out
    assert f"{bank}: is dead" in out
    top = (await asyncio.to_thread(cli, "top", "--once", store=fresh)).out
    assert f"{bank} " in top
    assert f"{mine} " in top
    for words in (("dead", "list"), ("keys", "blocked"), ("status",)):
        rows = [line.split() for line in (await asyncio.to_thread(cli, *words, store=fresh)).out.splitlines()]
        assert any("security/watch" in row and row[row.index("security/watch") + 1] == "bank" for row in rows), words
    (blocked,) = (await asyncio.to_thread(cli, "keys", "blocked", "--of", "bank", "--json", store=fresh)).json
    assert (blocked["service"], blocked["subscription"]) == ("bank", "security/watch")
