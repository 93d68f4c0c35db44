"""Sending one parked event again, under its lane's lease: what a relay has in place of a handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

from tidings.consume.breaker import Breaker, Circuit
from tidings.consume.deadline import Deadline
from tidings.consume.execution import Attempt, Execution, Failed
from tidings.consume.failures import failure_of
from tidings.consume.received import Received
from tidings.consume.retry import Retry
from tidings.consume.routing import Compiled
from tidings.consume.subscriptions import SubscriptionOptions
from tidings.errors import Refused, Unsendable
from tidings.publish.publisher import Publisher
from tidings.relay.encoding import Encoder, Row
from tidings.relay.line import ChannelLost, Line
from tidings.relay.routing import Routing, relay_name
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Outcome, Outgoing, Transport

__all__ = ["RETRY", "Sending", "compiled_relay", "say_what_failed", "system_of"]

#: A broker that refuses a message seldom changes its mind by itself; but a queue may be bound, or a topic made, a little later than we start.
RETRY = Retry(attempts=5, base=0.5, max=30.0, give_up_on=(Unsendable,))


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
        line: the connection to the broker.
    """

    done = "relayed"

    def __init__(
        self, compiled: Compiled, store: SQLStore, publisher: Publisher, line: Line, transport: Transport, routing: Routing, encoder: Encoder,
    ) -> None:  # fmt: skip
        super().__init__(compiled, store, publisher)
        self._line = line
        self._transport = transport
        self._routing = routing
        self._encoder = encoder

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
            outgoing = self._encoder.outgoing(row_of(received))
            tracing = self.publisher.tracing
            with (
                nullcontext()
                if tracing is None
                else tracing.sending(system_of(self._transport), [(received.topic, received.id, received.headers)])
            ):
                await self._send(received.id, outgoing)
        except (Refused, Unsendable) as error:
            self._line.settled(received.id)
            decision = self.compiled.retry.decide(error, attempt.number, age)
            return Failed(received, error, failure_of(error), decision, attempt.number)
        self._line.settled(received.id)
        return None

    async def _send(self, event: str, outgoing: Outgoing) -> None:
        outcome = await self._line.again(event, outgoing)
        if outcome.kind == "unconfirmed":
            raise ChannelLost(outcome.reason)
        if outcome.kind != "confirmed":
            raise Refused(outcome.reason)


def system_of(transport: Transport) -> str:
    """Return the kind of broker, as traces call it: `rabbitmq`, whatever name the transport was given."""
    return type(transport).__name__.lower()


def say_what_failed(outcomes: Sequence[Outcome], failed: Callable[[str], None]) -> None:
    """Tell a span why messages have not arrived; those that were held back behind one are not counted."""
    reasons = [outcome.reason for outcome in outcomes if outcome.kind in ("refused", "unconfirmed")]
    if reasons:
        failed(f"{len(reasons)} of {len(outcomes)} have not arrived: {reasons[0]}")


def row_of(received: Received) -> Row:
    """Return a parked event as the encoder wants it."""
    return Row(
        received.sequence, received.id, received.source, received.name, received.version, received.topic, received.key, received.headers,
        received.data, received.time,
    )  # fmt: skip
