"""Aggregates with domain events, their handlers and converters, the unit of work, commands and results.

Everything here is optional: whoever only calls `service.publish` never meets it. What needs SQLAlchemy is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidings.consume.execute import Execute, ExecuteSync
from tidings.domain.aggregates import AggregateRoot, DomainEvents
from tidings.domain.results import Err, Ok, Result
from tidings.domain.secrets import Secret
from tidings.domain.validation import ValidationError
from tidings.errors import ValidationFailed

if TYPE_CHECKING:
    from tidings.domain.audit import Audit
    from tidings.domain.behaviours import Logging, Transactional, Validation
    from tidings.domain.commands import Behaviour, Call, Proceed
    from tidings.domain.idempotency import Idempotency
    from tidings.domain.unit_of_work import UnitOfWork

__all__ = [
    "AggregateRoot",
    "Audit",
    "Behaviour",
    "Call",
    "DomainEvents",
    "Err",
    "Execute",
    "ExecuteSync",
    "Idempotency",
    "Logging",
    "Ok",
    "Proceed",
    "Result",
    "Secret",
    "Transactional",
    "UnitOfWork",
    "Validation",
    "ValidationError",
    "ValidationFailed",
]

_HOMES = {
    "Audit": "audit",
    "Behaviour": "commands",
    "Call": "commands",
    "Idempotency": "idempotency",
    "Logging": "behaviours",
    "Proceed": "commands",
    "Transactional": "behaviours",
    "UnitOfWork": "unit_of_work",
    "Validation": "behaviours",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("sqlalchemy", "greenlet"):
            raise
        from tidings.errors import MissingExtra

        raise MissingExtra(f"tidings.domain.{name}", "sqlalchemy") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
