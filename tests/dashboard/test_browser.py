"""Every page and action in a real browser: nothing in the console, no violation of the policy, no barrier that axe calls serious."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.cli.till import fill
from tests.dashboard.browser import PICTURES, Visitor, cuttable, launched, refusing, served
from tests.dashboard.scenes import furnish
from tests.services.databases import Database, PostgreSQLDatabases

PAGES = {
    "/": "overview", "/events": "published", "/events?name=sale.*&text=tea": "published-search", "/subscriptions": "received",
    "/subscriptions/1": "subscription", "/failures": "failures", "/failures/cccc/1": "failure-group", "/keys": "keys", "/keys?state=retrying": "keys-retrying",
    "/keys?key=nobody": "keys-none", "/scheduled": "scheduled", "/topics": "topics", "/workers": "workers", "/audit": "audit",
    "/actions/redrive?all=true": "confirm", "/actions/discard?fingerprint=cccc": "confirm-danger", "/nothing": "not-found",
}  # fmt: skip


def prepare(database: Database) -> None:
    """Fill a database; in a thread, because Playwright's own loop runs in this one as long as the browser does."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: asyncio.run(fill(database))).result()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as made:
        yield made


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, dict[str, Any]]]:
    if request.param == "sqlite":
        database = Database.sqlite(Path(tmp_path_factory.mktemp("scene")) / "till.sqlite")
        prepare(database)
        yield database, furnish(database)
        return
    databases: PostgreSQLDatabases = request.getfixturevalue("postgresql_databases")
    with databases.fresh() as database:
        prepare(database)
        yield database, furnish(database)


@pytest.fixture(scope="module")
def address(scene: tuple[Database, dict[str, Any]]) -> Iterator[str]:
    with served(scene[0]) as made:
        yield made


@pytest.fixture
def made(scene: tuple[Database, dict[str, Any]]) -> dict[str, Any]:
    return scene[1]


def visitor(browser: Any, address: str, scene: tuple[Database, Any], **options: Any) -> Visitor:
    name = options.pop("name", scene[0].kind)
    options = {"viewport": {"width": 1360, "height": 850}, "locale": "en-GB", "timezone_id": "Asia/Tokyo", **options}
    return Visitor(browser.new_context(**options).new_page(), address, name)


@pytest.fixture
def visit(browser: Any, address: str, scene: Any) -> Iterator[Visitor]:
    made = visitor(browser, address, scene)
    yield made
    made.page.context.close()


def test_every_page_is_clean_and_without_barriers(visit: Visitor, made: dict[str, Any]) -> None:
    for path, picture in PAGES.items():
        visit.open(path, picture)
    visit.open(f"/events/{made['start']}", "event")
    visit.open(f"/deliveries/{made['dead']}", "delivery")
    visit.open(f"/actions/edit?number={made['dead']}", "edit")
    visit.open(f"/events/{made['elsewhere']}?source=shop", "event-from-elsewhere")
    visit.open(f"/events/{made['elsewhere']}", "event-not-found-near")
    visit.open(f"/events/{'0' * 8}-0000-7000-8000-{'0' * 12}", "event-not-found")
    visit.page.goto(f"{visit.address}/scheduled")
    visit.page.get_by_role("link", name="drawer.opened").click()
    visit.look("scheduled-event")


def test_dark_and_on_a_phone_they_are_as_well(browser: Any, address: str, scene: Any, made: dict[str, Any]) -> None:
    dark = visitor(browser, address, scene, color_scheme="dark", name=f"{scene[0].kind}-dark")
    phone = visitor(
        browser, address, scene, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, name=f"{scene[0].kind}-phone"
    )
    more = {f"/events/{made['start']}": "event", f"/deliveries/{made['dead']}": "delivery", f"/events/{made['elsewhere']}": "event-near"}
    for path, picture in {**PAGES, **more}.items():
        dark.open(path, picture)
        page = phone.open(path, picture)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is wider than the phone"
    dark.page.context.close()
    phone.page.context.close()


def test_nothing_of_a_payload_does_anything(visit: Visitor, made: dict[str, Any]) -> None:
    for path in (
        f"/events/{made['hostile']}",
        f"/deliveries/{made['dead']}",
        f"/deliveries/{made['binary']}",
        f"/events/{made['large']}",
        "/failures",
        "/keys",
        "/events?key=hostile",
    ):
        page = visit.open(path, axe=False)
        assert "owned" not in page.title()
        assert page.locator("main script, main img, main b").count() == 0
        text = page.locator("main").inner_text()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ufeff]", text), path
    page = visit.open(f"/events/{made['hostile']}", "hostile")
    data = page.get_by_label("Data").inner_text()
    assert "<script>document.title='owned'</script>" in data
    assert "123456789012345678901234567890" in data
    assert '"price": 1.10' in data
    assert '"\\ud800"' in data
    page = visit.open(f"/events/{made['large']}", "large", full=False)
    assert len(page.get_by_label("Data").inner_text()) < 30_000
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    assert Path(started.value.path()).stat().st_size > 1_000_000


