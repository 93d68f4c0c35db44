"""Whether a service is alive, and whether it does its work: what `service.health()` returns, and `/live` and `/ready` tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tidings.clock import elapsed
from tidings.consume.parking import guarded

if TYPE_CHECKING:
    from tidings.runtime import Runtime
    from tidings.stores.sql.observed import Observed
    from tidings.stores.sql.queries import Reader

__all__ = ["Health", "check", "check_alive", "judge"]


@dataclass(frozen=True, slots=True)
class Health:
    """How a process of a service is.

    Attributes:
        live: whether it runs at all; when not, only starting it again helps.
        ready: whether it does everything that it should. A process that is not ready may become so by itself: a broker comes back.
        reasons: why it is not, in sentences; empty when it is.
    """

    live: bool
    ready: bool
    reasons: tuple[str, ...] = ()


async def check(runtime: Runtime | None, *, timeout: float, stalled: float) -> Health:
    """Find out how the process is; see `Service.health`."""
    alive = check_alive(runtime)
    if runtime is None or runtime.failed:
        return alive
    reasons = [*alive.reasons, *_brokers(runtime)]
    try:
        async with asyncio.timeout(timeout):
            observed = await guarded(runtime.store.call(runtime.observer.look, runtime.service, stalled))
    except TimeoutError:
        reasons.append(f"the store did not answer within {timeout:g} s")
    except Exception as error:  # noqa: BLE001 - whatever it is, the answer is no
        reasons.append(f"the store is down: {' '.join(str(error).split())[:300]}")
    else:
        young = elapsed() - runtime.began < 2 * runtime.tuning.lease + 5.0
        reasons += judge(observed, runtime.worker, runtime.readers(), stalled=stalled, young=young)
    return Health(alive.live, not reasons, tuple(reasons))


def check_alive(runtime: Runtime | None) -> Health:
    """Find out whether the process runs at all, by its tasks alone: nothing is asked that could take long."""
    if runtime is None:
        return Health(True, False, ("the service does not run in this process: it was not started, or has stopped",))
    crashed = tuple(f"{name} has crashed: {reason}" for name, reason in runtime.ended())
    if runtime.failed:
        return Health(False, False, (*crashed, "the tasks of the service have ended: start it again"))
    return Health(not crashed, not crashed, crashed)


def judge(observed: Observed, worker: str, mine: Iterable[str], *, stalled: float, young: bool = False) -> list[str]:
    """Return what is wrong with the readers that a worker has to read for. Pure.

    Args:
        mine: the readers that it takes the lease of whenever it can be had. What another worker does under one is not for this one to judge.
        stalled: seconds for which one may stand still although events wait.
        young: whether the worker has just begun: leases take their time.
    """
    if observed.replica:
        return ["the store is a server in recovery (a replica): nothing is read from it"]
    reasons = []
    for name in sorted(mine):
        reader = observed.readers.get(name)
        if reader is None or reader.state != "active" or observed.held_back(reader.group):
            continue
        if _is_nobodys(reader, observed.now):
            if not young:
                reasons.append(f"nobody reads for {name}, and this worker should")
            continue
        backlog = observed.backlogs.get(name)
        if reader.owner != worker or backlog is None or backlog.oldest is None:
            continue
        waited = (observed.now - backlog.oldest).total_seconds()
        still = waited if reader.moved_at is None else (observed.now - reader.moved_at).total_seconds()
        if min(still, waited) >= stalled:
            reasons.append(f"{name} has not moved for {still:.0f} s although events wait, the oldest for {waited:.0f} s")
    return reasons


def _is_nobodys(reader: Reader, now: datetime) -> bool:
    return reader.owner is None or reader.lease_until is None or reader.lease_until < now


def _brokers(runtime: Runtime) -> list[str]:
    reaches = [(relay.compiled.label, relay.reach) for relay in runtime.relays]
    reaches += [(subscriber.inbound.label, subscriber.reach) for subscriber in runtime.subscribers]
    return [f"{label}: the broker cannot be used: {reach.told}" for label, reach in reaches if reach.told]
