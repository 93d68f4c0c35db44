"""Who acts when somebody uses the command line: for the audit."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.operations import Operations
    from tidings.stores import SQLStore

__all__ = ["operations"]


def operations(store: SQLStore, service: str | None = None) -> Operations:
    """Return what changes a store, in the name of the user who is logged in."""
    from tidings.operations import Operations

    try:
        actor = f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        actor = "cli"
    return Operations(store, service, actor)
