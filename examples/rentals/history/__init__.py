"""Asking for events instead of being sent them: the log keeps what was published, with a marker of who has handled it, and can be replayed."""

from rentals.history.router import router

__all__ = ["router"]
