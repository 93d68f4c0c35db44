"""The pytest plugin in suites like those of users, with the plugins for async tests that they have."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.testing.nested import run_nested

SHOP = """
from dataclasses import dataclass
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tidings import Contract, Publish, Service, Subscriptions

orders = Contract("orders")

@orders.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

@orders.event("order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str

handlers = Subscriptions()

@handlers.subscribe(OrderPlaced)
async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
    await session.execute(text("select 1"))
    publish(OrderBilled(event.order_id))

def service(store):
    return Service("shop", contracts=[orders], subscriptions=[handlers], store=store)
"""

SUITE = """
import pytest
from shop import OrderBilled, OrderPlaced, service
from sqlalchemy.ext.asyncio import AsyncSession
from tidings.testing import Harness

async def test_harness(tidings_harness, tidings_store):
    async with tidings_harness(service(tidings_store)) as t:
        assert t.store is not tidings_store
        await t.deliver(OrderPlaced("1"), times=2)
        assert t.published(OrderBilled) == [OrderBilled("1")]

@pytest.mark.parametrize("number", range(2))
async def test_store_is_new_for_each_test(tidings_store, number):
    made = service(tidings_store)
    async with AsyncSession(tidings_store.connections.engine) as session, session.begin():
        made.publish(session, OrderPlaced("1"))
    async with Harness(made, store=tidings_store) as t:
        await t.drain()
        assert t.published() == [OrderBilled("1")]

async def test_the_service_itself_runs_on_the_store(tidings_store):
    async with service(tidings_store):
        pass

@pytest.fixture
async def t(tidings_harness, tidings_store):
    async with tidings_harness(service(tidings_store)) as t:
        yield t

async def test_a_fixture_of_ones_own(t):
    with t.crash("before_commit"):
        await t.deliver(OrderPlaced("1"))
    await t.drain()
    t.assert_published_once(OrderBilled, order_id="1")

def test_synchronous(tidings_harness, tidings_store):
    with tidings_harness(service(tidings_store)) as t:
        t.deliver(OrderPlaced("1"))
        t.assert_published_once(OrderBilled)

def test_files_are_kept_with_pytests_own(tidings_harness, tidings_store, tmp_path):
    with tidings_harness(service(tidings_store)) as t:
        assert tmp_path.parent in __import__("pathlib").Path(t.store.connections.sync_engine.url.database).parents
"""

FIRST = """
import sys

# Collected before the modules that use anything of it.
LOADED = {"sqlalchemy", "aiosqlite", "tidings.service"} & set(sys.modules)

def test_nothing_is_loaded_before_it_is_used(request):
    assert request.config.pluginmanager.has_plugin("tidings.testing.plugin")
    assert LOADED == set()
"""


@pytest.mark.parametrize("kind", ["anyio", "asyncio"])
def test_the_fixtures_work_in_suites_with_async_tests(tmp_path: Path, kind: str) -> None:
    if kind == "asyncio":
        pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed: the kit was not tried with it")
    outcome = run_nested(tmp_path, {"shop.py": SHOP, "test_1.py": FIRST, "test_2.py": SUITE}, "anyio" if kind == "anyio" else "asyncio")
    assert "8 passed" in outcome


def test_failures_are_short(tmp_path: Path) -> None:
    suite = """
from shop import OrderBilled, OrderPlaced, service

def test_it(tidings_harness, tidings_store):
    with tidings_harness(service(tidings_store)) as t:
        t.deliver(OrderPlaced("1"))
        t.assert_published(OrderBilled, order_id="2")
"""
    outcome = run_nested(tmp_path, {"shop.py": SHOP, "test_it.py": suite}, "none", fails=True)
    assert "E   AssertionError: not published: OrderBilled with order_id='2'" in outcome
    assert "OrderBilled(order_id='1')  <- order_id is '1'" in outcome
    assert "tidings/testing/" not in outcome


def test_pytest_finds_the_plugin() -> None:
    (found,) = entry_points(group="pytest11", name="tidings")
    assert found.value == "tidings.testing.plugin"
