"""Who executed which command, when, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.waiting import until
from tests.domain.shop import Note, Shop
from tidings import Service, Subscriptions, clock
from tidings.consume.purging import PURGER, Purger
from tidings.domain import Audit, Err, ExecuteSync, Idempotency, Secret, Transactional, Validation, ValidationError, ValidationFailed
from tidings.domain.audit import described
from tidings.errors import UnitOfWorkRolledBack


@dataclass(frozen=True)
class Register:
    name: str
    pin: Annotated[str, Secret()] = "0815"
    card: str = "4111"


@dataclass(frozen=True)
class Outer:
    name: str


@dataclass(frozen=True)
class Jot:
    name: str


def handlers_of_sessions() -> Subscriptions:
    made = Subscriptions()

    @made.handles(Jot)
    async def note(command: Jot, session: AsyncSession) -> None:
        session.add(Note(text=command.name))

    return made


def handlers() -> Subscriptions:
    made = Subscriptions()

    @made.validates(Register)
    def named(command: Register) -> ValidationError | None:
        return None if command.name else ValidationError("name", "is missing")

    @made.handles(Register)
    def register(command: Register, session: Session) -> Any:
        session.add(Note(text=command.name))
        session.flush()
        if command.name == "raise":
            raise ZeroDivisionError("by zero")
        return Err("taken") if command.name == "err" else command.name

    @made.handles(Outer)
    def outer(command: Outer, session: Session, execute: ExecuteSync) -> Any:
        if command.name == "swallow":
            with pytest.raises(ZeroDivisionError):
                execute(Register("raise"))
            return None
        execute(Register("inner"))
        if command.name == "late":
            raise ValueError("late")
        return None

    return made


@pytest.fixture
async def service(shop: Shop) -> Service:
    behaviours = [Audit(actor=lambda: "ada", redact=["card"]), Transactional(), Idempotency(), Validation()]
    return shop.service(handlers(), behaviours=behaviours)


async def test_success_and_repetition(shop: Shop, service: Service) -> None:
    for _ in range(2):
        await service.execute(Register("a"), idempotency_key="k")
    again, first = await service.audited()
    assert (first.command, first.actor, first.outcome, first.idempotency_key) == ("Register", "ada", "succeeded", "k")
    assert json.loads(first.data) == {"name": "a", "pin": "***", "card": "***"}
    assert datetime.now(UTC) - first.started_at < timedelta(minutes=1)
    assert again.outcome == "repeated"
    assert shop.notes() == ["a"]


@pytest.mark.parametrize(
    ("name", "outcome", "error"),
    [("raise", "failed", "ZeroDivisionError"), ("err", "rejected", "str"), ("", "rejected", "tidings.errors.ValidationFailed")],
)
async def test_a_failure_is_written_although_the_rest_is_rolled_back(
    shop: Shop, service: Service, name: str, outcome: str, error: str
) -> None:
    try:
        await service.execute(Register(name))
    except (ZeroDivisionError, ValidationFailed):
        pass
    (row,) = await service.audited(outcome=outcome)
    assert (row.error_type, shop.notes()) == (error, [])


async def test_rows_are_kept_for_as_long_as_the_service_says(async_shop: Shop) -> None:
    def made(**options: Any) -> Service:
        return async_shop.service(behaviours=[Audit(), Transactional()], attach=False, **options)

    ago = "now() - interval '3 days'" if async_shop.database.kind == "postgresql" else "'2020-01-01T00:00:00.000Z'"
    service = async_shop.service(handlers_of_sessions(), behaviours=[Audit(), Transactional()])
    for name in ("old", "new"):
        await service.execute(Jot(name))
    which = "data->>'name' = 'old'" if async_shop.database.kind == "postgresql" else "data like '%old%'"
    await async_shop.transact(
        lambda session: session.connection().exec_driver_sql(f"update tidings_commands set started_at = {ago} where {which}")
    )
    kept = made(audit_retention=None)
    await kept.store.transact(kept.store.registry.add_task, PURGER)
    lease = await kept.store.call(kept.store.leases.acquire, PURGER, "test", 30.0)
    assert lease is not None
    await Purger(kept.store, kept.name, kept._retention).step(lease)
    await kept.store.call(kept.store.leases.release, lease)
    assert len(async_shop.rows("select id from tidings_commands")) == 2
    async with made(audit_retention=timedelta(days=1)):
        await until(lambda: len(async_shop.rows("select id from tidings_commands")) == 1)
    (row,) = await service.audited()
    assert json.loads(row.data) == {"name": "new"}


async def test_commands_inside_commands(shop: Shop, service: Service) -> None:
    await service.execute(Outer("well"))
    assert [(row.command, row.outcome) for row in await service.audited()] == [("Register", "succeeded"), ("Outer", "succeeded")]


async def test_commands_of_one_moment_stand_in_the_order_in_which_they_began(
    shop: Shop, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.now(UTC)
    monkeypatch.setattr(clock, "now", lambda: moment)
    await service.execute(Outer("well"))
    assert [row.command for row in await service.audited()] == ["Register", "Outer"]


async def test_what_had_succeeded_inside_a_failure_is_rolled_back(shop: Shop, service: Service) -> None:
    with pytest.raises(ValueError, match="late"):
        await service.execute(Outer("late"))
    assert {(row.command, row.outcome) for row in await service.audited()} == {("Register", "rolled back"), ("Outer", "failed")}


async def test_a_failure_inside_that_is_swallowed(shop: Shop, service: Service) -> None:
    with pytest.raises(UnitOfWorkRolledBack):
        await service.execute(Outer("swallow"))
    assert {(row.command, row.outcome) for row in await service.audited()} == {("Register", "failed"), ("Outer", "failed")}


async def test_questions(shop: Shop, service: Service) -> None:
    for name in ("a", "b"):
        await service.execute(Register(name))
    assert len(await service.audited(command="Register", actor="ada", limit=1)) == 1
    assert await service.audited(actor="bob") == []
    assert await service.audited(since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert len(await service.audited(until=datetime.now(UTC) + timedelta(hours=1))) == 2


def test_data_of_any_command() -> None:
    class Plain:
        def __init__(self) -> None:
            self.id = UUID(int=1)
            self.inner = [Register("a")]
            self.odd = object
            self._private = 1

    @dataclass
    class Nested:
        registers: dict[str, Register] = field(default_factory=lambda: {"x": Register("b"), "card": Register("c")})

    data = json.loads(described(Plain(), ()))
    assert data["id"] == str(UUID(int=1))
    assert data["inner"][0]["pin"] == "***"
    assert "class 'object'" in data["odd"]
    assert "_private" not in data
    assert json.loads(described(Nested(), ["card"])) == {"registers": {"x": {"name": "b", "pin": "***", "card": "***"}, "card": "***"}}
