"""What is written down about a failure: it can always be stored, is bounded, and failures of one kind share a fingerprint."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.consume.failures import HISTORY, failure_of, printable, remember
from tidings.errors import TidingsError

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class SpeaksInNumbers(Exception):
    def __str__(self) -> str:
        return 42  # type: ignore[return-value]  # noqa: PLE0307


def caught(error: BaseException) -> BaseException:
    """Raise and catch, so that there is a traceback."""
    try:
        raise error
    except BaseException as raised:
        return raised


def charge(order: object, cents: int) -> None:
    raise ValueError(f"order {order} cannot pay {cents} cents to 'shop {cents}'")


def refund(order: object, cents: int) -> None:
    raise ValueError(f"order {order} cannot pay {cents} cents to 'shop {cents}'")


def failed(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]
    except ValueError as error:
        return error
    raise AssertionError


@given(ANYTHING, st.integers(1, 200))
def test_printable_text_can_be_stored_and_is_bounded(text: str, limit: int) -> None:
    safe = printable(text, limit)
    safe.encode()
    assert len(safe) <= limit
    assert all(c.isprintable() or c in "\n\t" for c in safe)


@given(st.text(st.characters(categories=("L", "N", "P")), max_size=50))
def test_what_can_be_printed_stays_as_it_is(text: str) -> None:
    assert printable(text, 50) == text


def test_what_cannot_be_printed_is_spelled_out() -> None:
    assert printable("a\0b\x1b[31m\ud800\u202e\n", 100) == "a\\x00b\\x1b[31m\\ud800\\u202e\n"


def test_text_that_was_cut_says_so() -> None:
    assert printable("x" * 11, 10) == "xxxxxxxxx…"
    assert printable("x" * 10, 10) == "x" * 10


@given(ANYTHING)
def test_whatever_the_message_a_failure_can_be_stored(message: str) -> None:
    failure = failure_of(caught(ValueError(message)))
    for text in failure:
        text.encode()
        assert "\0" not in text
    assert failure.error_type == "ValueError"


def test_a_huge_message_is_cut() -> None:
    failure = failure_of(caught(ValueError("x" * 10_000_000)))
    assert len(failure.error_message) <= 2000


def test_a_deep_traceback_is_cut() -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as raised:
        recurse()
    failure = failure_of(raised.value)
    assert len(failure.traceback) <= 8000
    assert failure.error_type == "RecursionError"


@pytest.mark.parametrize("kind", [Unspeakable, SpeaksInNumbers])
def test_an_error_that_cannot_say_what_it_is(kind: type[Exception]) -> None:
    failure = failure_of(caught(kind()))
    assert failure.error_type == f"tests.consume.test_failures.{kind.__name__}"
    assert failure.error_message.startswith("<its message raised ")


def test_the_type_is_named_with_its_module() -> None:
    assert failure_of(TidingsError("x")).error_type == "tidings.errors.TidingsError"
    assert failure_of(KeyError("x")).error_type == "KeyError"


def test_an_error_without_traceback() -> None:
    assert failure_of(ValueError("x")).traceback == ""


def test_the_traceback_ends_where_it_happened() -> None:
    failure = failure_of(failed(charge, 1, 2))
    assert failure.traceback.rstrip().splitlines()[-2].endswith("in charge")


def test_failures_that_differ_in_ids_and_numbers_share_a_fingerprint() -> None:
    prints = {failure_of(failed(charge, order, cents)).fingerprint for order, cents in [(uuid4(), 5), (uuid4(), 70), (0x7F, 123456)]}
    assert len(prints) == 1


def test_failures_in_other_functions_or_of_other_types_have_other_fingerprints() -> None:
    one = failure_of(failed(charge, 1, 2))
    other = failure_of(failed(refund, 1, 2))
    assert one.error_message == other.error_message
    assert one.fingerprint != other.fingerprint
    assert failure_of(ValueError("x")).fingerprint != failure_of(KeyError("x")).fingerprint


@given(ANYTHING)
def test_fingerprints_are_16_hexadecimal_digits(message: str) -> None:
    assert len(bytes.fromhex(failure_of(ValueError(message)).fingerprint)) == 8


def test_the_history_remembers_the_last_ten_attempts() -> None:
    history = "[]"
    for attempt in range(1, 14):
        history = remember(history, attempt, failure_of(ValueError(f"attempt {attempt}")))
    past = json.loads(history)
    assert [entry["attempt"] for entry in past] == list(range(4, 14))
    assert len(past) == HISTORY
    assert past[-1]["error"] == "ValueError: attempt 13"
    assert past[-1]["at"].endswith("+00:00")


@pytest.mark.parametrize("history", ["", "null", "{}", "[", '"x"', "1"])
def test_a_history_that_somebody_damaged_starts_anew(history: str) -> None:
    past = json.loads(remember(history, 3, failure_of(ValueError("x"))))
    assert [entry["attempt"] for entry in past] == [3]
