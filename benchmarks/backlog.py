"""A log full of events, written by the server itself: millions in seconds, in as many transactions as publishers would have used."""

from __future__ import annotations

import msgspec

from benchmarks.database import Database
from benchmarks.workload import LINES, contract

__all__ = ["fill"]

# Ids are UUIDs of version 7, as publishers draw them: the inbox index sees the same order as in production. `slot` is the publishers'
# business only, and nobody waits for a slot here: any value does. The block commits after each transaction; its parameters are written
# into it, because DO takes none.
_FILL = """
do $fill$
declare first bigint := 1;
begin
  while first <= {events} loop
    insert into {outbox} (id, source, name, version, topic, key, slot, headers, data)
    select e.id, 'bench', '{name}', {version}, '{topic}', e.key, 0, {headers},
           ('{{"order_id":"' || e.id || '","customer":"' || coalesce(e.key, 'c') || '","lines":{lines}}}')::json
    from (
      select n, h, (lpad(to_hex({milliseconds} + n / 10), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid as id,
             case when {keys} > 0 then 'customer-' || (n % greatest({keys}, 1)) end as key
      from (select n, md5(n || random()::text) as h from generate_series(first, least(first + {size} - 1, {events})) n) r) e
    order by e.n;
    commit;
    first := first + {size};
  end loop;
end $fill$
"""


# As a traced publisher writes them: every so many traces are sampled.
_TRACED = """('{{"traceparent":"00-' || md5(e.h) || '-' || substr(e.h, 1, 16) || '-' || case e.n % {each} when 0 then '01' else '00' end || '"}}')::json"""


async def fill(database: Database, outbox: str, events: int, *, keys: int, transaction: int = 100, sampled: int | None = None) -> None:
    """Write events with so many keys in turn (0 is without keys), each transaction holding `transaction` of them.

    Args:
        sampled: every so many of them belong to a trace that is sampled, the others to one that is not; None for events without headers.
    """
    kind = contract["order.placed" if keys else "order.created"]
    lines = msgspec.json.encode(LINES).decode()
    statement = _FILL.format(
        outbox=outbox, events=events, name=kind.name, version="null" if kind.version is None else kind.version, topic=kind.topic(None),
        lines=lines, keys=keys, size=transaction, milliseconds=1_760_000_000_000,
        headers="'{}'" if sampled is None else _TRACED.format(each=sampled),
    )  # fmt: skip
    await database.admin.execute("set synchronous_commit = off")
    await database.admin.execute(statement)
    await database.admin.execute("reset synchronous_commit")
    await database.settle(outbox)
