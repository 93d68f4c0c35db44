"""Redis Streams; the client is loaded when it is used."""

from tidings.transports.redis.transport import Redis

__all__ = ["Redis"]
