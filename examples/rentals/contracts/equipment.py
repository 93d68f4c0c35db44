"""Events of the equipment: names are constants of this module, so that nobody mistypes one, and each event has a topic of its name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from tidings import Contract

__all__ = [
    "EquipmentCheckedIn",
    "EquipmentCheckedOut",
    "EquipmentCreated",
    "EquipmentStatus",
    "EquipmentStatusChanged",
    "EquipmentTopics",
    "equipment",
]

equipment = Contract("equipment")


class EquipmentTopics:
    """The names, `{module}.{event}`; a topic is called as its event unless a contract has another namer."""

    CREATED = "equipment.equipment-created"
    STATUS_CHANGED = "equipment.status-changed"
    CHECKED_OUT = "equipment.checked-out"
    CHECKED_IN = "equipment.checked-in"


class EquipmentStatus(Enum):
    """What can be done with a piece of equipment."""

    AVAILABLE = "available"
    CHECKED_OUT = "checked-out"
    IN_REPAIR = "in-repair"


@equipment.event(EquipmentTopics.CREATED, key="equipment_id")
@dataclass(frozen=True)
class EquipmentCreated:
    """Published when equipment has been added. Carries everything, so that subscribers need not ask."""

    equipment_id: UUID
    name: str
    category: str
    status: EquipmentStatus
    created_at: datetime


@equipment.event(EquipmentTopics.STATUS_CHANGED, key="equipment_id")
@dataclass(frozen=True)
class EquipmentStatusChanged:
    """Published when equipment goes to repair, or comes back."""

    equipment_id: UUID
    old: EquipmentStatus
    new: EquipmentStatus
    changed_at: datetime


@equipment.event(EquipmentTopics.CHECKED_OUT, key="equipment_id")
@dataclass(frozen=True)
class EquipmentCheckedOut:
    """Published when somebody has taken equipment along."""

    equipment_id: UUID
    customer_id: UUID
    checked_out_at: datetime


@equipment.event(EquipmentTopics.CHECKED_IN, key="equipment_id")
@dataclass(frozen=True)
class EquipmentCheckedIn:
    """Published when equipment is back."""

    equipment_id: UUID
    checked_in_at: datetime
