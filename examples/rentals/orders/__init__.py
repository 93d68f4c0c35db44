"""Orders: domain events that are handled in the same transaction and become integration events by themselves; a handler sends a command."""

from rentals.orders import commands, converters, domain_handlers, integration_handlers
from rentals.orders.board import Board
from rentals.orders.router import router

__all__ = ["Board", "router", "subscriptions"]

subscriptions = [commands.handlers, domain_handlers.handlers, converters.handlers, integration_handlers.handlers]
