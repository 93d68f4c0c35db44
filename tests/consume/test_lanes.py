"""Lanes in memory: order by key, one taker per lane, fair to all keys, nothing lost."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidings.consume.lanes import Lanes, Taken

Item = tuple[str | None, int]


def test_a_key_is_given_in_order() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(5):
        lanes.add("a", number)
    assert lanes.take(3).items == [0, 1, 2]


def test_a_lane_belongs_to_one_taker() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(5):
        lanes.add("a", number)
    taken = lanes.take(2)

    assert not lanes.ready
    assert lanes.take(10).items == []

    lanes.give_back(taken)
    assert lanes.take(10).items == [2, 3, 4]


def test_what_comes_while_a_lane_is_taken_waits_for_its_return() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.add("a", 1)
    taken = lanes.take(10)
    lanes.add("a", 2)

    assert not lanes.ready
    assert len(lanes) == 1

    lanes.give_back(taken)
    assert lanes.take(10).items == [2]


def test_what_is_put_back_comes_before_what_came_meanwhile() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.add("a", 1)
    taken = lanes.take(10)
    lanes.add("a", 2)
    lanes.put_back([("a", 1)])
    lanes.give_back(taken)
    assert lanes.take(10).items == [1, 2]


def test_items_without_key_wait_for_nobody() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(3):
        lanes.add(None, number)
    assert lanes.take(1).items == [0]
    assert lanes.take(2).items == [1, 2]


def test_one_item_of_each_lane_before_the_second_of_any() -> None:
    lanes: Lanes[str] = Lanes()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        lanes.add(item[0], item)
    assert lanes.take(5).items == ["a1", "b1", "c1", "a2", "c2"]


def test_a_key_with_a_thousand_events_delays_another_by_one_round_at_most() -> None:
    lanes: Lanes[Item] = Lanes()
    for number in range(1000):
        lanes.add("busy", ("busy", number))
    others = [f"key-{number}" for number in range(10)]
    first = lanes.take(1)  # somebody works on the busy key already
    for other in others:
        lanes.add(other, (other, 0))
        lanes.add(other, (other, 1))
    lanes.give_back(first)

    taken = [lanes.take(1) for _ in range(11)]
    assert [item for each in taken for item in each.items] == [*((other, 0) for other in others), ("busy", 1)]

    for each in taken:
        lanes.give_back(each)
    second = [lanes.take(1).items[0] for _ in range(11)]
    assert second == [*((other, 1) for other in others), ("busy", 2)]


def test_an_empty_lane_is_forgotten() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(100):
        lanes.add(f"key-{number}", number)
    lanes.give_back(lanes.take(1000))
    assert lanes._lanes == {}


def test_an_item_may_be_anything() -> None:
    lanes: Lanes[object] = Lanes()
    first, second = deque([1, 2]), deque([3])
    lanes.add("a", first)
    assert lanes.take(5).items == [first]

    lanes.add("b", None)
    lanes.add("b", second)
    taken = lanes.take(5)
    assert taken.items == [None, second]

    lanes.put_back([("b", None)])
    lanes.give_back(taken)
    assert lanes.take(5).items == [None]


class Model(RuleBasedStateMachine):
    """Against a queue per key. What is taken is compared with what the queues would give, whoever takes and gives back when."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[Item] = Lanes()
        self.queues: dict[str, deque[Item]] = {}
        self.free: deque[Item] = deque()
        self.taken: list[Taken[Item]] = []
        self.held: list[set[str]] = []
        self.number = 0

    @initialize()
    def start(self) -> None:
        assert self.lanes.take(5).items == []

    @rule(key=st.sampled_from(["a", "b", "c", None]), count=st.integers(1, 4))
    def add(self, key: str | None, count: int) -> None:
        for _ in range(count):
            item = (key, self.number)
            self.number += 1
            self.lanes.add(key, item)
            (self.free if key is None else self.queues.setdefault(key, deque())).append(item)

    @rule(limit=st.integers(1, 6))
    def take(self, limit: int) -> None:
        busy = {key for keys in self.held for key in keys}
        available = len(self.free) + sum(len(queue) for key, queue in self.queues.items() if key not in busy)
        taken = self.lanes.take(limit)
        assert len(taken.items) == min(limit, available)
        mine: set[str] = set()
        for item in taken.items:
            key = item[0]
            if key is None:
                assert self.free.popleft() == item
            else:
                assert key not in busy
                assert self.queues[key].popleft() == item
                mine.add(key)
        self.taken.append(taken)
        self.held.append(mine)

    @rule(limit=st.integers(1, 6))
    def take_heads(self, limit: int) -> None:
        taken = self.lanes.take(limit, heads=True)
        keys = [item[0] for item in taken.items if item[0] is not None]
        assert len(keys) == len(set(keys))
        for item in taken.items:
            assert (self.free if item[0] is None else self.queues[item[0]]).popleft() == item
        self.taken.append(taken)
        self.held.append(set(keys))

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), withheld=st.integers(0, 4))
    def give_back(self, data: st.DataObject, withheld: int) -> None:
        index = data.draw(st.integers(0, len(self.taken) - 1))
        taken = self.taken.pop(index)
        back = taken.items[len(taken.items) - min(withheld, len(taken.items)) :]
        self.lanes.put_back([(item[0], item) for item in back])
        for item in reversed(back):
            if item[0] is None:
                self.free.append(item)
            else:
                self.queues[item[0]].appendleft(item)
        self.lanes.give_back(taken)
        self.held.pop(index)

    @rule(part=st.integers(2, 3))
    def drop(self, part: int) -> None:
        dropped = self.lanes.drop(lambda item: item[1] % part == 0)
        waiting = [*self.free, *(item for queue in self.queues.values() for item in queue)]
        assert sorted(dropped, key=str) == sorted((item for item in waiting if item[1] % part == 0), key=str)
        self.free = deque(item for item in self.free if item[1] % part)
        self.queues = {key: deque(item for item in queue if item[1] % part) for key, queue in self.queues.items()}

    @invariant()
    def counts(self) -> None:
        waiting = len(self.free) + sum(len(queue) for queue in self.queues.values())
        busy = {key for keys in self.held for key in keys}
        assert len(self.lanes) == waiting
        assert self.lanes.ready == bool(self.free or any(queue for key, queue in self.queues.items() if key not in busy))


TestModel = Model.TestCase
