"""Commands that collect events, save, and return the events only if that has succeeded. Whoever called does not wait for subscribers."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from rentals.contracts.equipment import EquipmentCheckedIn, EquipmentCheckedOut, EquipmentCreated, EquipmentStatus, EquipmentStatusChanged
from rentals.equipment.models import Equipment, save
from rentals.kernel import Clock
from tidings import Subscriptions
from tidings.domain import Err, Ok, Result

__all__ = ["ChangeStatus", "CheckIn", "CheckOut", "CreateEquipment", "handlers"]

handlers = Subscriptions()

Event = EquipmentCreated | EquipmentStatusChanged | EquipmentCheckedOut | EquipmentCheckedIn


@dataclass(frozen=True)
class CreateEquipment:
    """Sent by the warehouse."""

    id: UUID
    name: str
    category: str


@handlers.handles(CreateEquipment)
async def create_equipment(command: CreateEquipment, session: AsyncSession, clock: Clock) -> tuple[Result[UUID, str], list[Event]]:
    """Add a row. An `Err` publishes nothing, whatever was collected."""
    events: list[Event] = []
    session.add(Equipment(id=command.id, name=command.name, category=command.category))
    events.append(EquipmentCreated(command.id, command.name, command.category, EquipmentStatus.AVAILABLE, clock.now()))
    saved = await save(session)
    return (saved, []) if isinstance(saved, Err) else (Ok(command.id), events)


@dataclass(frozen=True)
class ChangeStatus:
    """Sent when something breaks, or is whole again."""

    id: UUID
    status: EquipmentStatus


@handlers.handles(ChangeStatus)
async def change_status(
    command: ChangeStatus, session: AsyncSession, clock: Clock
) -> tuple[Result[UUID, str], EquipmentStatusChanged | None]:
    """Change a row; None for the event says that nothing has happened."""
    row = await session.get(Equipment, command.id)
    if row is None:
        return Err("there is no such equipment"), None
    if row.status is command.status:
        return Ok(row.id), None
    event = EquipmentStatusChanged(row.id, row.status, command.status, clock.now())
    row.status = command.status
    return Ok(row.id), event


@dataclass(frozen=True)
class CheckOut:
    """Sent when somebody takes it."""

    id: UUID
    customer_id: UUID


@handlers.handles(CheckOut)
async def check_out(command: CheckOut, session: AsyncSession, clock: Clock) -> tuple[Result[UUID, str], list[Event]]:
    """Hand it out, if it is there."""
    row = await session.get(Equipment, command.id)
    if row is None or row.status is not EquipmentStatus.AVAILABLE:
        return Err("not available"), []
    events: list[Event] = [EquipmentStatusChanged(row.id, row.status, EquipmentStatus.CHECKED_OUT, clock.now())]
    row.status, row.customer_id = EquipmentStatus.CHECKED_OUT, command.customer_id
    events.append(EquipmentCheckedOut(row.id, command.customer_id, clock.now()))
    return Ok(row.id), events


@dataclass(frozen=True)
class CheckIn:
    """Sent when it is back."""

    id: UUID


@handlers.handles(CheckIn)
async def check_in(command: CheckIn, session: AsyncSession, clock: Clock) -> tuple[Result[UUID, str], EquipmentCheckedIn | None]:
    """Take it back; once is enough."""
    row = await session.get(Equipment, command.id)
    if row is None:
        return Err("there is no such equipment"), None
    if row.status is not EquipmentStatus.CHECKED_OUT:
        return Ok(row.id), None
    row.status, row.customer_id = EquipmentStatus.AVAILABLE, None
    return Ok(row.id), EquipmentCheckedIn(row.id, clock.now())
