"""What happens in one module, and what the others make of it, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.examples.conftest import Sample, until_there

TENANT = {"x-tenant": "acme", "x-user": "grace"}


def ada(**changed: str) -> dict[str, str]:
    return {"id": str(uuid4()), "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org", **changed}


def drill(**changed: str) -> dict[str, str]:
    return {"id": str(uuid4()), "name": "Test", "category": "Tools", **changed}


async def a_customer(sample: Sample, **changed: str) -> str:
    customer: str = await sample.post("/customers", 201, json=ada(**changed))
    return customer


async def a_drill(sample: Sample, **changed: str) -> str:
    equipment: str = await sample.post("/equipment", 201, json=drill(**changed))
    return equipment


async def an_order(sample: Sample, customer: str, equipment: str, days: int = 2) -> str:
    order = {"id": str(uuid4()), "customer_id": customer, "equipment_id": equipment, "days": days}
    placed: str = await sample.post("/orders", 201, json=order, headers=TENANT)
    return placed


async def names(sample: Sample) -> list[str]:
    return [event["name"] for event in await sample.get("/events")]


class TestAccounts:
    async def test_a_customer_who_registers_is_shown_and_welcomed_by_another_service(self, sample: Sample) -> None:
        customer = await a_customer(sample)
        assert (await sample.get(f"/customers/{customer}"))["name"] == "Ada"
        await sample.mailed("Welcome, Ada")

    async def test_both_versions_of_an_event_reach_their_own_handlers(self, sample: Sample) -> None:
        await a_customer(sample)
        await until_there(sample.notes, "/archive?name=customer.registered", lambda found: len(found) == 2)
        await sample.until_handled("customer.registered", {"notifications/letter"}, {"notifications/welcome"})

    async def test_what_is_not_valid_touches_nothing(self, sample: Sample) -> None:
        refused = await sample.post("/customers", 422, json=ada(first_name=" ", email="nobody"))
        assert [error["field"] for error in refused["errors"]] == ["first_name", "email"]
        await a_customer(sample)
        refused = await sample.post("/customers", 422, json=ada())
        assert refused["errors"] == [{"field": "email", "message": "email 'ada@example.org' already exists"}]
        assert (await names(sample)).count("customer.registered") == 2

    async def test_a_form_that_is_sent_twice_makes_one_customer(self, sample: Sample) -> None:
        form = ada()
        for _ in range(2):
            assert await sample.post("/customers", 201, json=form, headers={"idempotency-key": "form-1"}) == form["id"]
        assert (await names(sample)).count("customer.registered") == 2

    async def test_an_account_is_rebuilt_from_its_events_and_never_overdrawn(self, sample: Sample) -> None:
        account = await sample.post("/accounts", 201, json={"id": str(uuid4()), "customer_id": await a_customer(sample)})
        assert await sample.post("/accounts/moves", json={"account_id": account, "minor": 500}) == 500
        assert await sample.post("/accounts/moves", json={"account_id": account, "minor": -200}) == 300
        await sample.post("/accounts/moves", 409, json={"account_id": account, "minor": -301})
        before = await names(sample)
        assert await sample.post("/accounts/moves", json={"account_id": account, "minor": 0}) == 300
        assert await names(sample) == before, "nothing happened, nothing is stored"
        await until_there(sample.web, f"/accounts/{account}", lambda found: found["balance_minor"] == 300)
        assert before.count("account.money-moved") == 2

    async def test_a_query_model_is_built_anew_from_the_log(self, sample: Sample) -> None:
        account = await sample.post("/accounts", 201, json={"id": str(uuid4()), "customer_id": await a_customer(sample)})
        await sample.post("/accounts/moves", json={"account_id": account, "minor": 500})
        await until_there(sample.web, f"/accounts/{account}", lambda found: found["balance_minor"] == 500)
        assert await sample.post("/events/replay?subscription=account-views") == {"handled": 1, "failed": 0}


class TestEquipment:
    async def test_equipment_that_could_not_be_saved_publishes_nothing(self, sample: Sample) -> None:
        await a_drill(sample)
        await sample.post("/equipment", 409, json=drill())
        assert (await names(sample)).count("equipment.equipment-created") == 1
        await sample.mailed("Test (Tools)")

    async def test_a_status_that_stays_the_same_is_no_event(self, sample: Sample) -> None:
        equipment = await a_drill(sample)
        for _ in range(2):
            response = await sample.web.put(f"/equipment/{equipment}/status?status=in-repair")
            assert response.status_code == 200
        assert (await names(sample)).count("equipment.status-changed") == 1

    async def test_what_a_deleted_customer_has_comes_back(self, sample: Sample) -> None:
        customer, equipment = await a_customer(sample), await a_drill(sample)
        await sample.post(f"/equipment/{equipment}/check-out?customer_id={customer}")
        assert (await sample.web.delete(f"/customers/{customer}")).status_code == 200
        found = await until_there(sample.web, f"/equipment/{equipment}", lambda found: found["status"] == "available")
        assert found["customer_id"] is None
        assert "equipment.checked-in" in await names(sample)

    async def test_commands_are_written_down_with_who_asked_also_those_that_failed(self, sample: Sample) -> None:
        await a_drill(sample)
        await sample.post("/equipment", 409, json=drill(), headers=TENANT)
        (row,) = await sample.get("/audit?outcome=rejected")
        assert (row["command"], row["actor"]) == ("CreateEquipment", "grace")


class TestCashiers:
    async def test_a_cashier_is_welcomed_for_the_tenant_of_the_request(self, sample: Sample) -> None:
        cashier = {"id": str(uuid4()), "name": "Ida", "email": "ida@example.org"}
        created = await sample.post("/cashiers", 201, json=cashier, headers=TENANT)
        assert created["name"] == "Ida"
        await sample.mailed("acme welcomes Ida")
        (kept,) = await until_there(sample.notes, "/archive?name=CashierCreated", lambda found: found)
        assert kept["tenant"] == "acme"

    async def test_nobody_reaches_into_another_tenant(self, sample: Sample) -> None:
        cashier = await sample.post("/cashiers", 201, json={"id": str(uuid4()), "name": "Ida", "email": "i@example.org"}, headers=TENANT)
        response = await sample.web.delete(f"/cashiers/{cashier['cashier_id']}", headers={"x-tenant": "umbrella"})
        assert response.status_code == 409
        assert (await sample.web.post("/cashiers", json={})).status_code in (400, 422)
        assert "CashierDeleted" not in await names(sample)

    async def test_an_error_publishes_nothing(self, sample: Sample) -> None:
        await sample.post("/cashiers", 409, json={"id": str(uuid4()), "name": " ", "email": "i@example.org"}, headers=TENANT)
        assert await names(sample) == []


class TestOrders:
    async def test_an_order_is_handed_out_invoiced_paid_and_counted(self, sample: Sample) -> None:
        customer, equipment = await a_customer(sample), await a_drill(sample)
        order = await an_order(sample, customer, equipment)
        assert (await sample.get(f"/orders/{order}"))["number"] == 1
        await until_there(sample.web, f"/equipment/{equipment}", lambda found: found["customer_id"] == customer)
        invoice = await sample.get(f"/invoices/{order}", headers=TENANT)
        assert invoice["minor"] == 5000
        await sample.post(f"/invoices/{order}/pay", headers=TENANT)
        await until_there(sample.web, f"/orders/{order}", lambda found: found["state"] == "paid")
        await until_there(sample.web, "/till", lambda found: found["minor"] == 5000, headers=TENANT)
        assert (await names(sample)).count("OrderPaid") == 1

    async def test_the_third_order_makes_a_regular_customer_with_a_gift(self, sample: Sample) -> None:
        customer = str(uuid4())
        for _ in range(3):
            await an_order(sample, customer, str(uuid4()))
        found = await until_there(sample.web, f"/loyalty/{customer}", lambda found: found["gift"])
        assert found == {"orders": 3, "gift": "a free day"}

    async def test_what_somebody_else_has_is_not_tried_again(self, sample: Sample) -> None:
        equipment = await a_drill(sample)
        await sample.post(f"/equipment/{equipment}/check-out?customer_id={uuid4()}")
        order = await an_order(sample, str(uuid4()), equipment)
        await sample.get(f"/invoices/{order}", headers=TENANT)
        await sample.until_handled("OrderCreated", {"rentals/hand-out", "rentals/invoice"})
        assert (await names(sample)).count("equipment.checked-out") == 1

    async def test_a_paid_order_is_not_cancelled(self, sample: Sample) -> None:
        order = await an_order(sample, str(uuid4()), str(uuid4()))
        await sample.get(f"/invoices/{order}", headers=TENANT)
        await sample.post(f"/invoices/{order}/pay", headers=TENANT)
        await until_there(sample.web, f"/orders/{order}", lambda found: found["state"] == "paid")
        assert (await sample.web.delete(f"/orders/{order}")).status_code == 409
        other = await an_order(sample, str(uuid4()), str(uuid4()))
        assert (await sample.web.delete(f"/orders/{other}")).json()["state"] == "cancelled"


class TestNotifications:
    async def test_while_the_mail_server_is_down_mails_wait_and_go_out_afterwards(self, sample: Sample) -> None:
        await sample.notes.put("/mail-server?down=true")
        await a_customer(sample)
        await until_there(sample.notes, "/failures", lambda found: found["waiting"])
        await sample.notes.put("/mail-server?down=false")
        await sample.mailed("Welcome, Ada")

    async def test_a_mail_that_cannot_be_sent_is_dead_alerts_and_can_be_redriven(self, sample: Sample) -> None:
        await a_customer(sample, email="ada@nowhere.example")
        found = await until_there(sample.notes, "/failures", lambda found: found["alerts"] and found["waiting"])
        assert found["alerts"] == ["customer.registered: there is no such address: ada@nowhere.example (1)"]
        assert "no such address" in only(found["waiting"])["error"]
        assert (await sample.notes.post("/failures/redrive?subscription=welcome")).json() == 1

    async def test_many_moves_make_few_mails(self, sample: Sample) -> None:
        account = await sample.post("/accounts", 201, json={"id": str(uuid4()), "customer_id": await a_customer(sample)})
        for _ in range(3):
            await sample.post("/accounts/moves", json={"account_id": account, "minor": 100})
        await until_there(sample.notes, "/mails", lambda mails: sum(int(s.split()[0]) for _, s in mails if " moves, " in s) == 3)


def only(found: list[Any]) -> Any:
    (one,) = found
    return one
