"""What an operator does over pages and JSON API, what it changes, and what the audit says of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.cli.till import make_engine, make_service
from tests.consume.waiting import until
from tests.dashboard.conftest import client_of
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.dashboard.actions import ACTIONS
from tidings.dashboard.params import read
from tidings.ids import uuid7
from tidings.operations import Operations


@pytest.fixture
async def operator(fresh: Database, open_store: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Dashboard(open_store(fresh))) as made:
        yield made


def hidden_of(page: httpx.Response) -> dict[str, str]:
    return {name: unescape(value) for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text)}


async def post(client: httpx.AsyncClient, address: str, **fields: str) -> httpx.Response:
    """Open the confirmation, fill its form in, and send it, as a browser does."""
    page = await client.get(address)
    assert page.status_code == 200, page.text
    hidden = hidden_of(page)
    answer = await client.post(address.partition("?")[0], data={**hidden, **fields})
    assert answer.status_code == 303, answer.text
    return answer


async def head(client: httpx.AsyncClient) -> int:
    (row,) = (await client.get("/api/keys")).json()["keys"]
    return int(row["number"])


async def newest(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/api/audit")).json()["entries"][0]  # type: ignore[no-any-return]


async def test_a_redriven_key_is_tried_again_and_the_audit_says_who_did_it(operator: httpx.AsyncClient) -> None:
    answer = await post(operator, "/actions/redrive?key=bad&back=/keys", rate="5")
    assert answer.headers["location"].startswith("/keys?did=")
    page = await operator.get(answer.headers["location"])
    assert "1 changed, done" in page.text
    assert (await operator.get("/api/keys?state=retrying")).json()["keys"][0]["key"] == "bad"
    entry = await newest(operator)
    assert (entry["actor"], entry["action"], entry["changed"], entry["outcome"]) == ("local", "redrive", 1, "done")
    assert entry["target"] == {"key": "bad", "rate": 5.0}


@pytest.mark.parametrize("key", ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "10\u00a0\u20ac", "two\nlines & more\x1b"])
async def test_a_form_means_the_key_that_was_given_also_what_cannot_be_seen_of_it(operator: httpx.AsyncClient, key: str) -> None:
    hidden = hidden_of(await operator.get("/actions/redrive", params={"key": key, "back": "/keys"}))
    # Browsers send line breaks as CR LF.
    sent = {name: re.sub(r"\r?\n", "\r\n", value) for name, value in hidden.items()}
    assert (await operator.post("/actions/redrive", data=sent)).status_code == 303
    assert (await newest(operator))["target"] == {"key": key}
    # A filter keeps it, too, apart from line breaks, which no such field has.
    filtered = (await operator.get("/failures", params={"key": key})).text
    (field,) = re.findall(r'<input type="text" name="key" value="([^"]*)"', filtered)
    assert unescape(field) == key


async def test_of_two_operators_each_is_told_what_he_has_done_himself(operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Operations.pause

    async def pause(self: Operations, subscription: str) -> bool:
        done = await plain(self, subscription)
        # Another one is quicker to the end of the audit.
        await Operations(self._store, "till", "somebody else").resume(subscription)
        return done

    monkeypatch.setattr(Operations, "pause", pause)
    answer = await post(operator, "/actions/pause?service=till&subscription=till/book&back=/subscriptions")
    number = answer.headers["location"].partition("did=")[2]
    entry = (await operator.get(f"/api/audit/{number}")).json()
    assert (entry["actor"], entry["action"]) == ("local", "pause")


async def test_what_an_action_has_removed_leads_on_to_the_list_which_says_what_was_done(operator: httpx.AsyncClient) -> None:
    (group,) = (await operator.get("/api/failures/groups")).json()["groups"]
    one, all_ = f"/deliveries/{group['number']}", f"/failures/{group['fingerprint']}/{group['subscription_id']}"
    answer = await post(operator, f"/actions/redrive?number={group['number']}&back={one}")
    page = await operator.get(answer.headers["location"])
    assert (page.status_code, "<strong>Redrive</strong>: 1 changed, done" in page.text) == (200, True)
    filters = f"fingerprint={group['fingerprint']}&state=retrying"
    answer = await post(operator, f"/actions/discard?{filters}&back={all_}", reason="a test", whole="true")
    number = answer.headers["location"].partition("did=")[2]
    for gone, to in ((one, "/failures"), (all_, "/failures"), (f"/scheduled/{uuid7()}", "/scheduled")):
        answer = await operator.get(f"{gone}?did={number}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"{to}?did={number}")
        assert "<strong>Discard</strong>: 3 changed, done" in (await operator.get(answer.headers["location"])).text
        assert (await operator.get(gone)).status_code == 404, "for whoever has not just acted"


async def test_a_skipped_head_is_given_up_and_the_next_one_goes_on(operator: httpx.AsyncClient) -> None:
    number = await head(operator)
    await post(operator, f"/actions/discard?number={number}", reason="a test")
    (row,) = (await operator.get("/api/keys?state=retrying")).json()["keys"]
    assert row["depth"] == 2
    assert (await newest(operator))["target"]["reason"] == "a test"


async def test_a_whole_key_is_discarded_only_when_it_is_said(operator: httpx.AsyncClient) -> None:
    number = await head(operator)
    await post(operator, f"/actions/discard?number={number}", reason="a test", whole="true")
    for state in ("dead", "retrying"):
        assert (await operator.get("/api/keys", params={"state": state})).json()["keys"] == []


async def test_discarding_needs_a_reason(operator: httpx.AsyncClient) -> None:
    page = await operator.get("/actions/discard?key=bad")
    hidden = hidden_of(page)
    answer = await operator.post("/actions/discard", data={**hidden, "reason": " "})
    assert answer.status_code == 400
    assert "reason" in answer.text
    assert await head(operator)


async def test_an_edited_event_is_a_new_one_in_its_place(operator: httpx.AsyncClient, fresh: Database) -> None:
    number = await head(operator)
    old = (await operator.get(f"/api/deliveries/{number}")).json()
    data = json.loads(old["data"]["text"]) | {"receipt": "good"}
    await post(operator, f"/actions/edit?number={number}", data=json.dumps(data))
    new = (await operator.get(f"/api/deliveries/{number}")).json()
    assert new["event_id"] != old["event_id"]
    assert json.loads(new["headers"]["text"])["causationid"] == old["event_id"]
    # What failed was the old event.
    assert (len(old["history"]) > 0, new["history"], new["error_type"], new["fingerprint"], new["failed_at"]) == (
        True,
        [],
        None,
        None,
        None,
    )
    assert (await operator.get("/api/failures")).json()["failures"] == []
    assert "It has not been tried yet." in (await operator.get(f"/deliveries/{number}")).text
    told = [step["what"] for step in (await operator.get(f"/api/events/{old['event_id']}")).json()["happened"]]
    assert [what for what in told if "failed" in what] == [f"attempt {each['attempt']} failed" for each in old["history"]]
    engine = make_engine(fresh)
    service = make_service(engine)
    service.counters.total.clear()
    async with service:
        await until(lambda: service.counters.of("handled") > 1)
    await engine.dispose()
    gone = await operator.get(f"/api/deliveries/{number}")
    assert gone.status_code == 404, "it was handled"
    handled = (await operator.get(f"/api/events/{old['event_id']}")).json()["happened"]
    assert "discarded" in [step["what"] for step in handled]


async def test_what_is_no_json_is_not_put_in_place_of_an_event(operator: httpx.AsyncClient) -> None:
    number = await head(operator)
    before = (await operator.get(f"/api/deliveries/{number}")).json()
    answer = await operator.post("/api/actions/edit", json={"number": number, "data": "{"})
    assert answer.status_code == 400
    assert (await operator.get(f"/api/deliveries/{number}")).json() == before


async def test_a_subscription_is_paused_and_resumed(operator: httpx.AsyncClient) -> None:
    await post(operator, "/actions/pause?service=till&subscription=till/book")
    states = {item["label"]: item["state"] for item in (await operator.get("/api/subscriptions")).json()}
    assert states["till/book"] == "paused"
    await post(operator, "/actions/resume?service=till&subscription=till/book")
    states = {item["label"]: item["state"] for item in (await operator.get("/api/subscriptions")).json()}
    assert states["till/book"] == "active"


async def test_a_scheduled_event_is_brought_forward_and_another_one_cancelled(operator: httpx.AsyncClient) -> None:
    (waiting,) = (await operator.get("/api/scheduled")).json()["events"]
    await post(operator, f"/actions/run-now?event_id={waiting['id']}")
    (sooner,) = (await operator.get("/api/scheduled")).json()["events"]
    assert sooner["due_at"] < waiting["due_at"]
    await post(operator, f"/actions/cancel?event_id={waiting['id']}")
    assert (await operator.get("/api/scheduled")).json()["events"] == []
    assert [entry["action"] for entry in (await operator.get("/api/audit")).json()["entries"]] == ["cancel", "run now"]


async def test_everything_is_only_meant_when_it_is_said(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/api/actions/redrive", json={})
    assert answer.status_code == 400
    assert "all=true" in answer.json()["detail"]
    answer = await operator.post("/api/actions/redrive", json={"all": True, "dry_run": True})
    assert answer.json()["status"] == "planned"
    assert answer.json()["changed"] == 1
    assert (await operator.get("/api/audit")).json()["entries"] == [], "a dry run is no action"
    answer = await operator.post("/api/actions/redrive", json={"all": True})
    assert answer.json() == {"status": "done", "changed": 1, "sentence": "1 key is tried again"}


async def test_a_long_action_goes_on_after_the_answer(operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.dashboard.actions.AT_ONCE", 0)
    answer = await operator.post("/api/actions/redrive", json={"all": True})
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    assert (await newest(operator))["outcome"] == "done", "this client waits for what follows the answer"


async def test_what_is_gone_already_changes_nothing_and_says_so(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/api/actions/cancel", json={"event_id": str(UUID(int=1))})
    assert (answer.status_code, "no scheduled event of this id waits" in answer.json()["detail"]) == (404, True)
    assert (await newest(operator))["outcome"] == "not found"


async def test_the_audit_and_what_it_tells_of_commit_together(operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("tidings.stores.sql.audit.Audit.change", broken)
    answer = await operator.post("/api/actions/redrive", json={"all": True})
    assert answer.status_code == 500
    assert (await operator.get("/api/keys?state=dead")).json()["keys"], "nothing was redriven that is not written down"
    assert (await operator.get("/api/audit")).json()["entries"] == []


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_subscription_that_there_is_not_is_an_error(operator: httpx.AsyncClient, action: str) -> None:
    for body in ({"dry_run": True}, {}):
        answer = await operator.post(f"/api/actions/{action}", json={"service": "till", "subscription": "boook", **body})
        assert answer.status_code == 404
        assert "service 'till' has no subscription 'boook' that is not retired; it has security/watch, till/book" in answer.json()["detail"]


async def test_a_service_that_is_gone_is_forgotten(operator: httpx.AsyncClient) -> None:
    page = await operator.get("/workers")
    assert "/actions/forget-service?service=till" in page.text
    planned = await operator.post("/api/actions/forget-service", json={"service": "till", "dry_run": True})
    assert planned.json()["sentence"] == "service till with 2 groups and 2 subscriptions; 3 parked events stay, untouched"
    assert [item["state"] for item in (await operator.get("/api/services")).json()] == ["stopped"]
    await post(operator, "/actions/forget-service?service=till&back=/workers")
    (service,) = (await operator.get("/api/services")).json()
    assert (service["state"], service["holds_log"], service["parked"]) == ("forgotten", False, 3)
    entry = await newest(operator)
    assert (entry["action"], entry["target"], entry["outcome"]) == ("forget service", {"service": "till"}, "done")
    assert "/actions/forget-service" not in (await operator.get("/workers")).text
    missing = await operator.post("/api/actions/forget-service", json={"service": "till"})
    assert (missing.status_code, "no service 'till' that is not forgotten" in missing.text) == (404, True)


async def test_a_service_that_runs_is_not_forgotten(operator: httpx.AsyncClient, fresh: Database) -> None:
    engine = make_engine(fresh)
    async with make_service(engine):
        planned = (await operator.post("/api/actions/forget-service", json={"service": "till", "dry_run": True})).json()
        assert (planned["changed"], "1 worker is alive: stop it first" in planned["sentence"]) == (0, True)
        done = (await operator.post("/api/actions/forget-service", json={"service": "till"})).json()
        assert (done["changed"], "are alive" in done["sentence"]) == (0, True)
    await engine.dispose()


async def test_an_event_that_would_be_tried_again_is_given_up(operator: httpx.AsyncClient, fresh: Database) -> None:
    number = await head(operator)
    await post(operator, f"/actions/redrive?number={number}", rate="0.01")
    page = await operator.get(f"/deliveries/{number}")
    assert f"/actions/discard?number={number}&amp;state=retrying" in page.text
    assert "Discard the whole key" in page.text
    assert "state=retrying" in (await operator.get("/keys?state=retrying")).text
    wrong = await operator.post("/api/actions/discard", json={"number": number, "state": "waiting", "reason": "a test"})
    assert wrong.status_code == 400
    # Dead ones are meant unless it is said.
    assert (await operator.post("/api/actions/discard", json={"number": number, "reason": "a test"})).json()["changed"] == 0
    planned = await operator.post("/api/actions/discard", json={"number": number, "state": "retrying", "reason": "a", "dry_run": True})
    assert planned.json()["sentence"] == "1 blocked key, 2 events wait behind it"
    await post(operator, f"/actions/discard?number={number}&state=retrying", reason="a test")
    assert (await operator.get(f"/api/deliveries/{number}")).status_code == 404
    (row,) = (await operator.get("/api/keys?state=retrying")).json()["keys"]
    assert row["depth"] == 2
    entry = await newest(operator)
    assert (entry["action"], entry["changed"]) == ("discard", 1)
    assert entry["target"] == {"number": number, "state": "retrying", "reason": "a test"}


@pytest.mark.parametrize("action", ["redrive", "try-now", "discard", "edit"])
async def test_what_a_filter_names_and_there_is_not_is_an_error(operator: httpx.AsyncClient, action: str) -> None:
    filters: list[tuple[dict[str, Any], str]] = [({"number": 2**40}, f"there is no parked event {2**40}: it was handled or discarded")]
    if action != "edit":
        filters += [
            ({"subscription": "boook"}, "there is no subscription 'boook'; there are security/watch, till/book"),
            ({"service": "tlil"}, "there is no service 'tlil' with subscriptions; there are till"),
            ({"service": "till", "subscription": "tlil/book"}, "there is no subscription 'tlil/book'; there are security/watch, till/book"),
        ]
    further = {"discard": {"reason": "a test"}, "edit": {"data": "{}"}}.get(action, {})
    for given, detail in filters:
        for dry in (True, False):
            answer = await operator.post(f"/api/actions/{action}", json={**given, **further, "dry_run": dry})
            assert (answer.status_code, answer.json()["detail"]) == (404, detail)
        if action != "edit":
            page = await operator.get(f"/actions/{action}", params=given)
            assert (page.status_code, "Nothing to do" in page.text) == (200, True)
    # What there is and does not match is no error.
    if action != "edit":
        answer = await operator.post(f"/api/actions/{action}", json={"subscription": "security/watch", **further})
        assert (answer.status_code, answer.json()["changed"]) == (200, 0)


async def test_a_form_that_comes_too_late_is_not_taken_for_what_somebody_else_did(operator: httpx.AsyncClient) -> None:
    number = await head(operator)
    page = await operator.get(f"/actions/discard?number={number}")
    hidden = hidden_of(page)
    await post(operator, f"/actions/discard?number={number}", reason="a colleague", whole="true")
    late = await operator.post("/actions/discard", data={**hidden, "reason": "late"})
    assert (late.status_code, f"there is no parked event {number}: it was handled or discarded" in late.text) == (404, True)
    entry = await newest(operator)
    assert (entry["target"]["reason"], entry["changed"]) == ("late", 0)


async def test_a_misspelt_parameter_of_an_action_does_not_mean_everything(operator: httpx.AsyncClient) -> None:
    planned = await operator.get("/actions/redrive?all=true&subscriptoin=x")
    assert planned.status_code == 400
    assert "subscriptoin=&#39;x&#39;: there is no such parameter; there are all, event" in planned.text
    token = re.findall(r'name="csrf" value="([^"]+)"', (await operator.get("/actions/redrive?all=true")).text)[0]
    for meant in ("?" + "&".join(f"x{number}=1" for number in range(1000)), "?%zz&=&&all=true;x=%ff"):
        sent = await operator.post("/actions/redrive", data={"csrf": token, "back": "", "meant": meant})
        assert sent.status_code == 400, "a form that somebody else has made"
    sent = await operator.post("/actions/redrive", data={"csrf": token, "back": "", "all": "true", "subscriptoin": "x"})
    assert (sent.status_code, "there is no such parameter" in sent.text) == (400, True)
    assert (await operator.get("/api/audit")).json()["entries"] == []


@pytest.mark.parametrize(
    ("matched", "sentence"),
    [((1, 2), "1 blocked key, 1 event waits behind it"), ((2, 4), "2 blocked keys, 2 events wait behind them"), ((1, 1), "1 blocked key")],
)
async def test_one_event_waits_and_several_wait(matched: tuple[int, int], sentence: str) -> None:
    class One:
        parked = SimpleNamespace(matched=None)

        async def ask(self, *_: object, **__: object) -> tuple[int, int]:
            return matched

    action = ACTIONS["redrive"]
    values = read(action.params, {"key": "a"}, text=False)
    assert (await action.plan(One(), values)).sentence == sentence  # type: ignore[arg-type]
