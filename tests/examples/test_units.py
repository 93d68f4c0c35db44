"""Handlers are functions: unit tests call them, and need neither a database nor a broker."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from unittest.mock import AsyncMock, Mock
from uuid import UUID, uuid4

import pytest

from rentals.accounts.account import Account, AccountOpened, Moved, Overdrawn
from rentals.cashiers.commands import CreateCashier, CreateCashierHandler, InsertCashier
from rentals.cashiers.invoices import make_invoice, pay
from rentals.contracts import CONTRACTS
from rentals.contracts.cashiers import Cashier, CashierCreated, Invoice, InvoiceCreated, InvoicePaid, cashiers
from rentals.contracts.equipment import EquipmentCreated, EquipmentStatus
from rentals.contracts.orders import OrderCreatedIntegrationEvent
from rentals.equipment.commands import CreateEquipment, create_equipment
from rentals.notifications.handlers import EquipmentMails, welcome_cashier
from rentals.notifications.mail import MailServer, Unreachable
from rentals.orders.aggregates import Order, OrderCreatedDomainEvent
from rentals.orders.commands import OrderPaidCommand
from rentals.orders.converters import created
from rentals.orders.integration_handlers import invoice_paid
from tidings import context
from tidings.domain import Ok
from tidings.testing import RecordingExecute, RecordingPublish, envelope, recording

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Noon:
    def now(self) -> datetime:
        return NOON


async def test_a_static_handler_returns_the_result_and_the_event() -> None:
    command, execute = CreateCashier("acme", uuid4(), "Ida", "ida@example.org"), RecordingExecute()
    result, event = await CreateCashierHandler.handle(command, execute)
    assert result.is_ok
    assert event is not None
    assert (event.tenant_id, event.cashier.name) == (command.tenant_id, command.name)
    execute.assert_executed(InsertCashier, tenant_id="acme")


async def test_a_command_publishes_what_has_happened_with_the_time_of_the_clock() -> None:
    command = CreateEquipment(uuid4(), "Test", "Tools")
    result, events = await create_equipment(command, Mock(flush=AsyncMock()), Noon())
    assert result == Ok(command.id)
    assert events == [EquipmentCreated(command.id, "Test", "Tools", EquipmentStatus.AVAILABLE, NOON)]


async def test_a_subscriber_sends_one_mail() -> None:
    mail = Mock(spec=MailServer, send=AsyncMock())
    await EquipmentMails.created(EquipmentCreated(uuid4(), "Test", "Tools", EquipmentStatus.AVAILABLE, NOON), mail)
    mail.send.assert_awaited_once_with("warehouse@rentals.example", "Test (Tools)")


async def test_a_failure_is_logged_and_raised_again(caplog: pytest.LogCaptureFixture) -> None:
    event = CashierCreated("acme", 3, Cashier(uuid4(), "Ida", "ida@example.org"))
    with caplog.at_level(logging.INFO), pytest.raises(Unreachable):
        await welcome_cashier(event, envelope(event, cashiers), Mock(), MailServer(down=True))
    assert caplog.messages == ["Processing CashierCreated event for tenant acme", "Failed to send welcome email to ida@example.org"]
    assert caplog.records[0].tenant_id == "acme"  # type: ignore[attr-defined]


async def test_a_handler_publishes_for_the_tenant_of_the_event() -> None:
    publish, order = RecordingPublish(*CONTRACTS), uuid4()
    with context.bind(tenant="acme"):
        await make_invoice(OrderCreatedIntegrationEvent(order, uuid4(), uuid4(), 2500), Mock(), publish)
    event = publish.assert_published_once(InvoiceCreated, tenant_id="acme")
    assert event.invoice == Invoice(order, event.invoice.amount)


async def test_a_handler_sends_a_command() -> None:
    execute, invoice = RecordingExecute(), uuid4()
    await invoice_paid(InvoicePaid("acme", invoice, Mock(), NOON), execute)
    assert execute.commands == [OrderPaidCommand(invoice)]


async def test_publishing_by_hand_is_recorded_without_a_database() -> None:
    from sqlalchemy.ext.asyncio import async_sessionmaker

    from rentals.settings import Settings, create_engine
    from rentals.wiring import create_service

    engine = create_engine(Settings().database)
    service = create_service(Settings(), engine, async_sessionmaker(engine))
    row = Mock(tenant="acme", id=uuid4(), minor=250, paid=False)
    with recording(service) as published:
        assert await pay(service, Mock(get=AsyncMock(return_value=row)), Noon(), "acme", row.id)
    published.assert_published_once(InvoicePaid, invoice_id=row.id, paid_date=NOON)


def test_an_aggregate_is_its_events() -> None:
    number, customer = uuid4(), uuid4()
    account = Account.of(number, [AccountOpened(number, customer), Moved(number, 500, 500)])
    with pytest.raises(Overdrawn):
        account.withdraw(501)
    account.withdraw(200)
    account.withdraw(0)
    assert account.events.pull_events() == [Moved(number, -200, 300)]
    assert (account.version, account.customer_id) == (2, customer)


def test_a_converter_picks_fields() -> None:
    order = Order.place(UUID(int=1), UUID(int=2), UUID(int=3), days=2)
    (event,) = order.pull_events()
    assert event == OrderCreatedDomainEvent(order)
    assert created(event) == OrderCreatedIntegrationEvent(UUID(int=1), UUID(int=2), UUID(int=3), 5000)
