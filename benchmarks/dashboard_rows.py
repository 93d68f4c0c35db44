"""Very many rows for the dashboard, made by the database itself: a million events take seconds."""

from __future__ import annotations

from sqlalchemy import Connection, text

__all__ = ["PAGES", "fill_rows"]

#: What is opened: every page, and those of a list that go far or look for something rare.
PAGES = (
    "/", "/?range=24h", "/events", "/events?name=order.*&key=k7", "/events?key=nobody", "/events?text=nothing%20like%20it", "/events?correlation={correlation}",
    "/events?since={middle}&until={later}", "/events?before=500000", "/events/{id}?at={position}", "/events/{id}", "/subscriptions", "/subscriptions/1",
    "/failures", "/failures?key=nobody", "/failures?state=retrying", "/failures/{fingerprint}/1", "/failures/{fingerprint}/1?key=nobody", "/failures?since={middle}&until={later}", "/keys", "/keys?key=nobody", "/keys?state=retrying",
    "/scheduled", "/topics", "/workers", "/audit", "/actions/redrive?all=true", "/actions/discard?fingerprint={fingerprint}", "/deliveries/{number}",
    "/api/overview", "/api/failures/groups", "/api/failures?fingerprint={fingerprint}", "/api/failures?fingerprint={fingerprint}&key=nobody", "/api/events?limit=200", "/api/keys?limit=200",
)  # fmt: skip

_SUBSCRIPTIONS = 10

_PG = """
insert into tidings_subscriptions (service, group_name, name, events) select 'shop', 'shop', 'sub-' || n, '["order.placed","order.paid"]' from generate_series(1, {s}) n;
insert into tidings_checkpoints (reader, service, group_name, kind, previous, position)
  select 'shop/shop@log', 'shop', 'shop', 'log', pg_current_snapshot(), 0;
insert into tidings_outbox (id, source, name, version, topic, key, slot, headers, data, time)
  select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
         'shop', case n % 3 when 0 then 'order.placed' when 1 then 'order.paid' else 'stock.moved' end, 1, 'orders', 'k' || (n % 1000), null,
         ('{{"correlationid":"c-' || (n / 5) || '"}}')::json, ('{{"order_id":' || n || ',"note":"' || repeat('x', 240) || '"}}')::json, at
  from (select n, clock_timestamp() - ({events} - n) * interval '50 ms' as at from generate_series(1, {events}) n) r;
insert into tidings_lanes (lane, subscription_id, key, state, depth, blocked_at)
  select md5('d' || n)::uuid, 1 + n % {s}, 'd' || n, 'dead', 1, clock_timestamp() - ({dead} - n) * interval '100 ms' from generate_series(1, {dead}) n;
insert into tidings_deliveries (event_key, subscription_id, lane, event_id, source, name, version, topic, key, time, headers, data, reason, attempts,
    error_type, error_message, traceback, fingerprint, failed_at)
  select md5('e' || n)::uuid, 1 + n % {s}, md5('d' || n)::uuid, 'id-' || n, 'shop', 'order.placed', 1, 'orders', 'd' || n, clock_timestamp(),
         '{{}}', convert_to('{{"note":"' || repeat('x', 240) || '"}}', 'UTF8'), 'failed', 8, 'shop.Error' || (n % 20), 'order ' || n || ' failed',
         repeat('line of a traceback' || chr(10), 40), 'print' || (n % 20), clock_timestamp() from generate_series(1, {dead}) n;
insert into tidings_stats (bucket, service, subject, measure, value)
  select date_trunc('minute', now()) - b * interval '1 minute', 'shop', 'shop/sub-' || s, m, 1 + (b * s) % 97
  from generate_series(0, 1440) b, generate_series(1, {s}) s,
       unnest(array['handled','failed','retried','dead','took:1','took:5','took:10','took:50','took:100','lag:5','lag:20','lag:100','lag:1000']) m;
insert into tidings_scheduled (id, source, name, version, topic, headers, data, keyed, due_at)
  select gen_random_uuid(), 'shop', 'order.due', 1, 'orders', '{{}}', '{{}}', false, clock_timestamp() + n * interval '1 minute' from generate_series(1, 10000) n
"""
_SERIES = "with recursive c(n) as (select {low} union all select n + 1 from c where n < {high})"
_LITE = """
insert into tidings_subscriptions (service, group_name, name, events, registered_at) {s} select 'shop', 'shop', 'sub-' || n, '["order.placed","order.paid"]', {now} from c;
insert into tidings_checkpoints (reader, service, group_name, kind, position, moved_at) values ('shop/shop@log', 'shop', 'shop', 'log', 0, {now});
insert into tidings_outbox (id, source, name, version, topic, key, headers, data, time) {e}
  select substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7000-8000-' || printf('%012x', n), 'shop',
         case n % 3 when 0 then 'order.placed' when 1 then 'order.paid' else 'stock.moved' end, 1, 'orders', 'k' || (n % 1000),
         '{{"correlationid":"c-' || (n / 5) || '"}}', '{{"order_id":' || n || ',"note":"' || '{note}' || '"}}', strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch')
  from (select n, at, printf('%012x', at) as ms from (select n, cast((julianday('now') - 2440587.5) * 86400000 as integer) - ({events} - n) * 50 as at from c));
insert into tidings_lanes (lane, subscription_id, key, state, depth, due_at, blocked_at) {d}
  select printf('%032x', n), 1 + n % {subs}, 'd' || n, 'dead', 1, {now}, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (({dead} - n) / 10.0) || ' seconds') from c;
insert into tidings_deliveries (event_key, subscription_id, lane, event_id, source, name, version, topic, key, time, headers, data, reason, attempts,
    error_type, error_message, traceback, fingerprint, parked_at, failed_at) {d}
  select printf('e%031x', n), 1 + n % {subs}, printf('%032x', n), 'id-' || n, 'shop', 'order.placed', 1, 'orders', 'd' || n, {now},
         cast('{{}}' as blob), cast('{{"note":"{note}"}}' as blob), 'failed', 8, 'shop.Error' || (n % 20), 'order ' || n || ' failed', '{trace}', 'print' || (n % 20), {now}, {now} from c;
insert into tidings_stats (bucket, service, subject, measure, value) {b}
  select strftime('%Y-%m-%dT%H:%M:00.000Z', 'now', '-' || n || ' minutes'), 'shop', 'shop/sub-' || s.value, m.value, 1 + n * s.value % 97
  from c, json_each('[1,2,3,4,5,6,7,8,9,10]') s,
       json_each('["handled","failed","retried","dead","took:1","took:5","took:10","took:50","took:100","lag:5","lag:20","lag:100","lag:1000"]') m;
insert into tidings_scheduled (id, source, name, version, topic, headers, data, keyed, due_at, published_at) {t}
  select printf('00000000-0000-4000-8000-%012x', n), 'shop', 'order.due', 1, 'orders', '{{}}', '{{}}', 0, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', n || ' minutes'), {now} from c
"""


