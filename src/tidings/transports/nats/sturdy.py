"""The client of NATS, without the one thing that a hostile message can do to it: headers that it cannot read end its reading for ever.

And without what each message costs it: a place in a queue, a turn of the event loop, and each character of each header's name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error

from tidings.transports.nats.pull import UNREADABLE, Delivered

__all__ = ["Sending", "Sturdy"]

#: Where the first line of headers ends that is no status, `NATS/1.0`, and where the next one begins.
_LINE, _HEAD = 8, 10
#: What `bytes.strip` takes off.
_WHITE = " \t\n\r\v\f"
#: Characters of a name that is remembered: names come from outside.
_LONGEST = 64


class Sturdy(Client):
    """A client that hands on what it cannot read."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Callable[[Delivered], Awaitable[None] | None]] = {}
        #: Whether to log in over TLS or not at all: the client's own does what the server says, and anybody can say that there is no TLS.
        self.tls_only = False

    def deliver(self, subscription: Any, take: Callable[[Delivered], Awaitable[None] | None]) -> None:
        """Hand the messages of a subscription over as they are read, in place of its own callback. It must not wait for messages."""
        self._takers[subscription._id] = take

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            # With no status before them, the lines are all there is to read.
            usual = headers and headers[_LINE:_HEAD] == b"\r\n"
            read = self._lines(headers) if usual else await self._process_headers(headers)
            later = take(Delivered(reply.decode(), data, read))
            if later is not None:
                await later
        except Exception as error:  # noqa: BLE001 - as for every callback: it must not end the client's reading
            await self._error_cb(error)

    def _connect_command(self) -> bytes:
        # The false server of the tests notices when the client calls it otherwise: it would hear the password.
        if self.tls_only:
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise Error("the server does not offer TLS, which was asked for: nobody has logged in")
        return super()._connect_command()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # Hostile messages of the conformance tests notice when the client calls it otherwise.
        try:
            return await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 - whatever it is: the message is not ours to choose
            return {UNREADABLE: headers.decode("utf-8", "backslashreplace")}

    def _lines(self, headers: bytes) -> dict[str, str] | None:
        try:
            return self._parse_header_lines(headers[_HEAD:]) or None
        except Exception:  # noqa: BLE001 - as above
            return {UNREADABLE: headers.decode("utf-8", "backslashreplace")}

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """Return what the client would of these lines; most are ASCII, and have names that have been seen before."""
        if not raw.isascii():
            return Client._parse_header_lines(raw)
        found: dict[str, str] = {}
        for line in raw.decode("ascii").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon and (key := _known(name) if len(name) <= _LONGEST else _name(name)) is not None:
                found[key] = value.strip(_WHITE)
        return found


def _name(text: str) -> str | None:
    """Return the name of a header, or None for what cannot be one."""
    name = text.strip(_WHITE)
    return None if any(character.isspace() for character in name) else name


_known = lru_cache(512)(_name)


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
