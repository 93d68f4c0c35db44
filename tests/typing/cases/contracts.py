"""Contracts: classes keep their types, upcasters must fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import msgspec

from tidings import Contract, PartitionKey
from tidings.contracts import EventType, by_segments

orders = Contract("orders", namer=by_segments)


@orders.event("order.placed", version=1)
@dataclass(frozen=True)
class OrderPlacedV1:
    order_id: UUID


@orders.event("order.placed", version=2, key=("tenant", "order_id"), entity=UUID)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: UUID
    tenant: str


@orders.event()
class OrderCancelled(msgspec.Struct, frozen=True):
    order_id: Annotated[UUID, PartitionKey(order=0)]


# Classes stay what they are.
old: OrderPlacedV1 = OrderPlacedV1(UUID(int=1))
OrderPlacedV1("text")  # E: a str is no UUID
nothing = OrderCancelled(UUID(int=1)).nothing  # E: no such field


# Upcasters.
@orders.upcast(OrderPlacedV1, OrderPlaced)
def fits(event: OrderPlacedV1) -> OrderPlaced:
    return OrderPlaced(event.order_id, "acme")


new: OrderPlaced = fits(old)
fits(new)  # E: the upcaster takes the old class


@orders.upcast(OrderPlacedV1, OrderPlaced)  # E: takes the new class
def takes_the_wrong_class(event: OrderPlaced) -> OrderPlaced:
    return event


@orders.upcast(OrderPlacedV1, OrderPlaced)  # E: returns the old class
def returns_the_wrong_class(event: OrderPlacedV1) -> OrderPlacedV1:
    return event


@orders.upcast(OrderPlacedV1, OrderPlaced)  # E: may return None
def returns_none_sometimes(event: OrderPlacedV1) -> OrderPlaced | None:
    return None


@orders.upcast(OrderPlacedV1, OrderPlaced)  # E: async
async def is_async(event: OrderPlacedV1) -> OrderPlaced:
    return OrderPlaced(event.order_id, "acme")


@orders.upcast(OrderPlacedV1, OrderPlaced)  # E: two parameters
def takes_too_much(event: OrderPlacedV1, more: int) -> OrderPlaced:
    return OrderPlaced(event.order_id, "acme")


# Declarations.
@orders.event  # E: without parentheses
@dataclass(frozen=True)
class Bare:
    order_id: UUID


orders.event("order.placed", version="2")  # E: a version is a number
orders.event("order.placed", keys="order_id")  # E: no such option
Contract("orders", namer=lambda event_type: "topic")  # E: a topic namer takes the environment too
Contract(name=None)  # E: a contract has a name


# Event types know their class.
placed: EventType[OrderPlaced] = orders.type_of(OrderPlaced)
text: str = placed.encode(new)
placed.encode(old)  # E: another class
back: OrderPlaced = placed.decode(text)
wrong: OrderPlacedV1 = placed.decode(text)  # E: another class
key: str | None = placed.key_of(new)
upcast: OrderPlaced = orders.upcast_to(orders["order.placed", 1], text, placed)
placed.name = "order.moved"  # E: frozen
