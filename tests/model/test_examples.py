"""Counter-examples that the machine found, as short as it could make them; each against the code, and against the mistake that it shows.

A mistake is a change of one function. Where the machine's own example is lost, the machine would have to find it again: so a change that
makes one of these go unnoticed weakens what watches over the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import pytest

from tests.model import memory
from tests.model.oracle import check, check_end, drain
from tests.model.tables import Modelled
from tests.model.world import SUBSCRIPTIONS, World
from tidings.consume.fences import Handed, LaneFence
from tidings.consume.lanes import Lanes, Taken, _waits
from tidings.consume.progress import Progress
from tidings.consume.received import Received
from tidings.errors import LeaseLost

Mistake = Callable[[], AbstractContextManager[Any]]
BEGIN = ("publish a a b", "p0 acquires", "p0 reads")


def run(subscription: str, steps: Sequence[str]) -> None:
    """Do what the example says, then let everything come to its end."""
    world = World(Modelled(), subscriptions=[each for each in SUBSCRIPTIONS if each.name == subscription])
    for step in (*BEGIN, *steps):
        if (" takes " in step and step not in world.enabled()) or (step.startswith("p0.") and step.split()[0] not in world.works):
            # Only the mistake makes it possible.
            continue
        world.perform(step)
        check(world)
    drain(world)
    check_end(world)


def instead(cls: type, name: str, function: Callable[..., Any]) -> Mistake:
    return lambda: mock.patch.object(cls, name, function)


def close_without_proof(self: Handed, connection: Any, subscription: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
    assert self.promoted is None


def close_all(self: Handed, connection: Any, subscription: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
    assert self.promoted is not None
    self.finish(connection, events)


def close_lane_without_proof(
    self: LaneFence, connection: Any, subscription: int, ran: Sequence[Received], events: Sequence[Received]
) -> None:
    self._store.lanes.finish(connection, self._lane, [event.event_key for event in events], self._ttl)


def open_without_looking(self: Handed, connection: Any, subscription: int, events: Sequence[Received]) -> Any:
    return self._store.inbox.open(connection, subscription, [event.event_key for event in events], ["0" * 32] * len(events))


def advance_over_gaps(self: Progress[Any]) -> None:
    for ticket in [ticket for ticket in self._open if ticket.parts <= 0]:
        self._open.remove(ticket)
        self.mark = ticket.mark


@contextmanager
def lanes_for_several() -> Iterator[None]:
    take = Lanes.take

    def take_and_leave(self: Lanes[Any], limit: int, takers: int = 1) -> Taken[Any]:
        taken = take(self, limit, takers)
        self._ready.extend(key for key in taken.keys if _waits(self._lanes[key]))
        return taken

    with mock.patch.object(Lanes, "take", take_and_leave), mock.patch.object(Lanes, "give_back", return_value=None):
        yield


def close_lane_whatever_waits(self: Any, lane: Any, row: Any) -> None:
    self.store.table.pop((lane.subscription_id, lane.lane), None)


def park_in_empty_lanes(
    self: Any, transaction: Any, subscription: int, items: Sequence[Any], *, ttl: float = 0.0, owner: Any = None
) -> Any:
    claimed = PARK(self, transaction, subscription, items, ttl=ttl, owner=owner)
    for item in items:
        self.store.table.setdefault((subscription, item.lane), memory.Lane(item.key, item.state, 0, 0, 0.0))
    return claimed


PARK = memory._Lanes.park
PARKED = ("p0 takes billing 1", "p0.billing.1 opens", "p0.billing.1 fails", "p0.billing.1 settles", "billing:1 comes due")

EXAMPLES: dict[str, tuple[str, tuple[str, ...], Mistake]] = {
    "a worker whose lease another one has keeps an effect": (
        "billing",
        ("p0 takes billing 1", "p0.billing.1 opens", "the reader's lease runs out", "p1 acquires", "p0.billing.1 succeeds"),
        instead(Handed, "close", close_without_proof),
    ),
    "a paused worker on a lane wakes up when another one has it": (
        "billing",
        (*PARKED, "p0 claims", "p0.lane.billing.1 opens", "the lease of billing:1 runs out", "p1 claims", "p0.lane.billing.1 succeeds"),
        instead(LaneFence, "close", close_lane_without_proof),
    ),
    "an event overtakes one of its key that is parked": (
        "billing",
        (
            *PARKED[:-1],
            "p0 takes billing 1",
            "p0.billing.3 opens",
            "p0.billing.3 succeeds",
            "p0.billing.3 settles",
            "p0 takes billing 1",
            "p0.billing.2 opens",
            "p0.billing.2 succeeds",
        ),
        instead(Handed, "open", open_without_looking),
    ),
    "what found its key blocked leaves its lane without having run": (
        "billing",
        (
            *PARKED,
            "p0 takes billing 3",
            "p0.billing.3 opens",
            "p0 claims",
            "p0.lane.billing.1 opens",
            "p0.lane.billing.1 succeeds",
            "p0.billing.3 is promoted",
            "p0.billing.3 succeeds",
        ),
        instead(Handed, "close", close_all),
    ),
    "events that are over get lanes when the rest is slow": (
        "billing",
        (
            "p0 takes billing 3",
            "p0.billing.1 opens",
            "p0.billing.1 fails",
            "p0.billing.1 opens",
            "p0.billing.1 succeeds",
            "p0.billing.1 opens",
            "p0.billing.1 succeeds",
            "p0.billing.1 opens",
            "p0.billing.1 is promoted",
            "p0.billing.1 rejects",
        ),
        instead(Handed, "left", lambda self: list(self.items)),
    ),
    "the checkpoint moves over what is not finished": (
        "billing",
        ("p0 takes billing 1", "p0 takes billing 1", "p0.billing.3 opens", "p0.billing.3 succeeds", "p0.billing.3 settles", "p0 saves"),
        instead(Progress, "_advance", advance_over_gaps),
    ),
    "two workers take from one lane": (
        "billing",
        ("p0 takes billing 1", "p0 takes billing 1", "p0 takes billing 1", "p0.billing.2 opens", "p0.billing.2 succeeds"),
        lanes_for_several,
    ),
    "a lane is given up although something waits in it": (
        "billing",
        (
            *PARKED,
            "p0 takes billing 3",
            "p0.billing.3 opens",
            "p0.billing.3 succeeds",
            "p0.billing.3 settles",
            "p0 claims",
            "p0.lane.billing.1 opens",
            "p0.lane.billing.1 succeeds",
        ),
        instead(memory._Lanes, "_close", close_lane_whatever_waits),
    ),
    "a copy of an event that was set aside makes a lane for nothing": (
        "search",
        (
            "p0 takes search 3",
            "p0.search.1 opens",
            "p0.search.1 fails",
            "p0.search.1 opens",
            "p0.search.1 rejects",
            "p0.search.1 settles",
            "copy 0",
            "p0 is killed",
            "the reader's lease runs out",
            "p1 acquires",
            "p1 reads",
            "p1 takes search 1",
            "p1.search.1 opens",
            "p1.search.1 is promoted",
        ),
        instead(memory._Lanes, "park", park_in_empty_lanes),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_code_stands_it(name: str) -> None:
    subscription, steps, _ = EXAMPLES[name]
    run(subscription, steps)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_mistake_is_found(name: str) -> None:
    subscription, steps, mistake = EXAMPLES[name]
    with mistake(), pytest.raises((AssertionError, LeaseLost)):
        run(subscription, steps)
