"""PostgreSQL 13 and later: every statement of the store, beside the invariant that it protects.

The log is read by snapshot difference, as PgQ has batched since 2007: a reader keeps the snapshot that it has read up to, and its next
window is what a newer snapshot sees and that one did not. See https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zlib import crc32

from tidings.publish.outgoing import Outgoing
from tidings.stores.sql.names import Names
from tidings.stores.sql.postgresql.literals import text
from tidings.stores.sql.statement import Command, Sql

__all__ = ["PublishStatements", "lock_class"]


def lock_class(names: Names) -> int:
    """Return the first key of this store's advisory locks: a signed 32-bit number that depends on the tables' name only."""
    number = crc32(names.outbox.encode())
    return number - (1 << 32) if number >= 1 << 31 else number


# A column of several events travels as one text, its elements separated by $10; drivers encode arrays element by element, in Python.
# An empty element is NULL: ids, names and JSON are never empty, and neither are keys.
def _list(number: int) -> str:
    return f"string_to_array(${number}::text, $10::text, '')"


_LISTS = ", ".join(_list(number) for number in range(1, 10))
_CAST = "u.id::uuid, u.source, u.name, u.version::int, u.topic, u.key, u.slot::smallint, u.headers::json, u.data::json"

# More rows than this go by the other way: whoever counts statements by their shape would see a new one for each number.
_SCRIPTED = 100

# Record separator: valid JSON has no control characters, and keys hardly ever.
_SEPARATOR = "\x1e"


class PublishStatements:
    """What a publisher runs, on its own connection, as the last statements before COMMIT.

    Invariant 5: the slots' locks are taken in ascending order before the first position is drawn, without a round trip of their own: inside the
    INSERT, where for several events a materialized CTE runs to its end before the outer SELECT gives its first row, or by the statement that stands
    before it in a script.

    What is not text or a number goes in as text and is cast: a codec that users have set for `json` on their own connection must not encode
    it again, and every driver can send text.
    """

    def __init__(self, names: Names) -> None:
        key = self._lock_class = lock_class(names)
        self.outbox = names.outbox
        columns = "id, source, name, version, topic, key, slot, headers, data"
        row = "$1::text::uuid, $2::text, $3::text, $4::int, $5::text, $6::text, $7::smallint, $8::text::json, $9::text::json"
        self._into = f"insert into {names.outbox} ({columns}) values"
        self.insert_one = Sql(f"{self._into} ({row})")
        # OFFSET keeps the subquery from being merged into the outer SELECT: its row, and with it the lock, comes before the position.
        self.insert_one_locked = Sql(f"""
            insert into {names.outbox} ({columns})
            select {row} from (select pg_advisory_xact_lock({key}, $7::int) offset 0) l
        """)
        locks = f"""
            with l as materialized (
              select pg_advisory_xact_lock({key}, d.s)
              from (select distinct u.s from unnest(string_to_array($11::text, ',')::int[]) u(s) order by u.s) d)
        """
        self.insert_many = Sql(f"""
            {locks}
            insert into {names.outbox} ({columns})
            select {_CAST}
            from (select count(*) from l) x, unnest({_LISTS}) with ordinality u({columns}, ord)
            order by u.ord
        """)
        # Splitting a column costs the server as much as writing an index: what all events have in common is given once.
        self.insert_alike = Sql(f"""
            {locks}
            insert into {names.outbox} ({columns})
            select u.id::uuid, $2::text, $3::text, $4::int, $5::text, u.key, u.slot::smallint, $8::text::json, u.data::json
            from (select count(*) from l) x,
                 unnest({_list(1)}, {_list(6)}, {_list(7)}, {_list(9)}) with ordinality u(id, key, slot, data, ord)
            order by u.ord
        """)
        self.schedule = Sql(f"""
            insert into {names.scheduled} ({columns}, keyed, due_at)
            select {_CAST}, u.keyed::bool, coalesce(u.due_at::timestamptz, clock_timestamp() + u.delay::float8 * interval '1 second')
            from unnest({_LISTS}, {_list(11)}, {_list(12)}, {_list(13)}) with ordinality u({columns}, keyed, due_at, delay, ord)
            order by u.ord
        """)
        self.cancel = Sql(f"delete from {names.scheduled} where id = any(string_to_array($1::text, ',')::uuid[]) returning id")

    def lookup(self) -> None:
        """Return None: these names are final."""

    def resolve(self, rows: Sequence[Sequence[object]], /) -> None:
        """Do nothing: these names are final."""

    def publish(self, events: Sequence[Outgoing]) -> list[Command]:
        """Return the commands that insert these events, in publish order: one for those scheduled, then the one INSERT into the log."""
        if len(events) == 1 and events[0].due is None:
            return [self._one(events[0])]
        later = [event for event in events if event.due is not None]
        now = [event for event in events if event.due is None] if later else events
        commands = []
        if later:
            keyed = [str(event.lock) for event in later]
            due = [event.due.isoformat() if isinstance(event.due, datetime) else "" for event in later]
            delay = [str(event.due.total_seconds()) if isinstance(event.due, timedelta) else "" for event in later]
            lists = _lists(later)
            commands.append(Command(self.schedule, (*lists, *(lists[-1].join(column) for column in (keyed, due, delay)))))
        if len(now) == 1:
            commands.append(self._one(now[0]))
        elif now:
            slots = ",".join([str(slot) for slot in {event.slot for event in now if event.lock}])
            alike = _lists_alike(now)
            commands.append(
                Command(self.insert_many, (*_lists(now), slots)) if alike is None else Command(self.insert_alike, (*alike, slots))
            )
        return commands

    def _one(self, event: Outgoing) -> Command:
        statement = self.insert_one_locked if event.lock else self.insert_one
        return Command(statement, (event.id.hex, *event[1:7], event.headers, event.data))

    def script(self, events: Sequence[Outgoing]) -> str | None:
        """Return the same as statements without parameters, to be sent together with COMMIT; None where there is no such script.

        The locks stand in a statement of their own before the INSERT. Several rows of VALUES are inserted as they stand, and cost the server half
        of what lists do.
        """
        if len(events) > _SCRIPTED:
            return None
        rows = []
        slots = set()
        common: dict[tuple[str, str, int | None, str, str], tuple[str, str]] = {}
        for id_, source, name, version, topic, key, slot, lock, headers, data, due in events:
            if due is not None:
                return None
            alike = source, name, version, topic, headers
            found = common.get(alike)
            if found is None:
                number = "null" if version is None else int(version)
                found = common[alike] = f"{text(source)},{text(name)},{number},{text(topic)}", text(headers)
            if key is None or slot is None:
                rows.append(f"('{id_.int:032x}',{found[0]},null,null,{found[1]},{text(data)})")
            else:
                rows.append(f"('{id_.int:032x}',{found[0]},{text(key)},{slot:d},{found[1]},{text(data)})")
                if lock:
                    slots.add(slot)
        insert = f"{self._into}{','.join(rows)}"
        if not slots:
            return insert
        ascending = ",".join([f"{slot:d}" for slot in sorted(slots)])
        # A function in FROM gives its rows one after another, in the order of the array.
        return f"select pg_advisory_xact_lock({self._lock_class},s) from unnest('{{{ascending}}}'::int[]) s;{insert}"

    def cancel_scheduled(self, ids: Sequence[UUID]) -> Command:
        """Return the command that cancels scheduled events; its rows are the ids that were still waiting."""
        return Command(self.cancel, (",".join(map(str, ids)),))


def _lists(events: Sequence[Outgoing]) -> tuple[str, ...]:
    """Return the nine columns as texts, and their separator."""
    ids, sources, names, versions, topics, keys, slots, _, headers, data, _ = zip(*events, strict=True)
    return _joined((_hexadecimal(ids), sources, names, _texts(versions), topics, _texts(keys), _texts(slots), headers, data))


def _lists_alike(events: Sequence[Outgoing]) -> tuple[Any, ...] | None:
    """Return the nine columns, those that differ as texts, and the separator of these; None if source, type, topic or headers differ, too."""
    ids, sources, names, versions, topics, keys, slots, _, headers, data, _ = zip(*events, strict=True)
    common = (sources, names, versions, topics, headers)
    if any(column.count(column[0]) != len(column) for column in common):
        return None
    id_, key, slot, datum, separator = _joined((_hexadecimal(ids), _texts(keys), _texts(slots), data))
    return id_, sources[0], names[0], versions[0], topics[0], key, slot, headers[0], datum, separator


def _hexadecimal(ids: Sequence[UUID]) -> list[str]:
    return [f"{each.int:032x}" for each in ids]


def _texts(column: Sequence[object]) -> list[str]:
    return ["" if each is None else f"{each}" for each in column]


def _joined(columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    separator = _SEPARATOR
    while True:
        texts = [separator.join(column) for column in columns]
        if "".join(texts).count(separator) == len(texts) * (len(columns[0]) - 1):
            return (*texts, separator)
        separator = uuid4().hex
