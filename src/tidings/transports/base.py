"""The port: what a broker has to be able to do. A transport is a value that says where the broker is; its publishers and receivers do the work.

Nothing here reconnects. A publisher or receiver that has lost its connection is over: whoever uses it throws away what it had in memory,
makes a new one and begins again at its checkpoint, because that is what makes a take-over by another process harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from tidings.codecs.bindings import Binding
from tidings.codecs.message import Message, written_time
from tidings.codecs.wire import Wire

__all__ = [
    "CONFIRMED", "WITHHELD", "Failure", "Incoming", "Keeps", "Kept", "Log", "Outcome", "Outgoing", "Provision", "Publisher", "Receiver", "Transport", "as_header",
    "fit", "refused", "sifted", "size_of", "unconfirmed", "written_size_of",
]  # fmt: skip

#: What it says about the others of a `publish` that one message was not confirmed. `atomic`: none was sent. `prefix`: none of the later ones
#: of its partition was. `independent`: nothing, so that no two messages of one key may be under way at a time.
Failure: TypeAlias = Literal["atomic", "prefix", "independent"]

#: `create` what is missing, `verify` that nothing is, or leave it `off`.
Provision: TypeAlias = Literal["create", "verify", "off"]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message with where it goes."""

    topic: str
    message: Message


class Outcome(msgspec.Struct, frozen=True):
    """What became of one message.

    Attributes:
        kind: `confirmed`: the broker has it, for good. `refused`: it has not, and will not take it as it is: too large, unroutable, for an
            unknown topic. `withheld`: it was not sent, because an earlier one of its key was refused. `unconfirmed`: the connection or the
            broker failed before it could say so; it may have it or not.
        reason: a sentence, unless it was confirmed.
        broken: of an unconfirmed one: whether the connection has ended without the broker's saying that it cannot take messages, which it may have
            done over a message.
    """

    kind: Literal["confirmed", "refused", "withheld", "unconfirmed"]
    reason: str = ""
    broken: bool = False


CONFIRMED = Outcome("confirmed")


def refused(reason: str) -> Outcome:
    """Return the outcome of a message that the broker will not take as it is."""
    return Outcome("refused", reason)


def unconfirmed(reason: str, *, broken: bool = False) -> Outcome:
    """Return the outcome of a message that the broker may have or not."""
    return Outcome("unconfirmed", reason, broken)


WITHHELD = Outcome("withheld", "an earlier message of its key was refused")


def sifted(batch: Sequence[Outgoing], why_not: Callable[[Outgoing], str | None]) -> list[Outcome | None]:
    """Return None for what may be sent, and an outcome for what is refused at once, or withheld behind a refused one of its key.

    Args:
        why_not: a sentence for a message that need not be tried.
    """
    outcomes: list[Outcome | None] = []
    blocked: set[tuple[str, str]] = set()
    for outgoing in batch:
        key = outgoing.message.key
        if blocked and key is not None and (outgoing.topic, key) in blocked:
            outcomes.append(WITHHELD)
        elif (reason := why_not(outgoing)) is not None:
            outcomes.append(refused(reason))
            if key is not None:
                blocked.add((outgoing.topic, key))
        else:
            outcomes.append(None)
    return outcomes


def size_of(message: Message) -> int:
    """Return how many bytes a message has at least, without what a broker adds."""
    text, others = _parts(message)
    return len(text) + others


def written_size_of(message: Message) -> int:
    """Return how many bytes a message has, without its key and what a broker adds.

    Raises:
        UnicodeEncodeError: a header cannot be written.
    """
    text, others = _parts(message)
    return (len(text) if text.isascii() else len(text.encode())) + others


def fit(batch: Sequence[Outgoing], most: int) -> bool:
    """Return whether all of these together, with their keys, are no larger than one may be, and can be written: none need be looked at then."""
    text: list[Any] = []
    others = 0
    for outgoing in batch:
        message = outgoing.message
        text += message.headers
        text += message.headers.values()
        if message.key is not None:
            text.append(message.key)
        if message.body is not None:
            others += len(message.body)
    try:
        together = "".join(text)
        return (len(together) if together.isascii() else len(together.encode())) + others <= most
    except (TypeError, UnicodeEncodeError):
        # Some headers are bytes, or cannot be written.
        return False


def _parts(message: Message) -> tuple[str, int]:
    """Return what of its headers is text, and how many bytes the rest has."""
    headers = message.headers
    body = 0 if message.body is None else len(message.body)
    try:
        return "".join(headers) + "".join(headers.values()), body  # type: ignore[arg-type]
    except TypeError:
        values = headers.values()
        text = "".join([*headers, *(value for value in values if isinstance(value, str))])
        return text, body + sum([len(value) for value in values if isinstance(value, bytes)])


class Incoming(msgspec.Struct, frozen=True):
    """A message with where it came from.

    Attributes:
        coordinates: its place at the broker, to be read by people: `orders/3/4711`. The same when it is delivered again.
        receipt: what the receiver needs to acknowledge it; opaque to everybody else.
        shard: what order holds in: a partition, a queue, a stream.
        redelivered: whether the broker may have delivered it before.
        fault: why the message is not as it was sent, if so: it is larger than the receiver takes, and cut, or a hostile sender has made something of
            it that cannot be read. What else there is of it is as it was.
        position: where to go on behind it, when a `Log` is read; opaque.
        gap: why messages that should have come before it are missing, when a `Log` is read; empty when none is.
    """

    topic: str
    message: Message
    coordinates: str
    receipt: Any
    shard: str = ""
    redelivered: bool = False
    fault: str = ""
    position: str = ""
    gap: str = ""


