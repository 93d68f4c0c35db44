"""How far a checkpoint may move: the longest finished prefix, by the order of reading and never by position."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tidings.consume.progress import Progress, Ticket


def test_nothing_is_finished_before_it_is() -> None:
    progress = Progress(0)
    first = progress.read(1, 10, 1)
    second = progress.read(2, 11, 1)

    progress.finish(second)
    assert (progress.mark, progress.finished, len(progress)) == (0, 0, 2)

    progress.finish(first)
    assert (progress.mark, progress.finished, len(progress)) == (2, 2, 0)


def test_an_event_is_finished_when_every_subscription_has_finished_it() -> None:
    progress = Progress(0)
    ticket = progress.read(1, 10, 3)
    progress.finish(ticket)
    progress.finish(ticket)
    assert progress.mark == 0

    progress.finish(ticket)
    assert progress.mark == 1


def test_an_event_that_nobody_wants_is_finished_as_it_is_read() -> None:
    progress = Progress(0)
    progress.read(1, 10, 0)
    assert (progress.mark, progress.finished) == (1, 1)


def test_an_event_that_nobody_wants_waits_for_those_before_it() -> None:
    progress = Progress(0)
    before = progress.read(1, 10, 1)
    progress.read(2, 11, 0)
    assert progress.mark == 0

    progress.finish(before)
    assert progress.mark == 2


def test_positions_go_backwards_from_one_window_to_the_next() -> None:
    progress = Progress("old", high=0)
    late = progress.read("w1:11", 11, 1)
    low = progress.read("w2:3", 3, 1)

    progress.finish(late)
    assert (progress.mark, progress.high) == ("w1:11", 11)

    progress.finish(low)
    assert (progress.mark, progress.high) == ("w2:3", 11)


def test_reaching_an_empty_window_moves_the_mark_only_behind_what_is_open() -> None:
    progress = Progress(0)
    progress.reach(5)
    assert progress.mark == 5

    ticket = progress.read(6, 1, 1)
    progress.reach(9)
    assert progress.mark == 5

    progress.finish(ticket)
    assert progress.mark == 9


class Model(RuleBasedStateMachine):
    """Against a list of everything that was ever read, with how much of it is open."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.progress: Progress[int] = Progress(0)
        self.start = 0
        self.marks: list[int] = []
        self.positions: list[int] = []
        self.open: list[int] = []
        self.numbers: dict[int, int] = {}
        self.known: list[Ticket[int]] = []
        self.clock = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    @rule(target=tickets, position=st.integers(1, 1000), parts=st.integers(1, 3))
    def read(self, position: int, parts: int) -> Ticket[int]:
        return self._read(position, parts)

    @rule(position=st.integers(1, 1000))
    def read_what_nobody_wants(self, position: int) -> None:
        self._read(position, 0)

    def _read(self, position: int, parts: int) -> Ticket[int]:
        mark = self.tick()
        ticket = self.progress.read(mark, position, parts)
        self.numbers[id(ticket)] = len(self.marks)
        self.known.append(ticket)
        self.marks.append(mark)
        self.positions.append(position)
        self.open.append(parts)
        return ticket

    @rule()
    def reach(self) -> None:
        mark = self.tick()
        self.progress.reach(mark)
        if self._finished() == len(self.marks):
            self.start = mark
        if self.marks:
            self.marks[-1] = mark

    @rule(ticket=consumes(tickets))
    def finish(self, ticket: Ticket[int]) -> None:
        number = self.numbers[id(ticket)]
        while self.open[number]:
            self.open[number] -= 1
            self.progress.finish(ticket)

    @rule(ticket=tickets)
    def finish_a_part(self, ticket: Ticket[int]) -> None:
        number = self.numbers[id(ticket)]
        if self.open[number] > 1:
            self.open[number] -= 1
            self.progress.finish(ticket)

    @rule(data=st.data())
    def finish_each(self, data: st.DataObject) -> None:
        known = [ticket for ticket in self.known if self.open[self.numbers[id(ticket)]]]
        if known:
            tickets = data.draw(st.lists(st.sampled_from(known), unique_by=id))
            for ticket in tickets:
                self.open[self.numbers[id(ticket)]] -= 1
            self.progress.finish_each(tickets)

    def _finished(self) -> int:
        return next((number for number, parts in enumerate(self.open) if parts), len(self.open))

    @invariant()
    def is_the_longest_finished_prefix(self) -> None:
        count = self._finished()
        expected = self.marks[count - 1] if count else self.start
        assert self.progress.mark == expected
        assert self.progress.finished == count
        assert self.progress.high == max(self.positions[:count], default=0)
        assert len(self.progress) == len(self.open) - count


TestModel = Model.TestCase


@given(st.permutations(range(30)), st.lists(st.integers(0, 100), min_size=30, max_size=30))
def test_in_whatever_order_events_finish_the_mark_never_passes_an_open_one(order: list[int], positions: list[int]) -> None:
    progress = Progress(-1)
    tickets = [progress.read(number, position, 1) for number, position in enumerate(positions)]
    done: set[int] = set()
    for number in order:
        progress.finish(tickets[number])
        done.add(number)
        first_open = next((n for n in range(30) if n not in done), 30)
        assert progress.mark == first_open - 1
