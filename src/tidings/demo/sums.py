"""Do the sums add up? What the demo did, beside what the rows of the database say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, func, select, text

from tidings.demo.ledger import Carrier, Ledger
from tidings.demo.shop.contracts import OrderShipped, StockReserved, shop
from tidings.demo.shop.models import Recall, Receipt, Reminder, Reservation, Sale, Shipment
from tidings.stores import SQLStore

__all__ = ["Facts", "Line", "facts_of", "lines", "settled", "show"]

#: The table of effects of each subscription that has one. Shipping has two: parcels, and parcels called back.
_EFFECTS = (Reservation, Receipt, Shipment, Recall, Reminder, Sale)
_EFFECTLESS = ("mail", "newsletter")

_HANDLED, _EXPIRED = 0, 1


class Facts(NamedTuple):
    """What the database says.

    Attributes:
        log: events by name.
        old: events of an old version.
        wanted: by subscription, how many events of the log it should handle.
        inbox: events by (subscription, outcome).
        lanes: keys by state; `parked` events in them by subscription.
        scheduled: events that wait for their time.
        effects: rows of the shop by table; `orders` counts every order once in each.
        ids: of every event in the log or scheduled.
        stats: what the service has counted.
    """

    log: dict[str, int]
    old: int
    wanted: dict[str, int]
    inbox: dict[tuple[str, int], int]
    lanes: dict[str, int]
    parked: dict[str, int]
    scheduled: int
    effects: dict[str, int]
    orders: dict[str, int]
    ids: frozenset[str]
    stats: dict[str, int]


class Line(NamedTuple):
    """One sum: what it counts, what it should be, what it is."""

    what: str
    expected: int
    found: int


def facts_of(connection: Connection, store: SQLStore) -> Facts:
    """Ask the database."""
    names = store.names

    def counts(statement: str) -> dict[Any, int]:
        return {(row[0] if len(row) == 2 else tuple(row[:-1])): int(row[-1]) for row in connection.execute(text(statement))}

    log = counts(f"select name, count(*) from {names.outbox} group by name")
    wanted = {}
    for name, events in connection.execute(text(f"select name, cast(events as text) from {names.subscriptions}")):
        wanted[name] = sum(count for event, count in log.items() if f'"{event}"' in events)
    return Facts(
        log,
        connection.execute(text(f"select count(*) from {names.outbox} where name = 'order.placed' and version = 1")).scalar_one(),
        wanted,
        counts(
            f"select s.name, i.outcome, count(*) from {names.inbox} i join {names.subscriptions} s on s.id = i.subscription_id group by 1, 2"
        ),
        counts(f"select state, count(*) from {names.lanes} group by state"),
        counts(f"select s.name, count(*) from {names.deliveries} d join {names.subscriptions} s on s.id = d.subscription_id group by 1"),
        connection.execute(text(f"select count(*) from {names.scheduled}")).scalar_one(),
        {table.__tablename__: connection.scalar(select(func.count()).select_from(table)) or 0 for table in _EFFECTS},
        {table.__tablename__: connection.scalar(select(func.count(table.order_id.distinct()))) or 0 for table in _EFFECTS},
        frozenset(str(row[0]) for table in (names.outbox, names.scheduled) for row in connection.execute(text(f"select id from {table}"))),
        counts(f"select measure, sum(value) from {names.stats} group by measure"),
    )


def settled(facts: Facts) -> bool:
    """Return whether everything that can be done is done: handled, expired, dead, or waiting behind a dead one."""
    done = {name: facts.parked.get(name, 0) for name in facts.wanted}
    for (name, _), count in facts.inbox.items():
        done[name] += count
    return done == facts.wanted and not facts.lanes.get("retrying") and not facts.scheduled


def lines(ledger: Ledger, carrier: Carrier, facts: Facts) -> list[Line]:
    """Return the sums: on the left what the shop, its customers and its carrier noted, on the right the database's rows."""
    by_handlers = {shop.type_of(StockReserved).name, shop.type_of(OrderShipped).name}
    handled = {name: count for (name, outcome), count in facts.inbox.items() if outcome == _HANDLED}
    parked = sum(facts.parked.values())
    dead = facts.lanes.get("dead", 0)
    rows = facts.effects
    return [
        Line("events published by customers", len(ledger.committed), sum(n for name, n in facts.log.items() if name not in by_handlers)),
        Line("  of them as an old version, upcast", ledger.old, facts.old),
        Line("events rolled back, and never seen", len(ledger.gone), _absent(ledger.gone, facts)),
        Line("scheduled events cancelled in time", len(ledger.cancelled), _absent(ledger.cancelled, facts)),
        Line(
            "events published by handlers",
            rows[Reservation.__tablename__] + rows[Shipment.__tablename__],
            sum(facts.log.get(name, 0) for name in by_handlers),
        ),
        Line("deliveries handled", sum(facts.wanted.values()) - ledger.expired - ledger.blocked - ledger.behind, sum(handled.values())),
        Line("  effects in the shop's tables", sum(n for name, n in handled.items() if name not in _EFFECTLESS), sum(rows.values())),
        Line("  no effect twice", sum(rows.values()), sum(facts.orders.values())),
        Line("attempts that failed", sum(carrier.refused.values()), facts.stats.get("failed", 0)),
        Line("  retried, then handled", carrier.late, facts.stats.get("retried", 0)),
        Line("dead, waiting for a decision", ledger.blocked, dead),
        Line("  waiting behind a dead one", ledger.behind, parked - dead),
        Line("duplicates suppressed", ledger.repeated, facts.stats.get("duplicates", 0)),
        Line(
            "expired before anybody handled them", ledger.expired, sum(n for (_, outcome), n in facts.inbox.items() if outcome == _EXPIRED)
        ),
    ]


def _absent(ids: Sequence[UUID], facts: Facts) -> int:
    return sum(str(item) not in facts.ids for item in ids)


def show(out: Console, found: Sequence[Line]) -> bool:
    """Print the sums, and return whether they add up."""
    table = Table(box=box.SIMPLE_HEAD, title="What happened, and what the database says", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("expected", justify="right")
    table.add_column("in the database", justify="right")
    table.add_column("")
    for line in found:
        right = line.expected == line.found
        verdict = Text("ok", style="green") if right else Text("WRONG", style="bold red")
        table.add_row(Text(line.what), f"{line.expected:,}", f"{line.found:,}", verdict)
    out.print(table, soft_wrap=False)
    return all(line.expected == line.found for line in found)
