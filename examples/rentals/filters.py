"""What is around every call: the user as a context key of our own, a filter for what is published, and one for what is handled."""

from __future__ import annotations

import logging
from time import perf_counter

from tidings.context import ContextKey
from tidings.filters import Call, Next, Publication

__all__ = ["USER", "stamp", "timed"]

logger = logging.getLogger("rentals")

#: Who asks: from the header `x-user` of a request, through all events that it causes.
USER = ContextKey("x-user")


def stamp(publication: Publication) -> None:
    """Say in every event which release has published it."""
    publication.headers["app-version"] = "1"


async def timed(call: Call, following: Next) -> None:
    """Log how long every handler took, also one that failed."""
    started = perf_counter()
    try:
        await following()
    finally:
        logger.debug("%s took %.1f ms", call.subscription, (perf_counter() - started) * 1000)
