"""TLS with a private authority, credentials in URLs and options, and that nobody gets to see a password."""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.transports.secure import PASSWORD, USER, Certificates, make_certificates, secure_broker
from tests.wire.events import PLACED
from tidings.codecs.cloudevents import encode_binary
from tidings.codecs.wire import decode
from tidings.errors import ConfigurationError, TransportDown
from tidings.transports.base import Outgoing, Transport
from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.redis import Redis

WRONG = "wr0ng-pa55w0rd"

#: Makes a transport for `host:port`, a password, and the file with the authority's certificate or None.
Make = Callable[[str, str, Path | None], Transport]


def _rabbitmq(address: str, password: str, authority: Path | None) -> Transport:
    files = "" if authority is None else f"?cafile={quote(str(authority))}"
    return RabbitMQ(url=f"amqps://{USER}:{password}@{address}/{files}", timeout=10)


def _redis(address: str, password: str, authority: Path | None) -> Transport:
    files = "" if authority is None else f"?ssl_ca_certs={quote(str(authority))}"
    return Redis(url=f"rediss://{USER}:{password}@{address}/0{files}", timeout=10)


def _nats(address: str, password: str, authority: Path | None) -> Transport:
    options = {} if authority is None else {"tls": ssl.create_default_context(cafile=str(authority))}
    return NATS(url=f"tls://{USER}:{password}@{address}", options=options, timeout=10)


def _kafka(address: str, password: str, authority: Path | None) -> Transport:
    options: dict[str, str] = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": USER, "sasl.password": password}
    if authority is not None:
        options["ssl.ca.location"] = str(authority)
    return Kafka(url=address, options=options, timeout=8)


MAKE: dict[str, Make] = {"rabbitmq": _rabbitmq, "redis": _redis, "nats": _nats, "kafka": _kafka}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=list(MAKE))
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[tuple[Make, str, Path]]:
    with secure_broker(request.param, tmp_path_factory.mktemp("secure"), certificates) as address:
        yield MAKE[request.param], address, certificates.authority


async def _connected(transport: Transport) -> None:
    """Connect, as soon as the broker knows its users."""
    async with asyncio.timeout(60):
        while True:
            try:
                await transport.provision(["secure"], {"secure": ["secure"]})
                return
            except TransportDown:
                await asyncio.sleep(0.5)


async def test_events_go_over_tls_with_a_user_and_a_password(
    secure: tuple[Make, str, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    make, address, authority = secure
    transport = make(address, PASSWORD, authority)
    await _connected(transport)
    publisher, receiver = await transport.publisher(), await transport.receiver("secure", ["secure"])
    (outcome,) = await publisher.publish([Outgoing("secure", encode_binary(PLACED, transport.binding))])
    assert outcome.kind == "confirmed"
    async with asyncio.timeout(30):
        while not (found := await receiver.receive(1, 1)):
            pass
    await receiver.acknowledge(found)
    assert decode(found[0].message, transport.binding) == PLACED
    shown = [repr(transport), str(transport), repr(publisher), repr(receiver), caplog.text, *capfd.readouterr()]
    assert not any(PASSWORD in text for text in shown)
    await publisher.close()
    await receiver.close()


async def test_a_wrong_password_is_refused_without_being_shown(
    secure: tuple[Make, str, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    make, address, authority = secure
    await _connected(make(address, PASSWORD, authority))
    transport = make(address, WRONG, authority)
    attempts = (transport.publisher, lambda: transport.receiver("secure", ["secure"]), lambda: transport.provision(["secure"], {}))
    for attempt in attempts:
        with pytest.raises(TransportDown) as caught:
            await attempt()
        shown = [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value, chain=True)]
        assert not any(WRONG in text for text in shown)
        assert address in str(caught.value)
    assert WRONG not in caplog.text
    assert not any(WRONG in text for text in capfd.readouterr())


async def test_a_broker_whose_authority_is_unknown_gets_no_password(secure: tuple[Make, str, Path]) -> None:
    make, address, authority = secure
    await _connected(make(address, PASSWORD, authority))
    with pytest.raises(TransportDown) as caught:
        await make(address, PASSWORD, None).publisher()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value, chain=True))


@pytest.mark.parametrize("kind", ["rabbitmq", "redis", "kafka"])
async def test_a_server_without_tls_hears_no_password(kind: str) -> None:
    """NATS, where the server speaks first, has tests of its own."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.write(b"what?")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(TransportDown):
            await MAKE[kind](f"127.0.0.1:{server.sockets[0].getsockname()[1]}", PASSWORD, None).publisher()
    assert heard
    # The record that begins a handshake.
    assert all(data[:1] == b"\x16" and PASSWORD.encode() not in data for data in heard if data)


@pytest.mark.parametrize("kind", list(MAKE))
async def test_an_unreachable_broker_is_named_without_the_password(kind: str) -> None:
    transport = MAKE[kind]("127.0.0.1:1", PASSWORD, None)
    with pytest.raises(TransportDown, match="127.0.0.1:1") as caught:
        await transport.publisher()
    shown = [str(caught.value), *traceback.format_exception(caught.value, chain=True), repr(transport)]
    assert not any(PASSWORD in text for text in shown)


@pytest.mark.parametrize("url", [f"amqp://{USER}:{PASSWORD}@[::1", f"amqp://{USER}:{PASSWORD}@host:port/", f"nonsense:{PASSWORD}@"])
@pytest.mark.parametrize("kind", [RabbitMQ, NATS, Redis])
async def test_an_unreadable_url_is_reported_without_the_password(kind: type, url: str) -> None:
    with pytest.raises((TransportDown, ConfigurationError)) as caught:
        await kind(url=url, timeout=5).publisher()
    assert not any(PASSWORD in text for text in traceback.format_exception(caught.value, chain=True))


async def test_an_option_that_kafka_does_not_know_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no.such.option"):
        await Kafka(url="127.0.0.1:1", options={"no.such.option": "1", "sasl.password": PASSWORD}).publisher()
