"""Whatever arrives, decoding ends with an event or with DecodeError."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.shapes import KINDS, MSGSPEC_KINDS
from tidings.contracts import Contract, EventType
from tidings.errors import DecodeError

TYPES: dict[str, EventType[Any]] = {}
for kind, make in KINDS.items():
    _contract = Contract("orders")
    TYPES[kind] = _contract.type_of(_contract.event("order.placed")(make("OrderPlaced", order_id=UUID, count=int, note=str | None)))

GOOD = '{"order_id": "00000000-0000-0000-0000-000000000001", "count": 1, "note": "n"}'

HOSTILE: dict[str, str | bytes] = {
    "empty": "",
    "blank": " ",
    "null": "null",
    "array": "[]",
    "number": "1",
    "truncated": GOOD[:-1],
    "trailing": GOOD + "x",
    "two documents": GOOD + GOOD,
    "single quotes": GOOD.replace('"', "'"),
    "missing field": '{"count": 1, "note": null}',
    "wrong type": GOOD.replace(": 1,", ': "one",'),
    "not a UUID": GOOD.replace("0001", "000x"),
    "bool as int": GOOD.replace(": 1,", ": true,"),
    "NaN": GOOD.replace(": 1,", ": NaN,"),
    "huge int": GOOD.replace(": 1,", ": " + "9" * 5000 + ","),
    "huge exponent": GOOD.replace(": 1,", ": 1e999999999,"),
    "invalid UTF-8": GOOD.encode().replace(b'"n"', b'"\xff\xfe"'),
    "UTF-16": GOOD.encode("utf-16"),
    "lone surrogate, escaped": GOOD.replace('"n"', '"\\ud800"'),
    "lone surrogate": GOOD.replace('"n"', '"\ud800"'),
    "control character": GOOD.replace('"n"', '"\x00"'),
    "deep": "[" * 100_000,
    "deep and closed": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "deep where nobody looks": GOOD[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nothing but NUL": b"\0" * 100,
}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(kind, data, id=f"{kind}-{what}")
        for kind in KINDS
        for what, data in HOSTILE.items()
        # pydantic takes true for 1, as its models do everywhere.
        if kind in MSGSPEC_KINDS or what != "bool as int"
    ],
)
def test_hostile_data_ends_as_decode_error(kind: str, data: str | bytes) -> None:
    with pytest.raises(DecodeError):
        TYPES[kind].decode(data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dataclass", "OrderPlaced.order_id: Invalid UUID"),
        ("struct", "OrderPlaced.order_id: Invalid UUID"),
        ("attrs", "OrderPlaced.order_id: Invalid UUID"),
        ("pydantic", "OrderPlaced.order_id: Input should be a valid UUID"),
    ],
)
def test_the_error_names_event_type_class_and_field(kind: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        TYPES[kind].decode(HOSTILE["not a UUID"])
    assert str(caught.value).startswith(f"order.placed v1: the data is not {message}")
    assert str(caught.value).endswith("If the class has changed, declare a new version and an upcaster")


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_does_not_repeat_what_was_in_the_data(kind: str) -> None:
    with pytest.raises(DecodeError) as caught:
        TYPES[kind].decode(GOOD.replace(": 1,", ': "4111-1111-1111-1111",'))
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize("raised", [ValueError, TypeError, KeyError, ZeroDivisionError, RecursionError, StopIteration])
@pytest.mark.parametrize("base", ["dataclass", "pydantic"])
def test_whatever_a_validator_raises(base: str, raised: type[Exception]) -> None:
    contract = Contract("orders")

    def refuse(*_: object) -> None:
        raise raised("refused")

    if base == "dataclass":

        @contract.event("order.placed")
        @dataclass(frozen=True)
        class OrderPlaced:
            count: int
            __post_init__ = refuse
    else:

        @contract.event("order.placed")
        class OrderPlaced(pydantic.BaseModel):  # type: ignore[no-redef]
            model_config = pydantic.ConfigDict(frozen=True)
            count: int

            @pydantic.model_validator(mode="after")
            def check(self) -> Any:
                refuse()

    with pytest.raises(DecodeError):
        contract["order.placed"].decode('{"count": 1}')


def test_deep_data_for_a_recursive_class() -> None:
    contract = Contract("trees")

    @contract.event("node.added")
    class Node(msgspec.Struct, frozen=True):
        children: list[Node] = []

    with pytest.raises(DecodeError, match="nested deeper"):
        contract["node.added"].decode('{"children":[' * 50_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(["order_id", "count", "note", "x"]), parts),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [st.binary(), st.text(), JSON.map(json.dumps)], ids=["bytes", "text", "json"])
def test_random_data_ends_as_an_event_or_as_decode_error(kind: str, data: st.SearchStrategy[str | bytes]) -> None:
    @given(data=data)
    def decode(data: str | bytes) -> None:
        try:
            event = TYPES[kind].decode(data)
        except DecodeError:
            return
        assert type(event) is TYPES[kind].cls

    decode()


@pytest.mark.parametrize("kind", KINDS)
@given(cut=st.integers(0, len(GOOD)), junk=st.binary(max_size=4), skip=st.integers(0, 4))
def test_damaged_data_ends_as_an_event_or_as_decode_error(kind: str, cut: int, junk: bytes, skip: int) -> None:
    damaged = GOOD.encode()[:cut] + junk + GOOD.encode()[cut + skip :]
    decode: Callable[[str | bytes], Any] = TYPES[kind].decode
    with suppress(DecodeError):
        assert type(decode(damaged)) is TYPES[kind].cls
