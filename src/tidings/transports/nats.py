"""NATS JetStream: a stream for each topic, the topic as its subject, and a durable pull consumer for each group.

Confirmations are pipelined, and each stands for itself. The event's id is the message's, so the server drops a copy that comes soon after.
A durable consumer gives what one receiver held to another after some time, and what came later meanwhile: that is why groups are not ordered.
Closing hands back at once what was not acknowledged. An ordered one reads the stream by position instead (`reader`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.codecs import cap
from tidings.codecs.bindings import NATS as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, unconfirmed
from tidings.transports.nats_pull import UNREADABLE, Pull, place_of
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

__all__ = ["NATS", "stream_of"]

_CONTENT_TYPE = "content-type"
_ID = "Nats-Msg-Id"
# What a stream may not be called, besides white space, which a topic has not.
_SEPARATORS = re.compile(r"[.*>/\\]")
_TOO_LARGE_FOR_STREAM = 10054
# Bytes that may wait for whoever receives before no more are asked for.
_MOST_WAITING = 32 << 20
# The status of an answer that says that nobody is subscribed.
_NOBODY = "503"
# What the client takes as the name of a header, and the server as a subject that can be published to.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*\Z")


def stream_of(topic: str) -> str:
    """Return the name of a topic's stream: the same with `_` for what has a meaning there."""
    return _SEPARATORS.sub("_", topic)


def consumer_of(group: str, topic: str) -> str:
    """Return the name of a group's consumer of a topic; a stream may have several topics."""
    return _SEPARATORS.sub("_", f"{group}-{topic}")


@dataclass(frozen=True)
class NATS:
    """A server, or a cluster of them, with JetStream.

    Attributes:
        url: `nats://user:password@host:port`, or `tls://`, or several with commas between them.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body. `cap` writes messages as DotNetCore.CAP does, and gives topics with the
            same first word one stream, as it does; else each has its own. All formats are read.
        idle: seconds after which another receiver gets what one that has crashed held; handlers must be quicker.
        prefetch: messages that the receivers of a group may have without having acknowledged them.
        replicas: of a stream, 1 to 5.
        max_age: seconds that a stream keeps a message; None keeps all of them for ever.
        options: more of what `nats.connect` takes, for TLS and credentials: `tls`, an SSLContext, `user_credentials`, `nkeys_seed`, `token`; never
            shown.
        timeout: seconds without a confirmation after which a publisher is over.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "nats"
    wire: Wire = "cloudevents"
    idle: float = 60.0
    prefetch: int = 1000
    replicas: int = 1
    max_age: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 30.0

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
        receiver = _Receiver(self)
        try:
            await receiver.start(group, topics)
        except _nats().js.errors.NotFoundError as error:
            await receiver.close()
            raise ProvisionError(f"{described(self.url)}: group {group!r} is missing on {list(topics)}: {error}") from error
        except (_nats().errors.Error, OSError) as error:
            await receiver.close()
            raise self._down(error) from error
        return receiver

    async def reader(self, after: Mapping[str, str]) -> _Reader:
        """Connect, to read by position."""
        reader = _Reader(self)
        try:
            await reader.begin(after)
        except _nats().js.errors.NotFoundError as error:
            await reader.close()
            raise ProvisionError(f"{described(self.url)}: there is no stream for one of {list(after)}: {error}") from error
        except (_nats().errors.Error, OSError) as error:
            await reader.close()
            raise self._down(error) from error
        return reader

    async def end(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the positions behind the last messages."""
        client = await self._connect()
        try:
            context = client.jetstream(timeout=self.timeout)
            found = {topic: await context.stream_info(self.stream(topic)) for topic in topics}
        except _nats().js.errors.NotFoundError as error:
            raise ProvisionError(f"{described(self.url)}: there is no stream for one of {list(topics)}: {error}") from error
        except (_nats().errors.Error, OSError) as error:
            raise self._down(error) from error
        finally:
            await _closed(client)
        return {topic: f"{info.state.last_seq}@{_made(info)}" for topic, info in found.items()}

    def stream(self, topic: str) -> str:
        """Return the name of a topic's stream."""
        return cap.stream_of(topic) if self.wire == "cap" else stream_of(topic)

    async def _stream(self, context: JetStreamContext, topic: str, mode: Provision) -> None:
        nats = _nats()
        name = self.stream(topic)
        if mode == "verify":
            info = await context.stream_info(name)
            if topic not in (info.config.subjects or ()):
                raise ProvisionError(f"{described(self.url)}: stream {name!r} is there, but not for the subject {topic!r}")
            return
        settings = nats.js.api.StreamConfig(
            name=name,
            subjects=[topic],
            storage=nats.js.api.StorageType.FILE,
            num_replicas=self.replicas,
            max_age=self.max_age or 0,
        )
        try:
            await context.add_stream(settings)
        except nats.js.errors.BadRequestError as refused_:
            # It is there with other settings, which are for its owner to choose; the topic must be one of its subjects.
            try:
                found = (await context.stream_info(name)).config
            except nats.js.errors.NotFoundError:
                # Another stream has the subject.
                raise refused_ from None
            if topic in (found.subjects or ()):
                return
            if self.wire != "cap":
                raise
            # CAP has one stream for all topics with the same first word.
            await context.update_stream(found, subjects=[*(found.subjects or ()), topic])

    async def _consumer(self, context: JetStreamContext, group: str, topic: str, mode: Provision) -> None:
        try:
            await context.consumer_info(self.stream(topic), consumer_of(group, topic))
        except _nats().js.errors.NotFoundError:
            if mode == "verify":
                raise
            api = _nats().js.api
            settings = api.ConsumerConfig(
                durable_name=consumer_of(group, topic),
                filter_subject=topic,
                ack_policy=api.AckPolicy.EXPLICIT,
                deliver_policy=api.DeliverPolicy.ALL,
                ack_wait=self.idle,
                max_ack_pending=self.prefetch,
            )
            await context.add_consumer(self.stream(topic), settings)

    async def _connect(self, lost: Callable[[str], None] | None = None) -> Client:
        nats = _nats()

        async def closed() -> None:
            if lost is not None:
                lost("the connection is lost")

        from tidings.transports.nats_client import Sturdy

        try:
            async with asyncio.timeout(self.timeout):
                client = Sturdy()
                await client.connect(
                    [part.strip() for part in self.url.split(",")],
                    **{
                        **self.options,
                        "allow_reconnect": False,
                        "connect_timeout": self.timeout,
                        "error_cb": _quiet,
                        "closed_cb": closed,
                    },
                )
                return client
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._down(error) from error
        except ValueError:
            raise unreadable(self.url) from None

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
        self._broken = False
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        self._client = client = await self._transport._connect(self._broke)
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
            await _closed(self._client)
        for task in self._asking.values():
            task.cancel()

    def _why_not(self, outgoing: Outgoing, headers: dict[int, dict[str, str]]) -> str | None:
        message = outgoing.message
        given = headers[id(outgoing)] = _headers(message)
        size = len(message.body or b"") + 12 + sum([len(name) + len(value) + 4 for name, value in given.items()])
        assert self._client is not None
        if not "".join(given.values()).isascii():
            try:
                size += sum([len(value.encode()) - len(value) for value in given.values()])
            except UnicodeEncodeError as error:
                return f"it cannot be written: {error}"
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

    def _broke(self, reason: str) -> None:
        self._broken = self._broken or self._over is None
        self._lost(reason)

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call, _, _ in self._waiting.values():
            if not call.done.done():
                call.done.set_result(None)
        self._waiting.clear()


