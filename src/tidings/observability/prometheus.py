"""Metrics for Prometheus, through `prometheus-client`: `pip install 'tidings[prometheus]'`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidings.consume.counters import BOUNDS
from tidings.errors import MissingExtra
from tidings.observability.asgi import App, Response, pages
from tidings.observability.measures import METRICS, Metric, Sampler, counted, measured, sampled

try:
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as Family
except ImportError as error:
    raise MissingExtra("Prometheus", "prometheus") from error

if TYPE_CHECKING:
    from tidings.consume.counters import Counters, Histogram

__all__ = ["Collector", "metrics_app"]

_EDGES = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")


class Collector:
    """What a service has to tell, for a `CollectorRegistry`: `REGISTRY.register(service.collector())`.

    Collecting reads counts that are kept anyway, in whatever thread asks. What only the store knows is up to ten seconds old, and there while
    the service runs in this process.
    """

    def __init__(self, service: str, counters: Counters, sampler: Sampler) -> None:
        self._service = service
        self._counters = counters
        self._sampler = sampler

    def describe(self) -> Iterator[Family]:
        """Return the families without values, so that registering asks for none."""
        return (self._family(metric) for metric in METRICS)

    def collect(self) -> Iterator[Family]:
        """Return the families with their values."""
        for metric in METRICS:
            family = self._family(metric)
            if isinstance(family, HistogramMetricFamily):
                for subject, histogram in measured(self._counters, metric):
                    family.add_metric(self._labels(metric, subject), _cumulated(histogram), histogram.total)
            elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
                found: Iterator[tuple[str, float]] = (
                    counted(self._counters, metric) if metric.measure else sampled(self._sampler.observed, metric)
                )
                for subject, value in found:
                    family.add_metric(self._labels(metric, subject), value)
            yield family

    def _labels(self, metric: Metric, subject: str) -> list[str]:
        return [self._service, subject] if metric.label else [self._service]

    def _family(self, metric: Metric) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        labels = ["service", metric.label] if metric.label else ["service"]
        if metric.kind == "counter":
            return CounterMetricFamily(metric.name, metric.help, labels=labels)
        if metric.kind == "gauge":
            return GaugeMetricFamily(metric.name, metric.help, labels=labels)
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    counts = list(histogram.counts)
    return [(edge, float(sum(counts[: index + 1]))) for index, edge in enumerate(_EDGES)]


def metrics_app(collector: Collector, sampler: Sampler) -> App:
    """Return an application that answers `/metrics`, or wherever it is mounted, with what one service has to tell, looked up now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)

    async def metrics() -> Response:
        await sampler.refresh(5.0)
        return Response(200, exposition.CONTENT_TYPE_LATEST, exposition.generate_latest(registry))

    return pages({"/metrics": metrics, "": metrics})
