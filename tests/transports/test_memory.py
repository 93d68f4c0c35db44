from __future__ import annotations

import pytest

from tidings.codecs.message import Message
from tidings.testing.conformance import TransportConformance
from tidings.testing.memory import Memory
from tidings.transports.base import Failure, Outgoing


class Switch:
    def __init__(self, broker: Memory) -> None:
        self._broker = broker

    async def stop(self) -> None:
        self._broker.stop()

    async def start(self) -> None:
        self._broker.start()


@pytest.mark.parametrize("failure", ["independent", "prefix", "atomic"])
class TestConformance(TransportConformance):
    too_large = 1 << 21

    @pytest.fixture
    def transport(self, failure: Failure) -> Memory:
        return Memory(failure)

    @pytest.fixture
    def outage(self, transport: Memory) -> Switch:
        return Switch(transport)


@pytest.mark.parametrize(("failure", "kinds"), [("independent", ["confirmed", "unconfirmed"]), ("atomic", ["unconfirmed", "unconfirmed"])])
async def test_lost_confirmations_end_the_publisher(failure: Failure, kinds: list[str]) -> None:
    broker = Memory(failure)
    await broker.provision(["t"], {})
    broker.lose_confirmations(1)
    publisher = await broker.publisher()
    batch = [Outgoing("t", Message({}, b"{}"))] * 2
    assert [outcome.kind for outcome in await publisher.publish(batch)] == kinds
    assert {outcome.kind for outcome in await publisher.publish(batch)} == {"unconfirmed"}
    assert {outcome.kind for outcome in await (await broker.publisher()).publish(batch)} == {"confirmed"}


async def test_a_test_can_let_it_refuse_what_it_likes() -> None:
    broker = Memory()
    await broker.provision(["t"], {})
    broker.refuses = lambda outgoing: "no" if outgoing.message.key == "b" else None
    publisher = await broker.publisher()
    outcomes = await publisher.publish([Outgoing("t", Message({}, b"{}", key=key)) for key in "abcb"])
    assert [outcome.kind for outcome in outcomes] == ["confirmed", "refused", "confirmed", "withheld"]