class _Receiver:
    """What receivers of a group, and readers of a log, have in common: one `Pull` for each topic, and what waits to be received."""

    def __init__(self, transport: NATS) -> None:
        self._transport = transport
        self._client: Client | None = None
        self._waiting: deque[Incoming] = deque()
        self._bytes = 0
        self._held: dict[str, Msg] = {}
        self._news = asyncio.Event()
        self._over: str | None = None
        self._pulls: list[Pull] = []

    async def connect(self) -> JetStreamContext:
        self._client = await self._transport._connect(self._lost)
        return self._client.jetstream(timeout=self._transport.timeout)

    async def start(self, group: str, topics: Sequence[str]) -> None:
        context = await self.connect()
        for topic in topics:
            await context.consumer_info(self._transport.stream(topic), consumer_of(group, topic))
            await self._pull(topic, consumer_of(group, topic), partial(self._take, topic))

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        deadline = monotonic() + seconds
        while not self._waiting and self._over is None:
            self._news.clear()
            for pull in self._pulls:
                if pull.silent:
                    self._lost("the server does not answer")
            if (left := deadline - monotonic()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self._news.wait()
        if self._over is not None:
            raise self._transport._down(self._over)
        found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._bytes = 0
        await self._guarded(self._ask())
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        if self._over is not None:
            raise self._transport._down(self._over)
        await self._guarded(self._acknowledge(incoming))

    def withdrawn(self) -> frozenset[str]:
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        self._lost("the receiver is closed")
        if self._client is None:
            return
        with contextlib.suppress(_nats().errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(5):
                held, self._held = self._held, {}
                for message in held.values():
                    await self._client.publish(message.reply, b"-NAK")
                # What was acknowledged, too, is still on its way out.
                await self._client.flush()
        await _closed(self._client)

    async def _pull(self, topic: str, consumer: str, take: Callable[[Msg], None]) -> None:
        assert self._client is not None
        most = min(self._transport.prefetch, 500)
        pull = Pull(self._client, self._transport.stream(topic), consumer, take, self._lost, most, self._room)
        self._pulls.append(pull)
        await pull.start()

    def _room(self) -> int:
        return 0 if self._bytes > _MOST_WAITING else self._transport.prefetch - len(self._waiting)

    async def _ask(self) -> None:
        for pull in self._pulls:
            await pull.ask()

    async def _acknowledge(self, incoming: Sequence[Incoming]) -> None:
        assert self._client is not None
        for one in incoming:
            owner, reply = one.receipt
            if owner is self and self._held.pop(one.coordinates, None) is not None:
                await self._client.publish(reply)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (_nats().errors.Error, OSError) as error:
            self._lost(f"{str(error) or type(error).__name__}")
            raise self._transport._down(self._over) from error

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._news.set()

    def _keep(self, incoming: Incoming) -> None:
        self._waiting.append(incoming)
        self._bytes += len(incoming.message.body or b"")
        self._news.set()

    def _take(self, topic: str, message: Msg) -> None:
        place = place_of(message.reply)
        coordinates = f"{topic}/{place.stream}"
        self._held[coordinates] = message
        again = place.deliveries > 1
        self._keep(Incoming(topic, _message(message), coordinates, (self, message.reply), topic, again, _fault(message)))


class _Reader(_Receiver):
    """Reads streams by position: `number@when the stream was made`."""

    def __init__(self, transport: NATS) -> None:
        super().__init__(transport)
        self._last: dict[str, int] = {}
        self._delivered: dict[str, int] = {}
        self._made: dict[str, str] = {}
        # Why what comes next does not follow what came before.
        self._gaps: dict[str, str] = {}
        # Topics that share their stream with others: their numbers have holes anyway.
        self._shared: set[str] = set()

    async def begin(self, after: Mapping[str, str]) -> None:
        context = await self.connect()
        api = _nats().js.api
        for topic, position in after.items():
            info = await context.stream_info(self._transport.stream(topic))
            self._find(topic, position, info)
            settings = api.ConsumerConfig(
                ack_policy=api.AckPolicy.NONE,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._last[topic] + 1,
                filter_subject=topic,
                inactive_threshold=max(60.0, 2 * self._transport.timeout),
                num_replicas=1,
                mem_storage=True,
            )
            consumer = await context.add_consumer(self._transport.stream(topic), settings)
            await self._pull(topic, consumer.name, partial(self._read, topic))

    def _find(self, topic: str, position: str, info: StreamInfo) -> None:
        number, _, made = position.partition("@")
        last = int(number) if number.isdecimal() else 0
        self._made[topic] = _made(info)
        first, newest = info.state.first_seq, info.state.last_seq
        if list(info.config.subjects or ()) != [topic]:
            self._shared.add(topic)
        if position and (made != self._made[topic] or last > newest):
            self._gaps[topic] = f"the stream was made anew at {self._made[topic]}, so it is read from its beginning"
            last = 0
        elif position and first > last + 1:
            self._gaps[topic] = f"the messages {last + 1} to {first - 1} are no longer there"
            last = first - 1
        self._last[topic] = last

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        if self._over is not None:
            raise self._transport._down(self._over)

    def _read(self, topic: str, message: Msg) -> None:
        place = place_of(message.reply)
        if place.consumer != self._delivered.get(topic, 0) + 1:
            # The connection has lost some: whoever reads begins again at his position.
            self._lost(f"messages of {topic!r} were lost on their way")
            return
        last = self._last[topic]
        gap = self._gaps.pop(topic, "")
        if not gap and last and place.stream != last + 1 and topic not in self._shared:
            gap = f"the messages {last + 1} to {place.stream - 1} are no longer there"
        self._delivered[topic] = place.consumer
        self._last[topic] = place.stream
        position = f"{place.stream}@{self._made[topic]}"
        self._keep(
            Incoming(
                topic, _message(message), f"{topic}/{place.stream}", (self, None), topic, fault=_fault(message), position=position, gap=gap
            ),
        )


def _made(info: StreamInfo) -> str:
    return "" if info.created is None else info.created.isoformat()


def _fault(message: Msg) -> str:
    return "" if message.headers is None or UNREADABLE not in message.headers else "its headers cannot be read"


def _message(message: Msg) -> Message:
    given = dict(message.headers or {})
    # Names of headers are as they were written here; some write this one as HTTP does.
    as_in_http = given.pop("Content-Type", None)
    content_type, message_id = given.pop(_CONTENT_TYPE, as_in_http), given.pop(_ID, None)
    headers: dict[str, str | bytes | None] = {name: value for name, value in given.items() if not name.startswith("Nats-")}
    return Message(headers, message.data, content_type, None, message_id)


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
