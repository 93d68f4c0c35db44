"""What a service can be asked for by a monitoring system: the names, what they count, and where the numbers come from.

Counts and histograms are those that the service keeps anyway, so that asking for them costs nothing while events are handled. What only the
store knows, such as backlogs, is looked up every ten seconds by each process that was asked for metrics; it is the same in all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from tidings.clock import elapsed
from tidings.consume.execution import StoreDown
from tidings.consume.parking import guarded
from tidings.stores.sql.observed import Observed, Observer

if TYPE_CHECKING:
    from tidings.consume.counters import Counters, Histogram
    from tidings.stores.sql.store import SQLStore

__all__ = ["METRICS", "Metric", "Sampler", "counted", "measured", "sampled"]

logger = logging.getLogger("tidings.observability")

#: Seconds between two looks into the store.
_EVERY = 10.0


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: as Prometheus has it, without `_total`; OpenTelemetry has dots for underscores in the first two places.
        label: what tells its values apart beside the service: `subscription` (`group/name`), `group`, `relay`, `reader`; or nothing.
        measure: what it is called in the table `stats`; empty where the store is asked.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    label: str
    help: str
    measure: str = ""
    unit: str = ""

    @property
    def otel(self) -> str:
        """What it is called in OpenTelemetry: `tidings.events.published`."""
        words = self.name.removesuffix("_seconds").split("_")
        return ".".join((words[0], words[1], "_".join(words[2:])))


METRICS: tuple[Metric, ...] = (
    Metric("tidings_events_published", "counter", "", "Events whose transaction has committed.", "published"),
    Metric("tidings_events_scheduled", "counter", "", "Events that were committed to be published later.", "scheduled"),
    Metric("tidings_events_relayed", "counter", "relay", "Events that a broker has confirmed.", "relayed"),
    Metric("tidings_events_received", "counter", "group", "Events that a group has read, from the log or a broker.", "received"),
    Metric("tidings_events_handled", "counter", "subscription", "Events that were handled.", "handled"),
    Metric("tidings_events_failed", "counter", "subscription", "Attempts to handle, or to relay, an event that failed.", "failed"),
    Metric("tidings_events_retried", "counter", "subscription", "Events that were handled after an attempt that failed.", "retried"),
    Metric("tidings_events_dead", "counter", "subscription", "Events that are not tried again by themselves.", "dead"),
    Metric("tidings_events_duplicates", "counter", "subscription", "Further copies of events that were handled already.", "duplicates"),
    Metric("tidings_events_parked", "counter", "subscription", "Events that were parked, failed ones and those behind them.", "parked"),
    Metric("tidings_events_expired", "counter", "subscription", "Events that nobody needed any more when their turn came.", "expired"),
    Metric("tidings_events_discarded", "counter", "subscription", "Events that a retry policy has given up silently.", "discarded"),
    Metric("tidings_handler_duration_seconds", "histogram", "subscription", "How long one call of a handler takes.", "took", "s"),
    Metric("tidings_event_lag_seconds", "histogram", "subscription", "How long after their commit events are handled, or relayed.", "lag", "s"),
    Metric("tidings_reader_backlog", "gauge", "reader", "Events of the log that a reader has not read, counted up to 100,001.", unit="{event}"),
    Metric("tidings_reader_backlog_age_seconds", "gauge", "reader", "The age of the oldest of them.", unit="s"),
    Metric("tidings_reader_lease_changes", "counter", "reader", "How often the lease of a reader was taken."),
    Metric("tidings_keys_blocked", "gauge", "subscription", "Keys whose first event is dead, and blocks them.", unit="{key}"),
    Metric("tidings_keys_retrying", "gauge", "subscription", "Keys whose first event is tried again.", unit="{key}"),
    Metric("tidings_breaker_open", "gauge", "subscription", "Whether a subscription's breaker is open, or a broker cannot be used."),
)  # fmt: skip


def counted(counters: Counters, metric: Metric) -> Iterator[tuple[str, int]]:
    """Return the values of a counter of this process, by its label's value."""
    for (subject, measure), value in counters.totals().items():
        if measure == metric.measure and bool(subject) == bool(metric.label):
            yield subject, value


def measured(counters: Counters, metric: Metric) -> Iterator[tuple[str, Histogram]]:
    """Return the histograms of this process, by the label's value."""
    for (subject, measure), histogram in list(counters.histograms.items()):
        if measure == metric.measure:
            yield subject, histogram


def sampled(observed: Observed | None, metric: Metric) -> Iterator[tuple[str, float]]:
    """Return what only the store knows, by the label's value."""
    if observed is None:
        return
    if metric.name == "tidings_reader_lease_changes":
        yield from ((name, float(count)) for name, count in observed.leases.items())
    elif metric.label == "reader":
        for name, backlog in observed.backlogs.items():
            age = 0.0 if backlog.oldest is None else max((observed.now - backlog.oldest).total_seconds(), 0.0)
            yield name, age if metric.unit == "s" else float(backlog.events)
    else:
        for item in observed.subscriptions:
            if metric.name == "tidings_breaker_open":
                if item.breaker is not None:
                    yield item.label, float(item.breaker != "closed")
            else:
                yield item.label, float(item.dead if metric.name == "tidings_keys_blocked" else item.retrying)


class Sampler:
    """Looks into the store for everybody who wants to know what it knows.

    Attributes:
        observed: what it saw last; None before that, and while the store is down.
    """

    name = "the sampler"

    def __init__(self, service: str, store: SQLStore) -> None:
        self.observed: Observed | None = None
        self._service = service
        self._store = store
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Look every ten seconds, until stopped."""
        self._stopping.clear()
        while not self._stopping.is_set():
            await self.refresh(_EVERY / 2)
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._stopping.wait()

    async def refresh(self, oldest: float) -> None:
        """Look, unless what was seen is younger than so many seconds."""
        async with self._looking:
            if self._looked is not None and elapsed() - self._looked < oldest:
                return
            try:
                if not self._store.resolved:
                    await self._store.open()
                observer = Observer(self._store.names, self._store.dialect)
                async with asyncio.timeout(_EVERY):
                    self.observed = await guarded(self._store.call(observer.look, self._service))
            except (StoreDown, TimeoutError) as error:
                self.observed = None
                logger.info("metrics: the store cannot be asked: %s", error)
            except Exception:
                # Nobody handles events with it: it must not end the service.
                self.observed = None
                logger.exception("metrics: the store cannot be asked")
            self._looked = elapsed()
