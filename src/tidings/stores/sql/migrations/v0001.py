"""Version 1: all tables."""

from __future__ import annotations

import re

from tidings.stores.sql.names import Names

__all__ = ["statements"]


def statements(dialect: str, names: Names) -> list[str]:
    """Return the CREATE statements for `postgresql` or `sqlite`."""
    text = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE}[dialect]

    def qualify(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return names(name) if kind == "t" else names.plain(name)

    text = re.sub(r"\{(t|i):(\w+)\}", qualify, text)
    return [statement.strip() for statement in text.split(";\n") if statement.strip()]


# {t:name} is a qualified name of ours, {i:name} a bare one (indexes live in their table's schema).
_POSTGRESQL = """
create sequence {t:token} cache 1;

create table {t:meta} (
  singleton boolean not null primary key default true constraint {i:meta_singleton_check} check (singleton),
  schema_version integer not null,
  system_identifier text,
  generation integer not null default 1,
  purged_to bigint
);

create table {t:outbox} (
  position bigint generated always as identity (cache 1) primary key,
  tx xid8 not null default pg_current_xact_id(),
  id uuid not null,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  slot smallint,
  headers json not null,
  data json not null,
  time timestamptz not null default clock_timestamp()
);
create index {i:outbox_tx} on {t:outbox} (tx, position);
create index {i:outbox_time} on {t:outbox} using brin (time) with (pages_per_range = 32);

create table {t:inbox} (
  event_key uuid not null,
  subscription_id integer not null,
  outcome smallint not null default 0,
  worker smallint,
  handled_at timestamptz not null default clock_timestamp(),
  primary key (event_key, subscription_id)
);
create index {i:inbox_handled_at} on {t:inbox} using brin (handled_at) with (pages_per_range = 32);

create table {t:attempts} (
  event_key uuid not null,
  subscription_id integer not null,
  history json not null,
  ended_at timestamptz not null default clock_timestamp(),
  primary key (event_key, subscription_id)
);
create index {i:attempts_ended_at} on {t:attempts} using brin (ended_at) with (pages_per_range = 32);

create table {t:lanes} (
  lane uuid not null,
  subscription_id integer not null,
  key text,
  state text not null default 'retrying' constraint {i:lanes_state_check} check (state in ('retrying', 'dead')),
  depth integer not null default 0,
  attempts integer not null default 0,
  due_at timestamptz not null default clock_timestamp(),
  blocked_at timestamptz not null default clock_timestamp(),
  lease_token bigint not null default 0,
  lease_until timestamptz,
  owner text,
  primary key (lane, subscription_id)
) with (fillfactor = 70);
create index {i:lanes_due_at} on {t:lanes} (due_at) where state = 'retrying';
create index {i:lanes_dead} on {t:lanes} (blocked_at, lane, subscription_id) where state = 'dead';

create table {t:deliveries} (
  number bigint generated always as identity (cache 1) primary key,
  event_key uuid not null,
  subscription_id integer not null,
  lane uuid not null,
  event_id text not null,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  time timestamptz,
  sequence bigint,
  headers bytea not null,
  data bytea not null,
  reason text not null,
  attempts integer not null default 0,
  history json not null default '[]',
  error_type text,
  error_message text,
  traceback text,
  fingerprint text,
  parked_at timestamptz not null default clock_timestamp(),
  failed_at timestamptz
);
create unique index {i:deliveries_event} on {t:deliveries} (event_key, subscription_id);
create index {i:deliveries_lane} on {t:deliveries} (lane, subscription_id, number);
create index {i:deliveries_fingerprint} on {t:deliveries} (fingerprint, subscription_id, number) where fingerprint is not null;

create table {t:checkpoints} (
  reader text not null,
  shard smallint not null default 0,
  service text not null,
  group_name text not null,
  kind text not null,
  state text not null default 'active' constraint {i:checkpoints_state_check} check (state in ('active', 'paused', 'retired')),
  previous pg_snapshot,
  current pg_snapshot,
  position bigint not null default 0,
  high bigint not null default 0,
  place text,
  lease_token bigint not null default 0,
  lease_until timestamptz,
  owner text,
  restarts integer not null default 0,
  moved_at timestamptz not null default clock_timestamp(),
  primary key (reader, shard)
) with (fillfactor = 50);

create table {t:scheduled} (
  id uuid not null primary key,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  slot smallint,
  headers json not null,
  data json not null,
  keyed boolean not null,
  due_at timestamptz not null,
  published_at timestamptz not null default clock_timestamp()
);
create index {i:scheduled_due_at} on {t:scheduled} (due_at, id);

create table {t:subscriptions} (
  id integer generated always as identity (cache 1) primary key,
  service text not null,
  group_name text not null,
  name text not null,
  events json not null,
  ordered boolean not null default true,
  state text not null default 'active' constraint {i:subscriptions_state_check} check (state in ('active', 'paused', 'retired')),
  registered_at timestamptz not null default clock_timestamp(),
  breaker text,
  breaker_since timestamptz,
  breaker_reason text,
  breaker_owner text
);
create unique index {i:subscriptions_name} on {t:subscriptions} (service, group_name, name);

create table {t:limits} (
  scope text not null primary key,
  spent_until timestamptz
) with (fillfactor = 50);

create table {t:permits} (
  scope text not null,
  owner text not null,
  held integer not null default 0,
  wanted integer not null default 0,
  lease_until timestamptz not null,
  primary key (scope, owner)
) with (fillfactor = 50);

create table {t:workers} (
  id uuid not null primary key,
  service text not null,
  environment text,
  roles text not null,
  host text not null,
  pid integer not null,
  version text not null,
  brokers json not null default '[]',
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp()
);

create table {t:worker_numbers} (
  number smallint not null primary key,
  worker uuid not null,
  service text not null,
  host text not null,
  pid integer not null,
  started_at timestamptz not null default clock_timestamp(),
  gone_at timestamptz
);

create table {t:stats} (
  bucket timestamptz not null,
  service text not null,
  subject text not null,
  measure text not null,
  value bigint not null,
  primary key (bucket, service, subject, measure)
);

create table {t:command_keys} (
  service text not null,
  key text not null,
  command text not null,
  fingerprint text not null,
  result json,
  created_at timestamptz not null default clock_timestamp(),
  primary key (service, key)
);
create index {i:command_keys_created_at} on {t:command_keys} using brin (created_at) with (pages_per_range = 32);

create table {t:commands} (
  id uuid not null primary key,
  service text not null,
  command text not null,
  actor text,
  idempotency_key text,
  data json not null,
  outcome text not null,
  error_type text,
  error_message text,
  started_at timestamptz not null,
  milliseconds integer not null
);
create index {i:commands_started_at} on {t:commands} (service, started_at);

create table {t:audit} (
  number bigint generated always as identity (cache 1) primary key,
  time timestamptz not null default clock_timestamp(),
  changed_at timestamptz not null default clock_timestamp(),
  actor text not null,
  action text not null,
  target json not null,
  count bigint not null default 0,
  outcome text not null
);
"""

_SQLITE = """
create table {t:meta} (
  singleton integer not null primary key default 1 constraint {i:meta_singleton_check} check (singleton = 1),
  schema_version integer not null,
  system_identifier text,
  generation integer not null default 1,
  purged_to integer,
  token integer not null default 0
);

create table {t:outbox} (
  position integer not null primary key autoincrement,
  id text not null,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  slot integer,
  headers text not null,
  data text not null,
  time text not null
);
create index {i:outbox_time} on {t:outbox} (time);

create table {t:inbox} (
  event_key text not null,
  subscription_id integer not null,
  outcome integer not null default 0,
  worker integer,
  handled_at text not null,
  primary key (event_key, subscription_id)
) without rowid;
create index {i:inbox_handled_at} on {t:inbox} (handled_at);

create table {t:attempts} (
  event_key text not null,
  subscription_id integer not null,
  history text not null,
  ended_at text not null,
  primary key (event_key, subscription_id)
) without rowid;
create index {i:attempts_ended_at} on {t:attempts} (ended_at);

create table {t:lanes} (
  lane text not null,
  subscription_id integer not null,
  key text,
  state text not null default 'retrying' constraint {i:lanes_state_check} check (state in ('retrying', 'dead')),
  depth integer not null default 0,
  attempts integer not null default 0,
  due_at text not null,
  blocked_at text not null,
  lease_token integer not null default 0,
  lease_until text,
  owner text,
  primary key (lane, subscription_id)
) without rowid;
create index {i:lanes_due_at} on {t:lanes} (due_at) where state = 'retrying';
create index {i:lanes_dead} on {t:lanes} (blocked_at, lane, subscription_id) where state = 'dead';

create table {t:deliveries} (
  number integer not null primary key autoincrement,
  event_key text not null,
  subscription_id integer not null,
  lane text not null,
  event_id text not null,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  time text,
  sequence integer,
  headers blob not null,
  data blob not null,
  reason text not null,
  attempts integer not null default 0,
  history text not null default '[]',
  error_type text,
  error_message text,
  traceback text,
  fingerprint text,
  parked_at text not null,
  failed_at text
);
create unique index {i:deliveries_event} on {t:deliveries} (event_key, subscription_id);
create index {i:deliveries_lane} on {t:deliveries} (lane, subscription_id, number);
create index {i:deliveries_fingerprint} on {t:deliveries} (fingerprint, subscription_id, number) where fingerprint is not null;

create table {t:checkpoints} (
  reader text not null,
  shard integer not null default 0,
  service text not null,
  group_name text not null,
  kind text not null,
  state text not null default 'active' constraint {i:checkpoints_state_check} check (state in ('active', 'paused', 'retired')),
  position integer not null default 0,
  high integer not null default 0,
  place text,
  lease_token integer not null default 0,
  lease_until text,
  owner text,
  restarts integer not null default 0,
  moved_at text not null,
  primary key (reader, shard)
);

create table {t:scheduled} (
  id text not null primary key,
  source text not null,
  name text not null,
  version integer,
  topic text not null,
  key text,
  slot integer,
  headers text not null,
  data text not null,
  keyed integer not null,
  due_at text not null,
  published_at text not null
);
create index {i:scheduled_due_at} on {t:scheduled} (due_at, id);

create table {t:subscriptions} (
  id integer not null primary key autoincrement,
  service text not null,
  group_name text not null,
  name text not null,
  events text not null,
  ordered integer not null default 1,
  state text not null default 'active' constraint {i:subscriptions_state_check} check (state in ('active', 'paused', 'retired')),
  registered_at text not null,
  breaker text,
  breaker_since text,
  breaker_reason text,
  breaker_owner text
);
create unique index {i:subscriptions_name} on {t:subscriptions} (service, group_name, name);

create table {t:limits} (
  scope text not null primary key,
  spent_until text
) without rowid;

create table {t:permits} (
  scope text not null,
  owner text not null,
  held integer not null default 0,
  wanted integer not null default 0,
  lease_until text not null,
  primary key (scope, owner)
) without rowid;

create table {t:workers} (
  id text not null primary key,
  service text not null,
  environment text,
  roles text not null,
  host text not null,
  pid integer not null,
  version text not null,
  brokers text not null default '[]',
  started_at text not null,
  seen_at text not null
);

create table {t:worker_numbers} (
  number integer not null primary key,
  worker text not null,
  service text not null,
  host text not null,
  pid integer not null,
  started_at text not null,
  gone_at text
);

create table {t:stats} (
  bucket text not null,
  service text not null,
  subject text not null,
  measure text not null,
  value integer not null,
  primary key (bucket, service, subject, measure)
) without rowid;

create table {t:command_keys} (
  service text not null,
  key text not null,
  command text not null,
  fingerprint text not null,
  result text,
  created_at text not null,
  primary key (service, key)
) without rowid;
create index {i:command_keys_created_at} on {t:command_keys} (created_at);

create table {t:commands} (
  id text not null primary key,
  service text not null,
  command text not null,
  actor text,
  idempotency_key text,
  data text not null,
  outcome text not null,
  error_type text,
  error_message text,
  started_at text not null,
  milliseconds integer not null
);
create index {i:commands_started_at} on {t:commands} (service, started_at);

create table {t:audit} (
  number integer not null primary key autoincrement,
  time text not null,
  changed_at text not null,
  actor text not null,
  action text not null,
  target text not null,
  count integer not null default 0,
  outcome text not null
);
"""
