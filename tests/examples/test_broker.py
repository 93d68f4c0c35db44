"""The same application on PostgreSQL, with RabbitMQ between the two services and a database for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import aiormq
import pytest

from rentals.settings import Settings
from tests.examples.conftest import Sample, running, until_there
from tests.examples.test_modules import TENANT, a_customer, a_drill, an_order
from tests.services.databases import PostgreSQLDatabases


async def without_queues(url: str) -> None:
    """Remove what an earlier run has left."""
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    for queue in ("notifications", "notifications-archive"):
        await channel.queue_delete(queue)
    await connection.close()


@pytest.fixture
async def sample(postgresql_databases: PostgreSQLDatabases, rabbitmq_url: str) -> AsyncIterator[Sample]:
    await without_queues(rabbitmq_url)
    with postgresql_databases.fresh() as first, postgresql_databases.fresh() as second:
        settings = Settings(first.url, second.url, rabbitmq_url, {"exchange": f"rentals-{uuid4().hex[:8]}"}, mail_retry=0.05)
        async with running(settings) as made:
            yield made


@pytest.mark.postgresql
async def test_a_day_over_a_broker(sample: Sample) -> None:
    customer, equipment = await a_customer(sample), await a_drill(sample)
    order = await an_order(sample, customer, equipment)
    await sample.mailed("Welcome, Ada", "Test (Tools)")
    await until_there(sample.web, f"/equipment/{equipment}", lambda found: found["customer_id"] == customer)
    await sample.get(f"/invoices/{order}", headers=TENANT)
    await sample.post(f"/invoices/{order}/pay", headers=TENANT)
    await until_there(sample.web, f"/orders/{order}", lambda found: found["state"] == "paid")
    await until_there(sample.web, "/till", lambda found: found["minor"] == 5000, headers=TENANT)
    archived = await until_there(sample.notes, "/archive", lambda found: {"InvoicePaid", "OrderPaid"} <= {event["name"] for event in found})
    assert "TillBalanced" not in {event["name"] for event in archived}, "an internal event stays at home"
    assert {event["tenant"] for event in archived if event["name"] == "InvoicePaid"} == {"acme"}
    await sample.until_handled("OrderCreated", {"rentals/hand-out", "rentals/invoice"})
    assert await sample.service.operations.blocked() == [], "the relay has sent everything"


@pytest.mark.postgresql
async def test_while_the_mail_server_is_down_nobody_else_waits(sample: Sample) -> None:
    await sample.notes.put("/mail-server?down=true")
    customer = await a_customer(sample)
    assert (await sample.get(f"/customers/{customer}"))["name"] == "Ada"
    await until_there(sample.notes, "/failures", lambda found: found["waiting"])
    await sample.notes.put("/mail-server?down=false")
    await sample.mailed("Welcome, Ada")
