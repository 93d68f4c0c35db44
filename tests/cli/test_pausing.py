"""`tidings subscriptions pause` and `resume`."""

from __future__ import annotations

import asyncio

from sqlalchemy import create_engine, text

from tests.cli.conftest import CommandLine
from tests.cli.till import fill
from tests.services.databases import Database


def test_pausing_and_resuming_are_in_the_audit(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    assert cli("subscriptions", "pause", "till/book", "--of", "till", store=database).out == "paused till/book of service till\n"
    assert cli("subscriptions", "resume", "till/book", "--of", "till", store=database).out == "resumed till/book of service till\n"
    missing = cli("subscriptions", "pause", "till/boook", "--of", "till", store=database)
    assert missing.exit_code == 1
    assert "has no subscription 'till/boook'" in missing.err
    engine = create_engine(database.sync_url)
    with engine.connect() as connection:
        rows = connection.execute(text("select actor, action, outcome from tidings_audit order by number")).all()
    engine.dispose()
    assert [(row.action, row.outcome) for row in rows] == [("pause", "done"), ("resume", "done"), ("pause", "not found")]
    assert all(row.actor.startswith("cli") for row in rows)
