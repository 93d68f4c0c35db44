"""What these tests publish."""

from __future__ import annotations

from tests.consume.shop import OrderPlaced

__all__ = ["orders"]


def orders(first: int, last: int, keys: int = 5, key: str = "k") -> list[OrderPlaced]:
    """Orders with these numbers, several of each key; the keys begin with `key`."""
    return [OrderPlaced(f"{key}{number % keys}", number) for number in range(first, last + 1)]
