"""The account: not mapped, but rebuilt from its own events; they are the state. It never gets into an invalid one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from tidings import DomainEvents

__all__ = ["Account", "AccountEvent", "AccountOpened", "Moved", "Overdrawn"]


@dataclass(frozen=True)
class AccountEvent:
    """What happens to accounts; a handler of this class hears of all of it."""

    account_id: UUID


@dataclass(frozen=True)
class AccountOpened(AccountEvent):
    """It exists."""

    customer_id: UUID


@dataclass(frozen=True)
class Moved(AccountEvent):
    """Money came (positive) or went."""

    minor: int
    balance_minor: int


class Overdrawn(Exception):
    """A withdrawal of more than there is."""


class Account:
    """An event-sourced aggregate, without a base class.

    Attributes:
        version: how many events it has been built from.
    """

    events = DomainEvents()

    def __init__(self, account_id: UUID) -> None:
        self.account_id = account_id
        self.customer_id: UUID | None = None
        self.balance_minor = 0
        self.version = 0

    @classmethod
    def open(cls, account_id: UUID, customer_id: UUID) -> Self:
        """Open one."""
        account = cls(account_id)
        account._happen(AccountOpened(account_id, customer_id))
        return account

    @classmethod
    def of(cls, account_id: UUID, stream: Iterable[AccountEvent]) -> Self:
        """Rebuild one by applying its events."""
        account = cls(account_id)
        for event in stream:
            account._apply(event)
            account.version += 1
        return account

    def deposit(self, minor: int) -> None:
        """Put money in."""
        if minor <= 0:
            raise ValueError("a deposit is positive")
        self._happen(Moved(self.account_id, minor, self.balance_minor + minor))

    def withdraw(self, minor: int) -> None:
        """Take money out; nothing happens for nothing.

        Raises:
            Overdrawn: there is less.
        """
        if minor > self.balance_minor:
            raise Overdrawn(f"the balance is {self.balance_minor}")
        if minor > 0:
            self._happen(Moved(self.account_id, -minor, self.balance_minor - minor))

    def _happen(self, event: AccountEvent) -> None:
        self._apply(event)
        self.events.record(event)

    def _apply(self, event: AccountEvent) -> None:
        match event:
            case AccountOpened():
                self.customer_id = event.customer_id
            case Moved():
                self.balance_minor = event.balance_minor
