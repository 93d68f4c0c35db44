"""Which event is being handled: what is published meanwhile is caused by it."""

from __future__ import annotations

from tidings.context.binding import current_envelope

__all__ = ["current_envelope"]
