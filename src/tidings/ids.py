"""Identifiers: event ids, the inbox's event keys, lanes and slots.

Everything here is deterministic across processes and Python versions, except `uuid7`, which draws time and randomness. Python's own
`hash` is never used: it differs from process to process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from struct import unpack
from time import time_ns
from uuid import UUID, SafeUUID
from zlib import crc32

__all__ = ["SLOTS", "event_key", "event_key_bounds", "lane_of", "slot_of", "uuid7", "uuid_event_key"]

#: Number of slots that keys are spread over. Publishers of keys in one slot wait for one another's commit.
SLOTS = 2048

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


#: How many random numbers are fetched from the system at a time.
_STOCK = 128


class _Ticks:
    """1/4096 of a millisecond each; a clock that stands still or steps back moves on by one tick, so that ids keep increasing.

    Attributes:
        lower: lower halves of ids that nobody has had yet. A forked process throws them away: its parent has the same ones.
    """

    __slots__ = ("last", "lower")

    def __init__(self) -> None:
        self.last = 0
        self.lower: Iterator[int] = iter(())


_ticks = _Ticks()


def _restock() -> int:
    first, *others = unpack(f"={_STOCK}Q", os.urandom(8 * _STOCK))
    _ticks.lower = iter([1 << 63 | random >> 2 for random in others])
    return int(1 << 63 | first >> 2)


def _forked() -> None:
    _ticks.lower = iter(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def uuid7() -> UUID:
    """Return a new UUID version 7 (RFC 9562), increasing within this process.

    48 bits of Unix milliseconds, 12 bits of the fraction of the millisecond (RFC 9562 section 6.2, method 3), 62 random bits.
    """
    # 4096 ticks for a million nanoseconds.
    ticks = _ticks
    tick = time_ns() * 64 // 15625
    if tick <= ticks.last:
        tick = ticks.last + 1
    ticks.last = tick
    fraction = tick & 0xFFF
    upper = tick - fraction << 4 | 0x7000 | fraction
    uuid = _new(UUID)
    _set_int(uuid, upper << 64 | (next(ticks.lower, 0) or _restock()))
    _set_is_safe(uuid, _UNKNOWN)
    return uuid


# Two thirds of the time of `UUID(int=...)` go into finding out which of its six arguments was given. Its two slots are all that it sets.
_new = UUID.__new__
_UNKNOWN = SafeUUID.unknown
_set_int: Callable[[UUID, int], None] = vars(UUID)["int"].__set__
_set_is_safe: Callable[[UUID, SafeUUID], None] = vars(UUID)["is_safe"].__set__


def event_key(source: str, event_id: str) -> str:
    """Return the 128-bit inbox key of an event, as 32 hexadecimal digits.

    The first 48 bits of a version 7 id are kept, so that new inbox rows land at the right edge of the index; the other 80 come from
    BLAKE2b over source and id, so that one producer's ids cannot suppress another's. Any other id gives 128 bits of the hash.
    """
    digest = blake2b(f"{source}\0{event_id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    head = _head(event_id)
    return head + digest[len(head) :]


def uuid_event_key(source: str, event_id: str) -> str:
    """Return what `event_key` does, of an id that is known to be a UUID as `str` writes it."""
    digest = blake2b(f"{source}\0{event_id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return event_id[:8] + event_id[9:13] + digest[12:] if event_id[14] == "7" else digest


def event_key_bounds(event_id: str) -> tuple[str, str]:
    """Return the lowest and the highest inbox key that an event of this id can have, whoever its producer is."""
    head = _head(event_id)
    return head.ljust(32, "0"), head.ljust(32, "f")


def _head(event_id: str) -> str:
    """Return the time of a version 7 id, as 12 hexadecimal digits; nothing for any other id."""
    if len(event_id) == 36 and event_id[14] == "7" and event_id[8] == event_id[13] == event_id[18] == event_id[23] == "-":
        head = event_id[:8] + event_id[9:13]
        # Not `int(head, 16)`: it takes signs and underscores, and what comes out here must be a UUID.
        if _HEXADECIMAL.issuperset(head):
            return head.lower()
    return ""


@lru_cache(4096)
def lane_of(key: str) -> str:
    """Return the 128-bit lane of a partition key, as 32 hexadecimal digits; any key fits, whatever its length or characters."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=b"lane").hexdigest()


def slot_of(key: str) -> int:
    """Return the slot of a partition key: CRC-32 of its UTF-8 bytes modulo `SLOTS`."""
    return crc32(key.encode("utf-8", "surrogatepass")) % SLOTS
