"""Inbox keys, lanes and slots: the same everywhere and for ever, or effects would be applied twice after an upgrade."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.ids import SLOTS, event_key, event_key_bounds, lane_of, slot_of, uuid7

V7 = "0190f5d2-7a3b-7c4d-8e5f-0123456789ab"
V4 = "9c858901-8a57-4791-81fe-4c455b099bc9"

# These values are stored in users' databases.
KEYS = {
    ("billing", V7): "0190f5d27a3bd5ef36fe5892811604c6",
    ("billing", V4): "f0426357df52515c34847f26c4f13811",
    ("billing", "order-1"): "78a4df1dc94ff966f14f5203bf3ed930",
    ("shipping", V7): "0190f5d27a3bdc7d67a776ac8e052bb4",
    ("billing", V7.upper()): "0190f5d27a3b822d73cff89a5bfc9901",
}
LANES = {
    "": "49a255bbf5375dc8ebc76856ec31212b",
    "order-1": "60fb4431e789d05b186c7090cfcc97a1",
    "a|b": "c583ec5f24a1a6cf070741c623e638cf",
    "köln": "0ebe7896733bdb8710f2287e406605d9",
}
SLOT_NUMBERS = {"": 0, "order-1": 2031, "a|b": 1675, "köln": 767}

PROGRAM = """
from tidings.ids import event_key, lane_of, slot_of
for source, event_id in {keys!r}: print(event_key(source, event_id))
for key in {lanes!r}: print(lane_of(key), slot_of(key))
"""


@pytest.mark.parametrize(("source", "event_id"), KEYS)
def test_event_keys_are_as_they_were(source: str, event_id: str) -> None:
    assert event_key(source, event_id) == KEYS[source, event_id]


@pytest.mark.parametrize(("source", "event_id"), KEYS)
def test_event_keys_lie_within_the_bounds_of_their_id(source: str, event_id: str) -> None:
    low, high = event_key_bounds(event_id)
    assert low <= event_key(source, event_id) <= high
    assert (low[:12] == high[:12]) == (event_id.lower() == V7)
    assert UUID(low) < UUID(high)


@pytest.mark.parametrize("key", LANES)
def test_lanes_and_slots_are_as_they_were(key: str) -> None:
    assert (lane_of(key), slot_of(key)) == (LANES[key], SLOT_NUMBERS[key])


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_they_are_the_same_in_every_process(seed: str) -> None:
    program = PROGRAM.format(keys=list(KEYS), lanes=list(LANES))
    environment = os.environ | {"PYTHONHASHSEED": seed}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:-1] == [*KEYS.values(), *(f"{LANES[key]} {SLOT_NUMBERS[key]}" for key in LANES)]


def test_the_key_of_a_version_7_id_begins_with_its_time() -> None:
    assert event_key("billing", V7).startswith("0190f5d27a3b")
    assert not event_key("billing", V4).startswith("9c8589018a57")


def test_the_source_is_part_of_the_key() -> None:
    assert event_key("billing", V7) != event_key("shipping", V7)
    assert event_key("billing", "x") != event_key("shipping", "x")


def test_source_and_id_cannot_be_shifted_into_each_other() -> None:
    assert event_key("a", "bc") != event_key("ab", "c")


@given(st.text(), st.text())
def test_whatever_the_id_the_key_is_32_hexadecimal_digits(source: str, event_id: str) -> None:
    key = event_key(source, event_id)
    assert len(key) == 32
    assert UUID(key).hex == key


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_the_key_it_has_a_lane_and_a_slot(key: str) -> None:
    assert UUID(lane_of(key)).hex == lane_of(key)
    assert 0 <= slot_of(key) < SLOTS


@pytest.mark.parametrize(
    "event_id", ["zzzzzzzz-zzzz-7zzz-zzzz-zzzzzzzzzzzz", "+190f5d2-7a3b-7c4d-8e5f-0123456789ab", "0190f5d2-7_3b-7c4d-8e5f-0123456789ab"]
)
def test_what_only_looks_like_a_version_7_id(event_id: str) -> None:
    assert UUID(event_key("billing", event_id)).hex == event_key("billing", event_id)


def test_ids_increase_within_a_process() -> None:
    ids = [uuid7() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {id_.version for id_ in ids} == {7}


def test_the_keys_of_a_thousand_events_differ() -> None:
    assert len({event_key("s", str(uuid7())) for _ in range(1000)} | {event_key("s", str(uuid4())) for _ in range(1000)}) == 2000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_draws_its_own_randomness() -> None:
    uuid7()  # so that there is something drawn that a child could share
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, uuid7().bytes[8:])
        os._exit(0)
    mine = uuid7().bytes[8:]
    os.waitpid(child, 0)
    theirs = os.read(reading, 8)
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 8
    assert theirs != mine


def test_an_id_is_like_any_other_uuid() -> None:
    made = uuid7()
    same = UUID(int=made.int)
    assert (made, hash(made), repr(made), made.variant) == (same, hash(same), repr(same), RFC_4122)
    assert pickle.loads(pickle.dumps(made)) == same  # noqa: S301 - our own bytes
    assert made.is_safe is same.is_safe


def test_an_id_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = uuid7().int >> 80
    assert before <= milliseconds <= time.time_ns() // 1_000_000 + 1
