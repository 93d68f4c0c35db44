"""Every page on a store that has a bit of everything, and what stands in it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import furnish
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.dashboard.charts import charts_of
from tidings.dashboard.render import environment
from tidings.stores.sql.queries import Backlog, Queries
from tidings.stores.sql.views_stats import Point

PAGES = {
    "/": ("Overview", "till/book"),
    "/events": ("Published", "sale.made", "drawer.opened"),
    "/events?name=sale.*&key=bad": ("sale.made",),
    "/subscriptions": ("till/book", "security/watch"),
    "/failures": ("Refused", "till/book"),
    "/failures?key=bad": ("Refused",),
    "/keys": ("bad", "Refused", "Skip head"),
    "/keys?state=retrying": ("No key is waiting",),
    "/scheduled": ("drawer.opened", "Cancel"),
    "/topics": ("sale.made", "<svg"),
    "/workers": ("log",),
    "/audit": ("Nobody has done anything",),
    "/actions/redrive?all=true": ("1 blocked key, 2 events wait behind",),
    "/actions/discard?key=bad": ("1 blocked key",),
    "/actions/pause?service=till&subscription=till/book": ("till/book of till",),
}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_shows_what_there_is(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    for words in PAGES[path]:
        assert words in answer.text
    assert "<script>" not in answer.text


async def test_an_event_is_found_by_its_id_alone_and_shows_what_happened_to_it(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/api/events", params={"key": "bad"})).json()["events"]
    for row in listed:
        page = await client.get(f"/events/{row['id']}")
        assert page.status_code == 200
        assert "committed" in page.text
        assert "Conversation" in page.text
    first = (await client.get(f"/api/events/{listed[-1]['id']}")).json()
    assert [step["what"] for step in first["happened"]] == ["committed", "attempt 1 failed", "dead"]
    behind = (await client.get(f"/api/events/{listed[0]['id']}")).json()
    assert "waits behind another" in [step["what"] for step in behind["happened"]]


async def test_a_parked_event_shows_error_attempts_and_bytes(client: httpx.AsyncClient) -> None:
    (failed,) = (await client.get("/api/failures")).json()["failures"]
    page = await client.get(f"/deliveries/{failed['number']}")
    assert page.status_code == 200
    assert "Refused" in page.text
    assert "\x1b" not in page.text
    assert "attempt 1" in page.text
    group = await client.get(f"/failures/{failed['fingerprint']}/1")
    assert group.status_code == 200
    assert "Redrive the group" in group.text


async def test_what_is_not_there_is_a_sentence(client: httpx.AsyncClient) -> None:
    for path in (
        "/nothing",
        "/deliveries/999",
        "/deliveries/x",
        "/subscriptions/99",
        "/failures/none/1",
        "/scheduled/nope",
        "/actions/nope",
    ):
        answer = await client.get(path)
        assert answer.status_code == 404, path
        assert "<h1>" in answer.text
    for path in ("/api/nothing", "/api/deliveries/999", "/api/audit/7", "/api/scheduled/nope"):
        answer = await client.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
    answer = await client.get("/events/01a1fdd5-3c23-733d-8027-1459f0e17dcd")
    assert answer.status_code == 404
    assert "Event not found" in answer.text


async def test_a_bad_parameter_is_named_with_its_value_and_what_to_give_instead(client: httpx.AsyncClient) -> None:
    answer = await client.get("/events", params={"since": "yesterday"})
    assert answer.status_code == 400
    assert "since=&#39;yesterday&#39;: give a time such as" in answer.text
    answer = await client.get("/api/events", params={"limit": "0"})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "limit=0: give a number from 1 to 200"


async def test_the_overview_says_whether_all_is_well(client: httpx.AsyncClient) -> None:
    found = (await client.get("/api/overview")).json()
    assert found["well"] is False
    assert any("subscription till/book: 1 dead event, 2 waiting behind" in problem for problem in found["problems"]), found["problems"]
    page = (await client.get("/")).text
    assert "Not well:" in page
    assert "1 dead event, 2 waiting behind" in page


async def test_leased_tasks_are_in_the_api_as_on_the_page(client: httpx.AsyncClient) -> None:
    tasks = (await client.get("/api/workers")).json()["tasks"]
    assert tasks
    page = (await client.get("/workers")).text
    assert all(task["task"] in page for task in tasks)


async def test_failures_of_one_event_are_found_by_its_id(client: httpx.AsyncClient) -> None:
    (row,) = (await client.get("/api/failures")).json()["failures"]
    found = (await client.get("/api/failures", params={"event_id": row["event_id"]})).json()
    assert [item["number"] for item in found["failures"]] == [row["number"]]
    other = (await client.get("/api/failures", params={"event_id": "01a1fdd5-3c23-733d-8027-1459f0e17dcd"})).json()
    assert other == {"failures": [], "before": None, "searched": None}
    assert row["event_id"] in (await client.get("/failures", params={"event_id": row["event_id"]})).text
    none = (await client.get("/failures", params={"event_id": "01a1fdd5-3c23-733d-8027-1459f0e17dcd"})).text
    assert "Nothing more of this kind has failed." in none
    assert "Nothing is parked" not in none, "something is"


async def test_failures_of_a_time_are_found_and_acted_on(client: httpx.AsyncClient) -> None:
    (row,) = (await client.get("/api/failures")).json()["failures"]
    at = row["failed_at"]
    for filters, found in (
        ({"since": at}, True),
        ({"until": at}, False),
        ({"until": "2100-01-01T00:00:00Z"}, True),
        ({"since": "2100-01-01"}, False),
    ):
        for more in ({}, {"event_id": row["event_id"]}, {"fingerprint": row["fingerprint"]}):
            listed = (await client.get("/api/failures", params={**filters, **more})).json()["failures"]
            assert [item["number"] for item in listed] == ([row["number"]] if found else []), (filters, more)
        page = (await client.get("/failures", params=filters)).text
        assert (f'href="/deliveries/{row["number"]}"' in page, "Redrive all that match" in page) == (found, True)
    page = (await client.get("/failures", params={"since": at})).text
    assert f"/actions/redrive?since={at.replace(':', '%3A').replace('+', '%2B')}" in page


async def test_no_filter_of_failures_is_left_out_beside_another(client: httpx.AsyncClient) -> None:
    (row,) = (await client.get("/api/failures")).json()["failures"]
    (subscription,) = [item for item in (await client.get("/api/subscriptions")).json() if item["label"] == row["label"]]
    mine = {
        "service": row["service"],
        "subscription": row["label"],
        "subscription_id": subscription["id"],
        "event": row["name"],
        "key": row["key"],
        "state": "dead",
    }
    wrong = {"service": "other", "subscription": "other", "subscription_id": 2**30, "event": "other", "key": "other", "state": "retrying"}
    for one in ({}, {"fingerprint": row["fingerprint"]}, {"event_id": row["event_id"]}):
        found = (await client.get("/api/failures", params={**one, **mine})).json()["failures"]
        assert [item["number"] for item in found] == [row["number"]]
        for name, value in wrong.items():
            assert (await client.get("/api/failures", params={**one, **mine, name: value})).json()["failures"] == [], name
    group = f"/failures/{row['fingerprint']}/{subscription['id']}"
    for state, shown in (("dead", True), ("retrying", False)):
        assert (f'href="/deliveries/{row["number"]}"' in (await client.get(group, params={"state": state})).text) == shown


async def test_the_list_of_subscriptions_has_their_rates(client: httpx.AsyncClient) -> None:
    made_rate = environment().filters["rate"]
    assert [made_rate(count) for count in (0, 1, 14, 15, 149, 150, 899, 900, 9000, 90_000_000)] == [
        "-", "4/h", "56/h", "1.0/min", "9.9/min", "10/min", "60/min", "1.0/s", "10/s", "100,000/s",
    ]  # fmt: skip
    page = (await client.get("/subscriptions")).text
    (book,) = [item for item in (await client.get("/api/subscriptions")).json() if item["label"] == "till/book"]
    row = page.partition(">till/book</a>")[2].partition("</tr>")[0]
    assert book["handled"]
    assert f'data-label="Rate">{made_rate(book["handled"])}</td>' in row


async def test_what_the_api_does_not_have_is_a_sentence(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/api/no-such"), await client.post("/api/overview", json={})
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["detail"] == "GET /api/no-such: there is nothing at this address; api/openapi.json lists what there is."
    assert "takes another method" in wrong.json()["detail"]


@pytest.mark.parametrize("page", ["/failures", "/keys", "/events", "/scheduled", "/audit", "/subscriptions", "/topics", "/workers"])
async def test_a_filter_that_there_is_not_is_refused_not_left_out(client: httpx.AsyncClient, page: str) -> None:
    answer = await client.get(f"{page}?fingerprnt=zz")
    assert answer.status_code == 400
    assert "fingerprnt=&#39;zz&#39;: there is no such parameter; there are " in answer.text
    assert (await client.get(page)).status_code == 200


async def test_what_is_wrong_is_said_in_words_that_help(client: httpx.AsyncClient) -> None:
    page = await client.get("/events/zzz")
    assert (page.status_code, "is no UUID" in page.text, "its time says" in page.text) == (404, True, False)
    low = await client.post("/api/actions/redrive", json={"number": 0})
    assert low.json()["detail"] == "number=0: give a number from 1 to 9007199254740992"
    nothing = await client.post("/api/actions/redrive", json={})
    assert nothing.json()["detail"] == "all: nothing says which events: give a filter that chooses some, or all=true"


async def test_a_lease_that_has_run_out_is_held_by_nobody_although_its_worker_was_seen_a_moment_ago(
    fresh: Database, open_store: Any
) -> None:
    furnish(fresh)
    engine = create_engine(fresh.sync_url)
    async with client_of(Dashboard(open_store(fresh))) as client:
        held = {"till/relay:rabbitmq@log", "till/security@kafka"}
        found = (await client.get("/api/workers")).json()
        assert {item["reader"] for item in found["readers"] if item["alive"]} == held
        with engine.begin() as connection:
            connection.execute(text("update tidings_checkpoints set lease_until = null where lease_until is not null"))
        engine.dispose()
        found = (await client.get("/api/workers")).json()
        assert [item["reader"] for item in found["readers"] if item["alive"]] == []
        assert [item["holds"] for item in found["workers"] if item["host"] == "app-1"] == [[]]
        page = (await client.get("/workers")).text
        row = page.partition("<td>till/security@kafka</td>")[2].partition("</tr>")[0]
        assert "nobody reads" in row


async def test_a_backlog_that_was_not_counted_to_its_end_says_so(fresh: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(Dashboard(open_store(fresh))) as client:
        exact = (await client.get("/")).text.partition("<dt>Backlog</dt>")[2]
        assert re.match(r'<dd><a href="/workers">2</a>', exact)
        monkeypatch.setattr(Queries, "backlog", lambda *_: Backlog(10_001, datetime.now(UTC)))
        bounded = (await client.get("/")).text.partition("<dt>Backlog</dt>")[2]
        assert re.match(r'<dd><a href="/workers">20,002\+</a>', bounded)


def test_an_hour_without_anything_is_a_gap_in_the_charts_of_durations_and_nothing_in_it_is_now() -> None:
    begin = datetime(2026, 1, 1, 12, tzinfo=UTC)
    minutes = [begin + timedelta(minutes=index) for index in range(60)]
    measured = [Point(minutes[index], "took:20", 4) for index in (3, 4, 40)]
    _, _, handling, lag = charts_of(minutes, [], minutes, measured)
    assert handling.times == [int(minute.timestamp()) for minute in minutes]
    p50 = handling.series[0].values
    assert [index for index, value in enumerate(p50) if value is not None] == [3, 4, 40]
    assert handling.summary.startswith("Handler duration (ms): p50 15 when it was measured last, 15 at most")
    assert handling.svg().count('class="line line-0"') == 2
    assert lag.empty


def test_a_duration_beyond_the_last_bound_is_not_given_as_that_bound() -> None:
    shown = environment().filters["ms"]
    assert [shown(value) for value in (None, 1.5, 900, 12_000, 60_000)] == ["-", "1.5 ms", "900 ms", "12 s", "≥ 60 s"]
