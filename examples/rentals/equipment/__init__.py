"""A CRUD module: rows without behaviour, commands that collect events and return them, and a subscriber of another module's event."""

from rentals.equipment import commands, handlers
from rentals.equipment.router import router

__all__ = ["router", "subscriptions"]

subscriptions = [commands.handlers, handlers.handlers]
