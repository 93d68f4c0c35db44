"""What must hold at every moment, in any snapshot: lanes and deliveries belong together, nothing is refused. Looked at while everything moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

__all__ = ["Watch"]

# One statement, so that it is one snapshot. Parking, finishing and setting aside change both tables in one transaction.
_INCONSISTENT = sa.text("""
    select l.subscription_id, l.key, l.lane, l.state, l.depth, l.owner, (
             select count(*) from tidings_deliveries d where d.lane = l.lane and d.subscription_id = l.subscription_id) as deliveries
    from tidings_lanes l
    where l.depth <= 0 or l.depth <> (
      select count(*) from tidings_deliveries d where d.lane = l.lane and d.subscription_id = l.subscription_id)
    union all
    select d.subscription_id, min(d.key), d.lane, 'no lane', 0, null, count(*) from tidings_deliveries d
    where not exists (select 1 from tidings_lanes l where d.lane = l.lane and d.subscription_id = l.subscription_id)
    group by d.subscription_id, d.lane
""")
# The relay sends what the broker takes, and all that comes back is understood.
_REFUSED = sa.text("""
    select s.group_name, s.name, d.reason, d.name as event, d.event_id, d.error_message from tidings_deliveries d
    join tidings_subscriptions s on s.id = d.subscription_id where s.name like 'relay:%' or s.name like 'inbound:%'
""")
_PARKED = sa.text("select count(*), coalesce(sum(depth), 0), count(*) filter (where state = 'dead') from tidings_lanes")
_PROGRESS = sa.text("""
    select (select count(*) from tidings_inbox), (select count(*) from tidings_deliveries), (select count(*) from tidings_scheduled)
""")


@dataclass(slots=True)
class Watch:
    """Looks, and remembers what it saw.

    Attributes:
        differences: what did not hold, in sentences.
        lanes, parked, dead: the most that were seen at once.
        looks: how often it could look.
    """

    engine: Engine
    differences: list[str] = field(default_factory=list)
    lanes: int = 0
    parked: int = 0
    dead: int = 0
    looks: int = 0

    def look(self) -> None:
        """Look once, if the database lets us."""
        try:
            with self.engine.connect() as connection:
                self._look(connection)
        except DBAPIError:
            return
        self.looks += 1

    def _look(self, connection: Connection) -> None:
        for row in connection.execute(_INCONSISTENT):
            found = f"lanes and deliveries do not belong together: {row._mapping}"
            if found not in self.differences and len(self.differences) < 20:
                self.differences.append(found)
        for row in connection.execute(_REFUSED):
            found = f"a message was refused, or not understood: {row._mapping}"
            if found not in self.differences and len(self.differences) < 20:
                self.differences.append(found)
        lanes, parked, dead = connection.execute(_PARKED).one()
        self.lanes, self.parked, self.dead = max(self.lanes, lanes), max(self.parked, parked), max(self.dead, dead)

    def progress(self) -> tuple[int, ...] | None:
        """Return numbers that change as long as something is done; None when the database does not answer."""
        try:
            with self.engine.connect() as connection:
                return tuple(connection.execute(_PROGRESS).one())
        except DBAPIError:
            return None
