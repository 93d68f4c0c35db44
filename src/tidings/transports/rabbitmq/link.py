"""RabbitMQ: a connection with one channel, whose stream is listened to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidings.errors import MissingExtra, TransportDown
from tidings.transports.closing import close_within

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel, AbstractConnection

    from tidings.transports.rabbitmq.stream import Listener, Tapped
    from tidings.transports.rabbitmq.transport import RabbitMQ

__all__ = ["CHANNEL", "Link", "close_client", "is_cancelling", "load_aiormq", "reason_of"]

CHANNEL = 1


class Link:
    """A connection with one channel, for a publisher or a receiver, which listens to what the broker sends there."""

    def __init__(self, transport: RabbitMQ, listener: Listener, lost: Callable[[str], None]) -> None:
        self._transport = transport
        self._listener = listener
        self._lost = lost
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._tapped: Tapped | None = None
        self.most = 4096

    async def open(self, *, confirms: bool) -> AbstractChannel:
        """Connect; what is listened to begins at once."""
        aiormq = load_aiormq()
        from tidings.transports.rabbitmq.stream import Tapped

        self._tapped = Tapped(self._listener, CHANNEL, self._transport.most)
        self._connection = connection = await self._transport._connect(transport_factory=self._tapped)
        try:
            self._channel = channel = await connection.channel(CHANNEL, publisher_confirms=confirms)
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            await self.close()
            raise self._transport._down(error) from error
        self.most = connection.connection_tune.frame_max
        channel.closing.add_done_callback(self._ended)
        return channel

    async def write(self, payload: bytes) -> None:
        """Hand whole frames to the connection, in the order of the calls; return when there is room for more.

        They do not pass the client's queue: its writer is a task of its own, and while the event loop is busy every turn of it takes milliseconds.

        Raises:
            TransportDown: the connection is lost.
        """
        assert self._channel is not None
        assert self._tapped is not None
        if self._channel.is_closed:
            raise TransportDown("the connection is lost")
        try:
            await self._tapped.write(payload)
        except (OSError, RuntimeError) as error:
            raise TransportDown(reason_of(error)) from error

    def pause(self) -> None:
        """Let the broker wait."""
        if self._tapped is not None:
            self._tapped.pause()

    def resume(self) -> None:
        """Go on."""
        if self._tapped is not None:
            self._tapped.resume()

    async def close(self) -> None:
        """Close it, in seconds at most, whatever state it is in."""
        if self._connection is not None:
            await close_client(self._connection)

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        reason = None if closing.cancelled() else closing.exception()
        self._lost(reason_of(reason) if isinstance(reason, Exception) else "the connection is lost")


def is_cancelling() -> bool:
    """Tell whether somebody cancels this task; the client cancels futures of its own, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def close_client(connection: AbstractConnection) -> None:
    """Close it, in seconds at most, whatever state it is in."""
    await close_within(connection.close(), "rabbitmq")


def reason_of(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def load_aiormq() -> Any:
    """Return the client library; MissingExtra without it."""
    try:
        import aiormq
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.rabbitmq", "rabbitmq") from error
    return aiormq
