"""NATS JetStream: a stream for each topic, the topic as its subject, and a durable pull consumer for each group.

Confirmations are pipelined, and each stands for itself. The event's id is the message's, so the server drops a copy that comes soon after.
A durable consumer gives what one receiver held to another after some time, and what came later meanwhile: that is why groups are not ordered.
Closing hands back at once what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.codecs.bindings import NATS as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.message import Message
from tidings.errors import MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, unconfirmed
from tidings.transports.urls import described

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

__all__ = ["NATS", "stream_of"]

_CONTENT_TYPE = "content-type"
_ID = "Nats-Msg-Id"
# What a stream may not be called, besides white space, which a topic has not.
_SEPARATORS = re.compile(r"[.*>/\\]")
_TOO_LARGE_FOR_STREAM = 10054
# The status of an answer that says that nobody is subscribed.
_NOBODY = "503"
# What the client takes as the name of a header, and the server as a subject that can be published to.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*\Z")


def stream_of(topic: str) -> str:
    """Return the name of a topic's stream, or of a group's consumer: the same with `_` for what has a meaning there."""
    return _SEPARATORS.sub("_", topic)


@dataclass(frozen=True, kw_only=True)
class NATS:
    """A server, or a cluster of them, with JetStream.

    Attributes:
        url: `nats://user:password@host:port`, or `tls://`, or several with commas between them.
        idle: seconds after which another receiver gets what one that has crashed held; handlers must be quicker.
        prefetch: messages that the receivers of a group may have without having acknowledged them.
        replicas: of a stream, 1 to 5.
        max_age: seconds that a stream keeps a message; None keeps all of them for ever.
        timeout: seconds without a confirmation after which a publisher is over.
    """

    url: str = field(repr=False)
    idle: float = 60.0
    prefetch: int = 1000
    replicas: int = 1
    max_age: float | None = None
    timeout: float = 30.0

    @property
    def name(self) -> str:
        """What it is called."""
        return "nats"

    @property
    def failure(self) -> Failure:
        """Each confirmation stands for itself."""
        return "independent"

    @property
    def ordered(self) -> bool:
        """Not while a group's messages move from a dead receiver to another."""
        return False

    @property
    def binding(self) -> Binding:
        """NATS's own."""
        return BINDING

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make streams in files, and durable consumers that begin at the first message."""
        if mode == "off":
            return
        client = await self._connect()
        try:
            context = client.jetstream(timeout=self.timeout)
            for topic in {*topics, *(topic for needed in groups.values() for topic in needed)}:
                await self._stream(context, topic, mode)
            for group, needed in groups.items():
                for topic in needed:
                    await self._consumer(context, group, topic, mode)
        except _nats().js.errors.NotFoundError as error:
            raise ProvisionError(
                f"{described(self.url)}: a stream or consumer for {sorted({*topics, *groups})} is missing: {error}"
            ) from error
        except _nats().js.errors.APIError as error:
            raise ProvisionError(f"{described(self.url)}: {error}") from error
        except (_nats().errors.Error, OSError) as error:
            raise self._down(error) from error
        finally:
            await _closed(client)

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        publisher = _Publisher(self)
        await publisher.start()
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive."""
        client = await self._connect()
        receiver = _Receiver(self, client)
        try:
            await receiver.start(group, topics)
        except _nats().js.errors.NotFoundError as error:
            await receiver.close()
            raise ProvisionError(f"{described(self.url)}: group {group!r} is missing on {list(topics)}: {error}") from error
        except (_nats().errors.Error, OSError) as error:
            await receiver.close()
            raise self._down(error) from error
        return receiver

    async def _stream(self, context: JetStreamContext, topic: str, mode: Provision) -> None:
        if mode == "verify":
            await context.stream_info(stream_of(topic))
            return
        nats = _nats()
        settings = nats.js.api.StreamConfig(
            name=stream_of(topic),
            subjects=[topic],
            storage=nats.js.api.StorageType.FILE,
            num_replicas=self.replicas,
            max_age=self.max_age or 0,
        )
        try:
            await context.add_stream(settings)
        except nats.js.errors.BadRequestError:
            # It is there with other settings, which are for its owner to choose; its subject must be the topic.
            if topic not in ((await context.stream_info(stream_of(topic))).config.subjects or ()):
                raise

    async def _consumer(self, context: JetStreamContext, group: str, topic: str, mode: Provision) -> None:
        try:
            await context.consumer_info(stream_of(topic), stream_of(group))
        except _nats().js.errors.NotFoundError:
            if mode == "verify":
                raise
            api = _nats().js.api
            settings = api.ConsumerConfig(
                durable_name=stream_of(group),
                ack_policy=api.AckPolicy.EXPLICIT,
                deliver_policy=api.DeliverPolicy.ALL,
                ack_wait=self.idle,
                max_ack_pending=self.prefetch,
            )
            await context.add_consumer(stream_of(topic), settings)

    async def _connect(self, lost: Callable[[str], None] | None = None) -> Client:
        nats = _nats()

        async def closed() -> None:
            if lost is not None:
                lost("the connection is lost")

        try:
            async with asyncio.timeout(self.timeout):
                client: Client = await nats.connect(
                    [part.strip() for part in self.url.split(",")],
                    allow_reconnect=False,
                    connect_timeout=self.timeout,
                    error_cb=_quiet,
                    closed_cb=closed,
                )
                return client
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._down(error) from error

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {str(error) or type(error).__name__}")


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


