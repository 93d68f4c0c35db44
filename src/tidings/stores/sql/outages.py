"""One line when the database cannot be used any more and for each new reason, one a minute while that lasts, and one when it is over.

Every part of a service that works on the store notices an outage by itself and tries again by itself, every few seconds: each reader, the parked
events, the heartbeat, the leased tasks. What they notice is one thing, and it is for the log to say it once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tidings.clock import duration, elapsed

__all__ = ["Outages"]

logger = logging.getLogger("tidings.store")

#: Seconds between two lines about one outage.
_REMIND = 60.0
#: Seconds after which a part that has not said anything more is no part of it: it has ended, or has nothing to do. The slowest tries every ten.
_FORGET = 15.0
#: Most reasons of one outage that are told: a connection that is lost, one that is refused, a server that is starting up.
_REASONS = 5


class Outages:
    """What the parts of a process say of one store."""

    def __init__(self) -> None:
        #: The parts that failed the last time that they tried, and when that was.
        self._failing: dict[str, float] = {}
        self._since = 0.0
        self._told = 0.0
        self._reasons: set[str] = set()

    def met(self, part: str, error: BaseException, fields: Mapping[str, str] | None = None) -> None:
        """A part could not use the database, and tries again: a warning if it is the first, for a new reason, or a minute after the last one."""
        now = elapsed()
        reason = str(error)
        if not self._failing:
            self._since = self._told = now
            self._reasons = set()
        self._failing[part] = now
        if reason not in self._reasons and len(self._reasons) < _REASONS:
            self._reasons.add(reason)
            logger.warning("%s: %s; trying again until it can be used", part, reason, extra=fields)
        elif now - self._told >= _REMIND:
            logger.warning("%s: %s; trying again for %s already", part, reason, duration(now - self._since), extra=fields)
        else:
            logger.debug("%s: %s; trying again", part, reason, extra=fields)
            return
        self._told = now

    def over(self, part: str) -> None:
        """A part has used the database: with the last of those that could not, the outage is over."""
        if not self._failing:
            return
        now = elapsed()
        self._failing.pop(part, None)
        for other in [other for other, at in self._failing.items() if now - at > _FORGET]:
            del self._failing[other]
        if not self._failing:
            logger.info("the database can be used again after %s", duration(now - self._since))
