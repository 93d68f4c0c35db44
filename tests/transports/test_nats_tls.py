"""Who asks NATS for TLS gets it, or does not log in: a server that says that it has none hears no password."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.transports.secure import PASSWORD
from tidings.errors import TransportDown
from tidings.transports.nats import NATS

INFO = b'INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true,"auth_required":true}\r\n'


class FalseServer:
    """Says that it needs a password and has no TLS, and listens."""

    def __init__(self) -> None:
        self.heard = b""
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while data := await reader.read(4096):
            self.heard += data
            if b"PING" in data:
                writer.write(b"PONG\r\n")
        writer.close()
        self.gone.set()


@pytest.fixture
async def false_server() -> AsyncIterator[tuple[FalseServer, str]]:
    false = FalseServer()
    server = await asyncio.start_server(false.serve, "127.0.0.1", 0)
    async with server:
        yield false, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("tls", {}),
        ("tls", {"tls": ssl.create_default_context()}),
        ("nats", {"tls": ssl.create_default_context()}),
        ("nats", {"tls_hostname": "broker"}),
        ("tls", {"user": "tidings", "password": PASSWORD}),
        ("tls", {"token": PASSWORD}),
    ],
)
async def test_a_server_without_tls_hears_no_password(false_server: tuple[FalseServer, str], scheme: str, options: dict[str, Any]) -> None:
    false, address = false_server
    transport = NATS(f"{scheme}://tidings:{PASSWORD}@{address}", options=options, timeout=10)
    attempts = (
        transport.publisher,
        lambda: transport.receiver("g", ["t"]),
        lambda: transport.reader({"t": ""}),
        lambda: transport.provision(["t"], {}),
    )
    for attempt in attempts:
        false.gone.clear()
        with pytest.raises(TransportDown, match=f"{address}: .*does not offer TLS"):
            await attempt()
        async with asyncio.timeout(10):
            await false.gone.wait()
    assert false.heard == b""


async def test_one_server_of_several_with_tls_asks_for_it_of_all(false_server: tuple[FalseServer, str]) -> None:
    false, address = false_server
    with pytest.raises(TransportDown, match="does not offer TLS"):
        await NATS(f"nats://tidings:{PASSWORD}@{address},tls://127.0.0.1:1", timeout=10).publisher()
    assert false.heard == b""


async def test_without_tls_the_password_is_given_to_whoever_asks(false_server: tuple[FalseServer, str]) -> None:
    false, address = false_server
    publisher = await NATS(f"nats://tidings:{PASSWORD}@{address}", timeout=10).publisher()
    await publisher.close()
    assert PASSWORD.encode() in false.heard
