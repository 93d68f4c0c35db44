"""Aggregates with domain events, their handlers and converters, the unit of work, commands and results.

Everything here is optional: whoever only calls `service.publish` never meets it. Modules that need SQLAlchemy are loaded when they are used.
"""

from tidings.domain.aggregates import AggregateRoot, DomainEvents

__all__ = ["AggregateRoot", "DomainEvents"]