class Publisher(Protocol):
    """One connection that sends. `publish` may be called while an earlier call is under way; messages are sent in the order of the calls."""

    async def publish(self, batch: Sequence[Outgoing], /) -> Sequence[Outcome]:
        """Send messages, all before the first confirmation is waited for, and return what became of each.

        An `unconfirmed` one means that the publisher is over; whatever is called then returns `unconfirmed`, too.
        """
        ...

    async def close(self) -> None:
        """Give the connection up; what is under way ends as confirmed or unconfirmed. May be repeated."""
        ...


class Receiver(Protocol):
    """One connection that receives, for one group."""

    async def receive(self, most: int, seconds: float) -> Sequence[Incoming]:
        """Return messages as soon as there are any, or none after that time; in order within a shard.

        A message is returned once, and again by another receiver if this one does not acknowledge it.

        Raises:
            TransportDown: the connection is lost; what was not acknowledged will be delivered again.
        """
        ...

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Say that these need not be delivered again, in whichever order they were finished. Those of another receiver are ignored.

        Raises:
            TransportDown: the connection is lost; they may be delivered again.
        """
        ...

    def withdrawn(self) -> frozenset[str]:
        """Return the shards that are somebody else's now, or are about to be, since the last call; `receive` returns at once when there are any.

        Messages of theirs that have not been returned will not be. What is under way should be finished and acknowledged, or let go; what has not
        begun should not begin.
        """
        ...

    def let_go(self, shards: Collection[str], /) -> None:
        """Say that nothing of these withdrawn shards is under way any more, whoever waits for it need not: the rest is somebody else's."""
        ...

    async def close(self) -> None:
        """Give the connection up, and with it what was not acknowledged. May be repeated."""
        ...


class Transport(Protocol):
    """Where a broker is and how it is used. A value: it has no connection, and making one needs nothing but its client library.

    Attributes:
        name: what logs, metrics and deliveries call it: `rabbitmq`. Its checkpoint is stored under it.
        failure: what a message that was not confirmed says about others.
        ordered: whether a receiver of an ordered group gets the messages of one key in the order in which they were sent.
        binding: how its messages carry headers.
        wire: the format that its messages are written in.
    """

    @property
    def name(self) -> str: ...
    @property
    def failure(self) -> Failure: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def binding(self) -> Binding: ...
    @property
    def wire(self) -> Wire: ...

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make topics, and groups with the topics that they receive from, or look whether they are there.

        A new group begins with the earliest message that the broker still has. May be repeated, also by several processes at a time.

        Raises:
            ProvisionError: something is missing (`verify`), or is there with other properties.
            TransportDown: the broker cannot be reached.
        """
        ...

    async def publisher(self) -> Publisher:
        """Connect, to send.

        Raises:
            TransportDown: the broker cannot be reached, or refuses us.
        """
        ...

    async def receiver(self, group: str, topics: Sequence[str]) -> Receiver:
        """Connect, to receive what these topics have for a group that is provisioned.

        Raises:
            ProvisionError: the group or a topic is missing.
            TransportDown: the broker cannot be reached, or refuses us.
        """
        ...


@runtime_checkable
class Log(Transport, Protocol):
    """A transport whose topics are logs, which can be read by position, in order, whoever has read them before, and without a group.

    The position belongs to whoever reads, who stores it together with what he has done, under his own lease: a group of such a broker would give
    what one receiver held to another one after some time, and what came later meanwhile. An `Incoming` says the position behind itself.
    """

    async def reader(self, after: Mapping[str, str]) -> Receiver:
        """Connect, to receive everything behind these positions, by topic; the empty one is before everything.

        Its `receive` returns a message whose `gap` says so when what should have come before it is gone. Its `acknowledge` does nothing.

        Raises:
            ProvisionError: a topic is missing.
            TransportDown: the broker cannot be reached, or refuses us.
        """
        ...

    async def end(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the position behind the last message of each topic, for whoever wants new ones only.

        Raises:
            ProvisionError: a topic is missing.
            TransportDown: the broker cannot be reached, or refuses us.
        """
        ...


class Kept(NamedTuple):
    """How long a broker keeps the messages of a topic, whether they were received or not.

    Attributes:
        seconds: None is until somebody deletes them. Where no time is set, how far back the topic goes now.
        setting: what says so, as the broker calls it: `retention.ms`.
        sooner: what takes messages away before that time; empty when nothing does.
    """

    seconds: float | None
    setting: str
    sooner: str = ""


@runtime_checkable
class Keeps(Transport, Protocol):
    """A transport whose broker keeps messages that were received, and can be asked for how long."""

    async def kept(self, topics: Sequence[str]) -> dict[str, Kept]:
        """Ask the broker how long it keeps the messages of these topics. Left out are those that are not there, or that keep nothing received.

        Raises:
            TransportDown: the broker cannot be reached, or does not tell us.
        """
        ...


def as_header(value: object) -> str | bytes | None:
    """Return what a client library found in a header as text or bytes; whatever else it is, as somebody would write it down."""
    if value is None or isinstance(value, (str, bytes)):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return written_time(value) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return str(value)
