"""Conversations that are longer than a page, or go round in a circle."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine

from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import add_event
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.dashboard.diagrams import conversation
from tidings.stores.sql.views import LogRow


def row(number: int) -> LogRow:
    return LogRow(number, f"id-{number}", "till", "sale.made", 1, "sale.made", None, None, None)


async def test_an_event_is_in_the_picture_of_its_conversation_however_long_that_is(fresh: Database, open_store: Any) -> None:
    engine = create_engine(fresh.sync_url)
    with engine.begin() as connection:
        first = add_event(connection, "sale.made", None, "{}", {})
        made = [first]
        for _ in range(449):
            made.append(add_event(connection, "sale.made", None, "{}", {"correlationid": first, "causationid": made[-1]}))
    engine.dispose()
    async with client_of(Dashboard(open_store(fresh))) as client:
        for number in (0, 50, 199, 200, 320, 449):
            found = (await client.get(f"/api/events/{made[number]}")).json()["conversation"]
            shown = [said["event"]["id"] for said in found]
            assert len(shown) == 200
            assert shown[0] == first
            assert made[number] in shown
            assert shown == sorted(shown, key=made.index), "in order"
        page = (await client.get(f"/events/{made[449]}")).text
        assert page.count('class="node current"') == 1
        assert "200 events, as many as are drawn at most" in page


def test_a_circle_of_causes_begins_with_its_first_event_and_keeps_what_hangs_on_it() -> None:
    found = [(row(1), "id-3"), (row(2), "id-1"), (row(3), "id-2"), (row(4), "id-3"), (row(5), "id-5")]
    drawn = str(conversation(found, "id-3", lambda each: f"/events/{each.id}"))
    assert [drawn.count(f'href="/events/id-{number}"') for number in range(1, 6)] == [1] * 5
    assert drawn.count('class="edge"') == 3
    assert drawn.count('class="node current"') == 1
