"""Which event is being handled: what is published meanwhile is caused by it."""

from __future__ import annotations

from contextvars import ContextVar

from tidings.envelope import Envelope

__all__ = ["current_envelope"]

#: Set by the consuming side around each handler; read by every publisher.
current_envelope: ContextVar[Envelope | None] = ContextVar("tidings.current_envelope", default=None)
