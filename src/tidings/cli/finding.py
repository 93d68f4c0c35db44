"""What a check of `tidings doctor` found."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        level: `problem` has to be mended, `note` is worth knowing.
        says: what was found, and what to do.
    """

    level: Level
    check: str
    says: str
