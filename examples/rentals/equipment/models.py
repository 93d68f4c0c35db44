"""The rows of the equipment, and saving them with a result instead of an exception."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from rentals.contracts.equipment import EquipmentStatus
from rentals.kernel import Base
from tidings.domain import Err, Ok, Result

__all__ = ["Equipment", "save"]


class Equipment(Base):
    """A piece of equipment. It records nothing: its commands say what has happened."""

    __tablename__ = "equipment"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    category: Mapped[str]
    status: Mapped[EquipmentStatus] = mapped_column(default=EquipmentStatus.AVAILABLE)
    customer_id: Mapped[UUID | None]


async def save(session: AsyncSession) -> Result[None, str]:
    """Write what has changed; the commit is the caller's."""
    try:
        await session.flush()
    except IntegrityError:
        return Err("there is equipment of that name already")
    return Ok(None)
