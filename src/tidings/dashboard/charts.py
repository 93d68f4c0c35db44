"""Charts as values: minutes and series, and the same as a small SVG for whoever runs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from markupsafe import Markup

from tidings.stores.sql.views_stats import Point, durations, quantile

__all__ = ["Chart", "Charts", "Series", "charts_of"]

_WIDTH, _HEIGHT = 600, 120


class Series(NamedTuple):
    """One line: a value for each of the chart's times, None where nothing was measured."""

    label: str
    values: list[float | None]


class Chart(NamedTuple):
    """Times in seconds since 1970, and what is drawn over them."""

    title: str
    unit: str
    times: list[int]
    series: list[Series]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for line in self.series for value in line.values)

    @property
    def summary(self) -> str:
        """The chart in words, for whoever does not see it."""
        if self.empty:
            return f"{self.title}: nothing was measured"
        parts = []
        for line in self.series:
            known = [value for value in line.values if value is not None]
            if known:
                # Of the minute that is not over, nothing may be known yet.
                when = "now" if any(value is not None for value in line.values[-2:]) else "when it was measured last"
                parts.append(f"{line.label} {_figure(known[-1])} {when}, {_figure(max(known))} at most")
        return f"{self.title} ({self.unit}): {'; '.join(parts)}"

    def data(self) -> dict[str, Any]:
        """Return what the script draws."""
        return {"unit": self.unit, "times": self.times, "series": [{"label": line.label, "values": line.values} for line in self.series]}

    def svg(self) -> Markup:
        """Return the chart as an SVG without script or style."""
        top = max((value for line in self.series for value in line.values if value is not None), default=0) or 1
        lines = Markup("").join(
            Markup('<polyline class="line line-{}" points="{}"/>').format(number, points)
            for number, line in enumerate(self.series)
            for points in _runs(line.values, top)
        )
        return Markup(
            '<svg viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-label="{2}"><line class="axis" x1="0" y1="{1}" x2="{0}" y2="{1}"/>{3}</svg>'
        ).format(_WIDTH, _HEIGHT, self.summary, lines)


class Charts(NamedTuple):
    """What the overview draws, and the page of a subscription."""

    throughput: Chart
    failures: Chart
    handling: Chart
    lag: Chart


def charts_of(given: Sequence[datetime], counts: Iterable[Point], sampled: Sequence[datetime], histograms: Iterable[Point]) -> Charts:
    """Return the charts of some minutes, and of those whose durations were read. A minute of which nothing was counted is zero; one of which no duration is known is a gap."""
    minutes = list(given)
    sums: dict[tuple[str, datetime], float] = {}
    for at, measure, value in counts:
        sums[measure, at] = sums.get((measure, at), 0) + value
    # Of the minute that is not over, a part is counted: after a busy one it would look like a collapse.
    if len(minutes) > 2 and any(at == minutes[-2] for _, at in sums):
        del minutes[-1]
    times = [int(minute.timestamp()) for minute in minutes]

    def line(measure: str) -> Series:
        return Series(measure, [sums.get((measure, minute), 0) for minute in minutes])

    measured = {measure for measure, _ in sums}
    throughput = [line(measure) for measure in ("published", "handled", "relayed") if measure in measured or measure == "handled"]
    by_minute: dict[datetime, list[tuple[str, int]]] = {}
    for at, measure, value in histograms:
        by_minute.setdefault(at, []).append((measure, value))

    def durations_of(title: str, what: str) -> Chart:
        found = [durations(by_minute.get(minute, ()), what) for minute in sampled]
        lines = [Series(label, [quantile(histogram, share) for histogram in found]) for label, share in (("p50", 0.5), ("p99", 0.99))]
        return Chart(title, "ms", [int(minute.timestamp()) for minute in sampled], lines)

    return Charts(
        Chart("Throughput", "per minute", times, throughput),
        Chart("Failures", "per minute", times, [line("failed"), line("retried"), line("dead")]),
        durations_of("Handler duration", "took"),
        durations_of("Commit to handled", "lag"),
    )


def _runs(values: Sequence[float | None], top: float) -> Iterable[str]:
    step = _WIDTH / max(len(values) - 1, 1)
    run: list[str] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append(f"{index * step:.1f},{_HEIGHT - value / top * (_HEIGHT - 6):.1f}")
        elif run:
            yield " ".join(run if len(run) > 1 else [run[0], run[0]])
            run = []


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
