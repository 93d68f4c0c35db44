"""The proxy by which tests and chaos runs disturb the line to a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from private_services.proxy import Proxy

from tests.consume.waiting import until

SECONDS = 10.0


class Server:
    """Answers each line with the same line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ended = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.lines.append(line)
            writer.write(line)
        self.ended += 1
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Server, Proxy]]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    proxy = Proxy(f"test://user@127.0.0.1:{listening.sockets[0].getsockname()[1]}/path")
    await proxy.start()
    try:
        yield server, proxy
    finally:
        proxy.resume()
        await proxy.stop()
        listening.close()
        await listening.wait_closed()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2].partition("/")[0]))
    writer.write(b"here\n")
    async with asyncio.timeout(SECONDS):
        assert await reader.readline() == b"here\n"
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SECONDS):
            return await reader.read(1) == b""
    except ConnectionResetError:
        return True


async def test_its_url_is_the_servers_with_another_port() -> None:
    async with proxied() as (_, proxy):
        assert proxy.url.startswith("test://user@127.0.0.1:")
        assert proxy.url.endswith("/path")


async def test_chosen_connections_are_cut_and_others_go_on() -> None:
    async with proxied() as (server, proxy):
        one, other = await connect(proxy), await connect(proxy)
        choice: Iterator[bool] = iter([True, False])
        assert proxy.cut(lambda: next(choice)) == 1
        await until(lambda: server.ended == 1)
        # One of them works, whichever it is.
        for _, writer in (one, other):
            writer.write(b"still here\n")
        answers = await asyncio.gather(*(reader.readline() for reader, _ in (one, other)), return_exceptions=True)
        assert answers.count(b"still here\n") == 1
        for _, writer in (one, other):
            writer.close()


async def test_a_stopped_proxy_refuses_until_it_is_started_again() -> None:
    async with proxied() as (_, proxy):
        reader, writer = await connect(proxy)
        await proxy.stop()
        assert await ended(reader)
        writer.close()
        with pytest.raises(OSError, match="refused|Connect call failed"):
            await connect(proxy)
        await proxy.start()
        _, writer = await connect(proxy)
        writer.close()


async def test_what_was_swallowed_in_silence_arrives_later_although_its_sender_has_given_up() -> None:
    async with proxied() as (server, proxy):
        _, writer = await connect(proxy)
        proxy.silence()
        writer.write(b"late\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        # Whoever comes meanwhile is let in, and waits.
        _, newcomer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2].partition("/")[0]))
        newcomer.write(b"new\n")
        await newcomer.drain()
        for _ in range(100):
            await asyncio.sleep(0)
        assert server.lines == [b"here\n"]
        proxy.resume()
        await until(lambda: sorted(server.lines) == [b"here\n", b"late\n", b"new\n"])
        newcomer.close()
