"""`tidings doctor`: what is wrong, or will be, with the database, the brokers and the workers, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import click

from tidings.cli.command import NOT_WELL, Command
from tidings.cli.finding import Finding
from tidings.cli.retained import Retained, ask, judge
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.text import as_json, duration, safe
from tidings.observability.status import gather, is_relay, is_unread, many, problems_in

if TYPE_CHECKING:
    from tidings.observability.status import Problem, Status
    from tidings.service import Service
    from tidings.stores import SQLStore
    from tidings.stores.sql.doctor import Holder, Server
    from tidings.stores.sql.queries import Reader

__all__ = ["Facts", "doctor", "findings"]

#: Seconds for which a transaction may be open, a clock may be wrong, a broker may take to answer.
_LONG = 60.0
_SKEW = 1.0
_BROKER = 5.0


class Facts(NamedTuple):
    """Everything that is judged.

    Attributes:
        skew: seconds that the database's clock is ahead of this computer's; `doubt` is how wrong that may be.
        brokers: by name, why they cannot be reached; None when they can. Empty without the service's code.
        missing: subscriptions that are registered and that the service's code does not have; None without that code.
        retention: of the service: outbox and inbox in seconds.
        retained: what its subscriptions read from brokers.
        outage: for how many seconds handlers may be away.
        service: the name of the service whose code is there.
    """

    status: Status
    server: Server
    sqlite: bool
    holders: list[Holder]
    unvacuumed: list[str]
    schema: list[str]
    drift: list[str]
    waiting_for_code: list[tuple[str, str, int]]
    skew: float
    doubt: float
    brokers: dict[str, str | None] | None = None
    missing: list[str] | None = None
    retention: tuple[float, float] | None = None
    retained: list[Retained] | None = None
    outage: float = 3 * 86400.0
    service: str | None = None


@click.command(
    cls=Command,
    examples=(
        ("tidings doctor", "exit code 0 when nothing has to be mended, 1 otherwise"),
        ("tidings doctor --service shop.app:service", "asks the brokers too, and compares with what the code has"),
        ("tidings doctor --json | jq '.[] | select(.level == \"problem\")'", "for a script"),
    ),
)
@store_options
@click.option(
    "--outage", type=click.FloatRange(0.0, 3650.0), default=3.0, metavar="DAYS", show_default=True,
    help="How long handlers may be away; brokers must keep messages for longer.",
)  # fmt: skip
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def doctor(target: Target, outage: float, json_: bool) -> None:
    """Examine the database, its tables, the brokers and the workers, and say what to do.

    With --service it also reaches for the brokers, asks them how long they keep messages, and compares the subscriptions and retentions of the
    code with what the store and the brokers have.
    """
    found = list(findings(on_store(target, lambda store: _examine(store, target, outage * 86400.0))))
    if json_:
        click.echo(as_json([finding._asdict() for finding in found]))
    else:
        for finding in found:
            mark = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "red")}[finding.level]
            click.echo(f"{click.style(f'{mark[0]:<8}', fg=mark[1])} {finding.check}: {safe(finding.says)}")
    if any(finding.level == "problem" for finding in found):
        click.get_current_context().exit(NOT_WELL)


async def _examine(store: SQLStore, target: Target, outage: float) -> Facts:
    from tidings.stores.sql.doctor import Doctor
    from tidings.stores.sql.queries import Queries

    asks = Doctor(store.names, store.dialect)
    status = await gather(store)
    before = time.time()
    now, _ = await store.call(Queries(store.names, store.dialect).clock)
    after = time.time()
    brokers: dict[str, str | None] | None = None
    missing: list[str] | None = None
    retention: tuple[float, float] | None = None
    retained: list[Retained] | None = None
    name: str | None = None
    if target.service is not None:
        from tidings.cli.loading import load_service
        from tidings.consume.environments import reads_as

        service = await load_service(target.service, target.app_dir)
        name = service.name
        brokers = await _reach(service)
        retained = await ask(service, _BROKER)
        own = {(item.group, item.name) for item in service._compile()}
        mine = [
            item for item in status.subscriptions
            if item.service == service.name and reads_as(item.group, service.environment, service._environments)
        ]  # fmt: skip
        missing = [
            item.label for item in mine
            if item.state != "retired" and not is_relay(item) and ":" not in item.name and (item.group, item.name) not in own
        ]  # fmt: skip
        retention = service._retention.outbox, service._retention.inbox
    return Facts(
        status, await store.call(asks.server), store.dialect.name == "sqlite", await store.call(asks.holders, _LONG),
        await store.call(asks.unvacuumed), await store.check(), await store.transact(asks.drift), await store.call(asks.waiting_for_code),
        now.timestamp() - (before + after) / 2, (after - before) / 2, brokers, missing, retention, retained, outage, name,
    )  # fmt: skip


async def _reach(service: Service) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for transport in service.routing.brokers:
        try:
            async with asyncio.timeout(_BROKER):
                channel = await transport.publisher()
            await channel.close()
            found[transport.name] = None
        except TimeoutError:
            found[transport.name] = f"no answer within {_BROKER:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, that is the finding
            found[transport.name] = " ".join(str(error).split())[:300] or type(error).__name__
    return found


def findings(facts: Facts) -> Iterator[Finding]:
    """Judge. Pure. What the status says of the same is not said again."""
    problems = [
        problem for problem in problems_in(facts.status)
        # Nobody can try them again without the code.
        if problem.kind != "overdue" or problem.service != facts.service or problem.subject not in (facts.missing or ())
    ]  # fmt: skip
    yield from _server(facts)
    yield from _tables(facts)
    yield from _transactions(facts)
    yield from _clocks(facts)
    yield from _brokers(facts, problems)
    yield from _workers(facts, problems)
    yield from _code(facts)
    yield from _retention(facts, problems)
    unpurged = {reader.reader: age for reader, age in _unpurged(facts)}
    for kind, _, subject, says in problems:
        if kind in ("unread", "still", "paused") and subject in unpurged:
            says += f"; its oldest events are {duration(unpurged[subject])} old: the log cannot be purged behind them, and grows"  # noqa: PLW2901
        yield Finding("problem", "status", says)


def _server(facts: Facts) -> Iterator[Finding]:
    server = facts.server
    yield Finding("ok", "server", f"{'SQLite' if facts.sqlite else 'PostgreSQL'} {server.version}")
    if facts.sqlite:
        return
    if server.synchronous_commit in ("off", "local"):
        lost = "a crash of the server" if server.synchronous_commit == "off" else "a failover"
        yield Finding(
            "note", "durability", f"synchronous_commit is {server.synchronous_commit}: {lost} may take commits of the last moments with it, "
            "events and effects; set it to 'on' if they must not be lost",
        )  # fmt: skip
    if not server.autovacuum:
        yield Finding("problem", "autovacuum", "autovacuum is off: the tables grow without end; set autovacuum = on and reload the server")
    if facts.unvacuumed:
        tables = ", ".join(facts.unvacuumed)
        yield Finding("problem", "autovacuum", f"autovacuum is switched off for {tables}: alter table … reset (autovacuum_enabled)")
    usable = server.max_connections - server.reserved
    if usable and server.connections >= 0.8 * usable:
        yield Finding(
            "problem" if server.connections >= usable else "note", "connections",
            f"{server.connections} of {usable} connections are used: lower pool sizes, put PgBouncer before the server, or raise max_connections",
        )  # fmt: skip


def _tables(facts: Facts) -> Iterator[Finding]:
    for problem in facts.schema:
        yield Finding("problem", "tables", problem)
    for difference in facts.drift:
        if difference.endswith("is not ours"):
            yield Finding("note", "tables", f"{difference}: an upgrade may not expect it")
        else:
            yield Finding("problem", "tables", f"{difference}: compare with 'tidings db sql', and create what is missing")
    if not facts.schema and not facts.drift:
        yield Finding("ok", "tables", f"schema version {facts.status.schema_version}, all columns and indexes are there")


def _transactions(facts: Facts) -> Iterator[Finding]:
    if facts.sqlite:
        return
    for holder in facts.holders:
        since = "" if holder.seconds is None else f" has been open for {duration(holder.seconds)}"
        delays = "events that it has published wait for its commit, and " if holder.writes else ""
        if holder.kind == "slot":
            says = f"replication slot {holder.who} is not used and keeps old row versions: drop it if nobody comes back for it"
        elif holder.kind == "prepared":
            says = f"prepared transaction {holder.who}{since}: {delays}nothing is vacuumed behind it; commit or roll it back"
        else:
            says = f"the transaction of process {holder.who}{since}: {delays}nothing is vacuumed behind it; end it (pg_terminate_backend)"
        yield Finding("problem" if (holder.seconds or 0.0) >= 3600.0 or holder.writes else "note", "transactions", says)
    if not facts.holders:
        yield Finding("ok", "transactions", f"none has been open for more than {_LONG:g} s")


def _clocks(facts: Facts) -> Iterator[Finding]:
    skew = abs(facts.skew)
    if skew > _SKEW + facts.doubt:
        which = "ahead of" if facts.skew > 0 else "behind"
        yield Finding(
            "problem", "clock", f"the database's clock is {skew:.1f} s {which} this computer's: run a time service (NTP) on both. Leases are safe, "
            "they use the database's alone; times that are shown, and expiry, are wrong",
        )  # fmt: skip
    else:
        yield Finding("ok", "clock", f"the database's and this computer's differ by less than {_SKEW + facts.doubt:.1f} s")


def _brokers(facts: Facts, problems: Sequence[Problem]) -> Iterator[Finding]:
    # That one is down is a problem of the status, with the reason and since when.
    if facts.brokers is None:
        alive = {worker.service for worker in facts.status.workers if worker.alive}
        for broker in facts.status.brokers:
            if broker.service in alive and broker.state in ("connected", "unknown"):
                said = "its workers are connected" if broker.state == "connected" else "no worker is connected to it now"
                at = f" ({broker.kind} at {broker.address})" if broker.address else ""
                yield Finding(
                    "ok" if broker.state == "connected" else "note", "broker",
                    f"{broker.name} of {broker.service}{at}: {said}; --service asks the broker itself",
                )  # fmt: skip
    down = {problem.subject.rpartition(":")[2] for problem in problems if problem.kind == "broker" and problem.service == facts.service}
    for name, reason in (facts.brokers or {}).items():
        if reason is None:
            yield Finding("ok", "broker", f"{name} can be reached")
        elif name not in down:
            yield Finding("problem", "broker", f"{name} cannot be reached from here: {reason}")


def _workers(facts: Facts, problems: Sequence[Problem]) -> Iterator[Finding]:
    status = facts.status
    alive = {worker.service for worker in status.workers if worker.alive}
    consuming = {worker.service for worker in status.workers if worker.alive and "consume" in worker.roles.split(",")}
    unread = {problem.subject for problem in problems if problem.kind == "unread"}
    down = {(problem.service, problem.subject) for problem in problems if problem.kind == "broker"}
    # That a service does not run is said once: by the status when something waits for it, or else here.
    said = {reader.service for reader in status.readers if reader.reader in unread and not is_relay(reader)}
    overdue = {(problem.service, problem.subject) for problem in problems if problem.kind == "overdue"}
    said |= {item.service for item in status.subscriptions if (item.service, item.label) in overdue and not is_relay(item)}
    idle = {item.service for item in status.subscriptions if item.state != "retired" and not is_relay(item)} - consuming
    for service in sorted(idle - said):
        gone = "" if service in alive else f", or 'tidings services forget {service}' if it is gone for good"
        yield Finding(
            "problem" if service in alive else "note", "workers",
            f"no live worker of service {service!r} handles events (role 'consume'), and its subscriptions are registered: run one{gone}",
        )  # fmt: skip
    for reader in _active(status):
        of_idle = reader.service in idle and (reader.service not in alive or not is_relay(reader))
        if is_unread(reader, status.now) and not of_idle and reader.reader not in unread and (reader.service, reader.group) not in down:
            yield Finding(
                "note",
                "readers",
                f"nobody reads for {reader.reader}: 'tidings groups retire {reader.group}{reader.option}' if it is gone for good",
            )


def _code(facts: Facts) -> Iterator[Finding]:
    from tidings.stores.sql.queries import of_service

    for label in facts.missing or ():
        option = of_service(facts.service or "", label)
        yield Finding(
            "problem", "subscriptions", f"{label} is registered, and the code does not have it: its events are kept for it. "
            f"'tidings subscriptions retire {label}{option}' if it was removed; renamed_from=... if it was renamed",
        )  # fmt: skip
    for service, label, count in facts.waiting_for_code:
        waits = many(count, f"event of {label} waits", f"events of {label} wait")
        yield Finding("note", "code", f"{waits} for newer code of service {service!r}: deploy it")


def _retention(facts: Facts, problems: Sequence[Problem]) -> Iterator[Finding]:
    troubled = {problem.subject for problem in problems if problem.kind in ("unread", "still", "paused")}
    for reader, age in _unpurged(facts):
        if reader.reader not in troubled:
            yield Finding(
                "problem", "retention", f"{reader.reader} has not read events that are {duration(age)} old: the log cannot be purged behind "
                "them, and grows",
            )  # fmt: skip
    if facts.retention is None:
        return
    if facts.retention[1] < facts.retention[0]:
        outbox, inbox = (duration(seconds) for seconds in facts.retention)
        yield Finding(
            "problem", "retention", f"inbox_retention ({inbox}) is shorter than outbox_retention ({outbox}): an event that is read again after its "
            "inbox row was purged is handled again",
        )  # fmt: skip
    unreached = {name for name, reason in (facts.brokers or {}).items() if reason is not None}
    asked = [each for each in facts.retained or () if each.kept is not None or each.broker not in unreached]
    yield from judge(asked, facts.retention[1], facts.outage)


def _active(status: Status) -> list[Reader]:
    return [reader for reader in status.readers if reader.kind == "log" and reader.state == "active"]


def _unpurged(facts: Facts) -> Iterator[tuple[Reader, timedelta]]:
    """Return who has not read what the log need not keep any more, and how old that is."""
    status = facts.status
    longest = timedelta(seconds=(facts.retention or (86400.0, 0.0))[0])
    for reader in _active(status):
        backlog = status.backlogs.get(reader.reader)
        if backlog is not None and backlog.oldest is not None and status.now - backlog.oldest > longest:
            yield reader, status.now - backlog.oldest
