"""A short day, played over HTTP, with a summary of what should have arrived and has."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx

__all__ = ["play", "say"]

_PATIENCE = 30.0


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Day:
    """What happens, and what is expected of it.

    Attributes:
        wrong: how many expectations were not fulfilled.
    """

    def __init__(self, web: httpx.Client, notes: httpx.Client) -> None:
        self.web = web
        self.notes = notes
        self.wrong = 0

    def post(self, path: str, expected: int = 200, **given: Any) -> Any:
        """Post to the application."""
        response = self.web.post(path, **given)
        self.check(f"POST {path} is answered with {expected}", response.status_code == expected)
        return response.json()

    def until(self, what: str, client: httpx.Client, path: str, condition: Callable[[Any], object]) -> None:
        """Wait for what somebody else does."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            response = client.get(path)
            if response.status_code == 200 and condition(response.json()):
                self.check(what, True)
                return
            time.sleep(0.02)
        self.check(what, False)

    def check(self, what: str, fulfilled: bool) -> None:
        """Note one expectation."""
        self.wrong += not fulfilled
        say(f"  {'ok   ' if fulfilled else 'WRONG'}  {what}")


def play(web: str, notes: str) -> int:
    """Play the day; return the exit code."""
    with httpx.Client(base_url=web, timeout=_PATIENCE) as first, httpx.Client(base_url=notes, timeout=_PATIENCE) as second:
        day = Day(first, second)
        _customers(day)
    say("Everything has arrived." if not day.wrong else f"{day.wrong} expectations were not fulfilled.")
    return 1 if day.wrong else 0


def _customers(day: Day) -> str:
    say("A customer registers; another process welcomes her")
    ada = {"id": str(uuid4()), "first_name": "Ada", "last_name": "Lovelace", "email": f"ada-{uuid4().hex[:6]}@example.org"}
    day.post("/customers", 201, json=ada)
    day.until("the query model shows her", day.web, f"/customers/{ada['id']}", lambda found: found["name"] == "Ada")
    day.until("the other process has sent a mail", day.notes, "/mails", lambda mails: [ada["email"], "Welcome, Ada"] in mails)
    return ada["id"]
