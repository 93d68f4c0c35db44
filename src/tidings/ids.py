"""Identifiers: event ids, the inbox's event keys, lanes and slots.

Everything here is deterministic across processes and Python versions, except `uuid7`, which draws time and randomness. Python's own
`hash` is never used: it differs from process to process.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID
from zlib import crc32

__all__ = ["SLOTS", "event_key", "event_key_bounds", "lane_of", "slot_of", "uuid7"]

#: Number of slots that keys are spread over. Publishers of keys in one slot wait for one another's commit; see ENGINE in the docs.
SLOTS = 1024

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


class _Ticks:
    """1/4096 of a millisecond each; a clock that stands still or steps back moves on by one tick, so that ids keep increasing."""

    last = 0


def uuid7() -> UUID:
    """Return a new UUID version 7 (RFC 9562), increasing within this process.

    48 bits of Unix milliseconds, 12 bits of the fraction of the millisecond (RFC 9562 section 6.2, method 3), 62 random bits.
    """
    tick = (time.time_ns() << 12) // 1_000_000
    if tick <= _Ticks.last:
        tick = _Ticks.last + 1
    _Ticks.last = tick
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0x2 << 62 | (int.from_bytes(os.urandom(8), "big") >> 2)
    return UUID(int=value)


def event_key(source: str, event_id: str) -> str:
    """Return the 128-bit inbox key of an event, as 32 hexadecimal digits.

    The first 48 bits of a version 7 id are kept, so that new inbox rows land at the right edge of the index; the other 80 come from
    BLAKE2b over source and id, so that one producer's ids cannot suppress another's. Any other id gives 128 bits of the hash.
    """
    digest = blake2b(f"{source}\0{event_id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    head = _head(event_id)
    return head + digest[len(head) :]


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
