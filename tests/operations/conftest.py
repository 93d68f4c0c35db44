"""The worlds of the consume tests serve here too."""

from tests.consume.conftest import pg_world, world

__all__ = ["pg_world", "world"]