def test_without_a_script_everything_can_be_read(browser: Any, address: str, scene: Any, made: dict[str, Any]) -> None:
    plain = visitor(browser, address, scene, java_script_enabled=False, name=f"{scene[0].kind}-plain")
    for path, picture in {**PAGES, f"/events/{made['start']}": "event"}.items():
        plain.open(path, picture if path in ("/", "/keys") else None, axe=False)
    page = plain.open("/", axe=False)
    assert page.locator(".plot svg polyline").count() > 4
    assert page.locator("td time").first.inner_text().endswith("ago")
    page.get_by_role("link", name="Published", exact=True).click()
    page.get_by_label("Key").fill("c-1")
    page.get_by_role("button", name="Search").click()
    assert page.locator("tbody tr").count() == 5
    assert "key=c-1" in page.url, "the address is the state"
    plain.page.context.close()


def test_times_are_in_the_zone_of_who_looks(visit: Visitor) -> None:
    page = visit.open("/events", axe=False)
    shown = page.locator("td time").first
    utc = shown.get_attribute("datetime")
    assert utc is not None
    hour = (int(utc[11:13]) + 9) % 24
    assert f"{hour:02d}:{utc[14:16]}" in shown.inner_text()
    assert "UTC" in (shown.get_attribute("title") or "")


def test_times_are_searched_in_the_zone_of_who_looks(visit: Visitor) -> None:
    page = visit.open("/events", axe=False)
    shown = page.locator("td time").first
    at = shown.get_attribute("datetime")
    assert at is not None
    local = (datetime.fromisoformat(at) + timedelta(hours=9)).strftime("%Y-%m-%dT%H:%M:%S")
    page.get_by_label("From", exact=True).fill(local)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/events?*since=*")
    assert at[:19] in unquote(page.url), "the address says UTC"
    assert page.locator("tbody tr").count() > 0, "what is of that time, and not of nine hours later"
    assert page.get_by_label("From", exact=True).input_value() == local
    assert page.get_by_label("To", exact=True).input_value() == ""
    page.get_by_role("link", name="Failures").click()
    page.go_back()
    assert page.get_by_label("From", exact=True).input_value() == local
    page.get_by_label("From", exact=True).fill("")
    page.get_by_label("To", exact=True).fill(local)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(f"**/events?*until={quote(at[:19])}*")
    assert all((item.get_attribute("datetime") or "")[:19] < at[:19] for item in page.locator("td time").all())


def test_the_hour_that_comes_twice_is_searched_as_it_was_given(browser: Any, address: str, scene: Any) -> None:
    visit = visitor(browser, address, scene, timezone_id="Europe/Berlin")
    page = visit.open("/events?since=2026-10-25T01:30:00", axe=False)
    assert page.get_by_label("From", exact=True).input_value() == "2026-10-25T02:30"
    page.get_by_label("Key").fill("c-1")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/events?*key=c-1*")
    assert "since=2026-10-25T01:30:00" in unquote(page.url)
    page.get_by_label("From", exact=True).fill("2026-10-25T03:30")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/events?*02%3A30*")
    visit.page.context.close()


def test_on_a_phone_what_can_be_done_is_within_reach(browser: Any, address: str, scene: Any) -> None:
    phone = visitor(browser, address, scene, viewport={"width": 375, "height": 812}, is_mobile=True, has_touch=True)
    for path, button in (("/keys", "Skip head"), ("/keys?state=retrying", "Try now"), ("/failures", "Discard"), ("/subscriptions", None)):
        page = phone.open(path, axe=False)
        scroll = page.locator(".stacked").first
        assert scroll.evaluate("node => node.scrollWidth <= node.clientWidth"), path
        if button is not None:
            box = scroll.get_by_role("link", name=button, exact=True).first.bounding_box()
            assert box is not None
            assert 0 <= box["x"] < box["x"] + box["width"] <= 375
    phone.page.context.close()


