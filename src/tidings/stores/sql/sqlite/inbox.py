"""The inbox on SQLite: which events a subscription has handled. Insert first, prove last, under the one write lock."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection

from tidings.stores.base import Standing
from tidings.stores.sql.dialect import SQLITE
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Inbox"]


class Inbox:
    """Invariant 4. `open` runs under BEGIN IMMEDIATE, so nobody else writes between its statements."""

    def __init__(self, names: Names) -> None:
        #: The number of the worker that handles events here, by subscription; where there is none, nobody is written down.
        self.workers: dict[int, int] = {}
        self.parked = Sql(f"select lane from {names.lanes} where lane in (select value from json_each($2)) and subscription_id = $1")
        self.known = Sql(
            f"select event_key from {names.inbox} where event_key in (select value from json_each($2)) and subscription_id = $1"
        )
        self.record_ = Sql(f"""
            insert into {names.inbox} (event_key, subscription_id, outcome, worker, handled_at)
            select value, $1, $3, $4, {SQLITE.now} from json_each($2) where true on conflict do nothing
        """)
        self.prove_ = Sql(f"""
            select count(*) from {names.inbox} where event_key in (select value from json_each($2)) and subscription_id = $1
              and exists (select 1 from {names.checkpoints} where reader = $3 and shard = $4 and lease_token = $5)
        """)
        self.count = Sql(
            f"select count(*) from {names.inbox} where event_key in (select value from json_each($2)) and subscription_id = $1"
        )
        self.handled_ = Sql(
            f"select count(*) from {names.inbox} where event_key in (select value from json_each($2)) and subscription_id = $1 and outcome <> 3"
        )
        self.revive_ = Sql(
            f"delete from {names.inbox} where event_key in (select value from json_each($2)) and subscription_id = $1 and outcome = 3"
        )

    def open(self, connection: Connection, subscription_id: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        """Insert the inbox rows of what may run; return the `Standing` of the others by index. Keys must be distinct."""
        parked = {row[0] for row in run(connection, Command(self.parked, (subscription_id, json.dumps(list(lanes)))))}
        known = {row[0] for row in run(connection, Command(self.known, (subscription_id, json.dumps(list(keys)))))}
        others = {
            index: Standing.DUPLICATE if key in known else Standing.PARKED
            for index, (key, lane) in enumerate(zip(keys, lanes, strict=True))
            if lane in parked or key in known
        }
        fresh = [key for index, key in enumerate(keys) if index not in others]
        if fresh:
            self.record(connection, subscription_id, fresh, 0)
        return others

    def opening(self, subscription_id: int, key: str, lane: str) -> None:
        """Return None: there is no round trip to be saved."""

    def proving(self, subscription_id: int, keys: Sequence[str], reader: str, shard: int, token: int) -> None:
        """Return None: there is no round trip to be saved."""

    def unproved(self, error: BaseException) -> None:
        """Return None: there is no such script."""

    def standing(self, connection: Connection, subscription_id: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        """Return the `Standing` of those that may not run by index, and insert nothing."""
        parked = {row[0] for row in run(connection, Command(self.parked, (subscription_id, json.dumps(list(lanes)))))}
        known = {row[0] for row in run(connection, Command(self.known, (subscription_id, json.dumps(list(keys)))))}
        return {
            index: Standing.DUPLICATE if key in known else Standing.PARKED
            for index, (key, lane) in enumerate(zip(keys, lanes, strict=True))
            if lane in parked or key in known
        }

    def prove(self, connection: Connection, subscription_id: int, keys: Sequence[str], reader: str, shard: int, token: int) -> int:
        """Return how many of the inbox rows are still there under the lease of the reader."""
        arguments = (subscription_id, json.dumps(list(keys)), reader, shard, token)
        ((count,),) = run(connection, Command(self.prove_, arguments))
        return int(count)

    def kept(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the inbox rows are still there, inside the transaction that inserted them."""
        return self.present(connection, subscription_id, keys)

    def present(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the inbox rows are there, whoever holds which lease."""
        ((count,),) = run(connection, Command(self.count, (subscription_id, json.dumps(list(keys)))))
        return int(count)

    def record(self, connection: Connection, subscription_id: int, keys: Sequence[str], outcome: int) -> None:
        """Insert inbox rows with an outcome, where there are none yet."""
        arguments = (subscription_id, json.dumps(list(keys)), outcome, self.workers.get(subscription_id))
        run(connection, Command(self.record_, arguments))

    def handled(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the events are over; those that were set aside dead are not."""
        ((count,),) = run(connection, Command(self.handled_, (subscription_id, json.dumps(list(keys)))))
        return int(count)

    def revive(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> None:
        """Take out what was set aside dead, in the transaction that runs it again: until that commits, nobody else may."""
        run(connection, Command(self.revive_, (subscription_id, json.dumps(list(keys)))))
