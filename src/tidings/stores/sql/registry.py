"""Registration of groups and subscriptions: who reads the log, from where, and for which events."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from sqlalchemy import Connection

from tidings.errors import ConfigurationError, RenamedSubscription
from tidings.stores.base import Registered
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import INBOUND
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Inbound", "Registry", "Wanted", "inbound_reader", "reader_name"]

Start = Literal["earliest", "now"]


class Wanted(NamedTuple):
    """A subscription as the code declares it."""

    group: str
    name: str
    events: tuple[str, ...]
    ordered: bool
    renamed_from: str | None = None


class Inbound(NamedTuple):
    """A group that reads from a broker.

    Attributes:
        transport: its name.
        by_position: one reader at a time does, from our checkpoint; else the broker divides the messages among all.
    """

    group: str
    transport: str
    by_position: bool


class Registry:
    """Registering runs in one transaction, one worker at a time.

    A new subscription of a group raises the lease token of the group's readers in the same transaction: a receiver with the old list is
    fenced before it can move past an event that the new subscription wants (invariant 6).
    """

    def __init__(self, names: Names, dialect: Dialect, lock_class: int) -> None:
        self.dialect = dialect
        pg = dialect.name == "postgresql"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        # Slots are 0 to 1023; -1 is the registry's lock.
        self.alone = Sql(f"select pg_advisory_xact_lock({lock_class}, -1)") if pg else None
        self.list_ = Sql(f"""
            select id, service, group_name, name, {"events::text" if pg else "events"}, state from {names.subscriptions}
            where service = {typed("$1", "text")} order by id
        """)
        registered = "" if pg else ", registered_at"
        clock = "" if pg else f", {dialect.now}"
        self.add = Sql(f"""
            insert into {names.subscriptions} (service, group_name, name, events, ordered{registered})
            values ($1, $2, $3, {typed("$4", "json")}, $5{clock}) returning id
        """)
        self.change = Sql(f"""
            update {names.subscriptions} set name = {typed("$2", "text")}, events = {typed("$3", "json")}, ordered = {typed("$4", "boolean")}
            where id = {typed("$1", "int")}
        """)
        self.state = Sql(f"""
            update {names.subscriptions} set state = {typed("$4", "text")}
            where service = {typed("$1", "text")} and group_name = {typed("$2", "text")} and name = {typed("$3", "text")}
              and state <> {typed("$4", "text")} returning id
        """)
        self.fence = Sql(f"""
            update {names.checkpoints} set lease_token = lease_token + 1
            where service = {typed("$1", "text")} and group_name = {typed("$2", "text")} and kind in ('log', 'queue', 'stream')
        """)
        # It keeps its checkpoint: who reads the log again some day goes on there.
        self.retire_log = Sql(f"""
            update {names.checkpoints} set state = 'retired', lease_token = lease_token + 1, lease_until = null, owner = null
            where reader = {typed("$1", "text")} and kind = 'log' and state <> 'retired'
        """)
        self.of_kind = Sql(f"""
            update {names.checkpoints} set kind = {typed("$2", "text")} where reader = {typed("$1", "text")} and kind <> {typed("$2", "text")}
        """)
        # What was read before is in the inbox.
        beginning = "previous = '1:1:'::pg_snapshot, current = null, position = 0" if pg else "position = 0"
        self.rewind = Sql(f"""
            update {names.checkpoints} set {beginning}, lease_token = lease_token + 1, lease_until = null, owner = null
            where reader = {typed("$1", "text")} and kind = 'log'
        """)
        columns = "reader, shard, service, group_name, kind" + ("" if pg else ", moved_at")
        values = "$1, 0, $2, $3, $4" + ("" if pg else f", {dialect.now}")
        # A group that was retired and is in the code again reads on where it was, as far as the log still has it.
        checkpoints = names.plain("checkpoints")
        back = f"on conflict (reader, shard) do update set state = 'active' where {checkpoints}.state = 'retired' returning reader"
        if pg:
            # Snapshot 1:1: is before every transaction, so that its first window is the whole log.
            previous = "case $5::text when 'now' then pg_current_snapshot() when 'earliest' then '1:1:'::pg_snapshot end"
            # Who starts now has, in effect, read everything up to here: a restore must not take it for unread.
            high = f"case $5::text when 'now' then (select coalesce(max(position), 0) from {names.outbox}) else 0 end"
            self.reader = Sql(f"insert into {names.checkpoints} ({columns}, previous, high) values ({values}, {previous}, {high}) {back}")
        else:
            position = f"case $5 when 'now' then (select coalesce(max(position), 0) from {names.outbox}) else 0 end"
            self.reader = Sql(f"insert into {names.checkpoints} ({columns}, position) values ({values}, {position}) {back}")

    def register(
        self, connection: Connection, service: str, start: Mapping[str, Start], wanted: Sequence[Wanted], inbound: Sequence[Inbound] = ()
    ) -> list[Registered]:
        """Make the code's groups and subscriptions known; return every subscription of the service that is not retired.

        Args:
            start: where the reader of each group that reads the log starts if the group is new. A subscription added to a group starts at its
                cursor.
            inbound: the groups that read from brokers.

        Raises:
            RenamedSubscription: a stored name vanished from a group and another with the same events appeared without `renamed_from`.
            ConfigurationError: `renamed_from` a name that another subscription still has, or was renamed from, too.
        """
        self.lock(connection)
        stored = {(row.group, row.name): row for row in self.list(connection, service)}
        back = self._back_to_the_log(connection, stored.values(), wanted)
        for group, where in start.items():
            # What was on its way through a broker when the group came back to the log is behind its end.
            first = "earliest" if group in back else where
            run(connection, Command(self.reader, (reader_name(service, group), service, group, "log", first)))
            if group in back:
                run(connection, Command(self.rewind, (reader_name(service, group),)))
        for group in dict.fromkeys(item.group for item in wanted if item.group not in start):
            run(connection, Command(self.retire_log, (reader_name(service, group),)))
        for fed in inbound:
            reader, kind = inbound_reader(service, fed.group, fed.transport), "stream" if fed.by_position else "queue"
            run(connection, Command(self.reader, (reader, service, fed.group, kind, "none")))
            run(connection, Command(self.of_kind, (reader, kind)))
        names = {(item.group, item.name) for item in wanted}
        changed: set[str] = set()
        renamed: set[int] = set()
        for item in wanted:
            row = stored.get((item.group, item.name))
            if row is None and item.renamed_from is not None:
                row = stored.get((item.group, item.renamed_from))
                if row is not None and ((item.group, item.renamed_from) in names or row.id in renamed):
                    raise ConfigurationError(
                        f"group {item.group!r}: {item.name!r} says renamed_from={item.renamed_from!r}, which another subscription "
                        "in the code still is: a subscription can be renamed once, and its old name goes with it"
                    )
                renamed.update(() if row is None else (row.id,))
            if row is None:
                if not item.name.startswith(INBOUND):
                    self._refuse_rename(item, stored.values(), names)
                run(connection, Command(self.add, (service, item.group, item.name, json.dumps(item.events), item.ordered)))
                changed.add(item.group)
            elif row.name != item.name or set(row.events) != set(item.events) or row.state == "retired":
                run(connection, Command(self.change, (row.id, item.name, json.dumps(item.events), item.ordered)))
                if row.state == "retired":
                    run(connection, Command(self.state, (service, item.group, item.name, "active")))
                changed.add(item.group)
        for group in sorted(changed):
            run(connection, Command(self.fence, (service, group)))
        return [row for row in self.list(connection, service) if row.state != "retired"]

    def lock(self, connection: Connection) -> None:
        """Let nobody else register or retire until the transaction ends."""
        if self.alone is not None:
            run(connection, Command(self.alone, ()))

    def add_task(self, connection: Connection, task: str) -> None:
        """Make a leased task known, e.g. the mover of scheduled events; one per set of tables."""
        run(connection, Command(self.reader, (task, "", "", "task", "none")))

    def list(self, connection: Connection, service: str) -> list[Registered]:
        """Return every subscription of the service, retired ones too."""
        return [
            Registered(row[0], row[1], row[2], row[3], tuple(json.loads(row[4])), row[5])
            for row in run(connection, Command(self.list_, (service,)))
        ]

    def retire(self, connection: Connection, service: str, group: str, name: str) -> bool:
        """Forget a subscription that no code has any more; False when there is none of that name."""
        found = run(connection, Command(self.state, (service, group, name, "retired")))
        run(connection, Command(self.fence, (service, group)))
        return bool(found)

    def _back_to_the_log(self, connection: Connection, stored: Collection[Registered], wanted: Sequence[Wanted]) -> set[str]:
        """Return the groups that a broker has fed with events which it does not bring any more; note that it does not."""
        feeding = {(item.group, item.name): set(item.events) for item in wanted if item.name.startswith(INBOUND)}
        back: set[str] = set()
        for row in stored:
            if not row.name.startswith(INBOUND):
                continue
            still = feeding.get((row.group, row.name), set())
            handled = {name for item in wanted if item.group == row.group and not item.name.startswith(INBOUND) for name in item.events}
            elsewhere = {name for (group, _), names in feeding.items() if group == row.group for name in names}
            if (set(row.events) - elsewhere) & handled:
                back.add(row.group)
            if not still and row.events:
                run(connection, Command(self.change, (row.id, row.name, "[]", False)))
        return back

    @staticmethod
    def _refuse_rename(item: Wanted, stored: Collection[Registered], names: set[tuple[str, str]]) -> None:
        for row in stored:
            gone = (row.group, row.name) not in names and row.state != "retired" and not row.name.startswith(INBOUND)
            if gone and row.group == item.group and set(row.events) & set(item.events):
                raise RenamedSubscription(
                    f"group {item.group!r}: subscription {row.name!r} is stored but not in the code, and {item.name!r} for the same events is "
                    f"new. If it is the same one, say renamed_from={row.name!r}, or its events are handled again; if {row.name!r} is gone, "
                    f"run: tidings subscriptions retire {row.group}/{row.name}"
                )


def reader_name(service: str, group: str) -> str:
    """Return the name of a group's reader of the log."""
    return f"{service}/{group}@log"


def inbound_reader(service: str, group: str, transport: str) -> str:
    """Return the name of a group's reader of a broker."""
    return f"{service}/{group}@{transport}"
