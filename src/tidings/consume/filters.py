"""Handler filters: functions around the call of every handler of a service, of whatever kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tidings.consume.injection import Plan
from tidings.envelope import Envelope

__all__ = ["Call", "Filters", "HandlerFilter", "Next"]


class Call(msgspec.Struct, frozen=True):
    """A handler that is about to be called.

    Attributes:
        events: the events of the call: one, but for handlers of lists.
        envelopes: their envelopes, in the same order.
        group, subscription: whose handler it is.
        function: the handler.
    """

    events: Sequence[Any]
    envelopes: Sequence[Envelope]
    group: str
    subscription: str
    function: Callable[..., Any]

    @property
    def event(self) -> Any:
        """The event; the first one of a batch."""
        return self.events[0]

    @property
    def envelope(self) -> Envelope:
        """The event's envelope; the first one of a batch."""
        return self.envelopes[0]

    @property
    def attempt(self) -> int:
        """1 when the handler is called with the event for the first time, and so on."""
        return self.envelopes[0].attempt


Next = Callable[[], Awaitable[None]]

#: `async def filter(call, next): ... await next() ...`. Without `next()` the handler is not called, and the event counts as handled.
HandlerFilter = Callable[[Call, Next], Awaitable[None]]


class Filters:
    """The filters of one subscription.

    Args:
        filters: the first one is outermost.
        group, subscription: what `Call` says.
    """

    def __init__(self, filters: Sequence[HandlerFilter], group: str, subscription: str) -> None:
        self._filters = tuple(filters)
        self._group = group
        self._subscription = subscription

    async def around(self, plan: Plan, event: Any, envelope: Envelope | list[Envelope], run: Next) -> None:
        """Run a handler inside of the filters. What any of them raises is the failure of the event.

        A filter cannot turn a failure into a success: what the handler has done by then would be kept by half.

        Raises:
            RuntimeError: a filter has called `next` twice: what the handler did the first time cannot be taken back.
        """
        several = isinstance(envelope, list)
        events, envelopes = (event, envelope) if several else ((event,), (envelope,))
        call = Call(tuple(events), tuple(envelopes), self._group, self._subscription, plan.function)  # type: ignore[arg-type]
        failure: BaseException | None = None

        def step(index: int) -> Next:
            if index == len(self._filters):
                return run
            inner = step(index + 1)
            called = False

            async def following() -> None:
                nonlocal called, failure
                try:
                    if called:
                        raise RuntimeError(f"a handler filter of {self._group}/{self._subscription} has called next() twice")
                    called = True
                    await inner()
                except BaseException as error:
                    failure = failure or error
                    raise

            return lambda: self._filters[index](call, following)

        await step(0)()
        if failure is not None:
            raise failure
