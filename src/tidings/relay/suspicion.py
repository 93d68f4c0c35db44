"""Which messages the connection breaks of, told from those that were merely under way when it did. Pure logic, no I/O.

A broker closes the channel over a message, a proxy resets the connection at certain bytes: sent again with everything else, such a message stops
a relay for ever. So when a connection has broken several times with the same messages under way, they are sent one at a time. One of which it
breaks alone has a strike; further ones count only on connections where something else got through first, and so does the verdict. A broker
that is down, or takes nothing, lets nothing else through either, so that nothing is ever said of a message because of it.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["Suspicion"]

#: Breaks with the same messages under way before they are sent one at a time.
_TOGETHER = 3
#: Breaks of one message alone.
_ALONE = 3


class Suspicion:
    """What is known of the messages of one relay under one lease, by the ids of their events.

    Attributes:
        reason: why the connection broke the last time.
    """

    def __init__(self) -> None:
        self._together: set[str | None] = set()
        self._times = 0
        self._strikes: dict[str | None, int] = {}
        self.reason = ""

    @property
    def anything(self) -> bool:
        """Whether anything is known at all."""
        return self._times > 0 or bool(self._strikes)

    @property
    def isolating(self) -> bool:
        """Whether messages have to be sent one at a time."""
        return self._times >= _TOGETHER or bool(self._strikes)

    def struck(self, event: str) -> bool:
        """Whether a connection broke of this one alone: others should be sent first."""
        return event in self._strikes

    def convicted(self, event: str) -> bool:
        """Whether it has done so often enough, if only something else gets through now."""
        return self._strikes.get(event, 0) >= _ALONE

    def broke(self, under_way: Collection[str | None], reason: str, *, alone: bool, through: bool) -> None:
        """Note that a connection broke.

        Args:
            under_way: what was sent and not confirmed.
            alone: whether messages were sent one at a time.
            through: whether the same connection had carried something before.
        """
        if not under_way:
            return
        self.reason = reason
        if alone:
            for event in under_way:
                if event not in self._strikes:
                    self._strikes[event] = 1
                elif through:
                    self._strikes[event] += 1
            return
        same = self._together.intersection(under_way)
        self._together, self._times = (same, self._times + 1) if same else (set(under_way), 1)

    def settled(self, event: str) -> None:
        """Forget one that was confirmed, or is parked."""
        self._strikes.pop(event, None)
        self._together.discard(event)
        if not self._together:
            self._times = 0
