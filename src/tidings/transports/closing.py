"""Giving a client's connection up: it may be in any state, and whoever closes it has better things to do than to wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

__all__ = ["close_within"]

logger = logging.getLogger("tidings.transports")

_SECONDS = 5.0


async def close_within(work: Awaitable[object], what: str) -> None:
    """Wait for this, for a few seconds at most; what goes wrong is logged for those who look for it, and ends nothing."""
    try:
        async with asyncio.timeout(_SECONDS):
            await work
    except Exception as error:  # noqa: BLE001 - the connection is given up, whatever its client says
        logger.debug(
            "%s: the connection was not closed in good order: %s", what, str(error) or type(error).__name__, extra={"transport": what}
        )
