"""The store in a SQL database: SQLAlchemy gives engines and pools; the statements that matter are our own, one module per concern and database."""

from tidings.stores.sql.alembic import include_name, include_object
from tidings.stores.sql.store import SQLStore
from tidings.stores.sql.tables import metadata

__all__ = ["SQLStore", "include_name", "include_object", "metadata"]
