from __future__ import annotations

import asyncio

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
