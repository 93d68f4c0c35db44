"""Values as texts: statements that travel with BEGIN or COMMIT have no parameters."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["array", "text"]


def text(value: str) -> str:
    """Return a literal of a text, whatever `standard_conforming_strings` says: in the escape form two characters mean something."""
    if "\\" in value or "'" in value:
        value = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{value}'"


def array(keys: Sequence[str]) -> str:
    """Return the text of an array of hexadecimal keys, for statements with parameters, too: asyncpg looks at each item of a list, which takes longer."""
    return f"{{{','.join(keys)}}}"
