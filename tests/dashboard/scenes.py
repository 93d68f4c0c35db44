"""A store with more in it than one run makes: an hour of counts, conversations, several kinds of failures, and hostile payloads."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, create_engine, text

from tests.services.databases import Database
from tidings.ids import event_key, lane_of, uuid7

#: What must never do anything in a page: markup, an attribute's end, a template, control characters, marks that turn text round.
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"></pre>{{7*7}}\x1b[2J\u202eevil\u0000\ufeff"
)

#: More than any JavaScript number holds.
EXACT = 123456789012345678901234567890


def furnish(database: Database) -> dict[str, Any]:
    """Add to a store that `fill` has made; return what tests look for."""
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        made = _furnish(connection, database.kind == "postgresql")
    engine.dispose()
    return made


def add_event(connection: Connection, name: str, key: str | None, data: str, headers: dict[str, str], at: datetime | None = None) -> str:
    """Add a row to the log; return its id."""
    made = str(uuid7())
    cast = "cast(:headers as json), cast(:data as json)" if connection.dialect.name == "postgresql" else ":headers, :data"
    connection.execute(
        text(
            f"insert into tidings_outbox (id, source, name, version, topic, key, slot, headers, data, time) "
            f"values (:id, 'till', :name, 1, :name, :key, null, {cast}, :time)"
        ),
        {
            "id": made,
            "name": name,
            "key": key,
            "headers": json.dumps(headers),
            "data": data,
            "time": _time(connection, at or datetime.now(UTC)),
        },
    )
    return made


def add_dead(
    connection: Connection,
    subscription: int,
    key: str,
    name: str,
    data: bytes,
    error: tuple[str, str, str],
    *,
    state: str = "dead",
    depth: int = 1,
    lane: str | None = None,
) -> int:
    """Add a lane, by default that of the key, with its head that has failed, and more behind it; return the head's number."""
    uuid = "cast(:lane as uuid)" if connection.dialect.name == "postgresql" else ":lane"
    now = _time(connection, datetime.now(UTC) - timedelta(minutes=7))
    lane = lane or lane_of(key)
    connection.execute(
        text(
            f"insert into tidings_lanes (lane, subscription_id, key, state, depth, attempts, due_at, blocked_at) "
            f"values ({uuid}, :s, :key, :state, :depth, 3, :now, :now)"
        ),
        {"lane": lane, "s": subscription, "key": key, "state": state, "depth": depth, "now": now},
    )
    numbers = []
    for index in range(depth):
        id_ = str(uuid7())
        failed = index == 0
        history = [
            {"attempt": n, "at": (datetime.now(UTC) - timedelta(minutes=9 - n)).isoformat(), "error": f"{error[0]}: {error[1]}"}
            for n in (1, 2, 3)
        ]
        event = "cast(:event_key as uuid)" if connection.dialect.name == "postgresql" else ":event_key"
        as_json = "cast(:history as json)" if connection.dialect.name == "postgresql" else ":history"
        row = connection.execute(
            text(
                f"insert into tidings_deliveries (event_key, subscription_id, lane, event_id, source, name, version, topic, key, time, headers, data, reason,"
                f" attempts, history, error_type, error_message, traceback, fingerprint, parked_at, failed_at) values ({event}, :s, {uuid}, :id, 'till', :name,"
                f" 1, :name, :key, :now, :headers, :data, :reason, :attempts, {as_json}, :type, :message, :trace, :print, :now, :failed_at) returning number"
            ),
            {
                "event_key": event_key("till", id_), "s": subscription, "lane": lane, "id": id_, "name": name, "key": key, "now": now, "headers": b"{}",
                "data": data, "reason": "failed" if failed else "behind", "attempts": 3 if failed else 0, "history": json.dumps(history if failed else []),
                "type": error[0] if failed else None, "message": error[1] if failed else None,
                "trace": '  File "shop/charge.py", line 40, in charge\n    raise Declined(card)\n' if failed else None,
                "print": error[2] if failed else None, "failed_at": now if failed else None,
            },
        )  # fmt: skip
        numbers.append(row.scalar_one())
    return int(numbers[0])


def _furnish(connection: Connection, pg: bool) -> dict[str, Any]:
    start = add_event(connection, "sale.made", "c-1", json.dumps({"receipt": "c-1", "text": "début"}), {})
    second = add_event(connection, "stock.reserved", "c-1", '{"shelf": 4}', {"correlationid": start, "causationid": start})
    add_event(connection, "invoice.sent", "c-1", '{"to": "Ada"}', {"correlationid": start, "causationid": second})
    add_event(connection, "parcel.shipped", "c-1", '{"weight": 1.10}', {"correlationid": start, "causationid": second})
    add_event(connection, "loyalty.earned", "c-1", '{"points": 5}', {"correlationid": start, "causationid": start})
    payload = {"text": HOSTILE.replace("\0", ""), "exact": EXACT, "small": 0.1, "password": "hunter2-secret"}
    data = json.dumps(payload)[:-1] + ', "lone": "\\ud800", "price": 1.10}'
    hostile = add_event(connection, "sale.made", "hostile", data, {"x-note": HOSTILE.replace("\0", "")})
    large = add_event(connection, "sale.made", "large", json.dumps({"text": "<b>" + "x" * 1_000_000}), {})
    dead = add_dead(
        connection,
        1,
        "<b>hostile</b>",
        "sale.made",
        data.encode() + b"",
        ("shop.Bad<i>", f"quoted hunter2-secret {HOSTILE}".replace("\0", ""), "aaaa"),
        depth=2,
    )
    binary = add_dead(
        connection, 1, "binary", "sale.made", b"\xff\xfe\x00<script>\xed\xa0\x80", ("tidings.errors.DecodeError", "not JSON", "bbbb")
    )
    for index in range(12):
        add_dead(
            connection,
            1,
            f"card-{index}",
            "sale.made",
            b'{"receipt": "x"}',
            ("shop.payments.Declined", "the card was declined", "cccc"),
            depth=1 + index % 3,
        )
    for index in range(3):
        add_dead(connection, 1, f"slow-{index}", "sale.made", b"{}", ("TimeoutError", "no answer within 5 s", "dddd"), state="retrying")
    _counts(connection)
    _brokers(connection, pg)
    return {
        "start": start, "hostile": hostile, "large": large, "dead": dead, "binary": binary, "elsewhere": _from_elsewhere(connection, pg)
    }  # fmt: skip


