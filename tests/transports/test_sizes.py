from __future__ import annotations

import pytest

from tidings.codecs.message import Message
from tidings.transports.base import Outgoing, fit, size_of, written_size_of


@pytest.mark.parametrize(
    ("message", "least", "written"),
    [
        (Message({}, None), 0, 0),
        (Message({"ab": "cde"}, b"12"), 7, 7),
        (Message({"ab": "cde", "none": None}, b"12"), 11, 11),
        (Message({"ab": b"\xff\xff", "c": "d"}, b"12"), 8, 8),
        (Message({"ä": "€"}, b"12"), 4, 7),
        (Message({"ä": "€", "b": b"\xff", "none": None}, b"12"), 10, 13),
    ],
)
def test_names_and_values_of_every_kind_count(message: Message, least: int, written: int) -> None:
    assert (size_of(message), written_size_of(message)) == (least, written)


def test_what_cannot_be_written_is_said() -> None:
    with pytest.raises(UnicodeEncodeError):
        written_size_of(Message({"h": "\udc80"}, b""))


@pytest.mark.parametrize(
    "message", [Message({"ab": "cde"}, b"12", key="k"), Message({"ä": "€"}, b"12", key="ö"), Message({"none": None}, None)]
)
def test_messages_that_fit_together_fit_each(message: Message) -> None:
    size = written_size_of(message) + len((message.key or "").encode())
    batch = [Outgoing("topic", message)] * 3

    assert not fit(batch, 3 * size - 1)
    assert fit(batch, 3 * size) is (None not in message.headers.values())


@pytest.mark.parametrize("message", [Message({"h": b"1"}, b""), Message({"h": "\udc80"}, b""), Message({}, b"", key="\udc80")])
def test_what_cannot_be_told_of_all_together_is_not_said_to_fit(message: Message) -> None:
    assert not fit([Outgoing("topic", Message({}, b"")), Outgoing("topic", message)], 1000)
