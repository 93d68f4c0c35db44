"""NATS JetStream: sending. Confirmations are pipelined."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from tidings.transports.base import CONFIRMED, Outcome, Outgoing, refused, sifted, unconfirmed
from tidings.transports.nats.client import close_client, load_nats
from tidings.transports.nats.messages import head_of

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tidings.transports.nats.sturdy import Sending
    from tidings.transports.nats.transport import NATS

__all__ = ["Publisher"]

_TOO_LARGE_FOR_STREAM = 10054
# The status of an answer that says that nobody is subscribed.
_NOBODY = "503"
# Bytes that are handed to the connection at a time.
_PIECE = 1 << 17
# What the server takes as a subject that can be published to.
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*\Z")


class _Call:
    """The messages of one `publish` that are under way."""

    __slots__ = ("done", "left", "outcomes")

    def __init__(self, outcomes: list[Outcome | None]) -> None:
        self.outcomes = outcomes
        self.left = outcomes.count(None)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note what became of one."""
        self.outcomes[number] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


_answer = msgspec.json.Decoder(_Answer).decode


class Publisher:
    """One subscription takes the confirmations of everything: the client's own way makes a future, a random name and a timer for each."""

    def __init__(self, transport: NATS) -> None:
        self._transport = transport
        self._client: Sending | None = None
        self._inbox = b""
        self._number = 0
        self._waiting: dict[bytes, tuple[_Call, int, str]] = {}
        # Topics whose messages nobody took, each with the question whether they have a stream at all.
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._over: str | None = None
        self._broken = False
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        load_nats()
        from tidings.transports.nats.sturdy import Sending

        self._client = client = Sending()
        await self._transport._connect(self._broke, client)
        try:
            inbox = f"{client.new_inbox()}."
            self._inbox = inbox.encode()
            subscription = await client.subscribe(f"{inbox}*", cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0)
            client.take(subscription._id, self._confirm)
        except (load_nats().errors.Error, OSError) as error:
            await self.close()
            raise self._transport._down(error) from error

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        heads: list[tuple[bytes, bytes]] = []
        outcomes = sifted(batch, lambda outgoing: self._why_not(outgoing, heads))
        if None in outcomes and self._over is None:
            call = _Call(outcomes)
            try:
                async with asyncio.timeout(self._transport.timeout):
                    await self._send(batch, call, heads)
                    await call.done
            except TimeoutError:
                self._lost(f"no confirmation within {self._transport.timeout:g} seconds")
            except (load_nats().errors.Error, OSError) as error:
                self._broke(f"{str(error) or type(error).__name__}")
        found = [outcome or unconfirmed(self._over or "the connection is lost", broken=self._broken) for outcome in outcomes]
        if self._over is not None:
            await self._end()
        return found

    async def close(self) -> None:
        self._lost("the publisher is closed")
        await self._end()

    async def _end(self) -> None:
        if self._client is not None:
            await close_client(self._client)
        for task in self._asking.values():
            task.cancel()

    def _why_not(self, outgoing: Outgoing, heads: list[tuple[bytes, bytes]]) -> str | None:
        """Add the subject and the headers as they are written, or return why the message cannot be sent."""
        assert self._client is not None
        message = outgoing.message
        try:
            head = head_of(message)
            subject = _subject(outgoing.topic)
        except ValueError as error:
            return str(error)
        size = len(head) + len(message.body or b"")
        if size > self._client.max_payload:
            return f"the message has {size:,} bytes, more than the server's {self._client.max_payload:,}"
        heads.append((subject, head))
        return None

    async def _send(self, batch: Sequence[Outgoing], call: _Call, heads: Sequence[tuple[bytes, bytes]]) -> None:
        client, waiting, inbox = self._client, self._waiting, self._inbox
        assert client is not None
        written: list[bytes] = []
        size = 0
        head_after_head = iter(heads)
        async with self._turn:
            for number, outgoing in enumerate(batch):
                if call.outcomes[number] is not None:
                    continue
                if self._over is not None:
                    return
                self._number += 1
                token = b"%d" % self._number
                waiting[token] = (call, number, outgoing.topic)
                subject, head = next(head_after_head)
                body = outgoing.message.body or b""
                command = b"HPUB %b %b%b %d %d\r\n%b%b\r\n" % (subject, inbox, token, len(head), len(head) + len(body), head, body)
                written.append(command)
                size += len(command)
                if size > _PIECE:
                    await client.write(b"".join(written))
                    written, size = [], 0
            if written:
                await client.write(b"".join(written))

    async def _answered(self, answer: Msg) -> None:
        """Take what the client has not handed on at once: what has headers."""
        if answer.headers is None or answer.headers.get("Status") != _NOBODY:
            self._confirm(answer.subject.encode(), answer.data)
        elif (found := self._waiting.pop(answer.subject[len(self._inbox) :].encode(), None)) is not None:
            await self._nobody(*found)

    def _confirm(self, subject: bytes, data: bytes) -> None:
        found = self._waiting.pop(subject[len(self._inbox) :], None)
        if found is None:
            return
        call, number, _ = found
        try:
            error = _answer(data).error
        except ValueError:
            self._lost("the server answered with something else than a confirmation")
            return
        if error is None:
            call.settle(number, CONFIRMED)
        elif error.err_code == _TOO_LARGE_FOR_STREAM:
            call.settle(number, refused(f"the stream takes no message of this size: {error.description}"))
        else:
            self._lost(f"{error.description} ({error.err_code})")

    async def _nobody(self, call: _Call, number: int, topic: str) -> None:
        """Nobody took the message: either there is no stream for it, or its stream has no leader just now, which is no fault of the message."""
        if topic not in self._asking:
            self._asking[topic] = asyncio.ensure_future(self._ask(topic))
        asking = self._asking[topic]

        def answered(_task: object) -> None:
            if self._over is None:
                call.settle(number, refused(f"there is no stream with the subject {topic!r}"))

        asking.add_done_callback(answered)

    async def _ask(self, topic: str) -> None:
        """Mark the publisher as over unless there is no stream for a topic."""
        nats = load_nats()
        assert self._client is not None
        try:
            await self._client.jetstream(timeout=self._transport.timeout).find_stream_name_by_subject(topic)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, OSError) as error:
            self._lost(f"nobody says whether there is a stream with the subject {topic!r}: {str(error) or type(error).__name__}")
        else:
            self._lost(f"the stream with the subject {topic!r} takes no messages at the moment")
        finally:
            # It may be made the next moment.
            self._asking.pop(topic, None)

    def _broke(self, reason: str) -> None:
        self._broken = self._broken or self._over is None
        self._lost(reason)

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call, _, _ in self._waiting.values():
            if not call.done.done():
                call.done.set_result(None)
        self._waiting.clear()


@lru_cache(256)
def _subject(topic: str) -> bytes:
    if _SUBJECT.match(topic) is None:
        raise ValueError(f"{topic[:80]!r} cannot be a subject")
    return topic.encode()
