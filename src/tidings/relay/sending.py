"""Sending one parked event again, under its lane's lease: what a relay has in place of a handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tidings.consume.breaker import Breaker, Circuit
from tidings.consume.deadline import Deadline
from tidings.consume.execution import Attempt, Execution, Failed, StoreDown
from tidings.consume.failures import failure_of
from tidings.consume.received import Received
from tidings.consume.retry import Retry
from tidings.consume.routing import Compiled
from tidings.consume.subscriptions import SubscriptionOptions
from tidings.errors import Refused, TransportDown, Unsendable
from tidings.publish.publisher import Publisher
from tidings.relay.encoding import Encoder, Row
from tidings.relay.routing import Routing, relay_name
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Outgoing, Transport
from tidings.transports.base import Publisher as Channel

__all__ = ["RETRY", "ChannelLost", "Sending", "compiled_relay"]

#: A broker that refuses a message seldom changes its mind by itself; but a queue may be bound, or a topic made, a little later than we start.
RETRY = Retry(attempts=5, base=0.5, max=30.0, give_up_on=(Unsendable,))


class ChannelLost(StoreDown, TransportDown):
    """The connection to the broker is lost; nothing is counted against the events."""


def compiled_relay(transport: Transport, retry: Retry = RETRY) -> Compiled:
    """Return what a relay is as a subscription: it parks, is tried again, redriven and discarded as any other."""
    name = relay_name(transport)
    return Compiled(
        name, name, SubscriptionOptions(shared=False, timeout=None), retry, {}, (), newest={}, transactional=False, batch=None,
        circuit=Circuit(Breaker.off(), label=name), label=name,
    )  # fmt: skip


class Sending(Execution):
    """Sends the events of a relay's lanes, one at a time.

    Args:
        lost: called when the connection to the broker is lost.
    """

    def __init__(
        self, compiled: Compiled, store: SQLStore, publisher: Publisher, channel: Channel, transport: Transport, routing: Routing,
        encoder: Encoder, lost: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(compiled, store, publisher)
        self._channel = channel
        self._transport = transport
        self._routing = routing
        self._encoder = encoder
        self._lost = lost

    def attempt(self, received: Received, number: int) -> Attempt | None:
        """Look where the event goes; None when it does not go to this transport any more.

        Raises:
            KeyError: no contract of this process has it.
        """
        goes = self._routing.goes(self._transport, received.name, received.version, received.topic)
        if goes == "unknown":
            raise KeyError(received.name)
        # There is no handler: what a route and an envelope are for is done by the encoder.
        return None if goes == "no" else Attempt(received, cast("Any", None), None, cast("Any", None), number)

    async def plain(self, attempt: Attempt, age: float = 0.0, deadline: Deadline | None = None) -> Failed | None:
        """Send it; return how it failed.

        Raises:
            ChannelLost: the connection is lost.
        """
        received = attempt.received
        try:
            await self._send(self._encoder.outgoing(row_of(received)))
        except (Refused, Unsendable) as error:
            decision = self.compiled.retry.decide(error, attempt.number, age)
            return Failed(received, error, failure_of(error), decision, attempt.number)
        return None

    async def _send(self, outgoing: Outgoing) -> None:
        (outcome,) = await self._channel.publish([outgoing])
        if outcome.kind == "unconfirmed":
            self._lost(outcome.reason)
            raise ChannelLost(outcome.reason)
        if outcome.kind != "confirmed":
            raise Refused(outcome.reason)


def row_of(received: Received) -> Row:
    """Return a parked event as the encoder wants it."""
    return Row(
        received.sequence, received.id, received.source, received.name, received.version, received.topic, received.key, received.headers,
        received.data, received.time,
    )  # fmt: skip
