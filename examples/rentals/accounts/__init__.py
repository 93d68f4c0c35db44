"""Customers and their accounts: aggregates that guard themselves, commands in three steps, an event-sourced account, and query models."""

from rentals.accounts import commands, converters, index, stream, views
from rentals.accounts.events_service import EventsService
from rentals.accounts.router import router

__all__ = ["EventsService", "router", "subscriptions"]

subscriptions = [stream.handlers, commands.handlers, converters.handlers, index.handlers, views.handlers]
