"""`Local`: no broker. Subscribers read the log of the store itself, in this process or another one on the same database."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Local"]


@dataclass(frozen=True, slots=True)
class Local:
    """The log of the store as the source of every group; ordered by key."""
