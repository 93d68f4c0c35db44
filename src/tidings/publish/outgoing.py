"""An event that has been encoded and waits in a buffer for its transaction to commit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

__all__ = ["Outgoing"]


class Outgoing(NamedTuple):
    """One row to be: everything that the outbox stores, already text.

    Attributes:
        slot: `slot_of(key)`; None when the event has no key.
        lock: whether the INSERT takes the lock of the slot, so that everyone sees the key in one order.
        headers, data: JSON text. Both are safe for every supported database (no lone surrogates, NUL only as an escape).
        due: None for the log; else the event is scheduled: at that time, or that long after the database's clock.
    """

    id: UUID
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    slot: int | None
    lock: bool
    headers: str
    data: str
    due: datetime | timedelta | None = None
