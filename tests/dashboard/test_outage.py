"""A database that is not there: a sentence and one line in the log for each request, until it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from private_services.proxy import Proxy
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.consume.waiting import SECONDS
from tests.dashboard.conftest import client_of
from tests.dashboard.test_live import BEAT, begin_of_stream
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.dashboard.outage import DatabaseDown, reaching
from tidings.stores import SQLStore
from tidings.stores.sql.errors import is_unreachable

PATHS = ("/", "/keys", "/failures", "/actions/redrive?all=true", "/api/overview")

DOWN = "event: down\ndata: 1\n\n"


def test_what_is_down_is_said_once() -> None:
    store = SQLStore(create_engine("postgresql+psycopg://shop@127.0.0.1/shop"))
    with pytest.raises(DatabaseDown) as caught, reaching(store), reaching(store):
        raise asyncpg.CannotConnectNowError("the database system is starting up")
    assert str(caught.value) == "the database cannot be reached: the database system is starting up"
    store.close()


@pytest.fixture
async def line(fresh_postgresql: Database) -> AsyncIterator[Proxy]:
    proxy = Proxy(fresh_postgresql.dsn)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def fresh_postgresql(postgresql: Database) -> Database:
    from tests.cli.till import fill

    await fill(postgresql)
    return postgresql


@pytest.fixture(params=["asyncpg", "psycopg"])
async def dashboard(request: pytest.FixtureRequest, line: Proxy) -> AsyncIterator[Dashboard]:
    """A dashboard whose way to the database can be cut."""
    url = f"postgresql+{request.param}://{line.url.partition('://')[2]}"
    if request.param == "asyncpg":
        engine = create_async_engine(url, connect_args={"ssl": False})
        store = SQLStore(engine)
        yield Dashboard(store)
        store.close()
        await engine.dispose()
    else:
        sync = create_engine(url)
        store = SQLStore(sync)
        yield Dashboard(store)
        store.close()
        sync.dispose()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.1)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    found = [record for record in caplog.records if record.name == "tidings.dashboard"]
    caplog.clear()
    return found


async def has_nothing(dashboard: Dashboard, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(dashboard) as client:
        for path in PATHS:
            answer = await client.get(path)
            assert answer.status_code == 503, path
            said = answer.json()["detail"] if path.startswith("/api/") else answer.text
            assert "the database cannot be reached: " in said, path
            (line,) = lines(caplog)
            assert line.levelno == logging.WARNING
            assert line.exc_info is None
            assert line.getMessage().startswith(f"GET {path.partition('?')[0]}: the database cannot be reached: ")


async def is_back(dashboard: Dashboard) -> None:
    async with client_of(dashboard) as client:

        async def good() -> bool:
            return [(await client.get(path)).status_code for path in PATHS] == [200] * len(PATHS)

        await until(good)


@pytest.mark.postgresql
async def test_a_database_that_goes_away_is_missed_and_one_that_comes_back_is_used(
    dashboard: Dashboard, line: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    # Before anything was asked of it, and after.
    for _ in range(2):
        await line.stop()
        await has_nothing(dashboard, caplog)
        await line.start()
        await is_back(dashboard)
        caplog.clear()


@pytest.mark.postgresql
async def test_an_action_that_the_database_cannot_take_says_so(dashboard: Dashboard, line: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    await is_back(dashboard)
    await line.stop()
    caplog.clear()
    async with client_of(dashboard) as client:
        answer = await client.post("/api/actions/pause", json={"service": "till", "subscription": "book"})
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the database cannot be reached: ")
    assert [record.exc_info for record in lines(caplog)] == [None]


@pytest.mark.postgresql
async def test_a_stream_says_that_the_database_is_gone(dashboard: Dashboard, line: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    await is_back(dashboard)
    assert await begin_of_stream(dashboard) == BEAT
    await line.stop()
    caplog.clear()

    async def says(what: str) -> bool:
        return await begin_of_stream(dashboard) == what

    await until(lambda: says(DOWN))
    (record,) = lines(caplog)
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    await line.start()
    await until(lambda: says(BEAT))


async def test_the_reason_names_no_password(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("postgresql+psycopg://till:s3cret@127.0.0.1:1/till")
    store = SQLStore(engine)

    async def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no way to postgresql://till:s3cret@127.0.0.1:1/till")

    monkeypatch.setattr(store, "call", refuse)
    async with client_of(Dashboard(store)) as client:
        answers = [await client.get(path) for path in PATHS]
    assert [answer.status_code for answer in answers] == [503] * len(PATHS)
    assert "s3cret" not in "".join(answer.text for answer in answers) + caplog.text
    store.close()
    engine.dispose()


async def test_a_file_that_cannot_be_opened_is_a_database_that_is_not_there(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'none' / 'till.sqlite'}")
    store = SQLStore(engine)
    async with client_of(Dashboard(store)) as client:
        answer = await client.get("/api/overview")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the database cannot be reached: unable to open database file")
    store.close()
    engine.dispose()


async def test_tables_that_are_gone_are_no_outage(fresh: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(fresh))) as client:
        assert (await client.get("/api/keys")).status_code == 200
        engine = create_engine(fresh.sync_url)
        with engine.begin() as connection:
            connection.execute(text("drop table tidings_lanes" + (" cascade" if fresh.kind == "postgresql" else "")))
        engine.dispose()
        answer = await client.get("/api/keys")
    assert "the store's tables are missing or too old" in answer.json()["detail"]


async def test_an_error_of_ours_is_one_with_its_traceback(
    fresh: Database, open_store: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(fresh)
    call = store.call
    async with client_of(Dashboard(store)) as client:
        assert (await client.get("/api/keys")).status_code == 200
        monkeypatch.setattr(store, "call", lambda *_, **__: call(lambda connection: connection.execute(text("selec 1"))))
        caplog.clear()
        answer = await client.get("/api/keys")
    assert answer.status_code == 500, answer.text
    assert [record.exc_info is not None for record in lines(caplog)] == [True]


@pytest.mark.parametrize("statement", ["selec 1", "select 1 from tidings_nowhere", "select nothing from tidings_outbox"])
def test_an_error_of_the_program_is_none_of_the_way(filled: Database, engines: list[Any], statement: str) -> None:
    engines.append(create_engine(filled.sync_url))
    with engines[-1].connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement))
    assert not is_unreachable(caught.value)


async def test_a_database_that_may_only_be_read_refuses_in_words_that_help(fresh: Database) -> None:
    if fresh.kind == "postgresql":
        engine = create_engine(fresh.sync_url, connect_args={"options": "-c default_transaction_read_only=on"})
    else:
        engine = create_engine(fresh.sync_url)
        event.listen(engine, "connect", lambda connection, _: connection.execute("pragma query_only = on"))
    store = SQLStore(engine)
    async with client_of(Dashboard(store)) as client:
        assert (await client.get("/keys")).status_code == 200
        answer = await client.post("/api/actions/pause", json={"service": "till", "subscription": "till/book"})
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("The database lets this dashboard change nothing: ")
    assert answer.json()["detail"].endswith("Give its user the right to write, or offer it --read-only.")
    store.close()
    engine.dispose()
