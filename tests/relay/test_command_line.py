"""What operators see of a relay, and do about it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.cli.conftest import CommandLine, Ended, cli
from tests.consume.shop import OrderPlaced
from tests.consume.waiting import SECONDS, until, until_equal
from tests.consume.world import World
from tests.relay.sent import numbers, relaying, sent
from tests.relay.test_refused import refusing
from tidings.testing.memory import Memory

__all__ = ["cli"]


async def run(cli: CommandLine, world: World, *words: str) -> Ended:
    """Run a command as another process would, while the service goes on."""
    return await asyncio.to_thread(lambda: cli(*words, store=world.database))


async def relays(cli: CommandLine, world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await run(cli, world, "status", "--json")).json["relays"]
    return found


async def brokers(cli: CommandLine, world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await run(cli, world, "status", "--json")).json["brokers"]
    return found


async def test_status_says_whether_the_broker_is_there(world: World, cli: CommandLine) -> None:
    broker = Memory()
    async with relaying(world, broker) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: numbers(sent(broker)), [1])
        (found,) = await relays(cli, world)
        assert (found["relay"], found["service"], found["broker"], found["reason"]) == ("relay:memory", "shop", "connected", None)
        shown = await run(cli, world, "status")
        assert "Relays" in shown.out
        assert "connected" in shown.out
        # It stands in its own table only.
        assert shown.out.count("relay:memory") == 1
        assert "Brokers" in shown.out
        # What was sent is written down a moment later.
        async with asyncio.timeout(SECONDS):
            while (found := (await brokers(cli, world))[0])["links"][0]["backlog"]:
                await asyncio.sleep(0.02)
        assert (found["name"], found["service"], found["kind"], found["state"], found["error"]) == (
            "memory",
            "shop",
            "Memory",
            "connected",
            None,
        )
        (link,) = found["links"]
        assert (link["label"], link["way"], link["state"], link["stalled"]) == ("relay:memory", "sends", "connected", False)
        broker.stop()
        await world.publish(service, OrderPlaced("a", 2))
        await until(lambda: world.one("select breaker from tidings_subscriptions") == "open")
        (found,) = await relays(cli, world)
        assert (found["broker"], found["since"] is not None) == ("down", True)
        assert "stopped" in found["reason"]
        await until(lambda: '"down"' in world.one("select cast(brokers as text) from tidings_workers"))
        (broken,) = await brokers(cli, world)
        assert (broken["state"], broken["since"], broken["error"]) == ("down", found["since"], found["reason"])
        assert (broken["links"][0]["connected"], broken["links"][0]["workers"]) == (0, 1)
        shown = await run(cli, world, "status")
        assert shown.exit_code == 1
        assert "its broker has been down" in shown.out
        broker.start()
        await until_equal(lambda: numbers(sent(broker)), [1, 2])
        # A heartbeat says it; what went wrong the last time is still known.
        await until(lambda: '"connected"' in world.one("select cast(brokers as text) from tidings_workers"))
        (back,) = await brokers(cli, world)
        assert (back["state"], back["error"], back["links"][0]["connected"]) == ("connected", found["reason"], 1)
        assert back["since"] > back["error_at"]
    (found,) = await relays(cli, world)
    assert found["broker"] == "unknown"


async def test_a_backlog_that_nobody_relays_is_not_well(world: World, cli: CommandLine) -> None:
    service = relaying(world, Memory())
    await service.start(["consume"])
    await world.publish(service, OrderPlaced("a", 1))
    shown = await run(cli, world, "status")
    await service.stop()
    assert shown.exit_code == 1
    assert "run service 'shop' with role 'relay'" in shown.out


async def test_a_refused_event_is_listed_shown_and_redriven(world: World, cli: CommandLine) -> None:
    broker = Memory()
    broker.refuses = refusing(1)
    async with relaying(world, broker) as service:
        service_relay = service._runtime
        assert service_relay is not None
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("a", 2), OrderPlaced("b", 3))
        await until(lambda: [row[1] for row in world.lanes()] == ["dead"], seconds=30)
        listed = await run(cli, world, "dead", "list", "--subscription", "relay:memory", "--json")
        (item,) = listed.json
        assert (item["key"], item["waiting_behind"], item["error_type"]) == ("a", 1, "tidings.errors.Refused")
        assert item["error_message"] == "it is not wanted here"
        shown = await run(cli, world, "dead", "show", str(item["number"]))
        assert "relay:memory of service shop" in shown.out
        keys = await run(cli, world, "keys", "blocked")
        assert "relay:memory" in keys.out
        broker.refuses = lambda _: None
        redriven = await run(cli, world, "dead", "redrive", "--subscription", "relay:memory", "--yes")
        assert redriven.exit_code == 0, redriven.err
        await until_equal(lambda: numbers(sent(broker)), [3, 1, 2])
        await until_equal(world.lanes, [])
