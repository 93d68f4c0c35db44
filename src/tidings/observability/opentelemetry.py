"""Metrics for OpenTelemetry, through its API alone: `pip install 'tidings[opentelemetry]'`. Where they go is for the SDK that the application sets up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tidings.consume.counters import BOUNDS
from tidings.errors import MissingExtra
from tidings.observability.measures import METRICS, Metric, Sampler, counted, sampled

try:
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    raise MissingExtra("OpenTelemetry", "opentelemetry") from error

if TYPE_CHECKING:
    from tidings.consume.counters import Counters

__all__ = ["record"]


def record(service: str, version: str, counters: Counters, sampler: Sampler, provider: MeterProvider | None = None) -> None:
    """Let a meter read the counts of a service, and have its durations as they are measured."""
    meter = (provider or get_meter_provider()).get_meter("tidings", version)
    for metric in METRICS:
        unit = metric.unit or ("{event}" if metric.name.startswith("tidings_events") else "1")
        if metric.kind == "histogram":
            instrument = meter.create_histogram(metric.otel, unit, metric.help, explicit_bucket_boundaries_advisory=list(BOUNDS))
            counters.listen(metric.measure, _recording(service, metric, instrument))
        else:
            create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            create(metric.otel, [_observing(service, metric, counters, sampler)], unit, metric.help)


def _observing(service: str, metric: Metric, counters: Counters, sampler: Sampler) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        found: Iterable[tuple[str, float]] = counted(counters, metric) if metric.measure else sampled(sampler.observed, metric)
        return [Observation(value, _attributes(service, metric, subject)) for subject, value in found]

    return observe


def _recording(service: str, metric: Metric, instrument: Histogram) -> Callable[[str], Callable[[float, int], None]]:
    def of(subject: str) -> Callable[[float, int], None]:
        attributes = _attributes(service, metric, subject)

        def observe(seconds: float, times: int) -> None:
            for _ in range(times):
                instrument.record(seconds, attributes)

        return observe

    return of


def _attributes(service: str, metric: Metric, subject: str) -> dict[str, Any]:
    attributes = {"service": service}
    if metric.label:
        attributes[metric.label] = subject
    return attributes
