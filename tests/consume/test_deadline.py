"""One timer for the calls of a task: what comes out of a call that took too long, was cancelled, or only looks so."""

from __future__ import annotations

import asyncio

import pytest

from tidings.consume.deadline import Deadline


class Gone(asyncio.CancelledError):
    """What a library may raise that has its own word for a cancellation."""


async def test_a_cancellation_that_nobody_asked_for_is_a_failure_of_whatever_class() -> None:
    """It must not end the worker (invariant 5: the others go on)."""
    for kind in (asyncio.CancelledError, Gone):
        deadline = Deadline(1)
        with pytest.raises(RuntimeError, match="without having been cancelled"), deadline:
            raise kind
        deadline.close()


async def test_what_took_too_long_says_so_whatever_class_of_cancellation_comes_out() -> None:
    deadline = Deadline(0.01)
    for kind in (asyncio.CancelledError, Gone):
        with pytest.raises(TimeoutError), deadline:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise kind from None
    with deadline:
        await asyncio.sleep(0)
    deadline.close()
    await asyncio.sleep(0.02)


async def test_what_an_interrupted_call_raises_does_not_take_the_place_of_its_cancellation() -> None:
    async def work() -> None:
        with Deadline(None):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise ConnectionError("gone") from None

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
