"""The error tree. Every message says what happened, with which value, and what to do next.

TidingsError
├── ContractError               a contract, event class, key, topic or upcaster is declared wrongly
│   └── DuplicateEvent          (name, version) is declared twice
├── ConfigurationError          a service, subscription, provider or store is put together wrongly
│   ├── MissingExtra            an optional package is not installed
│   ├── UnresolvedParameter     a handler asks for something that nobody provides
│   └── RenamedSubscription     a stored subscription vanished and one like it appeared
├── DomainEventRecursion        domain event handlers keep recording new events
├── PublishError                an event cannot be published
│   ├── DuplicatePublication    a converter and the program publish the same fact in one transaction
│   ├── InvalidEvent            it does not fit its contract, or is too large
│   ├── InvalidContext          a context value cannot travel in a header
│   ├── NoTransaction           outside a transaction, on an autocommit connection, on a closed session
│   ├── Refused                 the broker does not take it as it is
│   ├── Unsendable              the wire format or the transport cannot carry it
│   ├── Vetoed                  a publish filter does not let it through
│   └── WrongDatabase           the session belongs to another database than the store
├── StoreError                  the store's tables cannot be used
│   ├── SchemaError             missing, too old, too new or altered tables
│   ├── ReplicaError            the server is in recovery: the log is read from the primary only
│   └── LeaseLost               another worker acts for this reader or lane now
├── ProcessEnded                a process was killed, or killed itself, whenever it handled an event
├── TransportError              a broker cannot be used
│   ├── TransportDown           it cannot be reached, refuses us, or the connection is lost
│   └── ProvisionError          a topic, queue or stream is missing, or is there with other properties
├── StillRunning                what would be retired or forgotten is in use
├── InvalidCursor               what was given to read on from is no cursor of the log
├── CircularChain               handlers publish what leads to themselves, again and again
├── DecodeError                 a stored or received event cannot be understood
│   └── Undecodable             a message from outside is no event in any format that is read here
├── TransactionEnded            a handler committed, rolled back or broke the transaction it was given
├── UnitOfWorkRolledBack        something inside a unit of work failed and was caught, so that it could not commit
├── ValidationFailed            a command is not valid
└── IdempotencyConflict         a key was used before, for another command
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.domain.validation import ValidationError

__all__ = [
    "CircularChain",
    "ConfigurationError",
    "ContractError",
    "DecodeError",
    "DomainEventRecursion",
    "DuplicateEvent",
    "DuplicatePublication",
    "IdempotencyConflict",
    "InvalidContext",
    "InvalidCursor",
    "InvalidEvent",
    "LeaseLost",
    "MissingExtra",
    "NoTransaction",
    "ProcessEnded",
    "ProvisionError",
    "PublishError",
    "Refused",
    "RenamedSubscription",
    "ReplicaError",
    "SchemaError",
    "StillRunning",
    "StoreError",
    "TidingsError",
    "TransactionEnded",
    "TransportDown",
    "TransportError",
    "Undecodable",
    "UnitOfWorkRolledBack",
    "UnresolvedParameter",
    "Unsendable",
    "ValidationFailed",
    "Vetoed",
    "WrongDatabase",
]


class TidingsError(Exception):
    """Base of every error that Tidings raises on purpose."""


class ContractError(TidingsError):
    """A contract, event class, key, topic or upcaster is declared wrongly."""


class DuplicateEvent(ContractError):
    """The same event name and version is declared twice in one contract."""


class ConfigurationError(TidingsError):
    """A service, subscription, provider or store is put together wrongly."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'tidings[{extra}]'")


class UnresolvedParameter(ConfigurationError):
    """A handler asks for a parameter that nobody provides."""


class RenamedSubscription(ConfigurationError):
    """A stored subscription vanished from the code and another one like it appeared."""


class DomainEventRecursion(TidingsError):
    """Handlers of domain events keep recording events whose handlers record further ones; nothing was committed."""


