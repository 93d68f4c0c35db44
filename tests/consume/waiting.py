"""Waiting for a condition, with a deadline. Nothing here hopes that some time is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until", "until_equal"]

T = TypeVar("T")

#: Far more than anything here takes; only a test that fails waits for so long.
SECONDS = 15.0


async def until(condition: Callable[[], object], what: str = "", seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"did not come true within {seconds} s: {what or condition}") from None


async def until_equal(get: Callable[[], T], expected: T, seconds: float = SECONDS) -> None:
    """Wait until a function gives the expected value; say what it gives instead if it never does."""
    try:
        async with asyncio.timeout(seconds):
            while get() != expected:
                await asyncio.sleep(0.005)
    except TimeoutError:
        pass
    found = get()
    assert found == expected, f"is still {found!r} and not {expected!r} after {seconds} s"
