"""When a failed event is tried again: a pure decision."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import Retry
from tidings.consume.retry import Decision, Discard, Reject, RetryLater
from tidings.errors import ConfigurationError

ERROR = RuntimeError("no luck")


class InvalidOrder(ValueError):
    pass


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    base = draw(st.floats(0, 1000))
    return Retry(
        attempts=draw(st.integers(1, 1000)),
        base=base,
        max=draw(st.floats(base, 1_000_000)),
        factor=draw(st.one_of(st.floats(1, 100), st.integers(1, 100))),
        jitter=draw(st.floats(0, 1)),
        immediate=draw(st.integers(0, 1000)),
    )


@given(policies(), st.integers(1, 1100), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_negative_and_never_longer_than_max(policy: Retry, attempt: int, chance: float) -> None:
    assert 0 <= policy.delay(attempt, lambda: chance) <= float(policy.max)  # type: ignore[arg-type]


@given(policies(), st.integers(1, 999))
def test_delays_never_shrink_but_for_the_jitter(policy: Retry, attempt: int) -> None:
    assert policy.delay(attempt, lambda: 0.0) <= policy.delay(attempt + 1, lambda: 0.0) * (1 + 1e-9)


@given(policies(), st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_its_part_off(policy: Retry, attempt: int, chance: float) -> None:
    full = policy.delay(attempt, lambda: 0.0)
    shortened = policy.delay(attempt, lambda: chance)
    assert full * (1 - policy.jitter) * (1 - 1e-9) <= shortened <= full


@given(policies(), st.integers(1, 1100))
def test_the_last_attempt_is_the_last(policy: Retry, attempt: int) -> None:
    state = policy.decide(ERROR, attempt).state
    assert state == ("dead" if attempt >= policy.attempts else "retrying")


def test_the_default_is_ten_attempts_over_seventeen_minutes() -> None:
    policy = Retry()
    decisions = [policy.decide(ERROR, attempt, chance=lambda: 0.0) for attempt in range(1, 11)]
    assert [decision.state for decision in decisions] == ["retrying"] * 9 + ["dead"]
    assert [decision.delay for decision in decisions[:9]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_delays_end_at_max() -> None:
    policy = Retry(attempts=6, base=timedelta(seconds=2), factor=10, max=timedelta(minutes=1), jitter=0)
    assert [policy.delay(attempt) for attempt in range(1, 6)] == [2, 20, 60, 60, 60]


def test_immediate_attempts_come_before_the_first_delay() -> None:
    policy = Retry(attempts=5, base=3, immediate=2, jitter=0)
    assert [policy.delay(attempt) for attempt in range(1, 5)] == [0, 0, 3, 6]


def test_no_base_is_no_delay_at_all() -> None:
    policy = Retry(attempts=1000, base=0, factor=100.0)
    assert {policy.delay(attempt) for attempt in range(1, 1000)} == {0.0}


def test_errors_to_give_up_on_are_dead_at_once() -> None:
    policy = Retry(give_up_on=(InvalidOrder, KeyError))
    assert policy.decide(InvalidOrder("x"), 1).state == "dead"
    assert policy.decide(KeyError("x"), 1).state == "dead"
    assert policy.decide(ValueError("x"), 1).state == "retrying"


def test_give_up_after_counts_from_the_first_attempt_to_the_next() -> None:
    policy = Retry(base=10, jitter=0, give_up_after=timedelta(seconds=60))
    assert policy.decide(ERROR, 1, age=49).state == "retrying"
    assert policy.decide(ERROR, 1, age=50).state == "retrying"
    assert policy.decide(ERROR, 1, age=51).state == "dead"


def test_retry_later_says_when_and_counts() -> None:
    policy = Retry(attempts=3, base=100)
    assert policy.decide(RetryLater(5), 1) == Decision("retrying", 5.0)
    assert policy.decide(RetryLater(timedelta(minutes=2)), 2) == Decision("retrying", 120.0)
    assert policy.decide(RetryLater(5), 3).state == "dead"


def test_retry_later_obeys_give_up_after() -> None:
    assert Retry(give_up_after=60).decide(RetryLater(61), 1).state == "dead"


def test_reject_is_dead_and_discard_is_finished_whatever_the_attempt() -> None:
    policy = Retry(attempts=3)
    for attempt in (1, 2, 3, 4):
        assert policy.decide(Reject("never"), attempt).state == "dead"
        assert policy.decide(Discard("no need"), attempt).state == "discarded"


def test_a_control_exception_beats_give_up_on() -> None:
    policy = Retry(give_up_on=(Exception,))
    assert policy.decide(Discard("no need"), 1).state == "discarded"


@pytest.mark.parametrize("after", [-1, -0.001, float("nan"), float("inf"), timedelta(seconds=-1), timedelta(days=400)])
def test_retry_later_wants_a_time_up_to_a_year(after: Any) -> None:
    with pytest.raises(ValueError, match="give a time from 0 seconds to one year"):
        RetryLater(after)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1001},
        {"attempts": 2.5},
        {"attempts": "3"},
        {"attempts": None},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"immediate": -1},
        {"immediate": 0.5},
        {"base": -1},
        {"base": 10, "max": 5},
        {"base": "1"},
        {"max": timedelta(days=400)},
        {"give_up_on": ValueError},
        {"give_up_on": ("ValueError",)},
        {"give_up_after": -1},
        {"give_up_after": "soon"},
        {"give_up_after": float("nan")},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^Retry\(.*: give "):
        Retry(**options)
