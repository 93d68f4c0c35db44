"""Storing an event that cannot be handled may not depend on its being storable as text (invariant 6): one crafted message must not stop a queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tests.stores.events import everything, insert
from tidings.consume.failures import failure_of, printable, remember
from tidings.consume.parking import MAX_KEY, parking
from tidings.consume.received import Received, from_delivery
from tidings.ids import lane_of
from tidings.publish.outgoing import Outgoing
from tidings.stores import SQLStore

HOSTILE = {
    "NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
    "all surrogates": "".join(map(chr, range(0xD800, 0xDC00))),
    "a megabyte": "k" * 1_000_000,
    "a megabyte of what is escaped": "\x01" * 1_000_000,
    "terminal control": "\x1b[2J\x07\x9b31m",
    "right to left": "\u202egnp.exe",
    "quotes and placeholders": "'; drop table tidings_outbox; -- %s $1 ? {x} \\",
    "emoji": "👩‍👩‍👧" * 200,
    "nothing": "",
    "separators": "\x1d\x1e\x1f,",
    "noncharacters": "\ufffe\uffff\U0010ffff",
}


def received(text: str, **rest: object) -> Received:
    """An event in which everything that a sender chooses is hostile."""
    values = {
        "event_id": text, "source": text, "name": text, "version": 2**31 - 1, "topic": text, "key": text,
        "time": datetime.now(UTC), "sequence": 2**63 - 1, "headers": text, "data": text, **rest,
    }  # fmt: skip
    return Received.of(**values)  # type: ignore[arg-type]


class Hostile(Exception):
    """Whose text is as hostile as the event's."""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_it_is_parked_claimed_and_finished_like_any_other(store: SQLStore, text: str) -> None:
    event = received(text, time=None if store.dialect.name == "sqlite" else datetime.now(UTC))
    failure = failure_of(Hostile(text))
    parked = parking(event, event.lane, "failed", attempts=1, history=remember("[]", 1, failure), failure=failure)
    assert event.lane == lane_of(text)
    await store.transact(store.lanes.park, 1, [parked])
    assert await store.transact(store.inbox.standing, 1, [uuid4().hex], [lane_of(text)]) != {}  # the key waits
    (lane,) = await store.transact(store.lanes.claim, [1], 10, 30.0, "me")
    (delivery,) = await store.call(store.lanes.load, lane, 10)
    # The bytes are what came; what people read is harmless.
    assert delivery.data == delivery.headers == text.encode("utf-8", "surrogatepass")
    assert (delivery.version, delivery.sequence) == (2**31 - 1, 2**63 - 1)
    assert delivery.key is not None
    texts = [(delivery.key, MAX_KEY)] + [(each, 255) for each in (delivery.event_id, delivery.source, delivery.name, delivery.topic)]
    for shown, limit in texts:
        assert shown == printable(text, limit)
        assert len(shown) <= limit
        assert all(character.isprintable() or character in "\n\t" for character in shown)
    again = from_delivery(delivery)
    assert again.event_key.replace("-", "") == event.event_key
    await store.transact(store.lanes.explain, lane, delivery.event_key, "failed", 2, remember(delivery.history, 2, failure), failure)
    assert await store.transact(store.lanes.finish, lane, [delivery.event_key], 30.0)


async def test_bytes_that_are_no_text_at_all_are_kept(store: SQLStore) -> None:
    body = bytes(range(256)) * 10
    event = received("x", headers=body, data=body, time=None)
    await store.transact(store.lanes.park, 1, [parking(event, event.lane, "undecodable", state="dead")])
    stored = await store.call(lambda c: tuple(c.exec_driver_sql("select headers, data from tidings_deliveries").one()))
    assert tuple(map(bytes, stored)) == (body, body)


@pytest.mark.parametrize("text", ["quotes and placeholders", "emoji", "right to left", "noncharacters", "separators"])
async def test_what_a_publisher_may_send_comes_back_from_the_log(store: SQLStore, text: str) -> None:
    """`publish` refuses the rest at the call."""
    key = HOSTILE[text]
    data, headers = json.dumps({"text": key, "nul": "\0", "half": "\ud800"}), json.dumps({"note": key})
    event = Outgoing(uuid4(), key, key, 1, key, key, 5, True, headers, data)
    await store.transact(insert, store, [event, event._replace(id=uuid4())])
    rows = await everything(store)
    assert len(rows) == 2
    for row in rows:
        assert (row[2], row[3], row[5], row[6]) == (key, key, key, key)
        assert (row[7], row[8]) == (headers, data)
