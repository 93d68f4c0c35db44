"""What a service can be told about its transports, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.consume.shop import MailWanted, OrderPlaced, shop
from tests.consume.waiting import until_equal
from tests.consume.world import World
from tests.relay.sent import numbers, relaying, sent
from tidings import Contract, Service, Subscriptions
from tidings.errors import ConfigurationError
from tidings.stores import SQLStore
from tidings.testing.memory import Memory
from tidings.transports import Local, RabbitMQ

billing = Contract("billing")


@billing.event("bill.paid", key="bill")
@dataclass(frozen=True)
class BillPaid:
    bill: str
    number: int = 0


@billing.event("bill.audited", key="bill", internal=True)
@dataclass(frozen=True)
class BillAudited:
    bill: str
    number: int = 0


def make(path: Path, **options: Any) -> Service:
    store = SQLStore(create_async_engine(f"sqlite+aiosqlite:///{path / 'x.db'}"))
    return Service("shop", **{"contracts": [shop], "store": store, **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"transport": "rabbitmq"}, "'rabbitmq' is no transport"),
        ({"transport": RabbitMQ}, "is no transport: give RabbitMQ"),
        ({"transport": []}, "transport is empty"),
        ({"routes": {billing: Memory()}}, "contract 'billing', which the service lacks"),
        ({"routes": {OrderPlaced: Memory()}}, "the keys are contracts and topics"),
        ({"transport": Memory(), "routes": {shop: Memory()}}, "two transports are called 'memory'.*name='...'"),
        (
            {"transport": RabbitMQ("amqp://localhost", wire="structred")},
            "'rabbitmq' has wire='structred': give 'cloudevents' or 'structured'",
        ),  # type: ignore[arg-type]
        ({"provision": "maybe"}, "provision='maybe': give 'create'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make(tmp_path, **options)


async def test_groups_may_not_be_called_as_relays_are(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, group="relay:mine")
    async def charge(event: OrderPlaced) -> None: ...

    with pytest.raises(ConfigurationError, match="relay:"):
        await world.service(handlers).start()


async def test_events_go_where_their_topic_or_contract_says(world: World) -> None:
    one, two = Memory(name="one"), Memory(name="two")
    service = relaying(world, one, contracts=[shop, billing], routes={billing: [one, two], "mail.wanted": Local(), "order.placed": two})
    async with service:
        await world.publish(service, OrderPlaced("a", 1), BillPaid("b", 2), MailWanted("c", 3), BillAudited("b", 4))
        await until_equal(lambda: numbers(sent(two, "bill.paid")), [2])
        await until_equal(lambda: numbers(sent(two)), [1])
        await until_equal(lambda: numbers(sent(one, "bill.paid")), [2])
        await until_equal(lambda: [world.one("select count(*) from tidings_checkpoints where group_name like 'relay:%'")], [2])
    assert sent(one) == []
    # Neither what stays here nor what is internal has a topic anywhere.
    assert sorted(one.topics) == ["bill.paid", "order.billed", "order.cancelled"]
    assert sorted(two.topics) == ["bill.paid", "order.placed"]


async def test_one_broker_that_is_down_does_not_hold_up_another(world: World) -> None:
    one, two = Memory(name="one"), Memory(name="two")
    async with relaying(world, [one, two]) as service:
        one.stop()
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: numbers(sent(two)), [1])
        assert sent(one) == []
        one.start()
        await until_equal(lambda: numbers(sent(one)), [1])


async def test_a_new_transport_starts_with_what_the_log_has_or_now(world: World) -> None:
    early, late = Memory(name="early"), Memory(name="late")
    plain = world.service()
    await world.publish(plain, OrderPlaced("a", 1))
    async with relaying(world, [early, late], start={"relay:late": "now"}) as service:
        await world.publish(service, OrderPlaced("a", 2))
        await until_equal(lambda: numbers(sent(early)), [1, 2])
        await until_equal(lambda: numbers(sent(late)), [2])


def test_the_transports_are_there_by_name_and_loaded_when_asked_for() -> None:
    code = """
import sys
import tidings.transports
assert not [name for name in sys.modules if name.startswith("tidings.transports.") and name.split(".")[-1] not in ("local",)]
from tidings.transports import NATS, Kafka, Local, RabbitMQ, Redis
assert not {"aiormq", "confluent_kafka", "nats", "redis", "sqlalchemy"} & set(sys.modules)
assert RabbitMQ("amqp://x").name == "rabbitmq"
print(*sorted(tidings.transports.__all__))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["Kafka", "Local", "NATS", "RabbitMQ", "Redis"], "")
