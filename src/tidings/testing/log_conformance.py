"""What a transport that is a `Log` has to do besides, as tests. Subclass `LogConformance` beside `TransportConformance`, in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias
from uuid import uuid4

import pytest

from tidings.codecs.message import Message
from tidings.errors import ProvisionError, TransportDown
from tidings.testing.conformance import Outage
from tidings.transports.base import Incoming, Log, Outgoing, Receiver

__all__ = ["LogConformance", "Remove"]

#: Removes messages of a topic: that many from its beginning, or the topic itself, which is then made again and empty.
Remove: TypeAlias = Callable[[str, int | None], Awaitable[None]]


class LogConformance:
    """The tests. Fixtures that a subclass overrides: `transport`, and where it can `remove` and `outage`.

    Attributes:
        patience: seconds within which everything happens.
    """

    patience: float = 20.0

    @pytest.fixture
    def transport(self) -> Log:
        """The transport under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `transport`")

    @pytest.fixture
    def remove(self) -> Remove:
        """How to remove messages; tests of gaps are skipped without."""
        pytest.skip("there is no fixture `remove`")

    @pytest.fixture
    def outage(self) -> Outage:
        """How to let it fail; tests of outages are skipped without."""
        pytest.skip("there is no fixture `outage`")

    @pytest.fixture
    async def topic(self, transport: Log) -> str:
        """A fresh topic that no group receives from."""
        name = f"log.{uuid4().hex}"
        await transport.provision([name], {})
        return name

    async def test_it_is_a_log(self, transport: Log) -> None:
        assert isinstance(transport, Log)

    async def test_everything_is_read_in_order_and_again_from_any_position(self, transport: Log, topic: str) -> None:
        await _send(transport, topic, range(1200))
        first = await self._read(transport, topic, "", 1200)
        assert _numbers(first) == list(range(1200))
        assert {one.gap for one in first} == {""}
        assert len({one.position for one in first}) == 1200
        again = await self._read(transport, topic, first[699].position, 500)
        assert _numbers(again) == list(range(700, 1200))
        assert [one.coordinates for one in again] == [one.coordinates for one in first[700:]]
        assert {one.gap for one in again} == {""}

    async def test_at_most_as_many_as_asked_for_are_returned_and_none_is_left_out(self, transport: Log, topic: str) -> None:
        await _send(transport, topic, range(10))
        reader = await transport.reader({topic: ""})
        found: list[Incoming] = []
        async with asyncio.timeout(self.patience):
            while len(found) < 10:
                some = await reader.receive(3, 1)
                assert len(some) <= 3
                found += some
        await reader.close()
        assert _numbers(found) == list(range(10))

    async def test_acknowledging_changes_nothing(self, transport: Log, topic: str) -> None:
        await _send(transport, topic, range(5))
        reader = await transport.reader({topic: ""})
        await reader.acknowledge(await self._take(reader, 5))
        await reader.close()
        assert _numbers(await self._read(transport, topic, "", 5)) == list(range(5))

    async def test_what_comes_while_somebody_waits_is_read_at_once(self, transport: Log, topic: str) -> None:
        reader = await transport.reader(await transport.end([topic]))
        async with asyncio.timeout(self.patience), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(reader.receive(10, self.patience))
            await asyncio.sleep(0.05)
            await _send(transport, topic, range(1))
        assert _numbers(waiting.result()) == [0]
        assert list(await reader.receive(10, 0.05)) == []
        await reader.close()

    async def test_the_end_is_behind_everything(self, transport: Log, topic: str) -> None:
        empty = (await transport.end([topic]))[topic]
        await _send(transport, topic, range(3))
        end = (await transport.end([topic]))[topic]
        await _send(transport, topic, range(3, 5))
        assert _numbers(await self._read(transport, topic, end, 2)) == [3, 4]
        assert _numbers(await self._read(transport, topic, empty, 5)) == [0, 1, 2, 3, 4]

    async def test_several_topics_are_read_each_from_its_own_position(self, transport: Log, topic: str) -> None:
        other = f"{topic}.other"
        await transport.provision([other], {})
        await _send(transport, topic, range(4))
        await _send(transport, other, range(10, 14))
        seen = await self._read(transport, topic, "", 2)
        reader = await transport.reader({topic: seen[-1].position, other: ""})
        found = await self._take(reader, 6)
        await reader.close()
        assert _numbers([one for one in found if one.topic == topic]) == [2, 3]
        assert _numbers([one for one in found if one.topic == other]) == [10, 11, 12, 13]

    async def test_two_readers_do_not_take_anything_from_one_another(self, transport: Log, topic: str) -> None:
        await _send(transport, topic, range(50))
        readers = [await transport.reader({topic: ""}) for _ in range(2)]
        for reader in readers:
            assert _numbers(await self._take(reader, 50)) == list(range(50))
            await reader.close()

    async def test_a_topic_that_is_not_there_is_named(self, transport: Log) -> None:
        for missing in (lambda: transport.reader({"log.missing": ""}), lambda: transport.end(["log.missing"])):
            with pytest.raises(ProvisionError, match="missing"):
                await missing()

    async def test_messages_that_are_gone_are_reported_once(self, transport: Log, topic: str, remove: Remove) -> None:
        await _send(transport, topic, range(10))
        seen = await self._read(transport, topic, "", 3)
        await remove(topic, 6)
        rest = await self._read(transport, topic, seen[-1].position, 4)
        assert _numbers(rest) == [6, 7, 8, 9]
        assert rest[0].gap
        assert {one.gap for one in rest[1:]} == {""}
        assert {one.gap for one in await self._read(transport, topic, rest[0].position, 3)} == {""}

    async def test_messages_that_go_while_they_are_read_are_reported(self, transport: Log, topic: str, remove: Remove) -> None:
        await _send(transport, topic, range(3))
        reader = await transport.reader({topic: ""})
        last = (await self._take(reader, 3))[-1].position
        await reader.close()
        await _send(transport, topic, range(3, 9))
        await remove(topic, 8)
        (found,) = await self._read(transport, topic, last, 1)
        assert (_numbers([found]), bool(found.gap)) == ([8], True)

    async def test_what_was_read_may_be_removed(self, transport: Log, topic: str, remove: Remove) -> None:
        await _send(transport, topic, range(6))
        seen = await self._read(transport, topic, "", 4)
        await remove(topic, 4)
        rest = await self._read(transport, topic, seen[-1].position, 2)
        assert (_numbers(rest), [one.gap for one in rest]) == ([4, 5], ["", ""])
        assert [one.gap for one in await self._read(transport, topic, "", 2)] == ["", ""], "whoever begins misses nothing"

    async def test_a_topic_that_was_made_anew_is_read_from_its_beginning(self, transport: Log, topic: str, remove: Remove) -> None:
        await _send(transport, topic, range(5))
        seen = await self._read(transport, topic, "", 5)
        await remove(topic, None)
        await _send(transport, topic, range(20, 22))
        found = await self._read(transport, topic, seen[-1].position, 2)
        assert _numbers(found) == [20, 21]
        assert found[0].gap

    async def test_an_outage_is_seen_and_reading_goes_on_at_the_position(self, transport: Log, topic: str, outage: Outage) -> None:
        await _send(transport, topic, range(6))
        reader = await transport.reader({topic: ""})
        seen = await self._take(reader, 3)
        async with asyncio.timeout(self.patience):
            await outage.stop()
            with pytest.raises(TransportDown):  # noqa: PT012 - at whichever call it happens
                while True:
                    await reader.receive(1, 0.1)
            await reader.close()
            await outage.start()
        async with asyncio.timeout(2 * self.patience):
            while True:
                with suppress(TransportDown, ProvisionError):
                    rest = await self._read(transport, topic, seen[2].position, 3)
                    break
        assert (_numbers(rest), {one.gap for one in rest}) == ([3, 4, 5], {""})

    async def test_closing_ends_whoever_waits(self, transport: Log, topic: str) -> None:
        reader = await transport.reader({topic: ""})

        async def wait() -> None:
            with pytest.raises(TransportDown):  # noqa: PT012 - at whichever call it happens
                while True:
                    await reader.receive(1, self.patience)

        async with asyncio.timeout(self.patience), asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())
            await asyncio.sleep(0.05)
            await reader.close()
        await reader.close()

    async def _read(self, transport: Log, topic: str, position: str, count: int) -> list[Incoming]:
        reader = await transport.reader({topic: position})
        try:
            return await self._take(reader, count)
        finally:
            await reader.close()

    async def _take(self, reader: Receiver, count: int) -> list[Incoming]:
        found: list[Incoming] = []
        async with asyncio.timeout(self.patience):
            while len(found) < count:
                found += await reader.receive(count - len(found), 0.5)
        return found


async def _send(transport: Log, topic: str, numbers: range) -> None:
    publisher = await transport.publisher()
    batch = [Outgoing(topic, Message({"number": str(number)}, b"{}", "application/json", None, str(uuid4()))) for number in numbers]
    assert {outcome.kind for outcome in await publisher.publish(batch)} == {"confirmed"}
    await publisher.close()


def _numbers(incoming: Sequence[Incoming]) -> list[int]:
    values = [one.message.headers["number"] or b"" for one in incoming]
    return [int(value) for value in values]
