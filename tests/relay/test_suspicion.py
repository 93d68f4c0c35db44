"""What is said of messages when connections break: nothing, until one of them breaks connections that carry others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.codecs.message import Message
from tidings.relay.line import ChannelLost, Line
from tidings.relay.suspicion import Suspicion
from tidings.transports.base import Outcome, Outgoing, unconfirmed


def broke(suspicion: Suspicion, *under_way: str, alone: bool = False, through: bool = False) -> None:
    suspicion.broke(under_way, "it broke", alone=alone, through=through)


def test_messages_that_are_under_way_each_time_are_sent_one_at_a_time() -> None:
    suspicion = Suspicion()
    broke(suspicion, "a", "b", "c")
    broke(suspicion, "b", "c", "d")
    assert not suspicion.isolating
    broke(suspicion, "c", "e")
    assert suspicion.isolating
    suspicion.settled("c")
    assert not suspicion.isolating


def test_breaks_that_have_no_message_in_common_say_nothing() -> None:
    suspicion = Suspicion()
    for event in "abcdefgh":
        broke(suspicion, event)
    broke(suspicion)
    assert not suspicion.isolating


def test_one_of_which_connections_break_that_carry_others_is_convicted() -> None:
    suspicion = Suspicion()
    for _ in range(3):
        broke(suspicion, "a", "b")
    broke(suspicion, "a", alone=True)
    assert suspicion.struck("a")
    broke(suspicion, "a", alone=True, through=True)
    assert not suspicion.convicted("a")
    broke(suspicion, "a", alone=True, through=True)
    assert suspicion.convicted("a")
    assert not suspicion.convicted("b")
    suspicion.settled("a")
    assert not suspicion.struck("a")
    suspicion.settled("b")
    assert not suspicion.isolating


def test_two_of_them_are_told_apart() -> None:
    suspicion = Suspicion()
    for _ in range(3):
        broke(suspicion, "a", "b", "c")
    for _ in range(3):
        broke(suspicion, "a", alone=True, through=True)
        broke(suspicion, "b", alone=True, through=True)
    assert suspicion.convicted("a")
    assert suspicion.convicted("b")


@given(st.lists(st.sets(st.sampled_from("abcde")), max_size=60))
def test_a_broker_that_lets_nothing_through_convicts_nobody(breaks: list[set[str]]) -> None:
    suspicion = Suspicion()
    for under_way in breaks:
        if suspicion.isolating:
            broke(suspicion, *sorted(under_way)[:1], alone=True)
        else:
            broke(suspicion, *under_way)
        assert not any(suspicion.convicted(event) for event in "abcde")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde"), st.booleans()), max_size=200))
def test_what_gets_through_is_never_held_against_anybody(history: list[tuple[bool, str, bool]]) -> None:
    """Whatever happened to it before: one confirmation, and all is forgotten."""
    suspicion = Suspicion()
    for confirmed, event, through in history:
        if confirmed:
            suspicion.settled(event)
            assert not suspicion.struck(event)
        else:
            broke(suspicion, event, alone=suspicion.isolating, through=through)


class Failing:
    """A channel that gives everything the same outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        return [self.outcome] * len(batch)

    async def close(self) -> None: ...


@pytest.mark.parametrize("broken", [True, False])
async def test_only_connections_that_end_are_held_against_messages(broken: bool) -> None:
    """No answer in time, or a stream without a leader, may well have to do with where a message goes, and not with what it is."""
    suspicion = Suspicion()
    for _ in range(3):
        line = Line(Failing(unconfirmed("it failed", broken=broken)), suspicion)
        await line.publish([Outgoing("t", Message({}, b"{}", id="a"))])
        with pytest.raises(ChannelLost, match="it failed"):
            await line.until_lost()
        # What comes after that was never under way.
        await line.publish([Outgoing("t", Message({}, b"{}", id="b"))])
        line.blame()
    assert suspicion.isolating == broken
    suspicion.settled("a")
    assert not suspicion.anything
