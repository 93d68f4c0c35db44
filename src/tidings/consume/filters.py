"""Handler filters: functions around the call of every handler of a service, of whatever kind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from inspect import CORO_CLOSED, getcoroutinestate
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
            RuntimeError: a filter has called `next` twice: what the handler did the first time cannot be taken back; or it has returned before
                what it called had: the transaction would be committed without what the handler does in it.
        """
        several = isinstance(envelope, list)
        events, envelopes = (event, envelope) if several else ((event,), (envelope,))
        call = Call(tuple(events), tuple(envelopes), self._group, self._subscription, plan.function)  # type: ignore[arg-type]
        steps: list[_Step] = []
        run_inner = run
        for each in reversed(self._filters):
            step = _Step(each, call, run_inner)
            steps.append(step)
            run_inner = step.run
        await run_inner()
        for step in steps:
            if step.failure is not None:
                raise step.failure


class _Step:
    """One filter, once called."""

    __slots__ = ("_call", "_filter", "_going", "_inner", "_task", "failure")

    def __init__(self, filter_: HandlerFilter, call: Call, inner: Next) -> None:
        self._filter = filter_
        self._call = call
        self._inner = inner
        self._going: Coroutine[Any, Any, None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self.failure: BaseException | None = None

    async def run(self) -> None:
        try:
            await self._filter(self._call, self._following)
        finally:
            await self._end()

    def _following(self) -> Coroutine[Any, Any, None]:
        if self._going is not None:
            return self._refuse(f"a handler filter of {self._call.group}/{self._call.subscription} has called next() twice")
        self._going = self._go()
        return self._going

    async def _go(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._inner()
        except BaseException as error:
            self.failure = self.failure or error
            raise

    async def _refuse(self, reason: str) -> None:
        self.failure = self.failure or RuntimeError(reason)
        raise self.failure

    async def _end(self) -> None:
        """See to it that nothing of the handler runs any more."""
        going = self._going
        if going is None or getcoroutinestate(going) == CORO_CLOSED:
            return
        self.failure = RuntimeError(
            f"a handler filter of {self._call.group}/{self._call.subscription} has returned before what it called: await next()"
        )
        if self._task is None:
            going.close()
        else:
            self._task.cancel()
            await asyncio.wait([self._task])
