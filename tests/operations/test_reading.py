"""Reading the log by hand, with a cursor that misses nothing."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.world import World
from tidings import Service, Subscriptions
from tidings.errors import ContractError, InvalidCursor
from tidings.log import LoggedEvent


@pytest.fixture
def service(world: World) -> Service:
    return world.service(Subscriptions())


async def rest(service: Service, after: str | None = None) -> list[LoggedEvent]:
    return [logged async for logged in service.read_log(after)]


async def test_everything_is_read_in_order_and_on_from_any_event(world: World, service: Service) -> None:
    await world.publish(service, *(OrderPlaced(f"k{number % 7}", number) for number in range(450)))
    await world.publish(service, OrderCancelled("k1"))
    found = await rest(service)
    assert [logged.event.number for logged in found[:-1]] == list(range(450))
    assert (found[-1].event, found[-1].envelope.key, found[-1].envelope.source) == (OrderCancelled("k1"), "k1", "shop")
    for place in (0, 199, 200, 449, 450):
        assert [logged.envelope.id for logged in await rest(service, found[place].cursor)] == [
            logged.envelope.id for logged in found[place + 1 :]
        ]


async def test_it_shows_some_classes_and_one_key_only(world: World, service: Service) -> None:
    await world.publish(service, *(OrderPlaced(key, number) for number in range(3) for key in "ab"), OrderCancelled("a"))
    wanted = [logged.event async for logged in service.read_log(events=[OrderPlaced], key="a")]
    assert wanted == [OrderPlaced("a", number) for number in range(3)]


async def test_what_commits_late_is_not_behind_the_cursor(world: World, service: Service) -> None:
    if world.kind == "sqlite":
        pytest.skip("one writer at a time: nothing commits late")
    await world.publish(service, OrderPlaced("first"))
    (first,) = await rest(service)
    async with world.another_engine().connect() as connection:
        # Its position is taken before the other's, and it is seen after it.
        row = "'0199a000-0000-7000-8000-000000000001', 'shop', 'order.placed', 1, 't', 'late', 1, '{}', '{\"order_id\":\"late\"}'"
        await connection.exec_driver_sql(
            f"insert into tidings_outbox (id, source, name, version, topic, key, slot, headers, data) values ({row})"
        )
        await world.publish(service, OrderPlaced("early"))
        (early,) = await rest(service, first.cursor)
        assert early.event == OrderPlaced("early")
        await connection.commit()
    (late,) = await rest(service, early.cursor)
    assert late.event == OrderPlaced("late")
    assert late.envelope.sequence is not None
    assert early.envelope.sequence is not None
    assert late.envelope.sequence < early.envelope.sequence


async def test_events_of_others_have_their_text_and_no_class(world: World, service: Service) -> None:
    await world.insert_row(name="stock.counted", data='{"n": 1}')
    (logged,) = await rest(service)
    assert (logged.envelope.name, logged.data) == ("stock.counted", '{"n": 1}')
    with pytest.raises(ContractError, match=r"stock\.counted"):
        _ = logged.event


def cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "garbage",
    [
        "", "x", "é", "a" * 10_000, cursor("{}"), cursor("[1,2,3]"), cursor('["x",null,0]'), cursor('["1:1:","x",0]'), cursor('["9:1:",null,0]'),
        cursor('["1:9:4,3",null,0]'), cursor('["1:9:12",null,0]'), cursor('["1:99999999999999999999:",null,0]'),
        cursor('["9223372036854775808:9223372036854775808:",null,0]'), cursor('[null,"1:1:",0]'), cursor(f"[null,null,{1 << 64}]"),
        cursor('["1:1:","1:1:",-2]'), cursor("[null,null,-2]"),
    ],
)  # fmt: skip
async def test_garbage_is_no_cursor(service: Service, garbage: str) -> None:
    with pytest.raises(InvalidCursor, match="no cursor"):
        await rest(service, garbage)


async def test_a_class_of_no_contract_is_refused(service: Service) -> None:
    with pytest.raises(ContractError, match="in none of the contracts"):
        _ = [logged async for logged in service.read_log(events=[str])]


async def test_the_snippet_of_the_guide_runs(world: World, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "log.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"OrderPlaced": OrderPlaced}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)), "log.md", "exec", dont_inherit=True), names)  # noqa: S102
    await world.publish(service, OrderPlaced("a"))
    cursor = await names["catch_up"](service, None)
    await world.publish(service, OrderPlaced("b"), OrderCancelled("b"))
    await names["catch_up"](service, cursor)
    assert capsys.readouterr().out.splitlines() == [f"a {OrderPlaced('a')}", f"b {OrderPlaced('b')}"]
