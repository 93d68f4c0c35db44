"""`Publish`: what a handler, or a `publishing` block, is given to publish with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from tidings.publish.outgoing import Outgoing
    from tidings.publish.publisher import Publisher

__all__ = ["UNSET", "Publish"]


class _Unset:
    """The default of `key`: take the key from the event. `None` says that there is none."""

    def __repr__(self) -> str:
        return "<from the event>"


UNSET: Any = _Unset()


class Publish:
    """Publishes events in one transaction: `publish(OrderPlaced(...))`. They are encoded at the call and inserted just before COMMIT."""

    __slots__ = ("_accept", "_publisher")

    def __init__(self, publisher: Publisher, accept: Any) -> None:
        self._publisher = publisher
        self._accept = accept

    def __call__(
        self,
        event: object,
        /,
        *,
        key: Any = UNSET,
        delay: timedelta | None = None,
        at: datetime | None = None,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Publish an event; return its id.

        Args:
            key: the partition key, if not the one that the contract takes from the event; None for no key.
            delay: enter the log later, after this time on the database's clock.
            at: the same, at this time (aware).
            expires: from when on nobody needs to handle it any more.
            headers: the user's own headers, text only.

        Raises:
            InvalidEvent: the event does not fit its contract, or key, headers or size cannot be stored.
            NoTransaction: the block or handler that this was given to is over.
        """
        outgoing: Outgoing = self._publisher.prepare(event, key=key, delay=delay, at=at, expires=expires, headers=headers)
        self._accept(outgoing)
        return outgoing.id
