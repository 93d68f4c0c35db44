"""Putting parked events right: redrive, try now, discard, pause. What the operator's tools run, safe beside workers and arriving events.

Every statement takes the row locks of the lanes that it changes, as parking and finishing do, so an event that arrives meanwhile is either
in front of the change or behind it, never beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from tidings.ids import event_key_bounds
from tidings.stores.sql.attempts import Leaving
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import RELAY
from tidings.stores.sql.statement import Command, Sql

__all__ = ["NEAR", "BlockedKey", "Discarded", "Heads", "Near", "Repair", "Standing", "near", "near_lanes", "standing"]

#: How what is meant stands: dead, waiting for another attempt, or `idle`: retrying, due or not, and nobody is trying it now.
Standing = Literal["dead", "retrying", "idle"]


#: More events than a lane can have.
_ALL = 2**31 - 1


class Heads(NamedTuple):
    """Which dead or retrying lanes are meant, by the event at their head. None leaves a condition out.

    Attributes:
        number: the number of the delivery.
        event_id: the event's id.
        subscription: `group/name`, or the name alone.
        event: the event's name.
        fingerprint: of the error.
        since, until: bounds of the last failure's time, aware.
    """

    number: int | None = None
    event_id: str | None = None
    service: str | None = None
    subscription: str | None = None
    event: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    until: datetime | None = None


#: What leads to lanes without looking through all of them: the number of a delivery, or the id of an event.
Near = Literal["number", "event"]
NEAR: tuple[Near, ...] = ("number", "event")


class Discarded(NamedTuple):
    """What became of a batch.

    Attributes:
        events: how many were given up.
        lanes: how many lanes were looked at.
        last: the last of them.
    """

    events: int
    lanes: int
    last: tuple[str, int] | None


class BlockedKey(NamedTuple):
    """A lane that is parked, with its head."""

    subscription: str
    service: str
    key: str | None
    state: str
    depth: int
    attempts: int
    blocked_at: datetime | str
    due_at: datetime | str
    number: int
    event_id: str
    event: str
    reason: str
    error: str | None
    fingerprint: str | None


def standing(dialect: Dialect) -> dict[Standing, str]:
    """Return the conditions on a lane `l`: one that is due, or under way, does not wait for another attempt."""
    idle = f"l.state = 'retrying' and (l.lease_until is null or l.lease_until < {dialect.now})"
    return {"dead": "l.state = 'dead'", "retrying": f"{idle} and l.due_at > {dialect.now}", "idle": idle}


def near(heads: Heads) -> tuple[Near | None, tuple[str, ...]]:
    """Return what leads to the lanes that are meant, if anything does, and the further arguments that this takes."""
    if heads.number is not None:
        return "number", ()
    return (None, ()) if heads.event_id is None else ("event", event_key_bounds(heads.event_id))


def near_lanes(names: Names, dialect: Dialect, by: Near | None, free: int) -> str:
    """Return lanes `l` with their subscriptions `s` and heads `d`; those of a number ($1) or an event ($2) by index.

    Args:
        free: the number of the first parameter that an event's further arguments can have.
    """
    first = f"select min(x.number) from {names.deliveries} x where x.lane = l.lane and x.subscription_id = l.subscription_id"
    joined = f"join {names.subscriptions} s on s.id = l.subscription_id"
    if by is None:
        return f"{names.lanes} l {joined} join {names.deliveries} d on d.number = ({first})"
    uuid = "uuid" if dialect.name == "postgresql" else "text"
    within = f"n.event_key between {dialect.cast(f'${free}', uuid)} and {dialect.cast(f'${free + 1}', uuid)}"
    which = f"n.number = {dialect.cast('$1', 'bigint')}" if by == "number" else f"{within} and n.event_id = {dialect.cast('$2', 'text')}"
    return f"""
        (select n.number, n.lane, n.subscription_id from {names.deliveries} n where {which}) n
        join {names.lanes} l on l.lane = n.lane and l.subscription_id = n.subscription_id
        {joined} join {names.deliveries} d on d.number = n.number and d.number = ({first})
    """


class Repair:
    """Redrive and discard dead lanes, let others be tried now or discard them, list blocked keys, pause and resume."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self.dialect = dialect
        pg = dialect.name == "postgresql"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        lanes = near_lanes(names, dialect, None, 0)
        meant = f"""
            ({typed("$1", "bigint")} is null or d.number = {typed("$1", "bigint")})
            and ({typed("$2", "text")} is null or d.event_id = {typed("$2", "text")})
            and ({typed("$3", "text")} is null or s.service = {typed("$3", "text")})
            and ({typed("$4", "text")} is null or s.name = {typed("$4", "text")} or s.group_name || '/' || s.name = {typed("$4", "text")})
            and ({typed("$5", "text")} is null or d.name = {typed("$5", "text")})
            and ({typed("$6", "text")} is null or l.key = {typed("$6", "text")})
            and ({typed("$7", "text")} is null or d.fingerprint = {typed("$7", "text")})
            and ({typed("$8", "timestamptz")} is null or d.failed_at >= {typed("$8", "timestamptz")})
            and ({typed("$9", "timestamptz")} is null or d.failed_at < {typed("$9", "timestamptz")})
        """
        lane_text = "l.lane::text" if pg else "l.lane"
        stands = standing(dialect)

        def each_way(statement: Callable[[str], str], free: int) -> dict[Near | None, Sql]:
            return {by: Sql(statement(near_lanes(names, dialect, by, free))) for by in (None, *NEAR)}

        def count(state: Standing) -> Callable[[str], str]:
            return lambda lanes: f"select count(*), coalesce(sum(l.depth), 0) from {lanes} where {stands[state]} and {meant}"

        self.count_ = {state: each_way(count(state), 10) for state in stands}
        self.choose = each_way(
            lambda lanes: (
                f"""
                select {lane_text}, l.subscription_id, d.number from {lanes} where l.state = 'dead' and {meant} order by l.blocked_at, d.number
                limit {typed("$10", "int")}
            """
            ),
            11,
        )
        behind = f"(l.lane, l.subscription_id) > ({typed('$11', 'uuid' if pg else 'text')}, {typed('$12', 'int')})"
        self.choose_idle = each_way(
            lambda lanes: (
                f"""
                select {lane_text}, l.subscription_id, d.number from {lanes} where {stands["idle"]} and {behind} and {meant}
                order by l.lane, l.subscription_id limit {typed("$10", "int")}
            """
            ),
            13,
        )
        self.choose_waiting = each_way(
            lambda lanes: (
                f"""
                select {lane_text}, l.subscription_id from {lanes} where {stands["retrying"]} and {meant} order by l.due_at, d.number
                limit {typed("$10", "int")}
            """
            ),
            11,
        )
        mine = f"lane = {typed('$1', 'uuid' if pg else 'text')} and subscription_id = {typed('$2', 'int')}"
        # Whoever claims it meanwhile is trying it, and says himself when it is due again.
        self.sooner = Sql(f"update {names.lanes} as l set due_at = {dialect.now} where {mine} and {stands['retrying']} returning depth")
        self.revive = Sql(f"""
            update {names.lanes} set state = 'retrying', attempts = 0, due_at = {dialect.after("$3")}, lease_until = null, owner = null
            where {mine} and state = 'dead' returning depth
        """)
        # The row lock first: a worker or a receiver that changes this lane waits until the head is gone.
        self.hold = Sql(f"update {names.lanes} set state = state where {mine} and state = 'dead' returning depth")
        # A worker that is paused inside its transaction holds the inbox row: whoever waits for that must not hold up other keys for long.
        self.patience = Sql("select set_config('lock_timeout', '3s', true)") if pg else None
        self.draw = Sql(f"select nextval('{names('token')}')" if pg else f"update {names.meta} set token = token + 1 returning token")
        # A worker that was paused until its lease had run out finds another token: what it has done is rolled back (invariant 7).
        self.take = Sql(
            f"update {names.lanes} as l set lease_token = {typed('$3', 'bigint')} where {mine} and {stands['idle']} returning depth"
        )
        event_key = "event_key::text" if pg else "event_key"
        self.first = Sql(f"select {event_key}, number from {names.deliveries} where {mine} order by number limit {typed('$3', 'int')}")
        self.remove = Leaving(names, dialect, f"{dialect.among('event_key', '$1', 'uuid')} and subscription_id = {typed('$2', 'int')}")
        clock = "" if pg else f", {dialect.now}"
        handled_at = "" if pg else ", handled_at"
        keys = "unnest($1::uuid[]) u(value)" if pg else "json_each($1) u"
        self.record = Sql(f"""
            insert into {names.inbox} (event_key, subscription_id, outcome{handled_at})
            select u.value, {typed("$2", "int")}, {typed("$3", "smallint")}{clock} from {keys} where true on conflict do nothing
            returning {event_key}
        """)
        self.unrecord = Sql(f"""
            delete from {names.inbox} where {dialect.among("event_key", "$1", "uuid")} and subscription_id = {typed("$2", "int")}
        """)
        self.shorten = Sql(f"""
            update {names.lanes} set depth = depth - {typed("$3", "int")}, state = 'retrying', attempts = 0, due_at = {dialect.now},
              lease_until = null, owner = null
            where {mine}
        """)
        self.empty = Sql(f"delete from {names.lanes} where {mine} and depth <= 0")
        self.blocked_ = Sql(f"""
            select case when s.name = s.group_name and s.name like '{RELAY}%' then s.name else s.group_name || '/' || s.name end, s.service, l.key, l.state, l.depth, l.attempts, l.blocked_at, l.due_at, d.number, d.event_id, d.name,
                   d.reason, case when d.error_type is null then null else d.error_type || ': ' || d.error_message end, d.fingerprint
            from {lanes} where {meant} and ({typed("$10", "text")} is null or l.state = {typed("$10", "text")})
            order by l.blocked_at, d.number limit {typed("$11", "int")}
        """)
        self.pause_ = Sql(f"""
            update {names.subscriptions} set state = {typed("$3", "text")}
            where service = {typed("$1", "text")} and (name = {typed("$2", "text")} or group_name || '/' || name = {typed("$2", "text")})
              and state in ('active', 'paused') returning id
        """)

    def count(self, connection: Connection, heads: Heads, state: Standing = "dead") -> tuple[int, int]:
        """Return how many lanes of this state are meant, and how many events are in them."""
        ((lanes, events),) = self._meant(connection, self.count_[state], heads)
        return int(lanes), int(events)

    def try_now(self, connection: Connection, heads: Heads, *, limit: int = 1000) -> int:
        """Let lanes that wait for another attempt be due now, at most `limit` of them; return how many. Needs a transaction.

        The attempts that they have had still count.
        """
        chosen = self._meant(connection, self.choose_waiting, heads, limit)
        return sum(bool(run(connection, Command(self.sooner, (lane, subscription_id)))) for lane, subscription_id in chosen)

    def redrive(self, connection: Connection, heads: Heads, *, rate: float | None = None, start: float = 0.0, limit: int = 1000) -> int:
        """Let dead lanes be tried again from their heads, in order, at most `limit` of them; return how many. Needs a transaction.

        Args:
            rate: how many lanes become due each second; None is all at once.
            start: seconds until the first of them.
        """
        revived = 0
        for place, (lane, subscription_id, _) in enumerate(self._meant(connection, self.choose, heads, limit)):
            delay = 0.0 if rate is None else start + place / rate
            # One that was set aside stays in the inbox until its lane runs it: a copy that is read meanwhile must not.
            if run(connection, Command(self.revive, (lane, subscription_id, delay))):
                revived += 1
        return revived

    def discard(self, connection: Connection, heads: Heads, *, whole: bool = False, limit: int = 1000) -> Discarded:
        """Give up the heads of dead lanes, or with `whole` everything in them. Needs a transaction.

        They are remembered as discarded, so that a copy that comes later is not handled. What waited behind a head goes on at once.
        """
        chosen = self._meant(connection, self.choose, heads, limit)
        events = 0
        for lane, subscription_id, number in chosen:
            held = run(connection, Command(self.hold, (lane, subscription_id)))
            first = run(connection, Command(self.first, (lane, subscription_id, held[0][0] if whole else 1))) if held else []
            if first and first[0][1] == number:
                self._record(connection, subscription_id, first)
                self._take_off(connection, lane, subscription_id, first)
                events += len(first)
        return Discarded(events, len(chosen), None)

    def discard_idle(
        self, connection: Connection, heads: Heads, *, whole: bool = False, limit: int = 1000, after: tuple[str, int] | None = None
    ) -> Discarded:  # fmt: skip
        """Give up the heads of lanes that are retrying and that nobody is trying now, or with `whole` everything in them. Needs a transaction.

        A lane whose lease is held is left alone: what its worker does cannot be taken back where it asked for no transaction, and what waits behind
        would run beside it.

        Args:
            after: the last lane of the batch before. What waited behind a head is retrying, too, and must not be met again.
        """
        if self.patience is not None:
            run(connection, Command(self.patience, ()))
        place = after or ("00000000-0000-0000-0000-000000000000" if self.dialect.name == "postgresql" else "", -1)
        chosen = self._meant(connection, self.choose_idle, heads, limit, *place)
        events = 0
        for lane, subscription_id, number in chosen:
            size = _ALL if whole else 1
            first = run(connection, Command(self.first, (lane, subscription_id, size)))
            if not first or first[0][1] != number:
                continue
            # The inbox before the lane, as a worker takes them: one that is still at it, although its lease has run out, comes first.
            ours = self._record(connection, subscription_id, first)
            ((token,),) = run(connection, Command(self.draw, ()))
            taken = run(connection, Command(self.take, (lane, subscription_id, token)))
            if not taken or run(connection, Command(self.first, (lane, subscription_id, len(first)))) != first:
                run(connection, Command(self.unrecord, (self._items(ours), subscription_id)))
                continue
            self._take_off(connection, lane, subscription_id, first)
            events += len(first)
        return Discarded(events, len(chosen), (chosen[-1][0], chosen[-1][1]) if chosen else after)

    def _record(self, connection: Connection, subscription_id: int, events: Sequence[Any]) -> list[str]:
        """Remember events as discarded; return the keys of those that were not over before."""
        from tidings.consume.outcome import Outcome

        keys = self._items([row[0] for row in events])
        return [row[0] for row in run(connection, Command(self.record, (keys, subscription_id, Outcome.DISCARDED)))]

    def _take_off(self, connection: Connection, lane: str, subscription_id: int, events: Sequence[Any]) -> None:
        """Take the first events off a lane whose row is locked, and let the rest go on."""
        self.remove(connection, self._items([row[0] for row in events]), subscription_id)
        run(connection, Command(self.shorten, (lane, subscription_id, len(events))))
        run(connection, Command(self.empty, (lane, subscription_id)))

    def blocked(self, connection: Connection, heads: Heads, *, state: str | None = None, limit: int = 100) -> list[BlockedKey]:
        """Return parked lanes with their heads, the longest blocked first."""
        return [BlockedKey(*row) for row in run(connection, Command(self.blocked_, (*self._arguments(heads), state, limit)))]

    def pause(self, connection: Connection, service: str, subscription: str, *, paused: bool) -> bool:
        """Pause or resume a subscription; return False when there is none of that name."""
        return bool(run(connection, Command(self.pause_, (service, subscription, "paused" if paused else "active"))))

    def _meant(self, connection: Connection, ways: Mapping[Near | None, Sql], heads: Heads, *rest: Any) -> Sequence[Any]:
        by, bounds = near(heads)
        return run(connection, Command(ways[by], (*self._arguments(heads), *rest, *bounds)))

    def _arguments(self, heads: Heads) -> tuple[Any, ...]:
        *rest, since, until = heads
        return (*rest, self._time(since), self._time(until))

    def _time(self, value: datetime | None) -> datetime | str | None:
        if value is None or self.dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def _items(self, values: list[str]) -> Any:
        return values if self.dialect.name == "postgresql" else json.dumps(values)
