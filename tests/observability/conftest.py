"""The worlds of the consume tests serve here too."""

from tests.consume.conftest import any_world, pg_world, world

__all__ = ["any_world", "pg_world", "world"]
