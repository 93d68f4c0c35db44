"""What only shows when services run side by side: context, a circle, a canary, copies, crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from rentals.app import create_app
from rentals.contracts.equipment import EquipmentCheckedIn, EquipmentCheckedOut, EquipmentCreated
from rentals.filters import USER
from rentals.kernel import Base
from rentals.settings import Settings, create_engine
from rentals.wiring import create_service
from tests.consume.waiting import until
from tests.examples.conftest import running, serving, until_there
from tests.examples.test_modules import TENANT, drill
from tests.services.databases import Database
from tidings import Envelope, Publish, Subscriptions
from tidings.context import TENANT as TENANT_KEY
from tidings.testing import Harness

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_tenant_user_and_trace_of_a_request_reach_the_handlers_and_what_they_publish(database: Database) -> None:
    seen: list[tuple[str | None, str | None, str | None, int]] = []
    more = Subscriptions()

    @more.subscribe(EquipmentCheckedOut)
    async def look(event: EquipmentCheckedOut, envelope: Envelope) -> None:
        seen.append((TENANT_KEY.get(), USER.get(), envelope.traceparent, envelope.hops))
        assert envelope.headers["app-version"] == "1"

    async with running(Settings(database.url), [more]) as sample:
        equipment = await sample.post("/equipment", 201, json=drill())
        order = {"id": str(uuid4()), "customer_id": str(uuid4()), "equipment_id": equipment, "days": 1}
        await sample.post("/orders", 201, json=order, headers={**TENANT, "traceparent": TRACE})
        await until(lambda: seen)
    (found,) = seen
    assert found == ("acme", "grace", TRACE, 1)


async def test_a_circle_of_handlers_ends(database: Database) -> None:
    more = Subscriptions()

    @more.subscribe(EquipmentCheckedIn)
    async def out(event: EquipmentCheckedIn, publish: Publish) -> None:
        publish(EquipmentCheckedOut(event.equipment_id, uuid4(), event.checked_in_at))

    @more.subscribe(EquipmentCheckedOut)
    async def back(event: EquipmentCheckedOut, publish: Publish) -> None:
        publish(EquipmentCheckedIn(event.equipment_id, event.checked_out_at))

    async with running(Settings(database.url), [more]) as sample:
        equipment = await sample.post("/equipment", 201, json=drill())
        await sample.post(f"/equipment/{equipment}/check-out?customer_id={uuid4()}")
        await until_there(sample.notes, "/archive?name=equipment.checked-in", lambda found: len(found) == 5)
        await sample.until_blocked("cycle")


async def test_a_canary_handles_its_own_requests(database: Database) -> None:
    seen: list[tuple[str, str]] = []

    def noting(environment: str) -> Subscriptions:
        more = Subscriptions()

        @more.subscribe(EquipmentCreated, name="note")
        async def note(event: EquipmentCreated) -> None:
            seen.append((environment, event.name))

        return more

    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(serving(create_app(Settings(database.url), [noting("dev")])))
        await stack.enter_async_context(serving(create_app(Settings(database.url, environment="canary"), [noting("canary")])))
        await web.post("/equipment", json=drill(name="ordinary"))
        await web.post("/equipment", json=drill(name="daring"), headers={"x-env": "canary"})
        await until(lambda: len(seen) == 2)
    assert sorted(seen) == [("canary", "daring"), ("dev", "ordinary")]


@pytest.fixture
async def harness(database: Database) -> AsyncIterator[Harness]:
    settings = Settings(database.url)
    engine = create_engine(settings.database)
    service = create_service(settings, engine, async_sessionmaker(engine, expire_on_commit=False))
    async with Harness(service, tables=Base.metadata) as made:
        yield made
    await engine.dispose()


async def test_copies_of_an_event_and_a_crash_hand_out_once(harness: Harness) -> None:
    from rentals.contracts.orders import OrderCreatedIntegrationEvent
    from rentals.equipment.models import Equipment

    event = OrderCreatedIntegrationEvent(uuid4(), uuid4(), uuid4(), 2500)
    async with harness.sessionmaker() as session, session.begin():
        session.add(Equipment(id=event.equipment_id, name="Test", category="Tools"))
    with harness.crash("after_commit_before_checkpoint", subscription="hand-out"):
        await harness.deliver(event, times=2)
    await harness.drain()
    harness.assert_published_once(EquipmentCheckedOut, equipment_id=event.equipment_id)
    harness.assert_nothing_failed()
