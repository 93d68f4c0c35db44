"""What a handler asks for to execute commands; the domain side makes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Execute", "ExecuteSync"]


class Execute:
    """Executes commands in the transaction of the handler that asked for it: `await execute(PayOrder(order_id))`.

    If a command fails, or returns an `Err`, that transaction cannot commit any more, whatever the handler makes of it.
    """

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[Any, str | None], Awaitable[Any]]) -> None:
        self._run = run

    async def __call__(self, command: object, /, *, idempotency_key: str | None = None) -> Any:
        """Execute a command; return what its handler returns. Raises what `Service.execute` raises."""
        return await self._run(command, idempotency_key)


class ExecuteSync:
    """What `Execute` is, for plain `def` handlers: `execute(PayOrder(order_id))`."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[Any, str | None], Any]) -> None:
        self._run = run

    def __call__(self, command: object, /, *, idempotency_key: str | None = None) -> Any:
        """Execute a command; return what its handler returns. Raises what `Service.execute` raises."""
        return self._run(command, idempotency_key)