def fill_rows(connection: Connection, events: int, dead: int) -> dict[str, str]:
    """Fill a store's tables, which are new; return what the addresses in `PAGES` need. Needs a transaction."""
    pg = connection.dialect.name == "postgresql"
    if pg:
        script = _PG.format(s=_SUBSCRIPTIONS, events=events, dead=dead)
    else:
        series = {
            name: _SERIES.format(low=low, high=high)
            for name, low, high in (("s", 1, _SUBSCRIPTIONS), ("e", 1, events), ("d", 1, dead), ("b", 0, 1440), ("t", 1, 10_000))
        }
        now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        script = _LITE.format(
            **series, now=now, events=events, dead=dead, subs=_SUBSCRIPTIONS, note="x" * 240, trace="line of a traceback\n" * 40
        )
    for statement in script.split(";\n"):
        connection.exec_driver_sql(statement.replace("%", "%%") if pg and connection.dialect.driver == "psycopg" else statement)
    connection.execute(text("analyze"))
    found = connection.execute(
        text("select position, id, time from tidings_outbox where position = (select max(position) / 2 from tidings_outbox)")
    ).one()
    later = connection.execute(text("select time from tidings_outbox where position = :p"), {"p": found[0] + 100}).scalar_one()
    number = connection.execute(text("select max(number) from tidings_deliveries")).scalar_one()
    return {
        "position": str(found[0]), "id": str(found[1]), "middle": _iso(found[2]), "later": _iso(later), "number": str(number),
        "fingerprint": "print0", "correlation": f"c-{found[0] // 5}",
    }  # fmt: skip


def _iso(value: object) -> str:
    return str(value).replace(" ", "T").replace("+", "%2B")
