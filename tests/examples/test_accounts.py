"""Accounts over HTTP: commands, the events that they lead to, and what other parts make of these."""

from __future__ import annotations

from uuid import uuid4

from tests.examples.conftest import Sample


def ada(**changed: str) -> dict[str, str]:
    return {"id": str(uuid4()), "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org", **changed}


async def test_a_customer_who_registers_is_shown_and_welcomed_by_another_service(sample: Sample) -> None:
    customer = ada()
    assert await sample.post("/customers", 201, json=customer) == customer["id"]
    assert (await sample.get(f"/customers/{customer['id']}"))["name"] == "Ada"
    await sample.mailed("Welcome, Ada")
