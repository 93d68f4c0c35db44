from __future__ import annotations

import subprocess
import sys

import pytest

CLIENTS = ("aiormq", "confluent_kafka", "nats", "redis")


@pytest.mark.parametrize(
    "module",
    ["tidings.transports", "tidings.transports.base", *(f"tidings.transports.{name}" for name in ("rabbitmq", "kafka", "nats", "redis"))],
)
def test_a_broker_client_is_loaded_when_it_is_used_and_not_before(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {CLIENTS} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(("name", "scheme"), [("RabbitMQ", "amqp"), ("Kafka", "kafka"), ("NATS", "nats"), ("Redis", "redis")])
async def test_a_missing_client_is_named_with_the_way_to_install_it(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    from tidings.errors import MissingExtra

    for client in CLIENTS:
        monkeypatch.setitem(sys.modules, client, None)
    transport = getattr(import_module(f"tidings.transports.{name.lower()}"), name)(url=f"{scheme}://host:1")
    with pytest.raises(MissingExtra, match=rf"tidings\[{name.lower()}\]"):
        await transport.publisher()
