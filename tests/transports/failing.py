"""Ways to let a broker fail: a proxy that cuts its connections, and a private broker that is killed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from private_services import cli
from private_services.control import Control


class Proxy:
    """A TCP proxy on loopback whose connections can be cut, all at once and without a word.

    Args:
        url: of the broker; `url` of the proxy is the same with another port.
        marker: bytes; a connection over which somebody sends them to the broker is cut, and they do not get there.

    Attributes:
        cut: how many connections were cut because of the marker.
    """

    def __init__(self, url: str, marker: bytes | None = None) -> None:
        self._target = urlsplit(url)
        self._marker = marker
        self.cut = 0
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}"))

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._open |= {writer, upstream[1]}
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._watched(reader, upstream[1]))
                    tasks.create_task(_copy(upstream[0], writer))
            finally:
                for one in (writer, upstream[1]):
                    self._open.discard(one)
                    one.transport.abort()

    async def _watched(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            kept = b""
            while data := await reader.read(1 << 16):
                if self._marker is not None and self._marker in kept + data:
                    self.cut += 1
                    break
                kept = data[-len(self._marker or b"") :]
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


class Crash:
    """Kills a private broker that no other test uses, and starts it again with its data."""

    def __init__(self, control: Control, name: str) -> None:
        self._control = control
        self._service = cli.SERVICES[name]

    async def stop(self) -> None:
        await asyncio.to_thread(self._control.crash, self._service)

    async def start(self) -> None:
        await asyncio.to_thread(self._control.revive, self._service)
