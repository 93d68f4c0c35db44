"""What may be under way at a time, and how far the checkpoint may move, for each kind of failure: against a model of what a broker may do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tidings.consume.progress import Progress
from tidings.relay.flight import Call, Flight, settle
from tidings.transports.base import CONFIRMED, WITHHELD, Failure, Outcome, refused, unconfirmed

FAILURES: list[Failure] = ["atomic", "prefix", "independent"]


@dataclass(frozen=True)
class Event:
    number: int
    key: str | None
    bad: bool = False


def flight_of(failure: Failure, keys: list[str | None], calls: int = 4, most: int = 1000) -> Flight[Event]:
    flight: Flight[Event] = Flight(failure, calls, most)
    for number, key in enumerate(keys):
        flight.add(key, Event(number, key))
    return flight


keys = st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=40)


@given(keys)
def test_independent_has_one_of_a_key_under_way(given_keys: list[str | None]) -> None:
    flight = flight_of("independent", given_keys)
    under_way = [event.key for call in iter(flight.take, None) for event in call.items if event.key is not None]
    assert len(under_way) == len(set(under_way))


@pytest.mark.parametrize("failure", ["atomic", "prefix"])
@given(keys)
def test_others_have_any_number_of_a_key_in_one_call(failure: Failure, given_keys: list[str | None]) -> None:
    flight = flight_of(failure, given_keys)
    (call,) = iter(flight.take, None) if given_keys else (None,)
    assert call is None or sorted(event.number for event in call.items) == list(range(len(given_keys)))


@pytest.mark.parametrize("failure", FAILURES)
@given(keys, st.integers(1, 5), st.integers(1, 10))
def test_a_key_is_in_one_call_at_a_time_and_no_call_is_too_large(
    failure: Failure, given_keys: list[str | None], calls: int, most: int
) -> None:
    flight = flight_of(failure, given_keys, calls, most)
    taken = list(iter(flight.take, None))
    assert len(taken) <= calls
    seen: set[str] = set()
    for call in taken:
        assert 0 < len(call.items) <= most
        of_call = {event.key for event in call.items if event.key is not None}
        assert not of_call & seen
        seen |= of_call


def test_what_can_be_sent_is_shared_out_among_the_calls() -> None:
    flight: Flight[int] = Flight("independent", 4, 1000)
    for number in range(1000):
        flight.add(str(number), number)
    assert [len(call.items) for call in iter(flight.take, None)] == [250, 250, 250, 250]


def test_a_few_messages_make_one_call() -> None:
    flight: Flight[int] = Flight("independent", 4, 1000)
    for number in range(20):
        flight.add(str(number), number)
    assert [len(call.items) for call in iter(flight.take, None)] == [20]


outcomes = st.sampled_from([CONFIRMED, WITHHELD, refused("no"), unconfirmed("gone")])


@given(st.lists(outcomes))
def test_nothing_counts_as_sent_but_what_was_confirmed(given_outcomes: list[Outcome]) -> None:
    items = list(range(len(given_outcomes)))
    settled = settle(items, given_outcomes)
    assert settled.confirmed == [item for item in items if given_outcomes[item].kind == "confirmed"]
    assert [item for item, _ in settled.refused] == [item for item in items if given_outcomes[item].kind == "refused"]
    assert settled.behind == [item for item in items if given_outcomes[item].kind == "withheld"]
    assert (settled.lost is not None) == any(outcome.kind == "unconfirmed" for outcome in given_outcomes)


@given(st.lists(outcomes, min_size=1))
def test_a_transport_that_forgets_a_message_has_confirmed_nothing(given_outcomes: list[Outcome]) -> None:
    settled = settle(list(range(len(given_outcomes) + 1)), given_outcomes)
    assert settled.confirmed == []
    assert settled.lost is not None


class Relaying(RuleBasedStateMachine):
    """Reads, sends, answers in any order, loses the connection at any time, against a broker that does what its `failure` allows.

    The broker keeps what it has got, in the order in which it got it. After a loss everything begins again at the checkpoint.
    """

    failure: Failure = "independent"

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Event] = []
        self.broker: list[Event] = []
        self.parked: list[Event] = []
        self.saved = 0
        self.begin()

    def begin(self) -> None:
        self.flight: Flight[tuple[Event, object]] = Flight(self.failure, 3, 5)
        self.progress: Progress[int] = Progress(self.saved)
        self.under_way: list[Call[tuple[Event, object]]] = []
        self.next = self.saved

    @rule(key=st.sampled_from([None, "a", "b"]), luck=st.integers(0, 7))
    def publish(self, key: str | None, luck: int) -> None:
        self.log.append(Event(len(self.log), key, luck == 0))

    @rule()
    def read(self) -> None:
        for event in self.log[self.next : self.next + 7]:
            self.flight.add(event.key, (event, self.progress.read(event.number + 1, event.number, 1)))
        self.next = min(len(self.log), self.next + 7)

    @precondition(lambda self: len(self.flight))
    @rule()
    def send(self) -> None:
        if (call := self.flight.take()) is not None:
            self.under_way.append(call)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        call = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        results: list[Outcome] = []
        blocked: set[str] = set()
        for event, _ in call.items:
            if event.key in blocked or event.key in {parked.key for parked in self.parked if parked.key is not None}:
                results.append(WITHHELD)
            elif event.bad:
                results.append(refused("no"))
                blocked |= {event.key} if event.key is not None else set()
            else:
                self.broker.append(event)
                results.append(CONFIRMED)
        settled = settle(call.items, results)
        for _, ticket in settled.confirmed:
            self.progress.finish(ticket)  # type: ignore[arg-type]
        for event, ticket in [*(item for item, _ in settled.refused), *settled.behind]:
            if event not in self.parked:
                self.parked.append(event)
            self.progress.finish(ticket)  # type: ignore[arg-type]
        self.flight.done(call)

    @rule()
    def save(self) -> None:
        self.saved = self.progress.mark

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        for call in self.under_way:
            blocked = {parked.key for parked in self.parked if parked.key is not None}
            blocked |= {event.key for event, _ in call.items if event.bad and event.key is not None}
            items = [event for event, _ in call.items if event.key not in blocked and not event.bad]
            if self.failure == "independent":
                self.broker += [event for event in items if data.draw(st.booleans())]
            elif self.failure == "atomic":
                self.broker += items if data.draw(st.booleans()) else []
            else:
                self.broker += items[: data.draw(st.integers(0, len(items)))]
        self.begin()

    @invariant()
    def nothing_behind_the_checkpoint_is_missing(self) -> None:
        there = {*self.broker, *self.parked}
        assert all(event in there for event in self.log[: self.progress.mark])

    @invariant()
    def no_key_is_inverted(self) -> None:
        first: dict[str, list[int]] = {}
        for event in dict.fromkeys(self.broker):
            if event.key is not None:
                first.setdefault(event.key, []).append(event.number)
        assert all(found == sorted(found) for found in first.values())

    @invariant()
    def nothing_overtakes_what_is_parked(self) -> None:
        heads = {event.key: event.number for event in reversed(self.parked) if event.key is not None}
        confirmed_first = dict.fromkeys(self.broker)
        assert all(event.key not in heads or event.number <= heads[event.key] for event in confirmed_first)


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_happens_nothing_is_skipped_and_no_key_is_inverted(failure: Failure) -> None:
    run_state_machine_as_test(type("Machine", (Relaying,), {"failure": failure}))  # type: ignore[no-untyped-call]
