"""RabbitMQ, and what else speaks AMQP 0.9.1; the client is loaded when it is used."""

from tidings.transports.rabbitmq.transport import RabbitMQ

__all__ = ["RabbitMQ"]
