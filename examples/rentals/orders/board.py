"""The board in the office: in memory, and of no consequence."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Board"]


@dataclass
class Board:
    """Shows the number of the latest order."""

    latest: int | None = None
