"""The contract of a run, and the tables in which publishers and handlers leave what the ledger checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from tidings import Contract

__all__ = [
    "ACCOUNTS", "AUDITORS", "HOT", "SERVICE", "SUBSCRIPTIONS", "Booked", "Deposited", "Reminded", "Withdrawn", "bank", "subscriptions_of", "tables",
]  # fmt: skip

SERVICE: Final = "bank"
#: The group of `audit` where there is a broker: it wants no order, so all processes share what comes.
AUDITORS: Final = "auditors"
#: The subscriptions of the service; `handlers` says what each of them is there for.
SUBSCRIPTIONS: Final = ("view", "journal", "report", "mail", "audit")
#: Accounts whose publishers take a row lock of their own, and number their events under it.
ACCOUNTS: Final = tuple(f"a{number:02}" for number in range(24))
#: Accounts that are only ever inserted for: nothing but our key locks orders their events.
HOT: Final = tuple(f"h{number:02}" for number in range(6))

bank: Final = Contract("bank")


def subscriptions_of(transport: str | None) -> tuple[str, ...]:
    """Return what operators can pause and redrive, the relay and what brings events from the broker included."""
    if transport is None:
        return SUBSCRIPTIONS
    return (*SUBSCRIPTIONS, f"relay:{transport}", f"{SERVICE}/inbound:{transport}", f"{AUDITORS}/inbound:{transport}")


# Events that a subscription wants in order are on one topic.
@bank.event("bank.deposited", key="account", entity="account")
@dataclass(frozen=True)
class Deposited:
    """An event of a publisher. `number` is unique in the run, rolled back transactions included."""

    number: int
    account: str


@bank.event("bank.withdrawn", key="account", entity="account")
@dataclass(frozen=True)
class Withdrawn:
    """Another event of a publisher, so that a subscription has several types to keep in order."""

    number: int
    account: str


@bank.event("bank.reminded", key="account", entity="account")
@dataclass(frozen=True)
class Reminded:
    """An event that is published with a delay."""

    number: int
    account: str


@bank.event("bank.booked", key="account")
@dataclass(frozen=True)
class Booked:
    """What a handler publishes when it has handled event `number`."""

    number: int
    account: str
    by: str


metadata = sa.MetaData()
_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: What was committed: a row for every event, in the transaction that publishes it, and in the same savepoint.
published = sa.Table(
    "published",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger),  # of the account's row lock; None without one
)
sequences = sa.Table(
    "sequences", metadata, sa.Column("account", sa.Text, primary_key=True), sa.Column("last", sa.BigInteger, nullable=False)
)
#: What handlers did. Nothing here keeps an effect from being left twice: that is what is tested.
effects = sa.Table(
    "effects",
    metadata,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("subscription", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
)
#: The row whose lock makes `step` tell the order in which the effects of an account were committed.
steps = sa.Table(
    "steps",
    metadata,
    sa.Column("subscription", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)
tables: Final = metadata
