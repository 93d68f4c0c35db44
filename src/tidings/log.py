"""Reading the log by hand: for clients that ask for what they have missed instead of subscribing. It keeps handled events, too, until its retention is over."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from tidings.consume.received import Received, from_row
from tidings.contracts import EventType
from tidings.envelope import Envelope
from tidings.errors import ContractError, InvalidCursor
from tidings.stores.base import Mark
from tidings.stores.sql.store import SQLStore

__all__ = ["LoggedEvent", "read_log"]

_PAGE = 200
#: PostgreSQL's text of a snapshot, `xmin:xmax:xip,...`, in numbers of at most 64 bits.
_SNAPSHOT = re.compile(r"[0-9]{1,19}:[0-9]{1,19}:(?:[0-9]{1,19}(?:,[0-9]{1,19})*)?\Z", re.ASCII)
#: Before everything: no transaction has a number below 3.
_BEGINNING = "1:1:"


class LoggedEvent:
    """An event of the log.

    Attributes:
        envelope: its id, name, key, time and headers; `subscription` is empty.
        data: its JSON text, as it was published.
        cursor: where to read on after it: opaque text that fits into a URL.
    """

    __slots__ = ("_mark", "_types", "data", "envelope")

    def __init__(self, received: Received, mark: Mark, types: Mapping[tuple[str, int | None], EventType[Any]]) -> None:
        self.envelope: Envelope = received.envelope(1, "")
        self.data: str | bytes = received.data
        self._mark = mark
        self._types = types

    @property
    def event(self) -> Any:
        """The event, as the class of its own version.

        Raises:
            ContractError: no contract of the service has its type.
            DecodeError: its data does not fit the class.
        """
        found = self._types.get((self.envelope.name, self.envelope.version))
        if found is None:
            raise ContractError(
                f"no contract of the service has {self.envelope.name!r} in version {self.envelope.version}: give the contract to "
                "Service(contracts=[...]), or take `data`"
            )
        return found.decode(self.data)

    @property
    def cursor(self) -> str:
        mark = self._mark
        return urlsafe_b64encode(msgspec.json.encode((mark.previous, mark.current, mark.position))).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"LoggedEvent({self.envelope.name!r}, id={str(self.envelope.id)!r}, key={self.envelope.key!r})"


async def read_log(
    store: SQLStore,
    types: Mapping[tuple[str, int | None], EventType[Any]],
    after: str | None,
    wanted: frozenset[str] | None,
    key: str | None,
) -> AsyncIterator[LoggedEvent]:
    """See `Service.read_log`."""
    await store.open()
    mark = _first(store) if after is None else _mark(store, after)
    while True:
        batch = await store.call(store.log.read, mark, _PAGE)
        for row, mark_after in zip(batch.rows, batch.marks, strict=True):
            received = from_row(row)
            if (wanted is None or received.name in wanted) and (key is None or received.key == key):
                yield LoggedEvent(received, mark_after, types)
        if not batch.more:
            return
        mark = batch.end


def _first(store: SQLStore) -> Mark:
    return Mark(_BEGINNING if _has_snapshots(store) else None, None, 0)


def _mark(store: SQLStore, cursor: str) -> Mark:
    """Return the mark that a cursor stands for: text from outside, which becomes parameters of a statement."""
    try:
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        previous, current, position = msgspec.json.decode(text, type=tuple[str | None, str | None, int])
    except (ValueError, AttributeError, msgspec.MsgspecError):
        raise _refused(cursor) from None
    snapshots = [text for text in (previous, current) if text is not None]
    if (
        (previous is not None) != _has_snapshots(store)
        or (current is not None and previous is None)
        or not all(_is_snapshot(each) for each in snapshots)
        or not -1 <= position < 1 << 63
    ):
        raise _refused(cursor)
    return Mark(previous, current, position)


def _is_snapshot(text: str) -> bool:
    """Whether PostgreSQL takes it: the numbers of running transactions rise, from xmin to below xmax."""
    if not _SNAPSHOT.match(text):
        return False
    xmin, xmax, running = text.split(":")
    numbers = [int(number) for number in running.split(",")] if running else []
    return (
        0 < int(xmin) <= int(xmax) < 1 << 63 and numbers == sorted(set(numbers)) and all(int(xmin) <= each < int(xmax) for each in numbers)
    )


def _has_snapshots(store: SQLStore) -> bool:
    return store.dialect.name == "postgresql"


def _refused(cursor: object) -> InvalidCursor:
    shown = cursor if not isinstance(cursor, str) or len(cursor) <= 60 else f"{cursor[:60]}..."
    return InvalidCursor(f"after={shown!r} is no cursor of this service's log: give the `cursor` of an event that read_log gave, or None")