def _brokers(connection: Connection, pg: bool) -> None:
    """A broker that events are sent to, and one that nothing comes from; with a worker that is alive for as long as the tests."""
    now = datetime.now(UTC)
    worker, stamp = str(uuid7()), {"now": _time(connection, now), "later": _time(connection, now + timedelta(hours=6))}
    as_json, as_uuid = ("json", "uuid") if pg else ("text", "text")
    cut = (now - timedelta(minutes=3)).isoformat()
    up = {"label": "relay:rabbitmq", "state": "connected", "since": cut, "error": "connection reset by <b>peer</b>", "error_at": cut}
    down = {"label": "security/inbound:kafka", "state": "down", "since": cut, "error": "no answer within 30 s", "error_at": cut}
    said = [
        {"name": "rabbitmq", "kind": "RabbitMQ", "address": "amqps://rabbitmq.eu.example.com:5671", "links": [up]},
        {"name": "kafka", "kind": "Kafka", "address": "kafka-1.example.com:9092,kafka-2.example.com:9092", "links": [down]},
    ]
    connection.execute(
        text(
            "insert into tidings_workers (id, service, roles, host, pid, version, brokers, started_at, seen_at) values "
            f"(cast(:id as {as_uuid}), 'till', 'consume,relay', 'app-1', 17, '1.0', cast(:brokers as {as_json}), :now, :later)"
        ),
        {"id": worker, "brokers": json.dumps(said), **stamp},
    )
    for group, name, breaker, reason in (
        ("relay:rabbitmq", "relay:rabbitmq", None, None),
        ("security", "inbound:kafka", "open", "no answer within 30 s"),
    ):
        connection.execute(
            text(
                "insert into tidings_subscriptions (service, group_name, name, events, ordered, registered_at, breaker, breaker_since, breaker_reason,"
                f" breaker_owner) values ('till', :group, :name, cast('[]' as {as_json}), :ordered, :now, :breaker, :since, :reason, :owner)"
            ),
            {
                "group": group, "name": name, "ordered": False, "breaker": breaker, "since": stamp["now"] if breaker else None, "reason": reason,
                "owner": worker if breaker else None, "now": stamp["now"],
            },
        )  # fmt: skip
    for reader, group, kind in (
        ("till/relay:rabbitmq@log", "relay:rabbitmq", "log"),
        ("till/security@kafka", "security", "queue"),
    ):
        connection.execute(
            text(
                "insert into tidings_checkpoints (reader, shard, service, group_name, kind, lease_until, owner, moved_at) "
                "values (:reader, 0, 'till', :group, :kind, :later, :owner, :now)"
            ),
            {"reader": reader, "group": group, "kind": kind, "owner": worker, **stamp},
        )


def _from_elsewhere(connection: Connection, pg: bool) -> str:
    """An event of `shop` that was handled, and of which nothing but that is left; return its id."""
    made, now = str(uuid7()), _time(connection, datetime.now(UTC))
    key = "cast(:key as uuid)" if pg else ":key"
    connection.execute(
        text(f"insert into tidings_inbox (event_key, subscription_id, worker, handled_at) values ({key}, 1, 1, :now)"),
        {"key": event_key("shop", made), "now": now},
    )
    return made


def _counts(connection: Connection) -> None:
    rows = []
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    for back in range(60):
        wave = 1 + math.sin(back / 7)
        values = {"handled": int(400 + 180 * wave), "failed": int(3 * wave), "retried": int(2 * wave), "dead": int(back % 17 == 0)}
        values |= {
            "took:5": 200,
            "took:10": int(150 * wave),
            "took:50": 40,
            "took:200": int(4 * wave),
            "lag:10": 250,
            "lag:20": 100,
            "lag:100": int(9 * wave),
        }
        bucket = _time(connection, minute - timedelta(minutes=back))
        rows += [{"bucket": bucket, "subject": "till/book", "measure": name, "value": value} for name, value in values.items()]
        rows.append({"bucket": bucket, "subject": "", "measure": "published", "value": int(420 + 170 * wave)})
    connection.execute(
        text(
            "insert into tidings_stats (bucket, service, subject, measure, value) values (:bucket, 'till', :subject, :measure, :value) "
            "on conflict (bucket, service, subject, measure) do update set value = excluded.value"
        ),
        rows,
    )


def _time(connection: Connection, at: datetime) -> Any:
    return at if connection.dialect.name == "postgresql" else at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
