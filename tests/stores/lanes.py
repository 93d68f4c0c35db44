"""Events on their way into lanes."""

from __future__ import annotations

from typing import Any

from tidings.stores.base import Parking


def item(event_key: str, lane: str, reason: str = "behind", **rest: Any) -> Parking:
    """An event to be parked."""
    values: dict[str, Any] = {"key": "k", "event_id": event_key, "sequence": None, "data": b"{}", **rest}
    return Parking(
        event_key=event_key, lane=lane, source="shop", name="order.placed", version=1, topic="orders", time=None, headers=b"{}", reason=reason,
        **values,
    )  # fmt: skip
