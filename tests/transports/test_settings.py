"""What cannot be is refused when a transport is made, or when its service starts; never tried for ever, and never with a password in the text."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.transports.secure import PASSWORD
from tidings.errors import ConfigurationError, MissingExtra, ProvisionError, TransportDown
from tidings.relay.contact import Needs, first_contact
from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.redis import Redis

WHO = f"tidings:{PASSWORD}"
NOT_THERE = "/there/is/no/such.pem"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        # Addresses.
        (lambda: RabbitMQ(None), "RabbitMQ url is a NoneType"),  # type: ignore[arg-type]
        (lambda: RabbitMQ(f"http://{WHO}@host:1"), "http://host:1: the scheme of the URL is not amqp:// or amqps://"),
        (lambda: RabbitMQ("host:1"), "host:1: the URL has no scheme: give amqp://"),
        (lambda: RabbitMQ("amqp:///vhost"), "names no host"),
        (lambda: RabbitMQ(f"amqp://{WHO}@host:1/\n"), "white space"),
        (lambda: RabbitMQ(f"amqp://{WHO}@one:1,two:2/"), "several hosts|cannot be read"),
        (lambda: RabbitMQ(f"amqp://{WHO}@one,two/"), "several hosts"),
        (lambda: RabbitMQ("amqps://host?cafil=/x"), "'cafil', which aiormq does not know; it knows auth, cadata, cafile"),
        (lambda: RabbitMQ("amqp://host?cafile=/x"), "cafile is for TLS, which amqp:// has not: give amqps://"),
        (lambda: RabbitMQ("amqp://host?heartbeat=xx"), "heartbeat='xx'"),
        (lambda: RabbitMQ("amqp://host?heartbeat=65535"), "heartbeat='65535'"),
        (lambda: RabbitMQ("amqp://host?auth=magic"), "auth='magic'"),
        (lambda: Kafka(""), "Kafka url is empty"),
        (lambda: Kafka("http://x y:z"), "the scheme of the URL is not kafka://"),
        (lambda: Kafka("one:9092,"), "Kafka url is empty"),
        (lambda: Kafka("one:9092,two three:9092"), "white space"),
        (lambda: Kafka("one:port"), "cannot be read"),
        (lambda: Kafka(f"kafka://{WHO}@host:9092"), "Kafka host:9092: nobody logs in by .*sasl.username"),
        (lambda: NATS(f"http://{WHO}@host:1"), "http://host:1: the scheme of the URL is not nats:// or tls://"),
        (lambda: NATS("nats://one:1,TLS://two:1"), "scheme"),
        (lambda: NATS("nats://one:1,,"), "NATS url is empty"),
        (lambda: Redis(f"http://{WHO}@host:1"), "not redis:// or rediss://"),
        (lambda: Redis(f"redis+sentinel://{WHO}@host:1/main"), "the scheme of the URL is not"),
        (lambda: Redis("redis://one,two/0"), "several hosts.*Sentinel and Cluster are not supported"),
        (lambda: Redis("redis://host/main"), "number of a database"),
        (lambda: Redis("redis://host?ssl_ca_certs=/x"), "ssl_ca_certs is for TLS, which redis:// has not: give rediss://"),
        (lambda: Redis("redis://host?protocol=3"), "'protocol' is set by Tidings"),
        (lambda: Redis("redis://host?decode_responses=true"), "'decode_responses' is set by Tidings"),
        # Numbers and names.
        (lambda: RabbitMQ("amqp://host", prefetch=0), "prefetch=0 is not a whole number from 1 to 65,535"),
        (lambda: RabbitMQ("amqp://host", prefetch=10**6), "prefetch=1000000 is not"),
        (lambda: RabbitMQ("amqp://host", partitions=True), "partitions=True"),
        (lambda: RabbitMQ("amqp://host", name=""), "name=''"),
        (lambda: RabbitMQ("amqp://host", exchange="x" * 251), "exchange='xxx.*1 to 250 bytes"),
        (lambda: Kafka("host", partitions=0), "partitions=0 is not a whole number from 1"),
        (lambda: Kafka("host", replicas=0), "replicas=0"),
        (lambda: Kafka("host", timeout=-1), "timeout=-1 is no number of seconds above 0"),
        (lambda: Kafka("host", session=0), "session=0"),
        (lambda: Kafka("host", drain=-1), "drain=-1 is no number of seconds from 0"),
        (lambda: Kafka("host", most=0), "most=0"),
        (lambda: NATS("host", replicas=9), "replicas=9 is not a whole number from 1 to 5"),
        (lambda: NATS("host", prefetch=0), "prefetch=0"),
        (lambda: NATS("host", max_age=0), "max_age=0"),
        (lambda: NATS("host", timeout=float("nan")), "timeout=nan"),
        (lambda: NATS("host", name="two words"), "name='two words'"),
        (lambda: Redis("redis://host", retain=0), "retain=0"),
        (lambda: Redis("redis://host", idle=0), "idle=0"),
        (lambda: Redis("redis://host", timeout="5"), "timeout='5'"),  # type: ignore[arg-type]
        # What is set here.
        (lambda: Kafka("host", options={"acks": "1"}), "'acks' is set by Tidings: its promises rest on it"),
        (lambda: Kafka("host", options={"bootstrap.servers": "other:1"}), "'bootstrap.servers' is set by Tidings: give url="),
        (lambda: Kafka("host", options={"message.max.bytes": 10}), "give most="),
        (lambda: Kafka("host", options={"group.id": "mine"}), "group"),
        (lambda: NATS("host", options={"allow_reconnect": True}), "'allow_reconnect' is set by Tidings"),
        (lambda: NATS("host", options={"tls": "/x"}), "is no SSLContext"),
        (lambda: RabbitMQ("amqp://host", arguments={"x-queue-type": "classic"}), "'x-queue-type' is set by Tidings"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        make()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value, chain=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RabbitMQ("amqps://user:pa%2Fss@[::1]:5671/vhost?cafile=/x&heartbeat=0&name=shop&auth=external"),
        lambda: Kafka("kafka://one:9092, kafka://two:9092/,[::1]:9092,three"),
        lambda: Kafka("h", drain=0, config={"min.insync.replicas": 2}, options={"oauth_cb": lambda _config: ("token", 1.0)}),
        lambda: NATS("nats://one, tls://user:password@two:4222,three:1", max_age=1.5),
        lambda: Redis("rediss://:password@host?ssl_cert_reqs=required&socket_keepalive=true"),
        lambda: Redis("unix:///run/redis.sock?db=2"),
    ],
)
def test_what_can_be_is_taken(make: Callable[[], object]) -> None:
    assert "password" not in repr(make())


@pytest.mark.parametrize("mode", ["create", "off"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Kafka("127.0.0.1:1", options={"no.such.option": 1}), "127.0.0.1:1.*no.such.option"),
        (
            lambda: Kafka("127.0.0.1:1", options={"security.protocol": "SSL", "ssl.ca.location": NOT_THERE}),
            f"ssl.ca.location='{NOT_THERE}'",
        ),
        (lambda: Kafka("127.0.0.1:1", options={"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}), "sasl.username and"),
        (lambda: Kafka("127.0.0.1:1", options={"oauth_cb": 3}), "oauth_cb"),
        (lambda: RabbitMQ(f"amqps://{WHO}@127.0.0.1:1?cafile={NOT_THERE}"), f"127.0.0.1:1: cafile='{NOT_THERE}' is not there"),
        (lambda: Redis(f"rediss://{WHO}@127.0.0.1:1?ssl_ca_certs={NOT_THERE}"), f"ssl_ca_certs='{NOT_THERE}' is not there"),
        (lambda: Redis(f"redis://{WHO}@127.0.0.1:1?foo=1"), "127.0.0.1:1.*'foo'"),
        (lambda: Redis(f"rediss://{WHO}@127.0.0.1:1?ssl_cert_reqs=perhaps"), "127.0.0.1:1.*perhaps"),
        (lambda: NATS(f"nats://{WHO}@127.0.0.1:1", options={"no_such": 1}), "no_such"),
        (lambda: NATS("nats://127.0.0.1:1", options={"user_credentials": NOT_THERE}), f"user_credentials='{NOT_THERE}'"),
        (lambda: NATS("nats://127.0.0.1:1", options={"nkeys_seed": NOT_THERE}), f"nkeys_seed='{NOT_THERE}'"),
    ],
)
async def test_what_only_its_client_can_tell_is_an_error_at_start(make: Callable[[], Any], says: str, mode: Any) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        await first_contact([Needs(make(), ["topic"], {}, "relay:x")], mode, 10)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value, chain=True))


async def test_a_login_by_keys_that_lacks_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(MissingExtra, match=r"user_credentials.*tidings\[nats\]"):
        await NATS("nats://127.0.0.1:1", options={"nkeys_seed_str": "SUAGEXAMPLE"}).publisher()


@pytest.mark.parametrize("there", [True, False])
async def test_kafka_asks_its_callback_for_a_token_and_waits_for_one(there: bool) -> None:
    asked: list[str] = []

    def token(config: str) -> tuple[str, float]:
        asked.append(config)
        if not there:
            raise OSError("who gives tokens is down")
        return "token", time.time() + 3600

    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.config": "mine",
        "oauth_cb": token,
    }
    with pytest.raises(TransportDown, match="127.0.0.1:1"):
        await Kafka("127.0.0.1:1", options=options, timeout=2).provision(["x"], {})
    assert asked[:1] == ["mine"]


async def test_rabbitmq_says_which_name_is_too_long() -> None:
    long = "g" * 256
    with pytest.raises(ProvisionError, match="group 'ggg.*has 256 bytes, more than the 255"):
        await RabbitMQ("amqp://127.0.0.1:1").provision(["a"], {long: ["a"]})
    with pytest.raises(ProvisionError, match="topic 'ggg.*has 256 bytes, more than the 255"):
        await RabbitMQ("amqp://127.0.0.1:1").provision(["a"], {"g": [long]})
    with pytest.raises(ProvisionError, match="has 245 bytes, more than the 244"):
        await RabbitMQ("amqp://127.0.0.1:1", partitions=2).provision(["a"], {"g" * 245: ["a"]})
