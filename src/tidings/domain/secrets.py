"""Marking what must not be written down."""

from __future__ import annotations

__all__ = ["Secret"]


class Secret:
    """Marks a field of a command whose value is not written into the audit: `password: Annotated[str, Secret()]`."""

    __slots__ = ()
