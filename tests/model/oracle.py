"""What has to hold after every step, and what has to have happened in the end."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.model.memory import FAR
from tests.model.world import LaneWork, Subscription, World

__all__ = ["check", "check_end", "drain"]


def check(world: World) -> None:
    """Check invariants 4 to 7 and 11."""
    _lanes_and_deliveries_belong_together(world)
    _effects_happen_once(world)
    _nothing_is_lost(world)
    for subscription in world.subscriptions:
        if subscription.ordered:
            _keys_keep_their_order(world, subscription)
    _attempts_are_counted(world)
    assert not world.unfenced, f"kept under a lost lease: {world.unfenced}"


def _lanes_and_deliveries_belong_together(world: World) -> None:
    of_lane = world.lanes_of()
    plain = {subscription.id for subscription in world.subscriptions if subscription.plain}
    for place, row in world.model.table.items():
        assert row.depth == len(of_lane[place]), f"{place} says {row.depth} and has {of_lane[place]}"
        assert row.depth > 0, f"{place} is empty"
        # An operator sees the head of a dead lane as what failed. Two workers may call a plain handler, once well and once not.
        head = (place[0], of_lane[place][0])
        assert row.state != "dead" or place[0] in plain or world.model.done.get(head) != 0, f"{place} is dead, and its head is handled"
    for place, events in of_lane.items():
        assert place in world.model.table or not events, f"{events} are in no lane"


def _effects_happen_once(world: World) -> None:
    """Invariant 4: an effect and the inbox row of a handled event are the same thing."""
    for place, count in Counter(world.effects).items():
        assert count == 1, f"{place} had its effect {count} times"
    plain = {subscription.id for subscription in world.subscriptions if subscription.plain}
    handled = {place for place, outcome in world.model.done.items() if outcome == 0 and place[0] not in plain}
    assert handled == set(world.effects)
    assert {place for place, outcome in world.model.done.items() if outcome == 0 and place[0] in plain} <= set(world.calls)


def _nothing_is_lost(world: World) -> None:
    """Invariant 6: what the checkpoint is past is handled or parked."""
    for row in world.model.rows[: world.model.checkpoint.position]:
        event = world.events[row[0] - 1]
        for subscription in world.subscriptions:
            place = (subscription.id, event)
            assert place in world.model.done or place in world.model.parked, f"{subscription.name} has lost event {row[0]}"


def _keys_keep_their_order(world: World, subscription: Subscription) -> None:
    """Invariant 5: nothing of a key happens before everything earlier of it is over; what was set aside may come later."""
    seen: dict[str, list[int]] = defaultdict(list)
    happened = world.calls if subscription.plain else world.effects
    for sub, event in dict.fromkeys(happened):
        key = world.keys[event]
        if sub == subscription.id and key is not None and (sub, event) not in world.aside:
            seen[key].append(world.position[event])
    for key, positions in seen.items():
        assert positions == sorted(positions), f"{subscription.name} saw {key} in the order {positions}"
        called = set(happened)
        for event, position in world.position.items():
            place = (subscription.id, event)
            if world.keys[event] == key and position < positions[-1] and place not in world.aside:
                over = place in world.model.done or place in called
                assert over, f"{subscription.name} saw event {positions[-1]} of {key} before event {position} was over"


def _attempts_are_counted(world: World) -> None:
    """Invariant 11: what fails counts, what is broken off by a kill may count, and nothing else does."""
    working = {(work.claimed.subscription_id, work.claimed.lane) for work in world.works.values() if isinstance(work, LaneWork)}
    for place, events in world.lanes_of().items():
        row = world.model.table[place]
        if place in world.leased or place in working or not events or (place[0], events[0]) in world.model.done:
            # In somebody's hands, or a copy of what is over.
            continue
        failures = world.failures[place[0], events[0]]
        assert failures <= row.attempts <= failures + world.kills[place], (
            f"{place} counts {row.attempts} attempts of event {world.position[events[0]]}, which failed {failures} times and was broken off "
            f"{world.kills[place]} times"
        )


def drain(world: World) -> None:
    """Let everything come to its end: nothing fails any more, time passes, and an operator redrives what is dead."""
    for process in world.processes:
        if any(work.process is process for work in world.works.values()) or process.lease is not None:
            world.perform(f"{process.name} is killed")
    for _ in range(2000):
        step = _calm(world)
        if step is None:
            return
        world.perform(step)
        check(world)
    raise AssertionError("it goes on for ever")


def _calm(world: World) -> str | None:
    """Return what is done next when nothing goes wrong; None when everything is done."""
    process = world.processes[0]
    for work in world.works.values():
        name = work.name
        for wanted in ("succeeds", "settles", "calls", "opens"):
            if f"{name} {wanted}" in world.enabled():
                return f"{name} {wanted}"
    for place, row in world.model.table.items():
        name = world._name(place)
        if row.state == "dead":
            return f"redrive {name}"
        if row.until == FAR:
            return f"the lease of {name} runs out"
        if row.due == FAR:
            return f"{name} comes due"
    if world.model.table:
        return "p0 claims"
    if process.lease is None:
        return "p0 acquires" if world.model.checkpoint.until != FAR else "the reader's lease runs out"
    for subscription in world.subscriptions:
        if process.lanes[subscription.id].ready:
            return f"p0 takes {subscription.name} 3"
    if process.read_to.position < len(world.model.rows):
        return "p0 reads"
    if process.progress.mark != process.mark:
        return "p0 saves"
    return None


def check_end(world: World) -> None:
    """Nothing is stuck, and everything is over for every subscription."""
    check(world)
    assert not world.model.table
    assert not world.model.parked
    assert world.model.checkpoint.position == len(world.model.rows)
    for event in world.position:
        for subscription in world.subscriptions:
            assert (subscription.id, event) in world.model.done, f"{subscription.name} has not handled {event}"