class _Publisher:
    """One subscription takes the confirmations of everything: the client's own way makes a future, a random name and a timer for each."""

    def __init__(self, transport: NATS) -> None:
        self._transport = transport
        self._client: Client | None = None
        self._inbox = ""
        self._number = 0
        self._waiting: dict[str, tuple[_Call, int, str]] = {}
        # Topics whose messages nobody took, each with the question whether they have a stream at all.
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._over: str | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        self._client = client = await self._transport._connect(self._lost)
        try:
            self._inbox = f"{client.new_inbox()}."
            await client.subscribe(f"{self._inbox}*", cb=self._confirm, pending_msgs_limit=0, pending_bytes_limit=0)
        except (_nats().errors.Error, OSError) as error:
            await self.close()
            raise self._transport._down(error) from error

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        headers: dict[int, dict[str, str]] = {}
        outcomes = sifted(batch, lambda outgoing: self._why_not(outgoing, headers))
        if None in outcomes and self._over is None:
            call = _Call(outcomes)
            try:
                async with asyncio.timeout(self._transport.timeout):
                    await self._send(batch, call, headers)
                    await call.done
            except TimeoutError:
                self._lost(f"no confirmation within {self._transport.timeout:g} seconds")
            except (_nats().errors.Error, OSError) as error:
                self._lost(f"{str(error) or type(error).__name__}")
        found = [outcome or unconfirmed(self._over or "the connection is lost") for outcome in outcomes]
        if self._over is not None:
            await self._end()
        return found

    async def close(self) -> None:
        self._lost("the publisher is closed")
        await self._end()

    async def _end(self) -> None:
        if self._client is not None:
            await _closed(self._client)
        for task in self._asking.values():
            task.cancel()

    def _why_not(self, outgoing: Outgoing, headers: dict[int, dict[str, str]]) -> str | None:
        message = outgoing.message
        given = headers[id(outgoing)] = _headers(message)
        size = len(message.body or b"") + 12 + sum([len(name) + len(value) + 4 for name, value in given.items()])
        assert self._client is not None
        if size * 4 > self._client.max_payload:
            size += sum(len(value.encode()) - len(value) for value in given.values() if not value.isascii())
        if size > self._client.max_payload:
            return f"the message has {size:,} bytes, more than the server's {self._client.max_payload:,}"
        if _SUBJECT.match(outgoing.topic) is None:
            return f"{outgoing.topic[:80]!r} cannot be a subject"
        return _why_no_header(given)

    async def _send(self, batch: Sequence[Outgoing], call: _Call, headers: dict[int, dict[str, str]]) -> None:
        client, waiting, inbox = self._client, self._waiting, self._inbox
        assert client is not None
        async with self._turn:
            for number, outgoing in enumerate(batch):
                if call.outcomes[number] is not None:
                    continue
                if self._over is not None:
                    return
                self._number += 1
                token = str(self._number)
                waiting[token] = (call, number, outgoing.topic)
                await client.publish(outgoing.topic, outgoing.message.body or b"", inbox + token, headers[id(outgoing)])

    async def _confirm(self, answer: Msg) -> None:
        found = self._waiting.pop(answer.subject[len(self._inbox) :], None)
        if found is None:
            return
        call, number, topic = found
        if answer.headers is not None and answer.headers.get("Status") == _NOBODY:
            await self._nobody(call, number, topic)
            return
        try:
            error = _answer(answer.data).error
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
        nats = _nats()
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

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call, _, _ in self._waiting.values():
            if not call.done.done():
                call.done.set_result(None)
        self._waiting.clear()


