"""NATS JetStream; the client is loaded when it is used."""

from tidings.transports.nats.names import stream_of
from tidings.transports.nats.transport import NATS

__all__ = ["NATS", "stream_of"]