class PublishError(TidingsError):
    """An event cannot be published."""


class DuplicatePublication(PublishError):
    """A converter and the program publish the same fact in one transaction; nothing was committed."""


class StillRunning(TidingsError):
    """What an operator wants to retire or forget is in use: a worker runs the service, or reads for the group."""


class InvalidCursor(TidingsError, ValueError):
    """What was given to `Service.read_log` is no cursor of that log."""


class InvalidEvent(PublishError, ValueError):
    """An event does not fit its contract, its key or headers are unusable, or it is too large."""


class InvalidContext(PublishError, ValueError):
    """A context value that cannot travel in a header: empty, too long, not printable, or not what its key's `parse` takes."""


class NoTransaction(PublishError):
    """There is no transaction that the event could be part of."""


class Refused(PublishError):
    """A stored event that the broker does not take as it is: too large, unroutable, for an unknown topic."""


class Unsendable(PublishError):
    """A stored event that the wire format or the transport cannot carry as it is; it will not get better by itself."""


class Vetoed(PublishError):
    """A publish filter does not let this event through; filters raise it, or an error of their own."""


class WrongDatabase(PublishError):
    """The session or connection belongs to another database than the store."""


class StoreError(TidingsError):
    """The store's tables cannot be used."""


class SchemaError(StoreError):
    """The store's tables are missing, too old, too new or altered."""


class ReplicaError(StoreError):
    """The database server is in recovery; a replica's snapshots hide transactions, so the log is read from the primary only."""


class LeaseLost(StoreError):
    """Another worker acts for this reader or lane now; nothing of this attempt was kept."""


class TransportError(TidingsError):
    """A broker cannot be used."""


class TransportDown(TransportError):
    """The broker cannot be reached or refuses us, or the connection is lost; it may get better by itself."""


class ProvisionError(TransportError):
    """A topic, queue, stream or consumer is missing at the broker, or is there with other properties than ours."""


class CircularChain(TidingsError):
    """An event is the last of more events that caused one another than `Service(max_hops=...)` allows; its handlers are not called.

    Attributes:
        chain: the names of the events that led here, as far as they are known, the last one last.
    """

    def __init__(self, chain: tuple[str, ...], hops: int, most: int) -> None:
        path = " -> ".join(chain)
        if hops >= len(chain):
            path = f"... -> {path}"
        super().__init__(
            f"{hops} handlers led here one by one, more than max_hops={most}: {path}. If handlers publish what leads to themselves, break the "
            "circle; if the chain is meant, raise Service(max_hops=...) and redrive"
        )
        self.chain = chain


class DecodeError(TidingsError, ValueError):
    """A stored or received event cannot be understood as the type it says it is."""


class Undecodable(DecodeError):
    """A message from outside is no event in any format that is read here.

    Attributes:
        reason: a word for it that does not change: `unknown format`, `attributes`, `headers`, `data`, `too deep` or `too large`.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ProcessEnded(TidingsError):
    """The process ended in the middle of each attempt to handle an event. Nobody raises it: it is what a dead event gives as its reason."""


class TransactionEnded(TidingsError):
    """The handler committed, rolled back, or swallowed a database error outside `begin_nested()`; its effects were not kept."""


class UnitOfWorkRolledBack(TidingsError):
    """Something inside a unit of work failed or was rolled back, and was caught before the end: all of it was rolled back."""


class ValidationFailed(TidingsError):
    """A command is not valid; nothing was touched.

    Attributes:
        errors: what is wrong with it, one or more.
    """

    def __init__(self, message: str, *errors: ValidationError, others: Iterable[ValidationError] = ()) -> None:
        self.errors: tuple[ValidationError, ...] = (*errors, *others)
        super().__init__("; ".join([message, *map(str, self.errors)]))


class IdempotencyConflict(TidingsError):
    """The idempotency key belongs to another command, or to the same with other values; nothing was done."""
