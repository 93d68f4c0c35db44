"""Running a plain `def` handler in a thread while its database connection lives on the event loop.

SQLAlchemy's synchronous face of an asynchronous connection switches greenlets wherever it would wait. On the event loop's thread
SQLAlchemy awaits what comes out of that switch; here the thread hands it to the event loop and blocks, alone, until the answer is there. So a
`Session` in a thread works on an asyncpg or aiosqlite connection, and the loop is never blocked.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from tidings.stores.sql.connections import in_thread

__all__ = ["in_bridged_thread"]

R = TypeVar("R")


async def in_bridged_thread(executor: Executor, function: Callable[..., R], *arguments: Any) -> R:
    """Run a function in a thread; what SQLAlchemy awaits inside it is awaited on the running loop."""
    loop = asyncio.get_running_loop()
    return await in_thread(executor, _drive, loop, function, arguments)


def _drive(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    import greenlet

    context: Any = greenlet.greenlet(function)
    # What SQLAlchemy's await_only looks for: a greenlet whose parent awaits for it.
    context.__sqlalchemy_greenlet_provider__ = True
    context.gr_context = contextvars.copy_context()
    # SQLAlchemy makes a task where it gives up a lost connection, for the loop that it finds; it awaits that in the next breath.
    asyncio.set_event_loop(loop)
    try:
        result = context.switch(*arguments)
        while not context.dead:
            try:
                value = asyncio.run_coroutine_threadsafe(_await(result), loop).result()
            except BaseException:  # noqa: BLE001 - it goes on where the handler waits
                result = context.throw(*sys.exc_info())
            else:
                result = context.switch(value)
        return result
    finally:
        asyncio.set_event_loop(None)


async def _await(awaitable: Awaitable[R]) -> R:
    return await awaitable
