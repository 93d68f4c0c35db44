"""The stream behind an open page: what happens between the page and its stream, or between two streams, is told."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from sqlalchemy import create_engine

from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import add_dead
from tests.services.databases import Database
from tidings.dashboard import Dashboard

#: What a stream says when nothing has happened.
BEAT = "event: beat\ndata: 1\n\n"


async def begin_of_stream(dashboard: Dashboard, query: str = "", **headers: str) -> str:
    """Return what a stream says at once."""
    said: asyncio.Queue[str] = asyncio.Queue()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            said.put_nowait(message["body"].decode())

    async def receive() -> Any:
        await asyncio.Event().wait()

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/live", "raw_path": b"/live", "root_path": "", "scheme": "http",
        "query_string": query.encode(), "headers": named, "client": ("127.0.0.1", 50000), "server": ("localhost", 80),
    }  # fmt: skip
    stream = asyncio.create_task(dashboard(scope, receive, send))
    try:
        assert await said.get() == "retry: 1000\n\n"
        return await said.get()
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


async def seen_by_page(dashboard: Dashboard) -> str:
    async with client_of(dashboard) as client:
        found = re.search(r'<body[^>]* data-seen="([0-9a-f]{16})"', (await client.get("/keys")).text)
    assert found
    return found[1]


def happen(database: Database, number: int) -> None:
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        add_dead(connection, number, f"live-{number}", "sale.made", b"{}", ("shop.New", "new", "eeee"))
    engine.dispose()


async def test_what_happens_before_a_page_has_its_stream_is_told(fresh: Database, open_store: Any) -> None:
    seen = await seen_by_page(Dashboard(open_store(fresh)))
    assert await begin_of_stream(Dashboard(open_store(fresh)), f"seen={seen}") == BEAT
    happen(fresh, 1)
    # Another process answers: what it is asked for it looks up itself.
    told = await begin_of_stream(Dashboard(open_store(fresh)), f"seen={seen}")
    tick = re.fullmatch(r"event: tick\nid: ([0-9a-f]{16})\ndata: 1\n\n", told)
    assert tick
    assert tick[1] == await seen_by_page(Dashboard(open_store(fresh))) != seen


async def test_what_happens_between_two_streams_is_told(fresh: Database, open_store: Any) -> None:
    page = await seen_by_page(Dashboard(open_store(fresh)))
    happen(fresh, 1)
    last = await seen_by_page(Dashboard(open_store(fresh)))
    # A browser comes again with the address of the page, which is old, and with what it was told last.
    assert await begin_of_stream(Dashboard(open_store(fresh)), f"seen={page}", last_event_id=last) == BEAT
    happen(fresh, 2)
    assert "event: tick\n" in await begin_of_stream(Dashboard(open_store(fresh)), f"seen={page}", last_event_id=last)


async def test_a_stream_without_a_page_begins_with_what_is_there(fresh: Database, open_store: Any) -> None:
    assert await begin_of_stream(Dashboard(open_store(fresh))) == BEAT
