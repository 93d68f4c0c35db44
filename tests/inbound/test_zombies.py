"""A process whose messages are somebody else's by now: what it does late changes nothing."""

from __future__ import annotations

import pytest

from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.inbound.shops import fast, orders, receiving
from tidings.consume.opening import Opener
from tidings.consume.parking import parking
from tidings.errors import LeaseLost
from tidings.testing.memory import Memory
from tidings.transports.base import Incoming


async def test_a_late_verdict_on_an_event_that_another_process_has_handled_blocks_no_key(world: World) -> None:
    broker = Memory()
    async with receiving(world, broker) as service, fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(1, 2, keys=1))
        await until_equal(lambda: len(world.effects()), 2)
        assert service._runtime is not None
        session = service._runtime.subscribers[0].session
        assert session is not None
        opener = Opener(broker, "billing", service.routing.types, None)
        late, later = (
            opener.open(Incoming("order.placed", outgoing.message, f"order.placed/{number}", None))
            for number, outgoing in enumerate(broker.topics["order.placed"])
        )
        settling = session.pools[0].settling
        # The other process has handled both: here the first is judged dead, and the second waits behind it.
        await settling.park([parking(late, late.lane, "failed", state="dead", attempts=9), parking(later, later.lane, "behind")])
        await world.publish(publisher, *orders(3, 3, keys=1))
        await until_equal(lambda: [number for _, number in world.effects()], [1, 2, 3])
        await until_equal(world.lanes, [])


async def test_a_reader_with_an_old_list_of_subscriptions_writes_nothing(world: World) -> None:
    broker = Memory()
    async with receiving(world, broker) as service, fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(1, 1))
        await until_equal(lambda: len(world.effects()), 1)
        assert service._runtime is not None
        session = service._runtime.subscribers[0].session
        assert session is not None
        received = Opener(broker, "billing", service.routing.types, None).open(
            Incoming("order.placed", broker.topics["order.placed"][0].message, "order.placed/0", None)
        )
        await world.execute("update tidings_checkpoints set lease_token = lease_token + 1 where kind = 'queue'")
        with pytest.raises(LeaseLost):
            await session.pools[0].settling.park([parking(received, received.lane, "failed")])
        assert world.deliveries() == []
        # It notices by itself, and goes on with a new list.
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].session not in (None, session))
        await world.publish(publisher, *orders(2, 2))
        await until_equal(lambda: len(world.effects()), 2)
