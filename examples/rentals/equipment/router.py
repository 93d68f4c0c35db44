"""The routes of the equipment."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter

from rentals.contracts.equipment import EquipmentStatus
from rentals.equipment.commands import ChangeStatus, CheckIn, CheckOut, CreateEquipment
from rentals.equipment.models import Equipment
from rentals.kernel import ServiceOf, SessionOf, answer, found

__all__ = ["router"]

router = APIRouter(prefix="/equipment", tags=["equipment"])


@router.post("", status_code=201)
async def create(command: CreateEquipment, service: ServiceOf) -> Any:
    """Add equipment."""
    return answer(await service.execute(command))


@router.get("/{equipment_id}")
async def show(equipment_id: UUID, session: SessionOf) -> dict[str, Any]:
    """Show equipment."""
    row = found(await session.get(Equipment, equipment_id))
    return {"id": row.id, "name": row.name, "status": row.status, "customer_id": row.customer_id}


@router.put("/{equipment_id}/status")
async def change(equipment_id: UUID, status: EquipmentStatus, service: ServiceOf) -> Any:
    """Send equipment to repair, or fetch it from there."""
    return answer(await service.execute(ChangeStatus(equipment_id, status)))


@router.post("/{equipment_id}/check-out")
async def check_out(equipment_id: UUID, customer_id: UUID, service: ServiceOf) -> Any:
    """Take equipment along."""
    return answer(await service.execute(CheckOut(equipment_id, customer_id)))


@router.post("/{equipment_id}/check-in")
async def check_in(equipment_id: UUID, service: ServiceOf) -> Any:
    """Bring equipment back."""
    return answer(await service.execute(CheckIn(equipment_id)))
