"""`tidings dashboard` alone, the demo's, and what docs/dashboard.md shows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.cli.till import fill, make_engine, make_service
from tests.dashboard.conftest import client_of
from tests.services.databases import Database
from tidings.cli.dashboard import dashboard as command

GUIDE = Path(__file__).parents[2] / "docs" / "dashboard.md"
TOKEN = "t" * 24


def started(*options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "dashboard", *options],
        env={**os.environ, "PYTHONUTF8": "1", **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://[^\s,]+", line)
    assert found, line or process.communicate()[1]
    return found.group()


async def test_alone_it_shows_a_store_until_it_is_asked_to_stop(fresh: Database) -> None:
    process = await asyncio.to_thread(started, "--store", fresh.url, "--port", "0", "--read-only")
    address = await asyncio.to_thread(address_of, process)
    async with httpx.AsyncClient(base_url=address) as client:
        page = await client.get("")
        assert "till/book" in page.text
        assert "read-only" in page.text
        async with client.stream("GET", "live") as stream:
            # A page that is open does not keep the server from stopping.
            assert stream.status_code == 200
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, err) == (0, "")


async def test_with_a_token_it_lets_in_who_has_it(fresh: Database) -> None:
    process = await asyncio.to_thread(started, "--store", fresh.url, "--port", "0", TIDINGS_DASHBOARD_TOKEN=TOKEN)
    address = await asyncio.to_thread(address_of, process)
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("api/overview")).status_code == 401
        assert (await client.get("api/overview", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0, err
    assert TOKEN not in out + err


async def test_a_token_for_viewers_lets_nobody_act(fresh: Database) -> None:
    process = await asyncio.to_thread(
        started, "--store", fresh.url, "--port", "0", "--secure-cookies", TIDINGS_DASHBOARD_TOKEN=TOKEN, TIDINGS_DASHBOARD_VIEWER_TOKEN="v" * 24
    )  # fmt: skip
    address = await asyncio.to_thread(address_of, process)
    try:
        for token, status in ((TOKEN, 200), ("v" * 24, 403)):
            async with httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {token}"}) as client:
                assert (await client.get("api/overview")).status_code == 200
                assert (await client.post("api/actions/redrive", json={"key": "nobody's", "dry_run": True})).status_code == status
        assert "; Secure" in (await asyncio.to_thread(httpx.get, f"{address}login")).headers["set-cookie"]
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate, timeout=20)


async def test_users_have_names_passwords_and_roles(fresh: Database) -> None:
    passwords = {"TIDINGS_DASHBOARD_PASSWORD_ADA": "lovelace", "TIDINGS_DASHBOARD_PASSWORD_J_DOE": "nobody"}
    process = await asyncio.to_thread(
        started, "--store", fresh.url, "--port", "0", "--user", "ada:operator", "--user", "j.doe:viewer", **passwords
    )
    address = await asyncio.to_thread(address_of, process)
    try:
        for given, status in ((("ada", "lovelace"), 200), (("j.doe", "nobody"), 403), (("ada", "nobody"), 401)):
            async with httpx.AsyncClient(base_url=address, auth=given) as client:
                assert (await client.post("api/actions/redrive", json={"key": "nobody's", "dry_run": True})).status_code == status
                assert (await client.get("api/overview")).status_code == (401 if status == 401 else 200)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert "lovelace" not in out + err


async def test_the_contracts_of_the_service_are_known(sqlite: Database, tmp_path: Path) -> None:
    await fill(sqlite)
    (tmp_path / "a_till.py").write_text(
        "from sqlalchemy.ext.asyncio import create_async_engine\nfrom tests.cli.till import make_service\nfrom tidings.stores.sqlite import configure\n"
        f"engine = create_async_engine({sqlite.url!r})\nconfigure(engine)\nservice = make_service(engine)\n"
    )
    process = await asyncio.to_thread(started, "--service", "a_till:service", "--app-dir", str(tmp_path), "--port", "0")
    address = await asyncio.to_thread(address_of, process)
    try:
        types = (await asyncio.to_thread(httpx.get, f"{address}api/topics")).json()["types"]
        assert {topic["contract"] for topic in types} == {"till"}
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate, timeout=20)


async def test_behind_a_proxy_the_address_that_is_printed_answers(sqlite: Database) -> None:
    await fill(sqlite)
    process = await asyncio.to_thread(started, "--store", sqlite.url, "--port", "0", "--root-path", "/ops")
    address = await asyncio.to_thread(address_of, process)
    try:
        page = await asyncio.to_thread(httpx.get, address)
        assert page.status_code == 200
        assert 'href="/ops/keys"' in page.text
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate, timeout=20)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--host", "0.0.0.0"), 2, "lets others in, and nothing says whom"),  # noqa: S104
        (("--token", "short"), 2, "16 characters"),
        (("--token", TOKEN, "--viewer-token", TOKEN), 2, "are the same"),
        (("--token", TOKEN, "--user", "ada:viewer"), 2, "give tokens or users, not both"),
        (("--user", "ada"), 2, "'ada' is not NAME:viewer or NAME:operator"),
        (("--user", "ada:viewer"), 2, "set TIDINGS_DASHBOARD_PASSWORD_ADA"),
        (("--root-path", "ops"), 2, "begin it with a slash"),
        (("--host", "192.0.2.77", "--token", TOKEN), 1, "cannot listen at 192.0.2.77:8420"),
    ],
)
async def test_what_cannot_be_is_a_sentence(sqlite: Database, options: tuple[str, ...], code: int, sentence: str) -> None:
    await fill(sqlite)
    process = await asyncio.to_thread(started, "--store", sqlite.url, *options)
    _, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == code, err
    assert sentence in err
    assert "Traceback" not in err


def test_the_demo_opens_it_and_prints_its_address(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "demo"],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUTF8": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    found = re.search(r"http://\S+", "".join(lines))
    assert found, lines
    assert "Overview" in httpx.get(found.group()).text
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert err == ""


async def test_what_the_guide_shows_works(sqlite: Database) -> None:
    await fill(sqlite)
    (snippet,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    app = Starlette()
    engine = make_engine(sqlite)
    service = make_service(engine)
    scope: dict[str, Any] = {"app": app, "service": service}
    exec(compile(snippet, str(GUIDE), "exec"), scope)  # noqa: S102 - the documentation, run as it stands

    async def with_session(asgi: dict[str, Any], receive: Any, send: Any) -> None:
        asgi["session"] = {"person": {"name": "Ada", "on_call": False}}
        await app(asgi, receive, send)

    async with client_of(with_session, ("203.0.113.9", 1), "shop.example") as client:
        page = await client.get("/tidings/")
        assert page.status_code == 200
        assert "Ada" in page.text
        assert (await client.get("/tidings/actions/redrive?all=true")).status_code == 403
        topics = (await client.get("/tidings/api/topics")).json()["types"]
        assert {"till"} == {topic["contract"] for topic in topics}, "a service's own contracts are known"
        rows = (await client.get("/tidings/api/subscriptions")).json()
        assert {row["concurrency"] for row in rows} == {2}
    await engine.dispose()


def test_the_guide_names_every_option() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for option in (
        "--read-only",
        "--redact",
        "TIDINGS_DASHBOARD_TOKEN",
        "--viewer-token",
        "--user",
        "--secure-cookies",
        "--root-path",
        "read_only=True",
        "redact=",
        "TokenAuth",
        "BasicAuth",
    ):
        assert option in text
    assert {"read_only", "token", "redact", "host", "port"} <= {parameter.name for parameter in command.params}
