"""What is said of an event that is not tried again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Dead"]


@dataclass(frozen=True, slots=True)
class Dead:
    """What `on_dead` callbacks are told about an event that is not tried again.

    Attributes:
        message_type: the event's name.
        retry_count: how often it was tried in all.
        exception: what the last attempt raised.
    """

    event_id: str
    message_type: str
    key: str | None
    subscription: str
    retry_count: int
    exception: BaseException
