"""Two services on the same tables: `--of` looks at one of them, and acts on it alone."""

from __future__ import annotations

import asyncio

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.till import fill, handled, make_engine
from tests.services.databases import Database


@pytest.fixture
def both(database: Database) -> Database:
    """`till` and `bank`, which have the same handlers, and whose sales with the key `bad` are dead."""

    async def run() -> None:
        await fill(database)
        engine = make_engine(database)
        await handled(engine, 7, "bank")
        await engine.dispose()

    asyncio.run(run())
    return database


def test_a_service_is_looked_at_alone(cli: CommandLine, both: Database) -> None:
    assert len(cli("dead", "list", "--subscription", "book", "--json", store=both).json) == 2
    (dead,) = cli("dead", "list", "--subscription", "book", "--of", "bank", "--json", store=both).json
    assert (dead["service"], dead["subscription"]) == ("bank", "book")
    (blocked,) = cli("keys", "blocked", "--of", "till", "--json", store=both).json
    assert blocked["subscription"] == "till/book"


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("dead", "redrive", "--yes"),
        ("dead", "discard", "--reason", "none", "--yes"),
        ("keys", "blocked"),
        ("keys", "try-now", "--yes"),
        ("keys", "discard", "--reason", "none", "--yes"),
    ],
)
def test_a_service_and_a_subscription_of_it_that_there_are_not_are_refused(
    cli: CommandLine, both: Database, words: tuple[str, ...]
) -> None:
    unknown = cli(*words, "--of", "shop", store=both)
    assert unknown.exit_code != 0
    assert "no service 'shop' has a subscription here; there are: bank, till" in unknown.err
    other = cli(*words, "--of", "bank", "--subscription", "till/book", store=both)
    assert other.exit_code != 0
    assert "there is no subscription 'till/book'; there are: bank/book, security/watch" in other.err
    assert len(cli("dead", "list", "--json", store=both).json) == 2


def test_it_is_enough_to_say_which_events_are_meant(cli: CommandLine, both: Database) -> None:
    counted = cli("dead", "redrive", "--of", "bank", "--dry-run", store=both)
    assert (counted.exit_code, counted.out) == (0, "1 dead key with 3 events\n")
    assert cli("dead", "redrive", "--of", "bank", "--yes", store=both).out.endswith("redrove 1 key\n")
    assert [item["subscription"] for item in cli("keys", "blocked", "--state", "dead", "--json", store=both).json] == ["till/book"]
    discarded = cli("dead", "discard", "--of", "till", "--reason", "a mistake", "--yes", store=both)
    assert discarded.out.endswith("discarded 1 event\n")
    assert {item["subscription"] for item in cli("keys", "blocked", "--json", store=both).json} == {"bank/book", "till/book"}


def test_keys_that_wait_are_tried_and_given_up_for_one_service(cli: CommandLine, both: Database) -> None:
    assert cli("keys", "discard", "--of", "till", "--reason", "a mistake", "--dry-run", store=both).out == "0 events\n"
    cli("dead", "redrive", "--of", "bank", "--yes", store=both)
    assert cli("keys", "discard", "--of", "till", "--reason", "a mistake", "--dry-run", store=both).out == "0 events\n"
    assert cli("keys", "discard", "--of", "bank", "--whole-key", "--reason", "a mistake", "--dry-run", store=both).out == "3 events\n"
    assert cli("keys", "try-now", "--of", "bank", "--yes", store=both).exit_code == 0
