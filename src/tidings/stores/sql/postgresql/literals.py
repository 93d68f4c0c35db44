"""Values as they stand in a script: statements that travel with BEGIN or COMMIT have no parameters."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["text", "uuids"]


def text(value: str) -> str:
    """Return a literal of a text, whatever `standard_conforming_strings` says: in the escape form two characters mean something."""
    if "\\" in value or "'" in value:
        value = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{value}'"


def uuids(values: Sequence[str]) -> str:
    """Return a literal of an array of UUIDs."""
    return f"{text('{' + ','.join(values) + '}')}::uuid[]"
