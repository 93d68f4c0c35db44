"""Metrics for OpenTelemetry, through its API alone: `pip install 'tidings[opentelemetry]'`. Where they go is for the SDK that the application sets up.

Nothing is told to OpenTelemetry while events are handled: what the service counts anyway is read whenever the SDK collects. That API has no
histogram that is read: each duration would have to be recorded by itself, and two for each event cost a fifth of handling it. So a histogram is three
counters, as in Prometheus: its buckets, told apart by `le`, the number of durations, and their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tidings.consume.counters import BOUNDS
from tidings.errors import MissingExtra
from tidings.observability.measures import METRICS, Metric, Sampler, counted, measured, sampled

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    raise MissingExtra("OpenTelemetry", "opentelemetry") from error

if TYPE_CHECKING:
    from tidings.consume.counters import Counters

__all__ = ["record"]

_EDGES = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")

Observe = Callable[[CallbackOptions], Iterable[Observation]]


def record(service: str, version: str, counters: Counters, sampler: Sampler, provider: MeterProvider | None = None) -> None:
    """Let a meter read the counts and durations of a service."""
    meter = (provider or get_meter_provider()).get_meter("tidings", version)
    for metric in METRICS:
        unit = metric.unit or ("{event}" if metric.name.startswith("tidings_events") else "1")
        if metric.kind == "histogram":
            number = "{event}" if metric.measure == "lag" else "{call}"
            for suffix, of, unit_of in (("bucket", _buckets, number), ("count", _number, number), ("sum", _sum, unit)):
                meter.create_observable_counter(f"{metric.otel}.{suffix}", [of(service, metric, counters)], unit_of, metric.help)
        else:
            create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            create(metric.otel, [_observing(service, metric, counters, sampler)], unit, metric.help)


def _observing(service: str, metric: Metric, counters: Counters, sampler: Sampler) -> Observe:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        found: Iterable[tuple[str, float]] = counted(counters, metric) if metric.measure else sampled(sampler.observed, metric)
        return [Observation(value, _attributes(service, metric, subject)) for subject, value in found]

    return observe


def _buckets(service: str, metric: Metric, counters: Counters) -> Observe:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for subject, histogram in measured(counters, metric):
            attributes = _attributes(service, metric, subject)
            for edge, count in zip(_EDGES, accumulate(histogram.counts), strict=True):
                yield Observation(count, {**attributes, "le": edge})

    return observe


def _number(service: str, metric: Metric, counters: Counters) -> Observe:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for subject, histogram in measured(counters, metric):
            yield Observation(sum(histogram.counts), _attributes(service, metric, subject))

    return observe


def _sum(service: str, metric: Metric, counters: Counters) -> Observe:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for subject, histogram in measured(counters, metric):
            yield Observation(histogram.total, _attributes(service, metric, subject))

    return observe


def _attributes(service: str, metric: Metric, subject: str) -> dict[str, Any]:
    attributes = {"service": service}
    if metric.label:
        attributes[metric.label] = subject
    return attributes
