"""Apache Kafka; the client is loaded when it is used."""

from tidings.transports.kafka.transport import Kafka

__all__ = ["Kafka"]
