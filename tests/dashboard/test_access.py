"""Who may do what: every route, by the table that the routes are made from, for nobody, a viewer and an operator."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from tests.dashboard.conftest import client_of
from tests.services.databases import Database
from tidings.dashboard import BasicAuth, Dashboard, TokenAuth, User
from tidings.dashboard.actions import ACTIONS
from tidings.dashboard.routes import ROUTES, Place
from tidings.errors import ConfigurationError

VIEWER, OPERATOR = "v" * 20, "o" * 20
AUTH = TokenAuth({VIEWER: User("vera", {"viewer"}), OPERATOR: User("otto", {"operator"})})
ELSEWHERE = ("203.0.113.9", 4000)

#: What a POST route is asked, so that a refusal is about the user and about nothing else.
BODIES: dict[str, Any] = {
    "redrive": {"key": "nobody's"}, "try-now": {"key": "nobody's"}, "discard": {"key": "nobody's", "reason": "a test"}, "edit": {"number": 99, "data": "{}"},
    "pause": {"service": "nobody", "subscription": "s"}, "resume": {"service": "nobody", "subscription": "s"},
    "forget-service": {"service": "nobody"},
    "cancel": {"event_id": "01a1fdd5-3c23-733d-8027-1459f0e17dcd"}, "run-now": {"event_id": "01a1fdd5-3c23-733d-8027-1459f0e17dcd"},
}  # fmt: skip


def addresses(place: Place) -> list[tuple[str, Any]]:
    """Return paths of a route, each with what is sent there."""
    path = place.path.replace("{event_id}", "01a1fdd5-3c23-733d-8027-1459f0e17dcd").replace("{number}", "1").replace("{fingerprint}", "f")
    if "{action}" in path:
        return [(path.replace("{action}", name), BODIES[name]) for name in ACTIONS]
    return [(path, BODIES.get(path.rpartition("/")[2]))]


async def ask(client: httpx.AsyncClient, place: Place, path: str, body: Any) -> int:
    """Return the status that a well-made request gets."""
    if place.method == "GET":
        return (await client.get(path, params=body)).status_code
    if place.api:
        return (await client.post(path, json=body)).status_code
    client.cookies.set("tidings_csrf", "a" * 64)
    return (await client.post(path, data={"csrf": "a" * 64, **(body or {})})).status_code


@pytest.mark.parametrize(("token", "roles"), [(None, set()), (VIEWER, {"viewer"}), (OPERATOR, {"viewer", "operator"})])
async def test_everyone_may_do_what_the_role_says_and_nothing_else(
    filled: Database, open_store: Any, token: str | None, roles: set[str]
) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    for place in ROUTES:
        if place.path == "/live" and "viewer" in roles:
            continue  # it does not end; the browser's tests listen to it
        for path, body in addresses(place):
            async with client_of(Dashboard(open_store(filled), auth=AUTH), ELSEWHERE, **headers) as client:
                status = await ask(client, place, path, body)
            if place.role == "public" or place.role in roles:
                assert status not in (401, 403) or path == "/login", (place, status)
            elif token is None:
                # A person is led to the page that asks for a token.
                assert status == (303 if place.method == "GET" and not place.api else 401), (place, status)
            else:
                assert status == 403, (place, status)


async def test_a_read_only_dashboard_acts_for_nobody(filled: Database, open_store: Any) -> None:
    dashboard = Dashboard(open_store(filled), auth=AUTH, read_only=True)
    async with client_of(dashboard, ELSEWHERE, authorization=f"Bearer {OPERATOR}") as client:
        for place in ROUTES:
            for path, body in addresses(place) if place.role == "operator" else []:
                assert await ask(client, place, path, body) == 403, place
        page = await client.get("/keys")
        assert page.status_code == 200
        assert "Redrive" not in page.text


async def test_a_viewer_is_offered_no_actions(filled: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(filled), auth=AUTH), ELSEWHERE, authorization=f"Bearer {VIEWER}") as client:
        for path in ("/keys", "/failures", "/scheduled", "/subscriptions/1"):
            page = await client.get(path)
            assert page.status_code == 200
            assert "/actions/" not in page.text, path


@pytest.mark.parametrize(
    ("address", "host", "headers", "open_"),
    [
        (("127.0.0.1", 1), "localhost:8420", {}, True),
        (("127.0.0.1", 1), "127.0.0.1:8420", {}, True),
        (("::1", 1), "[::1]:8420", {}, True),
        (("127.0.0.1", 1), "evil.example:8420", {}, False),  # DNS that was made to lead here
        (("127.0.0.1", 1), "localhost.evil.example", {}, False),
        (("127.0.0.1", 1), "", {}, False),
        (("192.0.2.7", 1), "localhost", {}, False),
        (("127.0.0.1", 1), "localhost", {"x-forwarded-for": "127.0.0.1"}, False),
        (("127.0.0.1", 1), "localhost", {"forwarded": "for=192.0.2.7"}, False),
        (("127.0.0.1", 1), "localhost", {"via": "1.1 proxy"}, False),
        (("unix", 0), "localhost", {}, False),
    ],
)
async def test_without_auth_only_this_machine_is_let_in(
    filled: Database, open_store: Any, address: tuple[str, int], host: str, headers: dict[str, str], open_: bool
) -> None:
    async with client_of(Dashboard(open_store(filled)), address, **headers) as client:
        answer = await client.get("/api/overview", headers={"host": host})
    assert answer.status_code == (200 if open_ else 401)


async def test_a_form_of_another_site_changes_nothing(filled: Database, open_store: Any) -> None:
    form = {"key": "bad", "csrf": "a" * 64}
    cases: list[tuple[dict[str, str], str | None, dict[str, str]]] = [
        (form, None, {}),  # no cookie
        (form, "b" * 64, {}),  # another token
        ({"key": "bad"}, "a" * 64, {}),  # none in the form
        (form, "a" * 64, {"sec-fetch-site": "cross-site"}),
        (form, "a" * 64, {"sec-fetch-site": "same-site"}),
        (form, "a" * 64, {"origin": "http://evil.example"}),
        (form, "a" * 64, {"origin": "http://localhost:1"}),
    ]
    for data, cookie, headers in cases:
        async with client_of(Dashboard(open_store(filled))) as client:
            if cookie is not None:
                client.cookies.set("tidings_csrf", cookie)
            answer = await client.post("/actions/redrive", data=data, headers=headers)
            assert answer.status_code == 403, (data, cookie, headers)
            after = [entry["actor"] for entry in (await client.get("/api/audit")).json()["entries"]]
            assert "local" not in after


async def test_the_json_api_takes_json_of_this_origin_only(filled: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(filled))) as client:
        for headers, status in (
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/x-www-form-urlencoded"}, 415),
            ({"content-type": "application/json", "origin": "null"}, 403),
            ({"content-type": "application/json", "origin": "http://evil.example"}, 403),
            ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
            ({"content-type": "application/json", "origin": "http://localhost"}, 200),
        ):
            answer = await client.post("/api/actions/redrive", content=b'{"key": "none"}', headers=headers)
            assert answer.status_code == status, headers


async def test_a_session_begins_with_the_token_and_ends_by_itself(
    filled: Database, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(Dashboard(open_store(filled), auth=AUTH), ELSEWHERE) as client:
        answer = await client.get("/keys")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        page = await client.get("/login")
        (token,) = re.findall(r'name="csrf" value="(\w+)"', page.text)
        assert (await client.post("/login", data={"csrf": token, "token": "wrong"})).status_code == 401
        answer = await client.post("/login", data={"csrf": token, "token": OPERATOR})
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert OPERATOR not in cookie
        assert "otto" in (await client.get("/")).text
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 13 * 3600)
        assert (await client.get("/")).status_code == 303


async def test_a_session_that_was_made_up_is_none(filled: Database, open_store: Any) -> None:
    until = int(time.time()) + 1000
    for made_up in ("", ".", f"{until}.", f"{until}.{'0' * 64}", f"{until}.{'é' * 10}", f"{'9' * 40}.x", "x.y"):
        async with client_of(Dashboard(open_store(filled), auth=AUTH), ELSEWHERE) as client:
            answer = await client.get("/api/overview", headers={"cookie": f"tidings_session={made_up}".encode()})
            assert answer.status_code == 401, made_up


async def test_basic_auth_knows_names_and_passwords(filled: Database, open_store: Any) -> None:
    auth = BasicAuth({"vera": "pass:word", "otto": "secret"}, operators={"otto"})
    cases = {"vera:pass:word": 200, "otto:secret": 200, "vera:secret": 401, "nobody:": 401, "vera": 401, ":": 401}
    for given, status in cases.items():
        encoded = base64.b64encode(given.encode()).decode()
        async with client_of(Dashboard(open_store(filled), auth=auth), ELSEWHERE, authorization=f"Basic {encoded}") as client:
            answer = await client.get("/")
            assert answer.status_code == status, given
    async with client_of(Dashboard(open_store(filled), auth=auth), ELSEWHERE) as client:
        answer = await client.get("/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_auth_of_ones_own_may_be_async_and_has_to_return_a_user(filled: Database, open_store: Any) -> None:
    async def by_header(request: Request) -> User | None:
        name = request.headers.get("x-user")
        return None if name is None else User(name)

    async with client_of(Dashboard(open_store(filled), auth=by_header), ELSEWHERE) as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/", headers={"x-user": "ada"})).status_code == 200
    for wrong in ("ada", User("ada", {"god"})):
        async with client_of(Dashboard(open_store(filled), auth=lambda _, wrong=wrong: wrong), ELSEWHERE) as client:  # type: ignore[misc]
            answer = await client.get("/")
            assert answer.status_code == 500
            assert "god" not in answer.text


def test_what_lets_anybody_in_is_refused_at_once() -> None:
    for broken in (
        lambda: TokenAuth("short"),
        lambda: TokenAuth({}),
        lambda: TokenAuth(["a-token-of-sixteen"]),  # type: ignore[arg-type]
        lambda: TokenAuth({"a-token-of-sixteen": "ada"}),  # type: ignore[dict-item]
        lambda: TokenAuth({b"a-token-of-sixteen": User("ada")}),  # type: ignore[dict-item]
        lambda: BasicAuth({}),
        lambda: BasicAuth({"a": ""}),
        lambda: BasicAuth({"a": "b"}, {"c"}),
    ):
        with pytest.raises(ConfigurationError):
            broken()


async def test_mounted_anywhere_every_link_leads_back_into_it(filled: Database, open_store: Any) -> None:
    app = Starlette(routes=[Mount("/ops/tidings", Dashboard(open_store(filled)))])
    async with client_of(app) as client:
        for path in ("/", "/keys", "/events", "/failures", "/subscriptions/1", "/actions/redrive?all=true"):
            page = await client.get(f"/ops/tidings{path}")
            assert page.status_code == 200, path
            links = re.findall(r'(?:href|src|action)="([^"]+)"', page.text)
            assert links
            assert [link for link in links if not link.startswith(("/ops/tidings/", "?", "#"))] == [], path
            for link in set(links):
                if link.startswith("/ops/tidings/static"):
                    assert (await client.get(link)).status_code == 200, link
        document = (await client.get("/ops/tidings/api/openapi.json")).json()
        assert document["servers"] == [{"url": "/ops/tidings"}]


async def test_where_an_action_leads_back_to_is_inside(filled: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(filled))) as client:
        for back in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "/x\r\nset-cookie: a=b"):
            page = await client.get("/actions/redrive", params={"key": "none", "back": back})
            (token,) = re.findall(r'name="csrf" value="(\w+)"', page.text)
            answer = await client.post("/actions/redrive", data={"key": "none", "csrf": token, "back": back})
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/audit"), back


async def test_every_answer_has_the_headers_that_keep_it_in_its_place(filled: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(filled))) as client:
        for path in ("/", "/nothing", "/api/overview", "/api/nothing", "/static/app.js", "/static/nothing", "/login"):
            headers = (await client.get(path)).headers
            assert "script-src 'self'; style-src 'self'" in headers["content-security-policy"], path
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] in ("no-store", "public, max-age=3600")
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
            assert (await client.get(path)).status_code == 404


async def test_files_are_downloads_and_no_pages(filled: Database, open_store: Any) -> None:
    async with client_of(Dashboard(open_store(filled))) as client:
        row = (await client.get("/api/events")).json()["events"][0]
        for path in (f"/events/{row['id']}/data", "/deliveries/1/data"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-disposition"].startswith("attachment; ")
            assert "html" not in answer.headers["content-type"]
