"""What one transaction of a publisher does. Pure: it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from chaos.workload import ACCOUNTS, HOT

__all__ = ["Move", "Part", "Program", "programs"]


@dataclass(frozen=True, slots=True)
class Move:
    """One event to publish."""

    number: int
    account: str
    name: Literal["bank.deposited", "bank.withdrawn", "bank.reminded"]
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """Some events, in a savepoint or not."""

    moves: tuple[Move, ...]
    savepoint: Literal["none", "released", "rolled back"] = "none"


@dataclass(frozen=True, slots=True)
class Program:
    """One transaction.

    Attributes:
        hold: seconds that it stays open after its first statement, before it publishes anything.
        linger: seconds between its last publishing and its end.
    """

    parts: tuple[Part, ...]
    commits: bool
    style: Literal["session", "connection", "driver"]
    hold: float = 0.0
    linger: float = 0.0

    @property
    def kept(self) -> list[int]:
        """The numbers of the events that are published if it commits, in order."""
        return [move.number for part in self.parts if part.savepoint != "rolled back" for move in part.moves]


def programs(chance: random.Random, first: int, styles: tuple[Literal["session", "connection", "driver"], ...]) -> Iterator[Program]:
    """Yield one transaction after another, for ever; their events are numbered from `first`."""
    number = first

    def moves(count: int, accounts: tuple[str, ...]) -> tuple[Move, ...]:
        nonlocal number
        made = []
        for _ in range(count):
            number += 1
            account = chance.choice(accounts)
            if chance.random() < 0.04:
                made.append(Move(number, account, "bank.reminded", round(chance.uniform(0.1, 2.0), 2)))
            else:
                made.append(Move(number, account, "bank.deposited" if chance.random() < 0.6 else "bank.withdrawn"))
        return tuple(made)

    while True:
        # Few accounts, so that a transaction often has several events of one key. In one order, so that row locks cannot deadlock.
        accounts = tuple(chance.sample(HOT if chance.random() < 0.25 else ACCOUNTS, chance.randint(1, 3)))
        size = 60 if chance.random() < 0.01 else chance.choice((1, 1, 1, 2, 3, 5))
        parts = [Part(moves(size, accounts))]
        if chance.random() < 0.25:
            parts.append(Part(moves(chance.randint(1, 2), accounts), chance.choice(("released", "rolled back"))))
            if chance.random() < 0.5:
                parts.append(Part(moves(1, accounts)))
        yield Program(
            tuple(parts),
            commits=chance.random() > 0.12,
            style=chance.choice(styles),
            hold=0.5 if chance.random() < 0.03 else 0.0,
            linger=0.5 if chance.random() < 0.01 else 0.0,
        )
