"""What the pages and the API say of one event's way, and of the brokers: by which worker, through which connection, also when little is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import furnish
from tests.services.databases import Database
from tidings.consume.failures import this_process
from tidings.dashboard import Dashboard

HERE = ":".join(map(str, this_process()))


@pytest.fixture
def made(fresh: Database) -> dict[str, Any]:
    return furnish(fresh)


@pytest.fixture
async def visitor(fresh: Database, made: dict[str, Any], open_store: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Dashboard(open_store(fresh))) as client:
        yield client


async def test_the_timeline_says_which_worker_handled_an_event_and_in_which_one_an_attempt_failed(client: httpx.AsyncClient) -> None:
    (handled,) = (await client.get("/api/events", params={"key": "a-1"})).json()["events"]
    happened = (await client.get(f"/api/events/{handled['id']}")).json()["happened"]
    assert [(step["what"], step["worker"]) for step in happened] == [("committed", None), ("handled", HERE)]
    page = (await client.get(f"/events/{handled['id']}")).text
    assert f"by {HERE}" in page
    failed = (await client.get("/api/events", params={"key": "bad"})).json()["events"][-1]
    happened = (await client.get(f"/api/events/{failed['id']}")).json()["happened"]
    assert [(step["what"], step["worker"]) for step in happened] == [("committed", None), ("attempt 1 failed", HERE), ("dead", None)]


async def test_of_an_event_from_elsewhere_there_is_what_the_inbox_remembers(visitor: httpx.AsyncClient, made: dict[str, Any]) -> None:
    path = f"/events/{made['elsewhere']}"
    page = await visitor.get(path, params={"source": "/shop"})
    assert page.status_code == 200
    assert "Event from elsewhere" in page.text
    assert f"by {HERE}" in page.text
    found = (await visitor.get(f"/api{path}/ending", params={"source": "shop"})).json()
    assert (found["id"], found["source"], found["parked"]) == (made["elsewhere"], "shop", [])
    assert [(step["what"], step["who"], step["worker"]) for step in found["happened"]] == [("handled", "till/book", HERE)]
    near = await visitor.get(path)
    assert near.status_code == 404
    assert "an id of the same millisecond" in near.text
    near = await visitor.get(f"/api{path}/ending")
    assert (near.status_code, near.json()["source"]) == (200, None)
    for query in ({"source": "other"}, {"source": "x" * 256}):
        answer = await visitor.get(f"/api{path}/ending", params=query)
        assert answer.status_code in (400, 404)
        assert (await visitor.get(path, params=query)).status_code in (400, 404)


async def test_the_overview_says_how_each_broker_is(visitor: httpx.AsyncClient) -> None:
    kafka, rabbitmq = (await visitor.get("/api/overview")).json()["brokers"]
    assert (rabbitmq["kind"], rabbitmq["address"], rabbitmq["state"]) == ("RabbitMQ", "amqps://rabbitmq.eu.example.com:5671", "connected")
    assert rabbitmq["since"] is not None
    assert rabbitmq["error"] == "connection reset by <b>peer</b>"
    (link,) = rabbitmq["links"]
    assert (link["label"], link["way"], link["owner"], link["connected"], link["workers"]) == ("relay:rabbitmq", "sends", "app-1:17", 1, 1)
    assert (kafka["state"], kafka["error"], kafka["links"][0]["label"]) == ("down", "no answer within 30 s", "security/inbound:kafka")
    page = (await visitor.get("/")).text
    for text in ("Brokers", "kafka-1.example.com:9092", "connection reset by &lt;b&gt;peer", "relay:rabbitmq", "1 of 1"):
        assert text in page


async def test_attempts_stay_in_the_timeline_when_the_event_is_over(fresh: Database, open_store: Any) -> None:
    store = open_store(fresh)
    async with client_of(Dashboard(store)) as client:
        failed = (await client.get("/api/events", params={"key": "bad"})).json()["events"][-1]
        await client.post("/api/actions/discard", json={"key": "bad", "reason": "a test"})
        happened = (await client.get(f"/api/events/{failed['id']}")).json()["happened"]
        assert [(step["what"], step["worker"]) for step in happened] == [
            ("committed", None),
            ("attempt 1 failed", HERE),
            ("discarded", None),
        ]
        assert "Refused" in happened[1]["detail"]
        assert "Refused" in (await client.get(f"/events/{failed['id']}")).text
    async with client_of(Dashboard(store, redact=["text"])) as client:
        happened = (await client.get(f"/api/events/{failed['id']}")).json()["happened"]
        assert [(step["what"], step["detail"]) for step in happened[1:]] == [("attempt 1 failed", ""), ("discarded", "")]
        assert "Refused" not in (await client.get(f"/events/{failed['id']}")).text
