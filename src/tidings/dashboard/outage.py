"""What is said when the database is not there: for how long is its own affair, and the next request asks again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidings.errors import TidingsError
from tidings.stores.sql.errors import is_unreachable, said_by
from tidings.stores.sql.store import SQLStore

__all__ = ["DatabaseDown", "reaching"]


class DatabaseDown(TidingsError):
    """The database cannot be reached; it may get better by itself."""


@contextmanager
def reaching(store: SQLStore) -> Iterator[None]:
    """Turn what the lack of a database raises in this block, which does nothing but ask it, into a sentence without its password.

    Raises:
        DatabaseDown: it cannot be reached.
    """
    try:
        yield
    except DatabaseDown:
        raise
    except Exception as error:
        if not is_unreachable(error):
            raise
        reason, secret = said_by(error), store.connections.engine.url.password
        if secret:
            reason = reason.replace(str(secret), "***")
        raise DatabaseDown(f"the database cannot be reached: {reason}") from error
