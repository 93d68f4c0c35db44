"""Wire formats: what an event of 300 bytes costs to write and to read, beside the official CloudEvents SDK."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from benchmarks.measuring import Run, interleave
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import check
from tidings.codecs import cap, wire
from tidings.codecs.bindings import AMQP, KAFKA, NATS
from tidings.codecs.cloudevents import encode_binary, encode_structured
from tidings.codecs.message import CloudEvent, Message

EVENT = CloudEvent(
    "0197c1b2-7c00-7abc-8def-0123456789ab",
    "/shop",
    "order.placed.v2",
    b'{"order_id":"0197c1b2-7c00-7abc-8def-0123456789ab","note":"%s"}' % (b"x" * 240),
    datetime(2026, 7, 1, 17, 44, 38, 123456, tzinfo=UTC),
    key="42",
    extensions={"correlationid": "0197c1b2-7c00-7abc-8def-0123456789ab", "sequence": "17"},
)


async def run(settings: Settings) -> list[Section]:
    """Write and read one event over and over, every format in turn with the SDK's binary mode on Kafka."""
    times = settings.count(20_000, 200)
    sdk_write, sdk_read = _sdk()
    written = {
        "Kafka, binary": (lambda: encode_binary(EVENT, KAFKA), KAFKA),
        "AMQP, binary": (lambda: encode_binary(EVENT, AMQP), AMQP),
        "NATS, binary": (lambda: encode_binary(EVENT, NATS), NATS),
        "structured": (lambda: encode_structured(EVENT, KAFKA), KAFKA),
        "CAP": (lambda: cap.encode(EVENT, "order.placed", AMQP), AMQP),
    }
    contenders: dict[str, Run] = {"SDK write": _timed(sdk_write, times // 4), "SDK read": _timed(sdk_read, times // 4)}
    for name, (write, binding) in written.items():
        message = write()
        found = wire.decode(message, binding, ("cloudevents", "cap"))
        check(name, id=(found.id, EVENT.id), data=(found.data, EVENT.data), key=(found.key, EVENT.key))
        contenders[f"{name} write"] = _timed(write, times)
        contenders[f"{name} read"] = _timed(lambda m=message, b=binding: wire.decode(m, b, ("cloudevents", "cap")), times)
    figures = await interleave("wire", contenders, settings.rounds)
    rows = [
        Row(f"{name} {way}", figures[f"{name} {way}"], figures[f"SDK {way}"], (Goal("ratio", "<=", 1),))
        for way in ("write", "read")
        for name in written
    ]
    return [Section("wire formats, an event of 300 bytes", "µs", "cloudevents SDK, Kafka binary", rows)]


def _timed(work: Callable[[], object], times: int) -> Run:
    async def measured() -> float:
        began = perf_counter()
        for _ in range(times):
            work()
        return (perf_counter() - began) / times * 1e6

    return measured


def _sdk() -> tuple[Callable[[], Any], Callable[[], Any]]:
    from cloudevents.core.bindings import kafka
    from cloudevents.core.formats.json import JSONFormat

    plain = JSONFormat()
    message: Message = encode_binary(EVENT, KAFKA)
    headers = {name: value.encode() for name, value in message.headers.items() if isinstance(value, str)}
    theirs = kafka.KafkaMessage({**headers, "content-type": b"application/json"}, EVENT.key, EVENT.data or b"")
    event = kafka.from_kafka(theirs, plain)
    return lambda: kafka.to_binary(event, plain), lambda: kafka.from_kafka(theirs, plain)
