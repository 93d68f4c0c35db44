"""What every transport has to do, as tests. Subclass `TransportConformance` in a test module, give it the fixture `transport`, and run pytest.

    class TestMine(TransportConformance):
        @pytest.fixture
        def transport(self) -> Mine:
            return Mine("mine://127.0.0.1:1234")

The tests are coroutines: the suite that they run in needs a plugin for those (anyio's `anyio_mode = "auto"`, for example).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar
from uuid import uuid4

import pytest

from tidings.codecs.message import Message
from tidings.errors import ProvisionError, TransportDown
from tidings.transports.base import Incoming, Outgoing, Publisher, Receiver, Transport

__all__ = ["Outage", "TransportConformance"]


T = TypeVar("T")


class Outage(Protocol):
    """A way to let the broker, or the connections to it, fail."""

    async def stop(self) -> None:
        """Break every connection and let nobody connect."""
        ...

    async def start(self) -> None:
        """Let it work again, with everything that it has confirmed."""
        ...


class TransportConformance:
    """The tests. Fixtures that a subclass overrides: `transport`, and where it can `outage`.

    Attributes:
        patience: seconds within which everything happens.
        returned: seconds after which another receiver gets what one that is gone has not acknowledged.
        large: bytes of a message that must fit.
        too_large: bytes of a message that must be refused; None where there is no such limit.
        unroutable: whether a message to a topic that exists and that no group receives from is refused.
        any_header: whether header values can be any text; else printable ASCII.
    """

    patience: float = 20.0
    returned: float = 0.0
    large: int = 500_000
    too_large: int | None = None
    unroutable: bool = False
    any_header: bool = True

    @pytest.fixture
    def transport(self) -> Transport:
        """The transport under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `transport`")

    @pytest.fixture
    def outage(self) -> Outage:
        """How to let it fail; tests of outages are skipped without."""
        pytest.skip("there is no fixture `outage`")

    @pytest.fixture
    async def topic(self, transport: Transport) -> str:
        """A fresh topic with a group of the same name."""
        name = _fresh()
        await transport.provision([name], {name: [name]})
        return name

    async def test_what_is_sent_is_confirmed_and_received_as_it_was(self, transport: Transport, topic: str) -> None:
        binding = transport.binding
        headers: dict[str, str | bytes | None] = {
            binding.header("specversion"): "1.0",
            binding.header("id"): "1",
            "empty": "",
            "long": "x" * 4000,
            "Mixed-Case": "value",
            "inner-space": "a b;c=d, e",
        }
        if self.any_header:
            headers["text"] = "Grüße, 世界 \U0001f389"
        message = Message(headers, b'{"a":1}', "application/json", "the key", str(uuid4()), "order.placed.v1")
        await self._send(transport, [Outgoing(topic, message)])
        (found,) = await self._receive(transport, topic, 1)
        assert {name: _text(value) for name, value in found.message.headers.items()} == headers
        assert (found.message.body, found.message.content_type) == (b'{"a":1}', "application/json")
        assert found.topic == topic
        assert found.coordinates

    @pytest.mark.parametrize("body", [b"", b"\x00\xff\r\n", b"null"], ids=["empty", "binary", "null"])
    async def test_bodies_of_every_kind_arrive(self, transport: Transport, topic: str, body: bytes) -> None:
        await self._send(transport, [Outgoing(topic, _message("1", body=body))])
        (found,) = await self._receive(transport, topic, 1)
        assert (found.message.body or b"") == body

    async def test_a_batch_arrives_in_order(self, transport: Transport, topic: str) -> None:
        batch = [Outgoing(topic, _message(str(number), key="one key")) for number in range(1000)]
        await self._send(transport, batch)
        assert _numbers(await self._receive(transport, topic, 1000)) == list(range(1000))

    async def test_batches_keep_the_order_in_which_they_were_handed_over(self, transport: Transport, topic: str) -> None:
        batches = [[Outgoing(topic, _message(str(first + number), key="k")) for number in range(20)] for first in range(0, 200, 20)]
        async with self._publisher(transport) as publisher, asyncio.TaskGroup() as tasks:
            for batch in batches:
                tasks.create_task(_confirmed(publisher, batch))
        assert _numbers(await self._receive(transport, topic, 200)) == list(range(200))

    async def test_nothing_is_nothing(self, transport: Transport, topic: str) -> None:
        async with self._publisher(transport) as publisher:
            assert list(await publisher.publish([])) == []
        async with self._receiver(transport, topic) as receiver:
            assert list(await receiver.receive(10, 0.05)) == []
            await receiver.acknowledge([])

    async def test_a_large_message_arrives(self, transport: Transport, topic: str) -> None:
        body = b"x" * self.large
        await self._send(transport, [Outgoing(topic, _message("1", body=body))])
        (found,) = await self._receive(transport, topic, 1)
        assert found.message.body == body

    async def test_a_message_that_is_too_large_is_refused_and_holds_back_its_own_key_only(self, transport: Transport, topic: str) -> None:
        if self.too_large is None:
            pytest.skip("there is no message that would be too large")
        batch = [
            Outgoing(topic, _message("0", key="a")),
            Outgoing(topic, _message("1", body=b"x" * self.too_large, key="b")),
            Outgoing(topic, _message("2", key="c")),
        ]
        if transport.failure != "independent":
            # With a transport that sends one message of a key at a time, this is the business of whoever uses it.
            batch.append(Outgoing(topic, _message("3", key="b")))
        async with self._publisher(transport) as publisher:
            outcomes = await publisher.publish(batch)
            again = await publisher.publish([Outgoing(topic, _message("4", key="d"))])
        assert [outcome.kind for outcome in outcomes] == ["confirmed", "refused", "confirmed", "withheld"][: len(batch)]
        assert outcomes[1].reason
        assert [outcome.kind for outcome in again] == ["confirmed"], "a refused message must not end the publisher"
        assert sorted(_numbers(await self._receive(transport, topic, 3))) == [0, 2, 4]

    async def test_text_that_cannot_be_written_is_refused_and_ends_nothing(self, transport: Transport, topic: str) -> None:
        async with self._publisher(transport) as publisher:
            # Half of a surrogate pair: Python knows such text, UTF-8 does not.
            bad = Message({"number": "0", "text": "\ud800"}, b"{}", "application/json", "a", str(uuid4()))
            outcomes = await publisher.publish([Outgoing(topic, bad), Outgoing(topic, _message("1", key="b"))])
            again = await publisher.publish([Outgoing(topic, _message("2", key="b"))])
        assert [outcome.kind for outcome in (*outcomes, *again)] == ["refused", "confirmed", "confirmed"]
        assert outcomes[0].reason
        assert _numbers(await self._receive(transport, topic, 2)) == [1, 2]

    async def test_a_publish_that_is_cancelled_spoils_no_other(self, transport: Transport, topic: str) -> None:
        confirmed: list[int] = []
        publisher = await transport.publisher()
        for number in range(0, 300, 30):
            batch = [Outgoing(topic, _message(str(n), key=str(n))) for n in range(number, number + 30)]
            if number % 60:
                sending = asyncio.ensure_future(publisher.publish(batch))
                await asyncio.sleep(0.0005 * (number % 90))
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                continue
            kinds = await _outcomes(publisher, batch)
            if "unconfirmed" in kinds:
                # It may be over after that; then whoever uses it makes another one.
                await publisher.close()
                publisher = await transport.publisher()
                kinds = await _outcomes(publisher, batch)
            confirmed += [n for n, kind in zip(range(number, number + 30), kinds, strict=True) if kind == "confirmed"]
        await publisher.close()
        assert len(confirmed) == 150
        seen: set[int] = set()
        async with self._receiver(transport, topic) as receiver, asyncio.timeout(self.patience):
            while not set(confirmed) <= seen:
                seen.update(_numbers(await receiver.receive(100, 0.5)))

    async def test_two_messages_with_one_id_to_two_topics_are_told_apart(self, transport: Transport, topic: str) -> None:
        message = _message("1", key="k")
        async with self._publisher(transport) as publisher:
            outcomes = await publisher.publish([Outgoing(_fresh(), message), Outgoing(topic, message)])
        assert [outcome.kind for outcome in outcomes] == ["refused", "confirmed"]

    async def test_a_topic_that_nobody_has_provisioned_is_refused(self, transport: Transport, topic: str) -> None:
        async with self._publisher(transport) as publisher:
            outcomes = await publisher.publish([Outgoing(_fresh(), _message("0")), Outgoing(topic, _message("1", key="other"))])
        assert [outcome.kind for outcome in outcomes] == ["refused", "confirmed"]

    async def test_a_topic_without_groups_keeps_its_messages_or_refuses_them(self, transport: Transport) -> None:
        name = _fresh()
        await transport.provision([name], {})
        async with self._publisher(transport) as publisher:
            (outcome,) = await publisher.publish([Outgoing(name, _message("0"))])
        assert outcome.kind == ("refused" if self.unroutable else "confirmed")
        if not self.unroutable:
            await transport.provision([name], {name: [name]})
            assert _numbers(await self._receive(transport, name, 1)) == [0], "a new group begins with the earliest message"

    async def test_what_was_acknowledged_does_not_come_again_and_the_rest_does(self, transport: Transport, topic: str) -> None:
        await self._send(transport, [Outgoing(topic, _message(str(number), key="k")) for number in range(10)])
        async with self._receiver(transport, topic) as receiver:
            first = await self._take(receiver, 10)
            await receiver.acknowledge(first[:4])
        again = await self._receive(transport, topic, 6)
        assert _numbers(again) == list(range(4, 10))
        assert [one.coordinates for one in again] == [one.coordinates for one in first[4:]]
        await self._nothing_left(transport, topic)

    async def test_acknowledging_later_ones_first_does_not_acknowledge_the_earlier(self, transport: Transport, topic: str) -> None:
        await self._send(transport, [Outgoing(topic, _message(str(number), key="k")) for number in range(6)])
        async with self._receiver(transport, topic) as receiver:
            first = await self._take(receiver, 6)
            await receiver.acknowledge(first[3:])
        again: list[int] = []
        async with self._receiver(transport, topic) as receiver:
            async with asyncio.timeout(self.patience + self.returned):
                while not {0, 1, 2} <= set(again):
                    again += _numbers(await receiver.receive(100, 0.5))
        assert [number for number in again if number < 3] == [0, 1, 2]

    async def test_every_group_gets_everything(self, transport: Transport) -> None:
        name, groups = _fresh(), [_fresh(), _fresh()]
        await transport.provision([name], {group: [name] for group in groups})
        await self._send(transport, [Outgoing(name, _message(str(number), key=str(number))) for number in range(20)])
        for group in groups:
            assert sorted(_numbers(await self._receive(transport, group, 20, [name]))) == list(range(20))

    async def test_a_group_receives_from_several_topics(self, transport: Transport) -> None:
        topics, group = [_fresh(), _fresh(), _fresh()], _fresh()
        await transport.provision(topics, {group: topics})
        await self._send(transport, [Outgoing(name, _message(str(number))) for number, name in enumerate(topics)])
        found = await self._receive(transport, group, 3, topics)
        assert {one.topic: _numbers([one])[0] for one in found} == {name: number for number, name in enumerate(topics)}

    async def test_two_receivers_of_a_group_get_everything_between_them(self, transport: Transport, topic: str) -> None:
        seen: Counter[int] = Counter()
        async with self._receiver(transport, topic) as one, self._receiver(transport, topic) as two:
            await self._send(transport, [Outgoing(topic, _message(str(number), key=str(number))) for number in range(50)])
            async with asyncio.timeout(self.patience + self.returned):
                while len(seen) < 50:
                    for receiver in (one, two):
                        found = await receiver.receive(10, 0.05)
                        seen.update(_numbers(found))
                        await receiver.acknowledge(found)
        assert sorted(seen) == list(range(50))
        assert sum(seen.values()) <= 100

    async def test_provisioning_may_be_repeated_also_at_the_same_time(self, transport: Transport) -> None:
        names = [_fresh(), _fresh()]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(transport.provision(names, {names[0]: names}))
        await transport.provision(names, {names[0]: names})
        await transport.provision(names, {names[0]: names}, "verify")
        await self._send(transport, [Outgoing(names[1], _message("7"))])
        await transport.provision(names, {names[0]: names})
        assert _numbers(await self._receive(transport, names[0], 1, names)) == [7]

    async def test_verifying_creates_nothing_and_says_what_is_missing(self, transport: Transport) -> None:
        name = _fresh()
        for _ in range(2):
            with pytest.raises(ProvisionError, match=name[:10]):
                await transport.provision([name], {name: [name]}, "verify")
        await transport.provision([name], {name: [name]}, "off")
        with pytest.raises((ProvisionError, TransportDown)):
            async with self._receiver(transport, name) as receiver:
                await receiver.receive(1, 1)

    async def test_closing_while_something_is_under_way_ends_it(self, transport: Transport, topic: str) -> None:
        publisher = await transport.publisher()
        receiver = await transport.receiver(topic, [topic])
        batch = [Outgoing(topic, _message(str(number))) for number in range(2000)]
        async with asyncio.timeout(self.patience), asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_outcomes(publisher, batch))
            receiving = tasks.create_task(_swallowing(receiver.receive(100_000, 5)))
            await asyncio.sleep(0)
            tasks.create_task(publisher.close())
            tasks.create_task(receiver.close())
        assert len(sending.result()) == 2000
        assert set(sending.result()) <= {"confirmed", "unconfirmed"}
        assert receiving.done()
        async with asyncio.timeout(self.patience):
            await publisher.close()
            await receiver.close()
            assert await _outcomes(publisher, batch[:1]) == ["unconfirmed"]
            with pytest.raises(TransportDown):
                await receiver.receive(1, 1)

    async def test_receipts_of_another_receiver_are_ignored(self, transport: Transport, topic: str) -> None:
        await self._send(transport, [Outgoing(topic, _message("0", key="k"))])
        async with self._receiver(transport, topic) as gone:
            stale = await self._take(gone, 1)
        async with self._receiver(transport, topic) as receiver:
            await receiver.acknowledge(stale)
            assert _numbers(await self._take(receiver, 1)) == [0]

    async def test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost(self, transport: Transport, topic: str, outage: Outage) -> None:
        confirmed: set[int] = set()
        publisher = await transport.publisher()
        receiver = await transport.receiver(topic, [topic])
        began = time.monotonic()
        number = 0
        async with asyncio.timeout(4 * self.patience), asyncio.TaskGroup() as tasks:

            async def send() -> None:
                nonlocal number
                kinds: list[str] = ["confirmed"]
                while "unconfirmed" not in kinds:
                    batch = [Outgoing(topic, _message(str(n), key=str(n % 7))) for n in range(number, number + 50)]
                    kinds = await _outcomes(publisher, batch)
                    confirmed.update(n for n, kind in zip(range(number, number + 50), kinds, strict=True) if kind == "confirmed")
                    number += 50
                    await asyncio.sleep(0.01)

            async def listen() -> None:
                with pytest.raises(TransportDown):  # noqa: PT012 - at whichever call it happens
                    while True:
                        # What nobody acknowledges comes again.
                        await receiver.receive(100, 0.2)

            tasks.create_task(send())
            tasks.create_task(listen())
            await _until(lambda: len(confirmed) > 100 or time.monotonic() - began > self.patience)
            await outage.stop()
        async with asyncio.timeout(self.patience):
            await publisher.close()
            await receiver.close()
        with pytest.raises(TransportDown):
            async with asyncio.timeout(self.patience):
                await transport.publisher()
        await outage.start()
        async with asyncio.timeout(2 * self.patience):
            kinds = ["unconfirmed"]
            while kinds == ["unconfirmed"]:
                # A broker may take connections before it takes messages.
                publisher = await self._connected(transport.publisher)
                kinds = await _outcomes(publisher, [Outgoing(topic, _message(str(number)))])
                await publisher.close()
        assert kinds == ["confirmed"]
        seen: set[int] = set()
        async with asyncio.timeout(2 * self.patience + self.returned):
            receiver = await self._connected(lambda: transport.receiver(topic, [topic]))
            while not confirmed | {number} <= seen:
                found = await receiver.receive(1000, 0.5)
                seen.update(_numbers(found))
                await receiver.acknowledge(found)
        await receiver.close()
        assert len(confirmed) > 100

    # What the tests above are made of.

    @asynccontextmanager
    async def _publisher(self, transport: Transport) -> AsyncIterator[Publisher]:
        publisher = await transport.publisher()
        try:
            yield publisher
        finally:
            await publisher.close()

    @asynccontextmanager
    async def _receiver(self, transport: Transport, group: str, topics: Sequence[str] = ()) -> AsyncIterator[Receiver]:
        receiver = await transport.receiver(group, topics or [group])
        try:
            yield receiver
        finally:
            await receiver.close()

    async def _send(self, transport: Transport, batch: Sequence[Outgoing]) -> None:
        async with self._publisher(transport) as publisher:
            await _confirmed(publisher, batch)

    async def _take(self, receiver: Receiver, count: int) -> list[Incoming]:
        found: list[Incoming] = []
        async with asyncio.timeout(self.patience + self.returned):
            while len(found) < count:
                found += await receiver.receive(count - len(found), 0.5)
        return found

    async def _receive(self, transport: Transport, group: str, count: int, topics: Sequence[str] = ()) -> list[Incoming]:
        async with self._receiver(transport, group, topics) as receiver:
            found = await self._take(receiver, count)
            await receiver.acknowledge(found)
            return found

    async def _nothing_left(self, transport: Transport, group: str) -> None:
        async with self._receiver(transport, group) as receiver:
            assert _numbers(await receiver.receive(10, self.returned + 0.5)) == []

    async def _connected(self, connect: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await connect()
            except (TransportDown, ProvisionError):
                await asyncio.sleep(0.1)


def _fresh() -> str:
    return f"conformance.{uuid4().hex}"


def _message(number: str, body: bytes = b"{}", key: str | None = None) -> Message:
    return Message({"number": number}, body, "application/json", key, str(uuid4()), "conformance")


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _numbers(incoming: Sequence[Incoming]) -> list[int]:
    return [int(_text(one.message.headers["number"])) for one in incoming]


async def _confirmed(publisher: Publisher, batch: Sequence[Outgoing]) -> None:
    outcomes = await publisher.publish(batch)
    assert [outcome for outcome in outcomes if outcome.kind != "confirmed"] == []
    assert len(outcomes) == len(batch)


async def _outcomes(publisher: Publisher, batch: Sequence[Outgoing]) -> list[str]:
    return [outcome.kind for outcome in await publisher.publish(batch)]


async def _swallowing(work: Awaitable[object]) -> None:
    with suppress(TransportDown):
        await work


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0.01)
