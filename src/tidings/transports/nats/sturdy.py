"""The client of NATS, without the one thing that a hostile message can do to it: headers that it cannot read end its reading for ever."""

from __future__ import annotations

from collections.abc import Callable

from nats.aio.client import Client
from nats.errors import ConnectionClosedError

from tidings.transports.nats.pull import UNREADABLE

__all__ = ["Sending", "Sturdy"]


class Sturdy(Client):
    """A client that hands on what it cannot read."""

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # Hostile messages of the conformance tests notice when the client calls it otherwise.
        try:
            return await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 - whatever it is: the message is not ours to choose
            return {UNREADABLE: headers.decode("utf-8", "backslashreplace")}


class Sending(Sturdy):
    """A client for whoever sends much: commands are written many at a time, and their confirmations taken as they are read.

    The client's own way is several objects, a queue and a turn of a task for each. What it does not take here goes that way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._taken: int | None = None
        self._take: Callable[[bytes, bytes], None] | None = None

    def take(self, subscription: int, confirmed: Callable[[bytes, bytes], None]) -> None:
        """Hand on the subject and the body of what comes for a subscription, by its number, without headers."""
        self._taken, self._take = subscription, confirmed

    async def write(self, commands: bytes) -> None:
        """Hand commands to the connection, in the order of the calls; waits while it has too much to write.

        Raises:
            ConnectionClosedError: there is none.
        """
        if self.is_closed or not self.is_connected:
            raise ConnectionClosedError
        await self._send_command(commands)
        await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # A test notices when the client calls it otherwise: confirmations then go the client's way, which is slower.
        if headers or self._take is None or sid != self._taken:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._take(subject, data)