class _Receiver:
    def __init__(self, transport: NATS, client: Client) -> None:
        self._transport = transport
        self._client = client
        self._waiting: asyncio.Queue[Incoming] = asyncio.Queue(max(transport.prefetch, 1))
        self._held: dict[str, Msg] = {}
        self._over: str | None = None
        self._fetching: list[asyncio.Task[None]] = []

    async def start(self, group: str, topics: Sequence[str]) -> None:
        context = self._client.jetstream(timeout=self._transport.timeout)
        subscriptions = []
        for topic in topics:
            await context.consumer_info(stream_of(topic), stream_of(group))
            subscriptions.append((topic, await context.pull_subscribe_bind(consumer=stream_of(group), stream=stream_of(topic))))
        # They live as long as the receiver, whose `close` waits for their end.
        self._fetching = [asyncio.ensure_future(self._fetch(topic, subscription)) for topic, subscription in subscriptions]

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        found: list[Incoming] = []
        deadline = asyncio.get_running_loop().time() + seconds
        while not found and self._over is None and (left := deadline - asyncio.get_running_loop().time()) > 0:
            # Not for long: nobody else would tell that the connection is lost.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.1)):
                    found.append(await self._waiting.get())
            if not found and self._client.is_closed:
                self._over = self._over or "the connection is lost"
        if self._over is not None:
            raise self._transport._down(self._over)
        while len(found) < most and not self._waiting.empty():
            found.append(self._waiting.get_nowait())
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        try:
            for one in incoming:
                owner, message = one.receipt
                if owner is self and self._held.pop(one.coordinates, None) is not None:
                    await message.ack()
        except (_nats().errors.Error, OSError) as error:
            self._over = self._over or f"{str(error) or type(error).__name__}"
        if self._over is not None or self._client.is_closed:
            raise self._transport._down(self._over or "the connection is lost")

    async def close(self) -> None:
        self._over = self._over or "the receiver is closed"
        for task in self._fetching:
            task.cancel()
        if self._fetching:
            await asyncio.wait(self._fetching, timeout=5)
        with contextlib.suppress(_nats().errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(5):
                for message in list(self._held.values()):
                    await message.nak()
                self._held.clear()
                # What was acknowledged, too, is still on its way out.
                await self._client.flush()
        await _closed(self._client)

    async def _fetch(self, topic: str, subscription: JetStreamContext.PullSubscription) -> None:
        errors = _nats().errors
        while self._over is None:
            try:
                messages = await subscription.fetch(min(self._transport.prefetch, 500), timeout=1)
            except errors.TimeoutError:
                continue
            except (errors.Error, OSError) as error:
                self._over = self._over or f"{str(error) or type(error).__name__}"
                return
            incoming = [self._incoming(topic, message) for message in messages]
            for one in incoming:
                await self._waiting.put(one)

    def _incoming(self, topic: str, message: Msg) -> Incoming:
        number = message.metadata.sequence.stream
        coordinates = f"{topic}/{number}"
        self._held[coordinates] = message
        given = dict(message.headers or {})
        content_type, message_id = given.pop(_CONTENT_TYPE, None), given.pop(_ID, None)
        headers: dict[str, str | bytes | None] = {name: value for name, value in given.items() if not name.startswith("Nats-")}
        found = Message(headers, message.data, content_type, None, message_id)
        return Incoming(topic, found, coordinates, (self, message), topic, message.metadata.num_delivered > 1)


def _headers(message: Message) -> dict[str, str]:
    headers = {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "" for name, value in message.headers.items()
    }
    if message.content_type is not None:
        headers[_CONTENT_TYPE] = message.content_type
    if message.id is not None:
        headers[_ID] = message.id
    return headers


def _why_no_header(headers: Mapping[str, str]) -> str | None:
    for name in headers:
        if _NAME.match(name) is None:
            return f"{name[:80]!r} cannot be the name of a header"
    return None


async def _quiet(_error: Exception) -> None:
    """Whoever waits for the connection is told; the client need not print it, too."""


async def _closed(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await client.close()


def _nats() -> Any:
    try:
        return import_module("nats")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.nats", "nats") from error
