"""What is shown of a payload: exactly what was published, less what is hidden, and nothing that could do anything."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from tests.cli.till import fill
from tests.dashboard.conftest import client_of
from tests.dashboard.scenes import EXACT, furnish
from tests.services.databases import Database
from tidings.dashboard import Dashboard, Redact, TokenAuth, User
from tidings.dashboard.payload import Redaction, Shown, hide, visible
from tidings.errors import ConfigurationError

VIEWER, OPERATOR = "v" * 20, "o" * 20
AUTH = TokenAuth({VIEWER: User("vera", {"viewer"}), OPERATOR: User("otto", {"operator"})})
NOTHING = Redaction((), ())

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
async def scene(sqlite: Database) -> dict[str, Any]:
    await fill(sqlite)
    return furnish(sqlite)


def as_user(dashboard: Dashboard, token: str) -> httpx.AsyncClient:
    return client_of(dashboard, ("203.0.113.9", 1), authorization=f"Bearer {token}")


@given(JSON)
def test_json_is_shown_as_the_same_json(value: Any) -> None:
    shown = Shown.of(json.dumps(value), None, NOTHING)
    assert json.loads(shown.text) == value
    assert all(character.isprintable() or character == "\n" for character in shown.text)


@given(st.binary())
def test_whatever_bytes_there_are_can_be_shown(raw: bytes) -> None:
    shown = Shown.of(raw, None, NOTHING)
    assert all(character.isprintable() or character in "\n\t" for character in shown.text)
    shown.text.encode()


def test_numbers_stay_as_they_were_written() -> None:
    text = '{"big": 123456789012345678901234567890, "price": 1.10, "tiny": 1e-400, "digits": ' + "7" * 5000 + "}"
    shown = Shown.of(text, None, NOTHING).text
    for part in ("123456789012345678901234567890", "1.10", "1e-400", "7" * 5000):
        assert part in shown


def test_json_that_is_too_deep_is_text() -> None:
    deep = "[" * 100_000
    assert Shown.of(deep, None, NOTHING) == Shown(deep, False)
    assert Shown.of(deep, None, Redaction(["password"], ())).redacted


def test_control_characters_surrogates_and_marks_are_written_out() -> None:
    assert visible("a\x1b[0m\ud800\u202eb\x00") == "a\\x1b[0m\\ud800\\u202eb\\x00"


def test_fields_are_hidden_by_name_and_by_path() -> None:
    text = json.dumps(
        {"password": "p", "card": {"number": 4111, "holder": "Ada"}, "cards": [{"number": 5}], "Password": "q", "api_key_1": "k"}
    )
    redaction = Redaction(["password", "card.number", "api_key*", Redact("holder", event="order.*")], ())
    shown = json.loads(Shown.of(text, "order.placed", redaction).text)
    assert shown == {
        "password": "[redacted]", "card": {"number": "[redacted]", "holder": "[redacted]"}, "cards": [{"number": 5}],
        "Password": "[redacted]", "api_key_1": "[redacted]",
    }  # fmt: skip
    assert json.loads(Shown.of(text, "sale.made", redaction).text)["card"]["holder"] == "Ada"


def test_rules_hold_for_roles() -> None:
    rule = Redact("password", unless={"operator"})
    assert json.loads(Shown.of('{"password": "p"}', None, Redaction([rule], {"operator"})).text) == {"password": "p"}
    assert json.loads(Shown.of('{"password": "p"}', None, Redaction([rule], {"viewer"})).text) == {"password": "[redacted]"}
    for wrong in (
        {"field": " "},
        {"field": "password", "unless": "operator"},
        {"field": "password", "unless": {5}},
        {"field": "password", "event": ""},
    ):
        (name, _), *_ = reversed(wrong.items())
        with pytest.raises(ConfigurationError, match=rf"Redact\({name}="):
            Redact(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"redact": 5}, {"redact": [5]}, {"read_only": "no"}, {"secure_cookies": 1}])
def test_settings_that_cannot_be_are_refused(sqlite: Database, open_store: Any, wrong: dict[str, Any]) -> None:
    ((name, given),) = wrong.items()
    with pytest.raises(ConfigurationError, match=re.escape(f"dashboard({name}={given!r}): give ")):
        Dashboard(open_store(sqlite), auth=AUTH, **wrong)


async def test_nothing_that_is_hidden_is_in_any_answer(sqlite: Database, open_store: Any, scene: dict[str, Any]) -> None:
    """Not in the data, not quoted by an error, not in a file, and no search tells whether it is there."""
    dashboard = Dashboard(open_store(sqlite), auth=AUTH, redact=[Redact("password", unless={"operator"})])
    paths = [
        f"/events/{scene['hostile']}", f"/api/events/{scene['hostile']}", f"/events/{scene['hostile']}/data", f"/deliveries/{scene['dead']}",
        f"/api/deliveries/{scene['dead']}", f"/deliveries/{scene['dead']}/data", "/failures", "/api/failures", "/api/failures/groups",
        "/failures/aaaa/1", "/keys", "/api/keys",
    ]  # fmt: skip
    async with as_user(dashboard, VIEWER) as viewer, as_user(dashboard, OPERATOR) as operator:
        seen = 0
        for path in paths:
            answer = await viewer.get(path)
            assert answer.status_code == 200, path
            assert "hunter2" not in answer.text, path
            seen += "hunter2" in (await operator.get(path)).text
        assert seen == len(paths), "an operator sees it in all of them"
        for path in ("/events", "/api/events"):
            assert scene["hostile"] not in (await viewer.get(path, params={"text": "hunter2"})).text
            assert scene["hostile"] in (await operator.get(path, params={"text": "hunter2"})).text


async def test_what_is_hidden_from_an_operator_cannot_be_edited(sqlite: Database, open_store: Any, scene: dict[str, Any]) -> None:
    dashboard = Dashboard(open_store(sqlite), auth=AUTH, redact=["password"])
    async with as_user(dashboard, OPERATOR) as operator:
        assert (await operator.get(f"/actions/edit?number={scene['dead']}")).status_code == 403
        answer = await operator.post("/api/actions/edit", json={"number": scene["dead"], "data": "{}"})
        assert answer.status_code == 403


@pytest.fixture
async def client(database: Database, open_store: Any) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Any]]]:
    await fill(database)
    made = furnish(database)
    async with client_of(Dashboard(open_store(database))) as opened:
        yield opened, made


async def test_hostile_payloads_are_text_everywhere(client: tuple[httpx.AsyncClient, dict[str, Any]]) -> None:
    opened, made = client
    for path in (
        f"/events/{made['hostile']}",
        f"/deliveries/{made['dead']}",
        f"/deliveries/{made['binary']}",
        "/failures",
        "/keys",
        "/failures/aaaa/1",
    ):
        answer = await opened.get(path)
        assert answer.status_code == 200, path
        for part in ("<script>document", "<img src=x", "<b>hostile", "Bad<i>", "\x1b", "\u202e", "\x00"):
            assert part not in answer.text, (path, part)
    data = (await opened.get(f"/api/events/{made['hostile']}")).json()["data"]
    assert f'"exact": {EXACT}' in data["text"]
    large = await opened.get(f"/events/{made['large']}")
    assert len(large.text) < 60_000
    assert len((await opened.get(f"/events/{made['large']}/data")).content) > 1_000_000


def test_what_is_vendored_is_what_its_authors_published() -> None:
    import base64
    import gzip
    import hashlib
    import re

    from tidings.dashboard.render import STATIC

    listed = dict(re.findall(r"^\| `([^`]+)` .* `([A-Za-z0-9+/=]{64})` \|$", (STATIC / "vendor" / "README.md").read_text(), re.MULTILINE))
    found = {path.name for path in (STATIC / "vendor").iterdir() if path.suffix in (".js", ".css")}
    assert set(listed) == found
    for name, digest in listed.items():
        assert base64.b64encode(hashlib.sha384((STATIC / "vendor" / name).read_bytes()).digest()).decode() == digest, name
    files = [path for path in Path(STATIC).rglob("*") if path.suffix in (".js", ".css", ".svg")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 60_000


@pytest.mark.parametrize("name", ["passWord", "PASSWORD", "password"])
def test_capitals_hide_nothing_from_a_rule(name: str) -> None:
    for rule in ("password", "PassWord", "pass*", "User.Password"):
        text = json.dumps({"user": {name: "hunter2"}})
        assert "hunter2" not in Shown.of(text, None, Redaction([rule], ())).text, rule


@pytest.mark.parametrize(
    "quoted",
    [
        "{secret}", "{secret!r}", "{json}", "{{'password': {secret!r}}}", "input_value='{start}...', input_type=str", "{start}", "{number:,}", "{end}",
    ],
)  # fmt: skip
def test_however_an_error_spells_what_is_hidden_it_is_hidden(quoted: str) -> None:
    secret = "O'Bri\"en\nzz\\top gehe\u00efmnis"  # noqa: S105 - of a test
    payload = json.dumps({"password": secret, "pin": 41234567, "open": "seen"})
    said = quoted.format(secret=secret, json=json.dumps(secret), start=secret[:5], end=secret[-7:], number=41234567)
    trace = (
        f'Traceback (most recent call last):\n  File "shop/till.py", line 7, in book\n    raise ValueError({said})\nValueError: {said}\n'
        f'  | File "shop/stock.py", line 12\n  | ValueError: {said}\n{said} File "x", line 1'
    )
    hidden = Shown.of(payload, None, Redaction(["password", "pin"], ()))
    assert hide(said, hidden) == "[hidden, because fields of this event are]"
    assert hide(trace, hidden) == (
        '[hidden, because fields of this event are]\n  File "shop/till.py", line 7, in book\n  | File "shop/stock.py", line 12'
    )
    seen = Shown.of('{"open": "seen"}', None, Redaction(["password", "pin"], ()))
    assert hide(trace, seen) == trace
    assert hide(None, hidden) is None
    assert hide(said, seen, hidden) != said


async def test_a_breaker_quotes_no_error_for_whom_something_is_hidden(scene: dict[str, Any], sqlite: Database, open_store: Any) -> None:
    engine = create_engine(sqlite.sync_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "update tidings_subscriptions set breaker = 'open', breaker_since = '2026-01-01T00:00:00+00:00', breaker_reason = :reason where id = 1"
            ),
            {"reason": "5 keys failed in a row: ValueError: bad password: hunter2"},
        )
        connection.execute(text("update tidings_subscriptions set breaker_owner = 'worker'"))
        connection.execute(text("update tidings_checkpoints set owner = 'worker', lease_until = '2099-01-01T00:00:00+00:00'"))
    engine.dispose()
    dashboard = Dashboard(open_store(sqlite), auth=AUTH, redact=[Redact("x-token", unless={"operator"})])
    for token, seen in ((OPERATOR, True), (VIEWER, False)):
        async with as_user(dashboard, token) as client:
            for path in ("/", "/api/overview", "/subscriptions/1", "/api/subscriptions"):
                answer = (await client.get(path)).text
                assert "5 keys failed in a row" in answer, path
                assert ("hunter2" in answer) == seen, (token, path)


async def test_an_error_that_quotes_a_hidden_header_is_cut(scene: dict[str, Any], sqlite: Database, open_store: Any) -> None:
    engine = create_engine(sqlite.sync_url)
    with engine.begin() as connection:
        connection.execute(
            text("update tidings_deliveries set headers = :headers, error_message = :error, traceback = :error, history = :history"),
            {
                "headers": b'{"x-token": "s3cret-token"}', "error": "refused: s3cret-token",
                "history": '[{"attempt": 1, "error": "refused: s3cret-token"}]',
            },
        )  # fmt: skip
    engine.dispose()
    dashboard = Dashboard(open_store(sqlite), auth=AUTH, redact=[Redact("x-token", unless={"operator"})])
    for token, seen in ((OPERATOR, True), (VIEWER, False)):
        async with as_user(dashboard, token) as client:
            for path in (f"/deliveries/{scene['dead']}", f"/api/deliveries/{scene['dead']}"):
                assert ("s3cret-token" in (await client.get(path)).text) == seen, (token, path)
