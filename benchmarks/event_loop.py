"""The event loop that everything here runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["run_loop"]


def run_loop(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run a coroutine function on uvloop if it is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop

    async def run() -> Any:
        return await function(*arguments)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run())
