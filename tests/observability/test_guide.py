"""The examples of the guide do what it says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Breaker, Retry, Subscriptions
from tidings.observability import alerts
from tidings.observability.alerts import BacklogAlert, BreakerAlert
from tidings.service import Dead

GUIDE = Path(__file__).parents[2] / "docs" / "observability.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def example(part: str) -> str:
    (found,) = [example for example in EXAMPLES if part in example]
    return found


@contextmanager
def webhook() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that takes what Slack would."""
    texts: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            texts.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hooks", texts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_webhook_hears_of_backlog_breakers_and_dead_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_LOOK", 0.05)
    handlers = Subscriptions()
    down = True

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.01, max=0.02), breaker=Breaker(keys=2, pause=0.4, longest=0.4))
    async def charge(event: OrderPlaced) -> None:
        if down:
            raise ConnectionError("the bank is closed")

    service = world.service(handlers)
    with webhook() as (url, texts):
        names: dict[str, Any] = {
            "service": service, "BacklogAlert": BacklogAlert, "BreakerAlert": BreakerAlert, "Dead": Dead, "timedelta": lambda **_: timedelta(seconds=1),
        }  # fmt: skip
        exec(example("WEBHOOK"), names)  # noqa: S102
        names["WEBHOOK"] = url
        exec(example("on_backlog"), names)  # noqa: S102
        async with service:
            await world.publish(service, *(OrderPlaced(str(n)) for n in range(20)))
            await until(lambda: any("is dead in shop/charge after 3 attempts: the bank is closed" in text for text in texts))
            await until(lambda: any(re.fullmatch(r"shop/charge is down: .*the bank is closed.*", text) for text in texts))
            await until(lambda: any(re.match(r"shop/shop@log: \d+ events wait, the oldest for 0:00:0", text) for text in texts))
            down = False
            await until(lambda: "shop/charge is working again" in texts)
            await until(lambda: "shop/shop@log has caught up" in texts)
    assert len([text for text in texts if "working again" in text]) == 1
