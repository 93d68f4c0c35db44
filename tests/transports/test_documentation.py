from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import asyncio as client

from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.redis import Redis

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "transports.md").read_text(encoding="utf-8")


VALUES, READING = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_its_first_snippet_runs() -> None:
    exec(compile(VALUES, "docs/transports.md", "exec"), {})  # noqa: S102 - our own document


async def test_its_snippet_about_reading_by_position_reads_on_where_it_was(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    topic = f"orders.{uuid4().hex}"
    transport = Redis(url=redis_url)
    await transport.provision([topic], {})
    code = compile(READING.replace('"orders"', repr(topic)), "docs/transports.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"transport": transport, "position": ""}
    async with client.Redis.from_url(redis_url) as server:
        for number in range(3):
            await server.xadd(topic, {"ce-id": str(number), "ce-type": "order.placed", "data": "{}"})
        await eval(code, names)  # noqa: S307 - our own document
        end = names["position"]
        assert end == (await transport.end([topic]))[topic]
        assert capsys.readouterr().out == ""
        for number in range(3, 6):
            await server.xadd(topic, {"ce-id": str(number), "ce-type": "order.placed", "data": "{}"})
        await server.xtrim(topic, maxlen=1, approximate=False)
        await eval(code, names)  # noqa: S307 - our own document
        assert names["position"] != end
        assert "messages are missing before" in capsys.readouterr().out
        await server.delete(topic)


def test_its_table_says_what_the_transports_say() -> None:
    transports: dict[str, Any] = {
        "RabbitMQ": RabbitMQ(url="amqp://x"),
        "Kafka": Kafka(url="x"),
        "NATS JetStream": NATS(url="x"),
        "Redis Streams": Redis(url="redis://x"),
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
    names = rows[0][1:]
    (failure,) = [row[1:] for row in rows if row[0] == "when a message is not confirmed"]
    (ordered,) = [row[1:] for row in rows if row[0] == "order by key, in a group"]
    for name, says, order in zip(names, failure, ordered, strict=True):
        assert f"`{transports[name].failure}`" in says
        assert order.startswith("no") == (not transports[name].ordered)


def test_what_it_calls_an_option_is_one() -> None:
    known = {field.name for kind in (RabbitMQ, Kafka, NATS, Redis) for field in fields(kind)}
    assert {"partitions", "drain", "session", "idle", "most", "options", "replicas", "wire", "exchange"} <= known
