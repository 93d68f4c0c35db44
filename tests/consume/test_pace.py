"""How many events share a transaction: as many as make it worth its cost, and no more than are quick."""

from __future__ import annotations

import asyncpg
import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Subscriptions
from tidings.consume.pace import Pace


def pace_of(seconds: float) -> Pace:
    """Return what is known after a run of ten events that took so long each."""
    pace = Pace()
    pace.begin()
    pace.end(10 * seconds, 10)
    return pace


def test_nothing_is_known_of_a_handler_that_never_ran() -> None:
    assert (Pace().share(), Pace().worth()) == (1, 1)


def test_quick_events_are_worth_a_transaction_together() -> None:
    assert pace_of(0.0001).worth() == 50


def test_slow_events_are_worth_a_transaction_each() -> None:
    assert pace_of(0.005).worth() == 1
    assert pace_of(1.0).worth() == 1


def test_what_is_worth_a_transaction_fits_into_one() -> None:
    for seconds in (0.00001, 0.001, 0.004, 0.1):
        assert pace_of(seconds).worth() <= pace_of(seconds).share()


@pytest.mark.parametrize(("worth", "least", "most"), [(100, 1, 1), (10, 4, 5), (1, 8, 40)])
async def test_quick_events_are_not_spread_thin(
    pg_world: World, monkeypatch: pytest.MonkeyPatch, worth: int, least: int, most: int
) -> None:
    """Each transaction has its cost: a few quick events wait for one another rather than for eight commits."""
    monkeypatch.setattr(Pace, "share", lambda self: 100)
    monkeypatch.setattr(Pace, "worth", lambda self: worth)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, concurrency=8)
    async def handle(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        await connection.execute("select 1")

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(40)))
        await until(lambda: pg_world.one("select count(*) from tidings_inbox") == 40)
    assert least <= pg_world.one("select count(distinct xmin::text) from tidings_inbox") <= most