def test_the_keyboard_is_enough(visit: Visitor) -> None:
    page = visit.open("/", axe=False)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page = visit.open("/keys?key=bad", axe=False)
    page.get_by_role("link", name="Redrive", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/actions/redrive?*")
    page.get_by_role("button", name="Redrive").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/keys?*did=*")
    assert "1 changed, done" in page.get_by_role("main").get_by_role("status").inner_text()


def test_every_action(visit: Visitor, made: dict[str, Any]) -> None:
    page = visit.open("/failures/cccc/1", axe=False)
    page.get_by_role("link", name="Redrive the group").click()
    page.get_by_label("How many keys become due").fill("2")
    visit.look("action-redrive")
    page.get_by_role("button", name="Redrive").click()
    page.wait_for_url("**did=*")
    visit.look("action-done")
    page = visit.open(f"/deliveries/{made['dead']}", axe=False)
    page.get_by_role("link", name="Edit and retry").click()
    page.get_by_label("The new data, JSON").fill(json.dumps({"receipt": "new"}))
    page.get_by_role("button", name="Edit and retry").click()
    page.wait_for_url("**did=*")
    page = visit.open(f"/deliveries/{made['binary']}", axe=False)
    assert page.get_by_role("link", name="Edit and retry").count() == 0, "it is no JSON"
    page.get_by_role("link", name="Skip this event").click()
    page.get_by_label("Why; the audit keeps it").fill("it is no event")
    page.get_by_role("button", name="Discard").click()
    # The event is gone, and its page with it.
    page.wait_for_url("**/failures?did=*")
    page = visit.open("/subscriptions/1", axe=False)
    page.get_by_role("link", name="Pause").click()
    page.get_by_role("button", name="Pause").click()
    page.wait_for_url("**did=*")
    visit.look("paused")
    page.get_by_role("link", name="Resume").click()
    page.get_by_role("button", name="Resume").click()
    page.wait_for_url("**did=*")
    page = visit.open("/scheduled", axe=False)
    page.get_by_role("link", name="Run now").first.click()
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url("**did=*")
    page.get_by_role("link", name="Cancel").first.click()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_url("**did=*")
    page = visit.open("/audit", "audit-full")
    actions = page.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert actions[:6] == ["cancel", "run now", "resume", "pause", "discard", "edit"]


def test_a_page_that_is_seen_is_kept_fresh_and_one_that_is_paused_is_not(visit: Visitor, scene: Any) -> None:
    from sqlalchemy import create_engine

    from tests.dashboard.scenes import add_dead

    page = visit.open("/keys?key=fresh-1", axe=False)
    page.locator(".live.on").wait_for()
    assert page.get_by_text("No key is blocked").count() == 1
    engine = create_engine(scene[0].sync_url)
    with engine.begin() as connection:
        add_dead(connection, 1, "fresh-1", "sale.made", b"{}", ("shop.New", "new", "eeee"))
    page.get_by_role("cell", name="fresh-1").wait_for(timeout=15_000)
    page.get_by_role("button", name="Pause").click()
    assert page.get_by_role("status").and_(page.get_by_text("Paused")).count() == 1
    assert page.locator(".live.on").count() == 0
    page.get_by_role("button", name="Resume").click()
    page.locator(".live.on").wait_for()
    engine.dispose()
    assert visit.complaints == []


def test_a_page_says_since_when_it_is_not_told_what_happens(browser: Any, scene: Any) -> None:
    if scene[0].kind != "postgresql":
        pytest.skip("the way to a file cannot be cut")
    with cuttable(scene[0].dsn) as (line, url), served(dataclasses.replace(scene[0], sync_url=url)) as address:
        visit = visitor(browser, address, scene)
        page = visit.open("/", axe=False)
        status = page.locator("header").get_by_role("status")
        page.locator(".live.on").wait_for()
        assert status.inner_text() == "Live"
        line.stop()
        page.get_by_text("Not connected since").wait_for(timeout=15_000)
        said = re.fullmatch(r"Not connected since (\d\d):(\d\d:\d\d)", status.inner_text())
        assert said
        # The viewer is in Tokyo.
        tokyo = datetime.now(timezone(timedelta(hours=9)))
        ago = tokyo - datetime.combine(tokyo.date(), time.fromisoformat(":".join(said.groups())), tokyo.tzinfo)
        assert ago % timedelta(days=1) < timedelta(seconds=30)
        assert page.locator(".live.on").count() == 0
        visit.look("not-connected")
        with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
            line.start()
            page.locator(".live.on").wait_for(timeout=15_000)
        assert status.inner_text() == "Live"
        page.context.close()


def test_a_page_outlives_its_server(browser: Any, scene: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(scene[0], port=port) as address:
        visit = visitor(browser, address, scene, viewport={"width": 390, "height": 844}, name=f"{scene[0].kind}-phone")
        page = visit.open("/keys", axe=False)
        page.locator(".live.on").wait_for()
    page.get_by_text("Not connected since").wait_for(timeout=15_000)
    page.screenshot(path=PICTURES / f"{scene[0].kind}-phone-not-connected.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # What stands in its place for a while answers, but not with a stream: browsers do not come again after that.
    with refusing(port) as asked:
        assert asked.wait(15)
    with served(scene[0], port=port):
        page.locator(".live.on").wait_for(timeout=15_000)
        assert page.locator("header").get_by_role("status").inner_text() == "Live"
        page.context.close()


def test_what_is_not_well_keeps_its_distance(visit: Visitor) -> None:
    page = visit.open("/", axe=False)
    flash, tiles = page.locator(".flash.bad").bounding_box(), page.locator(".tiles").bounding_box()
    assert flash
    assert tiles
    assert tiles["y"] - (flash["y"] + flash["height"]) >= 10
