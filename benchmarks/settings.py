"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asked for.

    Attributes:
        server: libpq URL of a superuser on a PostgreSQL server; a database of our own is made on it for each benchmark.
        rounds: how often each contender runs; medians of that many are reported.
        quick: a smoke run: everything is exercised, and no figure means anything.
        only: leave out contenders whose name does not contain this.
    """

    server: str
    rounds: int
    quick: bool
    only: str = ""

    def choose(self, full: float, quick: float) -> float:
        """Return the size for this kind of run."""
        return quick if self.quick else full

    def count(self, full: int, quick: int) -> int:
        """Return the number for this kind of run."""
        return quick if self.quick else full

    def wants(self, name: str) -> bool:
        """Return whether a contender is to run."""
        return self.only.lower() in name.lower()
