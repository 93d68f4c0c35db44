from __future__ import annotations

import pytest

from tidings.codecs.message import Message
from tidings.transports.base import size_of, written_size_of


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
