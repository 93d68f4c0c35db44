"""A TCP proxy in front of a server, whose connections can be cut, refused, or left without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from private_services.processes import LOOPBACK


class Proxy:
    """A TCP proxy on loopback.

    Args:
        url: of the server; `url` of the proxy is the same with another port.
        port: to listen on; 0 takes a free one, and keeps it.
        marker: a connection over which somebody sends these bytes to the server is cut, and they do not get there.

    Attributes:
        broken: how many connections were cut because of the marker.
    """

    def __init__(self, url: str, port: int = 0, marker: bytes = b"") -> None:
        self._target = urlsplit(url)
        self._port = port
        self._marker = marker
        self.broken = 0
        self._server: asyncio.Server | None = None
        self._open: set[tuple[asyncio.StreamWriter, ...]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def url(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}{LOOPBACK}:{self._port}"))

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._join, LOOPBACK, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections, and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        await asyncio.sleep(0)
        if server is not None:
            await server.wait_closed()

    def cut(self, chosen: Callable[[], bool] = lambda: True) -> int:
        """Cut connections without a word: all of them, or those that are chosen. Return how many."""
        ends = [ends for ends in self._open if chosen()]
        for end in (end for both in ends for end in both):
            end.transport.abort()
        return len(ends)

    def silence(self) -> None:
        """Take everything and pass on nothing, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass everything on again, what was taken meanwhile first, even if its sender has given up."""
        self._flowing.set()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends: tuple[asyncio.StreamWriter, ...] = (writer,)
        self._open.add(ends)
        try:
            await self._flowing.wait()
            upstream, onward = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._open.discard(ends)
            ends = (writer, onward)
            self._open.add(ends)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, onward, self._marker))
                tasks.create_task(self._copy(upstream, writer))
        except OSError:
            return
        finally:
            self._open.discard(ends)
            for end in ends:
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marker: bytes = b"") -> None:
        with suppress(OSError):
            before = b""
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                if marker:
                    if marker in before + data:
                        self.broken += 1
                        writer.transport.abort()
                        return
                    before = data[-len(marker) :]
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
        # What has been written still arrives.
        writer.close()
