"""Chromium on a dashboard that listens on this machine, and what every page must be free of."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, sync_playwright
from private_services.base import FailedError, UnavailableError
from private_services.chromium import chromium
from private_services.proxy import Proxy
from sqlalchemy import create_engine

from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.dashboard.serving import serving
from tidings.stores import SQLStore

#: Where pictures of the pages are kept, to be looked at.
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"


@contextmanager
def served(database: Database, port: int = 0, **options: Any) -> Iterator[str]:
    """Serve a dashboard from a thread, at a free port by default; gives its address without the slash at the end."""
    engine = create_engine(database.sync_url)
    store = SQLStore(engine)
    started = threading.Event()
    addresses: list[str] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with serving(Dashboard(store, **options), "127.0.0.1", port) as address:
            addresses.append(address.rstrip("/"))
            started.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(10)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        store.close()
        engine.dispose()


class _Line:
    """The way to a database, from a thread of its own."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop

    def start(self) -> None:
        """Take connections."""
        asyncio.run_coroutine_threadsafe(self._proxy.start(), self._loop).result(10)

    def stop(self) -> None:
        """Cut all connections, and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._proxy.stop(), self._loop).result(10)


@contextmanager
def cuttable(dsn: str) -> Iterator[tuple[_Line, str]]:
    """Give a line to a server of PostgreSQL that can be cut, and the URL of what is at its other end for psycopg."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(dsn)
    line = _Line(proxy, loop)
    try:
        line.start()
        yield line, f"postgresql+psycopg://{proxy.url.partition('://')[2]}"
        line.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def refusing(port: int) -> Iterator[threading.Event]:
    """Serve nothing but 502, as a proxy does whose server is away; gives what is set when somebody has asked."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502)
            asked.set()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium; without one the test is skipped, and says why. In CI what could have been installed must have been."""
    try:
        program = chromium()
    except UnavailableError as error:
        pytest.skip(f"no browser: {error}")
    except FailedError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no browser: {error}")
    with sync_playwright() as playwright:
        # Root in a container has no sandbox of its own to put it in; it only opens pages of ours.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        yield browser
        browser.close()


class Visitor:
    """A page in the browser; everything that its console says is an error of ours, violations of the policy too."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page = page
        self.address = address
        self._name = name
        self.complaints: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure))

    def open(self, path: str, picture: str | None = None, *, full: bool = True, axe: bool = True) -> Page:
        """Open a page, take a picture, and look for barriers."""
        answer = self.page.goto(f"{self.address}{path}")
        assert answer is not None
        assert answer.status < 500, path
        self.look(picture, full=full, axe=axe)
        return self.page

    def look(self, picture: str | None = None, *, full: bool = True, axe: bool = True) -> None:
        """Take a picture of what is there, and look for barriers."""
        if picture is not None:
            PICTURES.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=PICTURES / f"{self._name}-{picture}.png", full_page=full)
        if axe:
            found = Axe().run(self.page, options={"resultTypes": ["violations"]}).response["violations"]
            serious = [
                (item["id"], [node["html"][:150] + " | " + node.get("failureSummary", "")[:200] for node in item["nodes"][:3]])
                for item in found
                if item["impact"] in ("serious", "critical")
            ]
            assert serious == [], f"{self.page.url}: {serious}"
        assert self.complaints == [], f"{self.page.url}: {self.complaints}"

    def _said(self, message: ConsoleMessage) -> None:
        # The browser itself reports the status of pages that are meant not to be there.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            self.complaints.append(message.text)

    def _failed(self, url: str, failure: str | None) -> None:
        # What ends because its page is left is no failure.
        if failure != "net::ERR_ABORTED":
            self.complaints.append(f"{url}: {failure}")
