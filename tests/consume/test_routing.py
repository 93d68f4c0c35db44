"""Which handler gets an event, in which version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tidings import Contract, Retry, Subscriptions
from tidings.consume.providers import Providers
from tidings.consume.routing import Compiled, compile_subscription, event_types
from tidings.consume.subscriptions import Subscription
from tidings.errors import ConfigurationError, DecodeError


@dataclass(frozen=True)
class V1:
    name: str


@dataclass(frozen=True)
class V2:
    name: str
    two: int = 2


@dataclass(frozen=True)
class V3:
    name: str
    three: int = 3


@dataclass(frozen=True)
class Other:
    pass


async def take(event: object) -> None: ...
async def take_newest(event: object) -> None: ...
async def take_list(events: list[Any]) -> None: ...


def users(*, upcasters: bool = True) -> Contract:
    contract = Contract("users")
    for version, cls in enumerate((V1, V2, V3), start=1):
        contract.event("user.created", version=version)(cls)
    contract.event("user.deleted")(Other)
    if upcasters:
        contract.upcast(V1, V2)(lambda old: V2(old.name, 12))
        contract.upcast(V2, V3)(lambda old: V3(old.name, old.two + 1))
    return contract


def subscription(*handlers: tuple[type[Any], Callable[..., Any]]) -> Subscription:
    result = Subscriptions().subscription("s")
    for cls, function in handlers:
        result.on(cls)(function)
    return result


def compiled(contract: Contract, found: Subscription) -> Compiled:
    return compile_subscription(found, event_types([contract]), "g", Retry(), Providers(), async_engine=True)


def handled_as(found: Compiled, version: int, data: str = '{"name": "Ada"}') -> tuple[Callable[..., Any], object] | None:
    route = found.routes["user.created", version]
    return None if route is None else (route.plan.function, route.decode(data))


def test_a_version_goes_to_its_own_handler() -> None:
    found = compiled(users(), subscription((V1, take), (V3, take_newest)))
    assert handled_as(found, 1) == (take, V1("Ada"))
    assert handled_as(found, 3) == (take_newest, V3("Ada"))


def test_a_version_without_handler_is_upcast_to_the_nearest_newer_one() -> None:
    found = compiled(users(), subscription((V2, take), (V3, take_newest)))
    assert handled_as(found, 1) == (take, V2("Ada", 12))
    assert compiled_versions(found) == {1: V2, 2: V2, 3: V3}


def test_the_handler_of_the_newest_version_gets_all_older_ones() -> None:
    found = compiled(users(), subscription((V3, take_newest)))
    assert handled_as(found, 1) == (take_newest, V3("Ada", 13))
    assert handled_as(found, 2) == (take_newest, V3("Ada", 3))


def test_a_handler_of_an_old_version_has_nothing_to_do_with_newer_ones() -> None:
    found = compiled(users(), subscription((V1, take)))
    assert handled_as(found, 1) == (take, V1("Ada"))
    assert handled_as(found, 2) is None
    assert handled_as(found, 3) is None


def test_without_upcasters_every_version_is_for_its_own_handler() -> None:
    found = compiled(users(upcasters=False), subscription((V2, take)))
    assert handled_as(found, 1) is None
    assert handled_as(found, 2) == (take, V2("Ada"))


def test_a_name_that_the_subscription_does_not_handle_has_no_route() -> None:
    found = compiled(users(), subscription((V3, take)))
    assert found.names == ("user.created",)
    assert ("user.deleted", 1) not in found.routes


def test_what_an_upcaster_raises_is_a_decode_error() -> None:
    contract = users(upcasters=False)
    contract.upcast(V1, V2)(lambda old: 1 / 0)  # type: ignore[arg-type,return-value]
    contract.upcast(V2, V3)(lambda old: V3(old.name))
    found = compiled(contract, subscription((V3, take)))
    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        handled_as(found, 1)


def test_the_newest_version_is_the_newest_of_the_contract_not_of_the_handlers() -> None:
    assert compiled(users(), subscription((V1, take))).newest == {"user.created": 3}


def test_a_name_in_two_contracts_is_refused() -> None:
    one, two = Contract("one"), Contract("two")
    one.event("user.created", version=1)(V1)
    two.event("user.created", version=2)(V2)
    with pytest.raises(ConfigurationError, match="the event 'user.created' is in two contracts, 'one' and 'two': names are global"):
        event_types([one, two])


def test_a_class_in_two_contracts_is_refused() -> None:
    one, two = Contract("one"), Contract("two")
    one.event("user.created")(V1)
    two.event("user.made")(V1)
    with pytest.raises(ConfigurationError, match="the class V1 is in two contracts: an event belongs to one"):
        event_types([one, two])


def test_the_same_contract_twice_is_once() -> None:
    contract = users()
    assert event_types([contract, contract]) == event_types([contract])


def test_two_contracts_of_one_name_with_different_events_are_fine() -> None:
    one, two = Contract("users"), Contract("users")
    one.event("user.created")(V1)
    two.event("user.deleted")(Other)
    assert {event_type.name for event_type in event_types([one, two]).values()} == {"user.created", "user.deleted"}


def test_a_subscription_without_handlers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"subscription 'order-view' has no handlers: add one with @order_view.on\(Event\)"):
        compiled(users(), Subscriptions().subscription("order-view"))


def test_an_event_class_of_no_contract_is_refused() -> None:
    class Stray:
        pass

    with pytest.raises(
        ConfigurationError, match=r"subscription 's' handles .*Stray, which is in none of the service's contracts: declare it"
    ):
        compiled(users(), subscription((Stray, take)))


def test_the_subscriptions_retry_beats_the_services() -> None:
    own = Subscriptions().subscription("s", retry=Retry(attempts=2))
    own.on(V1)(take)
    assert compiled(users(), own).retry.attempts == 2
    assert compiled(users(), subscription((V1, take))).retry.attempts == 10


# --- declaring


def test_a_class_is_handled_once_in_a_subscription() -> None:
    with pytest.raises(ConfigurationError, match="subscription 's' handles V1 twice: use two subscriptions"):
        subscription((V1, take), (V1, take_newest))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, r"concurrency=0 is not a number from 1 to 1000"),
        ({"concurrency": 1.5}, r"concurrency=1.5 is not a number"),
        ({"timeout": 0}, r"timeout=0 is not positive; give seconds, a timedelta or None"),
        ({"timeout": -1.0}, r"timeout=-1.0 is not positive"),
        ({"timeout": "1"}, r"timeout='1' is not positive; give seconds, a timedelta or None"),
        ({"timeout": True}, r"timeout=True is not positive; give seconds, a timedelta or None"),
        ({"ordered": "no"}, r"ordered='no' is neither True nor False"),
        ({"shared": None}, r"shared=None is neither True nor False"),
        ({"renamed_from": ""}, r"renamed_from='': give the name that it had, 1 to 200 printable characters"),
        ({"renamed_from": 5}, r"renamed_from=5: give the name that it had"),
        ({"on_dead": "explode"}, r"on_dead='explode' is neither 'block' nor 'continue'"),
        ({"retry": 3}, r"retry=3 is not a Retry\(...\)"),
        ({"colour": "red"}, r"there is no option 'colour'; there are retry, breaker, concurrency, rate, ordered"),
    ],
)
def test_options_are_checked_where_they_are_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"subscription 'charge': {message}"):
        Subscriptions().subscription("charge", **options)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", None, 5])
def test_a_name_that_cannot_be_stored_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a subscription's name has 1 to 200 printable characters, not"):
        Subscriptions().subscription(name)
    if name is not None:
        with pytest.raises(ConfigurationError, match="a subscription's name has 1 to 200 printable characters, not"):
            Subscriptions().subscribe(V1, name=name)(take)


def test_a_handler_without_name_needs_one() -> None:
    handlers = Subscriptions()
    with pytest.raises(ConfigurationError, match="has no name to be stored under: give name='...'"):
        handlers.subscribe(V1)(lambda event: None)
    handlers.subscribe(V1, name="chosen")(lambda event: None)
    assert [each.name for each in handlers.subscriptions] == ["chosen"]


@pytest.mark.parametrize("batch", [0, -1, 10_001, 2.5, "10", True])
def test_a_batch_has_one_to_ten_thousand_events(batch: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"subscription 'take_list': batch=.* is not a number from 1 to 10000"):
        Subscriptions().subscribe(V1, batch=batch)(take_list)


def test_what_is_no_class_is_no_event() -> None:
    with pytest.raises(ConfigurationError, match="subscription 's': give the event classes that it handles, e.g. subscribe"):
        subscription(("V1", take))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give the event classes that it handles"):
        Subscriptions().subscribe()(take)  # type: ignore[call-overload]


def test_a_refused_subscription_is_not_half_there() -> None:
    handlers = Subscriptions()
    with pytest.raises(ConfigurationError):
        handlers.subscribe(V1, batch=0)(take_list)
    assert handlers.subscriptions == []


def test_the_function_stays_what_it_is() -> None:
    assert Subscriptions().subscribe(V1)(take) is take


def compiled_versions(found: Compiled) -> dict[int, type[Any]]:
    return {version: type(handled_as(found, version)[1]) for version in (1, 2, 3)}  # type: ignore[index]
