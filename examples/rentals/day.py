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
_ACME = {"x-tenant": "acme", "x-user": "grace"}


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
            response = client.get(path, headers=_ACME)
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
        customer = _customer(day)
        _account(day, customer)
        equipment = _order(day, customer)
        _failures(day)
        _goodbye(day, customer, equipment)
        _summary(day)
    say("Everything has arrived." if not day.wrong else f"{day.wrong} expectations were not fulfilled.")
    return 1 if day.wrong else 0


def _person(name: str, domain: str = "example.org") -> dict[str, str]:
    return {"id": str(uuid4()), "first_name": name, "last_name": "L.", "email": f"{name.lower()}-{uuid4().hex[:6]}@{domain}"}


def _customer(day: Day) -> str:
    say("A customer registers; another process welcomes her")
    ada = _person("Ada")
    day.post("/customers", 201, json=ada, headers={"idempotency-key": ada["id"]})
    day.post("/customers", 201, json=ada, headers={"idempotency-key": ada["id"]})
    day.until("the query model shows her", day.web, f"/customers/{ada['id']}", lambda found: found["name"] == "Ada")
    day.until("one mail for two clicks", day.notes, "/mails", lambda mails: mails.count([ada["email"], "Welcome, Ada"]) == 1)
    day.post("/customers", 422, json={**ada, "id": str(uuid4())})
    return ada["id"]


def _account(day: Day, customer: str) -> None:
    say("She puts money into an account, and cannot take out more")
    account = day.post("/accounts", 201, json={"id": str(uuid4()), "customer_id": customer})
    day.post("/accounts/moves", json={"account_id": account, "minor": 10_000})
    day.post("/accounts/moves", 409, json={"account_id": account, "minor": -10_001})
    day.post("/accounts/moves", json={"account_id": account, "minor": -2_500})
    day.until("the balance is shown", day.web, f"/accounts/{account}", lambda found: found["balance_minor"] == 7_500)


def _order(day: Day, customer: str) -> str:
    say("She orders a drill from the tenant acme: it is handed out, and there is an invoice")
    equipment: str = day.post("/equipment", 201, json={"id": str(uuid4()), "name": f"Drill {uuid4().hex[:6]}", "category": "Tools"})
    order = {"id": str(uuid4()), "customer_id": customer, "equipment_id": equipment, "days": 2}
    day.post("/orders", 201, json=order, headers=_ACME)
    day.until("the drill is hers", day.web, f"/equipment/{equipment}", lambda found: found["customer_id"] == customer)
    day.until("there is an invoice", day.web, f"/invoices/{order['id']}", lambda found: found["minor"] == 5_000)
    day.post(f"/invoices/{order['id']}/pay", headers=_ACME)
    day.until("the order is paid", day.web, f"/orders/{order['id']}", lambda found: found["state"] == "paid")
    day.until("the till has it", day.web, "/till", lambda found: found["minor"] >= 5_000)
    return equipment


def _failures(day: Day) -> None:
    say("The mail server is down; nobody waits for it, and nothing is lost")
    day.notes.put("/mail-server", params={"down": True}).raise_for_status()
    bob = _person("Bob")
    day.post("/customers", 201, json=bob)
    day.until("the query model shows him", day.web, f"/customers/{bob['id']}", lambda found: found["name"] == "Bob")
    day.until("his mail waits", day.notes, "/failures", lambda found: found["waiting"])
    day.notes.put("/mail-server", params={"down": False}).raise_for_status()
    day.until("his mail has gone out", day.notes, "/mails", lambda mails: [bob["email"], "Welcome, Bob"] in mails)
    say("An address that does not exist: not tried again, kept for somebody to decide")
    day.post("/customers", 201, json=_person("Eve", "nowhere.example"))
    day.until("somebody was alerted", day.notes, "/failures", lambda found: found["alerts"])
    day.until("the event is kept", day.notes, "/failures", lambda found: "dead" in [each["state"] for each in found["waiting"]])


def _goodbye(day: Day, customer: str, equipment: str) -> None:
    say("She leaves; another module takes the drill back")
    day.check("DELETE /customers", day.web.delete(f"/customers/{customer}").is_success)
    day.until("the drill is available", day.web, f"/equipment/{equipment}", lambda found: found["status"] == "available")


def _summary(day: Day) -> None:
    say("\nWhat was published, and who has handled it")
    counts: dict[tuple[str, str], int] = {}
    for event in day.web.get("/events").json():
        what = event["name"], ", ".join(each for each in event["handled_by"] if each != "notifications/archive")
        counts[what] = counts.get(what, 0) + 1
    for (name, handlers), number in sorted(counts.items()):
        say(f"  {number:3}  {name:38} {handlers}")
    say("")
