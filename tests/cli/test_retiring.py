from __future__ import annotations

import asyncio

from sqlalchemy import create_engine, text

from tests.cli.conftest import CommandLine, Ended
from tests.cli.till import fill, make_engine, make_service
from tests.services.databases import Database


def states(ended: Ended, name: str) -> dict[str, str]:
    return {item[name]: item["state"] for item in ended.json if item.get("kind", "log") == "log"}


def test_subscriptions_and_groups_are_listed(cli: CommandLine, filled: Database) -> None:
    ended = cli("subscriptions", "list", store=filled)
    assert ended.exit_code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["subscription", "security/watch", "till/book"]
    assert states(cli("subscriptions", "list", "--json", store=filled), "name") == {"book": "active", "watch": "active"}
    ended = cli("groups", "list", store=filled)
    assert [line.split()[0] for line in ended.out.splitlines()] == ["group", "security", "till"]
    found = cli("groups", "list", "--json", store=filled).json
    assert {item["group"]: item["backlog"] for item in found}["till"] == 1
    assert all(set(item["checkpoint"]) == {"previous", "current", "position"} for item in found)


def test_a_subscription_is_retired_only_when_someone_says_yes(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    ended = cli("subscriptions", "retire", "till/book", store=database)
    assert ended.exit_code == 2
    assert "--yes" in ended.err
    ended = cli("subscriptions", "retire", "till/book", "--yes", store=database)
    assert (ended.exit_code, ended.out) == (0, "retired till/book of service till\n")
    assert states(cli("subscriptions", "list", "--json", store=database), "name") == {"book": "retired", "watch": "active"}
    assert cli("subscriptions", "retire", "till/book", "--yes", store=database).exit_code == 1
    assert cli("subscriptions", "retire", "till/nobody", "--yes", store=database).exit_code == 1
    assert cli("subscriptions", "retire", "security/watch", "--of", "other", "--yes", store=database).exit_code == 1
    assert cli("subscriptions", "retire", "book", "--yes", store=database).exit_code == 2


def test_a_group_is_retired_with_its_subscriptions_and_is_not_ill_any_more(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    assert cli("groups", "retire", "till", store=database).exit_code == 2
    assert cli("groups", "retire", "nobody", "--yes", store=database).exit_code == 1
    ended = cli("groups", "retire", "till", "--yes", store=database)
    assert (ended.exit_code, ended.out) == (0, "retired group till of service till\n")
    assert states(cli("groups", "list", "--json", store=database), "group") == {"security": "active", "till": "retired"}
    assert states(cli("subscriptions", "list", "--json", store=database), "name") == {"book": "retired", "watch": "active"}
    assert "group 'till'" not in cli("status", store=database).out


def test_a_group_that_a_worker_reads_for_is_not_retired(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))

    async def attempt() -> Ended:
        engine = make_engine(database)
        async with make_service(engine) as service:
            async with asyncio.timeout(20):
                while service.counters.of("handled") < 1:
                    await asyncio.sleep(0.01)
            ended = await asyncio.to_thread(cli, "groups", "retire", "till", "--yes", store=database)
        await engine.dispose()
        return ended

    ended = asyncio.run(attempt())
    assert ended.exit_code == 1
    assert "a worker reads for group 'till'" in ended.err


def audit(database: Database) -> list[tuple[str, int, str]]:
    engine = create_engine(database.sync_url)
    with engine.connect() as connection:
        rows = connection.execute(text("select actor, action, count, outcome from tidings_audit order by number")).all()
    engine.dispose()
    assert all(actor.startswith("cli") for actor, *_ in rows)
    return [(action, count, outcome) for _, action, count, outcome in rows]


def test_retiring_is_in_the_audit(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    assert cli("subscriptions", "retire", "till/book", "--yes", store=database).exit_code == 0
    assert cli("groups", "retire", "till", "--yes", store=database).exit_code == 0
    assert audit(database) == [("retire subscription", 1, "done"), ("retire group", 1, "done")]


def test_a_service_that_is_gone_is_forgotten_when_someone_says_yes(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    ended = cli("services", "list", store=database)
    assert [line.split()[:2] for line in ended.out.splitlines()] == [["service", "state"], ["till", "stopped"]]
    (found,) = cli("services", "list", "--json", store=database).json
    assert (found["groups"], found["outbox"], found["audit"]) == (["security", "till"], 7 * 86400.0, 365 * 86400.0)
    assert cli("services", "forget", "till", store=database).exit_code == 2
    ended = cli("services", "forget", "nobody", "--yes", store=database)
    assert (ended.exit_code, "there are: till" in ended.err) == (1, True)
    ended = cli("services", "forget", "till", "--yes", store=database)
    assert ended.exit_code == 0
    assert (
        ended.out
        == "forgot service till: retired 2 groups and 2 subscriptions; 3 events stay parked: 'tidings dead list' lists what is dead\n"
    )
    assert set(states(cli("groups", "list", "--json", store=database), "group").values()) == {"retired"}
    assert [item["state"] for item in cli("services", "list", "--json", store=database).json] == ["forgotten"]
    assert cli("services", "forget", "till", "--yes", store=database).exit_code == 1
    assert audit(database) == [("forget service", 1, "done")]


def test_a_service_that_runs_is_not_forgotten(cli: CommandLine, database: Database) -> None:
    async def attempt() -> Ended:
        engine = make_engine(database)
        async with make_service(engine):
            ended = await asyncio.to_thread(cli, "services", "forget", "till", "--yes", store=database)
        await engine.dispose()
        return ended

    asyncio.run(fill(database))
    ended = asyncio.run(attempt())
    assert ended.exit_code == 1
    assert "a worker of service 'till' is alive: stop it first" in ended.err
