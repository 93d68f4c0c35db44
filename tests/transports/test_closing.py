from __future__ import annotations

import asyncio
import logging

import pytest

from tidings.transports import closing
from tidings.transports.closing import close_within


async def test_what_goes_wrong_while_closing_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("the other end is gone")

    caplog.set_level(logging.DEBUG, "tidings.transports")
    await close_within(broken(), "rabbitmq")
    assert caplog.messages == ["rabbitmq: the connection was not closed in good order: the other end is gone"]


async def test_closing_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, "tidings.transports")
    monkeypatch.setattr(closing, "_SECONDS", 0.01)
    async with asyncio.timeout(10):
        await close_within(asyncio.Event().wait(), "nats")
    assert caplog.messages == ["nats: the connection was not closed in good order: TimeoutError"]


async def test_who_is_cancelled_while_closing_stays_cancelled() -> None:
    task = asyncio.ensure_future(close_within(asyncio.Event().wait(), "nats"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
