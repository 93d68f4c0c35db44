"""Domain handlers, converters, commands: a function that does not fit is a type error, and decorators keep signatures."""

from __future__ import annotations

from dataclasses import dataclass

from tidings import AggregateRoot, DomainEvents, Subscriptions
from tidings.domain import Err, Ok, Result, ValidationError


@dataclass(frozen=True)
class Submitted:
    order_id: str


@dataclass(frozen=True)
class Placed:
    order_id: str


class Order(AggregateRoot):
    events = DomainEvents()

    def submit(self) -> None:
        self.record(Submitted("a"))
        self.events.record(Submitted("a"))
        self.events.nothing()  # E: no such method


handlers = Subscriptions()


@handlers.on(Submitted)
def one(event: Submitted, more: int) -> None: ...


@handlers.on(Submitted)  # E: takes another event
def two(event: Placed) -> None: ...


@handlers.on(Submitted, phase="after_commit", durable=False)
async def three(event: Submitted) -> None: ...


@handlers.on(Submitted, phase="after_commit", name="x", timeout=3)
async def four(event: Submitted) -> None: ...


@handlers.converts(Submitted)
def to_placed(event: Submitted) -> Placed | None:
    return Placed(event.order_id)


@handlers.converts(Submitted)  # E: takes another event
def to_wrong(event: Placed) -> Placed:
    return event


@handlers.handles(Placed)
def handle(command: Placed) -> Result[int, str]:
    return Ok(1) if command.order_id else Err("empty")


@handlers.validates(Placed)
def validate(command: Placed) -> ValidationError | None:
    return ValidationError(context="order_id", message="is missing")


one(Submitted("a"), 3)
one(Submitted("a"))  # E: the decorator keeps the signature
number: int = to_placed(Submitted("a"))  # E: it returns an event or None
result = handle(Placed("a"))
if isinstance(result, Ok):
    value: int = result.value
else:
    reason: str = result.error
