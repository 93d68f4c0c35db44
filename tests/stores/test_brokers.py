"""How a broker is, from what was told and what workers report. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tidings.stores.sql.brokers import Reported, brokers_of
from tidings.stores.sql.queries import Activity, Backlog, Reader, Subscription

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def relay(**more: Any) -> Subscription:
    return Subscription(1, "shop", "relay:rabbitmq", "relay:rabbitmq", (), True, more.pop("state", "active"), **more)


def inbound(group: str = "shop", **more: Any) -> Subscription:
    return Subscription(2, "shop", group, "inbound:rabbitmq", ("a",), False, "active", **more)


def reader(name: str, kind: str, moved: float) -> Reader:
    group = name.partition("/")[2].partition("@")[0]
    return Reader(name, "shop", group, kind, "active", "w", "app", 17, ago(-10), ago(moved), 0, (None, None, 0))


def says(
    state: str, since: float, error: str | None = None, error_at: float = 0, *, label: str = "relay:rabbitmq", alive: bool = True
) -> Reported:
    link = {
        "label": label,
        "state": state,
        "since": ago(since).isoformat(),
        "error": error,
        "error_at": ago(error_at).isoformat() if error else None,
    }
    return Reported("shop", alive, "rabbitmq", "RabbitMQ", "amqp://broker:5672", {label: link})


def test_what_was_told_under_the_lease_counts_and_workers_say_since_when() -> None:
    (broker,) = brokers_of([says("connected", 40, "reset", 60), says("idle", 5)], [relay(breaker="closed")], [], {}, [], NOW)
    assert (broker.state, broker.since, broker.error, broker.error_at) == ("connected", ago(40), "reset", ago(60))
    assert (broker.kind, broker.address) == ("RabbitMQ", "amqp://broker:5672")
    assert (broker.links[0].connected, broker.links[0].workers) == (1, 2)
    # A heartbeat is up to ten seconds old.
    down = relay(breaker="open", breaker_since=ago(3), breaker_reason="refused")
    (broker,) = brokers_of([says("connected", 40)], [down], [], {}, [], NOW)
    assert (broker.state, broker.since, broker.error) == ("down", ago(3), "refused")


def test_the_worst_of_its_links_is_what_a_broker_is() -> None:
    items = [relay(breaker="closed"), inbound(breaker="open", breaker_since=ago(9), breaker_reason="refused")]
    (broker,) = brokers_of([], items, [], {}, [], NOW)
    assert (broker.state, broker.since, broker.error) == ("down", ago(9), "refused")
    assert [link.way for link in broker.links] == ["sends", "receives"]
    (broker,) = brokers_of([], [relay(breaker="closed"), inbound()], [], {}, [], NOW)
    assert broker.state == "connected"
    assert brokers_of([], [relay(state="paused", breaker="closed"), inbound()], [], {}, [], NOW)[0].state == "paused"
    assert brokers_of([], [relay(), inbound()], [], {}, [], NOW)[0].state == "unknown"


def test_a_relay_that_stands_still_while_events_wait_is_stalled() -> None:
    name = "shop/relay:rabbitmq@log"

    def stalled(moved: float, waited: float | None, **more: Any) -> bool:
        backlog = Backlog(0 if waited is None else 5, None if waited is None else ago(waited))
        (broker,) = brokers_of([], [relay(**{"breaker": "closed", **more})], [reader(name, "log", moved)], {name: backlog}, [], NOW)
        return broker.links[0].stalled

    assert stalled(90, 90)
    assert not stalled(90, None), "nothing waits"
    assert not stalled(90, 10), "what waits has just come"
    assert not stalled(10, 90), "it moves"
    assert not stalled(90, 90, breaker="open"), "that is the broker"


def test_the_lag_of_a_link_is_that_of_what_it_carries() -> None:
    activity = [
        Activity("shop", "shop/ship", "lag:100", 99),
        Activity("shop", "shop/bill", "lag:1000", 1),
        Activity("shop", "relay:rabbitmq", "lag:10", 5),
        Activity("shop", "other/x", "lag:5000", 9),
        Activity("till", "relay:rabbitmq", "lag:5000", 9),
    ]
    (broker,) = brokers_of([], [relay(breaker="closed"), inbound(breaker="closed")], [], {}, activity, NOW)
    assert [round(link.lag or 0) for link in broker.links] == [10, 100]


def test_dead_workers_say_what_the_broker_is_and_not_how() -> None:
    (broker,) = brokers_of([says("connected", 9999, alive=False)], [relay()], [], {}, [], NOW)
    assert (broker.kind, broker.state, broker.since, broker.links[0].workers) == ("RabbitMQ", "unknown", None, 0)


def test_retired_links_and_other_subscriptions_are_left_out() -> None:
    other = Subscription(3, "shop", "shop", "ship", ("a",), True, "active")
    assert brokers_of([], [relay(state="retired"), other], [], {}, [], NOW) == []
