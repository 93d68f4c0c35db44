"""`tidings db`: create, migrate, check and mend the store's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidings.cli.command import NOT_WELL, Command, Failed
from tidings.cli.progress import progress
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.text import as_json, safe

if TYPE_CHECKING:
    from tidings.stores import SQLStore

__all__ = ["db"]


@click.group()
def db() -> None:
    """Create, migrate, check and mend the store's tables."""


@db.command(
    cls=Command,
    examples=(
        ("tidings db upgrade --store sqlite:///shop.db", "make the file and its tables"),
        ("tidings db upgrade --service shop.app:service", "the tables of a service, with its own engine, schema and prefix"),
    ),
)
@store_options
def upgrade(target: Target) -> None:
    """Create the tables, or bring them to this version.

    Safe to run twice, and by two processes at once. A newer schema is left as it is.
    """

    async def work(store: SQLStore) -> tuple[int, int]:
        return await store.upgrade()

    with progress("upgrading the tables", 0):
        before, after = on_store(target, work, create=True, check=False)
    if before == after:
        click.echo(f"nothing to do: the tables have schema version {after}")
    elif before == 0:
        click.echo(f"created the tables, schema version {after}")
    else:
        click.echo(f"upgraded the tables from schema version {before} to {after}")


@db.command(
    cls=Command,
    examples=(
        ("tidings db sql --dialect postgresql --schema events > tidings.sql", "for the database administrator"),
        ("tidings db sql --dialect sqlite | sqlite3 shop.db", "without Python in the place where it runs"),
    ),
)
@click.option("--dialect", type=click.Choice(["postgresql", "sqlite"]), required=True, help="Whose SQL.")
@click.option("--schema", metavar="NAME", help="The schema of the tables; PostgreSQL only.")
@click.option("--prefix", default="tidings_", metavar="TEXT", show_default=True, help="The tables' prefix.")
def sql(dialect: str, schema: str | None, prefix: str) -> None:
    """Print the SQL that creates the tables. Needs no database."""
    if schema is not None and dialect == "sqlite":
        raise click.UsageError("SQLite has no schemas: leave --schema out")
    try:
        from tidings.stores.sql.migrate import script
        from tidings.stores.sql.names import Names
    except ImportError:
        raise click.UsageError("this needs SQLAlchemy: pip install 'tidings[sqlalchemy]'") from None
    from tidings.errors import ConfigurationError

    try:
        names = Names(schema, prefix)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    click.echo(script(dialect, names), nl=False)


@db.command(cls=Command, examples=(("tidings db check && deploy", "exit code 1 when something has to be done"),))
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def check(target: Target, json_: bool) -> None:
    """Say what is wrong with the tables, and what to do about it."""

    async def work(store: SQLStore) -> list[str]:
        return await store.check()

    problems = on_store(target, work, check=False)
    if json_:
        click.echo(as_json({"well": not problems, "problems": problems}))
    elif not problems:
        click.echo("the tables are as they should be")
    else:
        for problem in problems:
            click.echo(f"- {safe(problem)}")
    if problems:
        click.get_current_context().exit(NOT_WELL)


@db.command(cls=Command, examples=(("tidings db restored", "after pg_restore, a promoted copy, or a move to another cluster"),))
@store_options
def restored(target: Target) -> None:
    """Mend the log after the database was restored or moved.

    PostgreSQL's transaction ids mean nothing in another cluster. This makes the rows of the log native again: what readers had not read
    is delivered, what they had read is not. Does nothing when nothing is to be done. Readers do it by themselves when they start.
    """

    async def work(store: SQLStore) -> bool:
        return await store.mend()

    done = on_store(target, work)
    click.echo("mended: the log belongs to this database now" if done else "nothing to do: the log belongs to this database")


@db.command(cls=Command, examples=(("tidings db purge", "after the retention was shortened, or where no worker has the role schedule"),))
@store_options
def purge(target: Target) -> None:
    """Delete everything that is old enough, now.

    A worker with the role `schedule` does so by itself, a batch at a time. How long what is kept is what each service has said when it was
    started; the log is kept until every reader has read it.
    """
    with progress("deleting rows", 0) as show:

        async def work(store: SQLStore) -> int | None:
            from tidings.consume.purging import purge

            return await purge(store, show)

        deleted = on_store(target, work)
    if deleted is None:
        raise Failed("a worker of these tables has it in hand: it deletes by itself, once a minute")
    click.echo(f"deleted {deleted:,} rows" if deleted else "nothing to do: no row is old enough")
