from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.redis import Redis

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "transports.md").read_text(encoding="utf-8")


def test_its_first_snippet_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(snippet, "docs/transports.md", "exec"), {})  # noqa: S102 - our own document


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
