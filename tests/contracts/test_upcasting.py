"""Versions side by side, and the chains of upcasters between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.shapes import make_dataclass
from tidings.contracts import Contract
from tidings.errors import ContractError, DecodeError


@dataclass(frozen=True)
class UserCreatedV1:
    id: int
    name: str


@dataclass(frozen=True)
class UserCreatedV2:
    id: int
    first: str
    last: str


@dataclass(frozen=True)
class UserCreated:
    id: int
    first: str
    last: str
    country: str


def users() -> Contract:
    contract = Contract("users")
    contract.event("user.created", version=1)(UserCreatedV1)
    contract.event("user.created", version=2)(UserCreatedV2)
    contract.event("user.created", version=3)(UserCreated)
    return contract


def split(old: UserCreatedV1) -> UserCreatedV2:
    first, _, last = old.name.partition(" ")
    return UserCreatedV2(old.id, first, last)


def settle(old: UserCreatedV2) -> UserCreated:
    return UserCreated(old.id, old.first, old.last, "DE")


def test_an_old_event_is_read_as_the_newest() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreatedV2)(split)
    contract.upcast(UserCreatedV2, UserCreated)(settle)
    contract.check()

    event = contract.upcast_to(contract["user.created", 1], '{"id": 1, "name": "Ada Lovelace"}', contract["user.created"])

    assert event == UserCreated(1, "Ada", "Lovelace", "DE")


def test_a_chain_may_end_before_the_newest_and_begin_after_the_oldest() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreatedV2)(split)
    contract.upcast(UserCreatedV2, UserCreated)(settle)

    assert contract.path("user.created", 1, 3) == (split, settle)
    assert contract.path("user.created", 1, 2) == (split,)
    assert contract.path("user.created", 2, 3) == (settle,)
    assert contract.path("user.created", 3, 3) == ()
    assert contract.path("user.created", 3, 1) is None
    assert contract.path("user.deleted", 1, 2) is None
    assert contract.path("user.created", None, 2) is None


def test_the_same_version_needs_no_upcaster() -> None:
    contract = users()
    event_type = contract["user.created", 1]

    assert contract.upcast_to(event_type, '{"id": 1, "name": "Ada"}', event_type) == UserCreatedV1(1, "Ada")


def test_versions_without_upcasters_live_side_by_side() -> None:
    """D33: `UserCreatedV1Handler` and `UserCreatedV2Handler` in one service."""
    contract = users()
    contract.check()

    assert [event_type.version for event_type in contract] == [1, 2, 3]
    with pytest.raises(
        DecodeError, match=r"No chain of upcasters leads from user.created v1 to user.created v3. Declare one: @users.upcast"
    ):
        contract.upcast_to(contract["user.created", 1], "{}", contract["user.created"])


def test_a_gap() -> None:
    contract = users()
    contract.upcast(UserCreatedV2, UserCreated)(settle)

    with pytest.raises(ContractError) as caught:
        contract.check()
    assert str(caught.value) == (
        "No chain of upcasters leads from user.created v1 to the newest version, 3. Declare one for v1: @users.upcast(Old, New)"
    )


def test_a_chain_that_stops_short() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreatedV2)(split)

    with pytest.raises(ContractError, match=r"from user.created v1 to the newest version, 3. Declare one for v1, v2"):
        contract.check()


def test_a_chain_may_skip_a_version() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreated)(lambda old: UserCreated(old.id, old.name, "", ""))
    contract.upcast(UserCreatedV2, UserCreated)(settle)
    contract.check()

    assert contract.upcast_to(contract["user.created", 1], '{"id": 1, "name": "Ada"}', contract["user.created"]).first == "Ada"


def test_two_upcasters_from_one_version() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreatedV2)(split)

    with pytest.raises(ContractError) as caught:
        contract.upcast(UserCreatedV1, UserCreated)(lambda old: UserCreated(old.id, old.name, "", ""))
    assert str(caught.value) == ("user.created v1 has an upcaster already, to v2. Remove one: from every version there is one way upward")


@pytest.mark.parametrize(("old", "new"), [(UserCreatedV2, UserCreatedV1), (UserCreatedV1, UserCreatedV1)])
def test_a_way_down_or_in_a_circle(old: Any, new: Any) -> None:
    with pytest.raises(ContractError, match=r"An upcaster leads to a newer version, and .* is not newer than .*\. Swap the two"):
        users().upcast(old, new)


def test_a_class_of_another_contract() -> None:
    contract = Contract("users")
    contract.event("user.created", version=1)(UserCreatedV1)

    with pytest.raises(ContractError, match=r"UserCreatedV2 is no event of contract users. Decorate it with @users.event\(...\)"):
        contract.upcast(UserCreatedV1, UserCreatedV2)


def test_two_different_events() -> None:
    contract = Contract("users")
    contract.event("user.created", version=1)(UserCreatedV1)
    contract.event("user.renamed", version=2)(UserCreatedV2)

    with pytest.raises(ContractError, match=r"user.created v1 and user.renamed v2 are two events"):
        contract.upcast(UserCreatedV1, UserCreatedV2)


def test_an_async_upcaster() -> None:
    async def later(old: UserCreatedV1) -> UserCreatedV2:
        raise NotImplementedError

    with pytest.raises(ContractError, match=r"The upcaster from user.created v1 to user.created v2 is async. Write it with def"):
        users().upcast(UserCreatedV1, UserCreatedV2)(later)  # type: ignore[arg-type]


def test_an_upcaster_that_raises() -> None:
    contract = users()

    @contract.upcast(UserCreatedV1, UserCreatedV2)
    def _(old: UserCreatedV1) -> UserCreatedV2:
        raise LookupError("no such name")

    with pytest.raises(DecodeError, match=r"The upcaster from user.created v1 to user.created v2 raised LookupError: no such name"):
        contract.upcast_to(contract["user.created", 1], '{"id": 1, "name": "Ada"}', contract["user.created", 2])


def test_an_upcaster_that_returns_something_else() -> None:
    contract = users()
    contract.upcast(UserCreatedV1, UserCreatedV2)(lambda old: old)  # type: ignore[arg-type,return-value]

    with pytest.raises(DecodeError, match=r"returned UserCreatedV1 instead of UserCreatedV2. Correct it"):
        contract.upcast_to(contract["user.created", 1], '{"id": 1, "name": "Ada"}', contract["user.created", 2])


def test_the_decorator_returns_the_function() -> None:
    assert users().upcast(UserCreatedV1, UserCreatedV2)(split) is split


@given(data=st.data(), length=st.integers(2, 12))
def test_chains_of_any_length_apply_every_step_once_and_in_order(data: st.DataObject, length: int) -> None:
    contract = Contract("trips")
    classes = [make_dataclass(f"Trip{version}", seen=list[int]) for version in range(1, length + 1)]
    order = data.draw(st.permutations(list(enumerate(classes, start=1))))
    for version, cls in order:
        contract.event("trip.made", version=version)(cls)

    def step(version: int, to: int) -> Callable[[Any], Any]:
        return lambda old: classes[to - 1]([*old.seen, version])

    ways = {version: data.draw(st.integers(version + 1, length)) for version in range(1, length)}
    for version, to in ways.items():
        contract.upcast(classes[version - 1], classes[to - 1])(step(version, to))
    contract.check()

    start = data.draw(st.integers(1, length))
    expected, at = [], start
    while at != length:
        expected.append(at)
        at = ways[at]
    event = contract.upcast_to(contract["trip.made", start], '{"seen": []}', contract["trip.made"])
    assert dataclasses.asdict(event) == {"seen": expected}
    assert type(event) is classes[-1]
