"""Points as OpenTelemetry's metrics data: the same counters that are scraped, cumulative since the process began.

Names lose `_total`, which a collector's Prometheus exporter puts back, and keep the rest, so that queries are the same
whichever way the numbers came (https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar import __version__
from sidecar.observe.series import PREFIX, Histogram, Point
from sidecar.observe.series import Exemplar as OwnExemplar

BATCH: Final = 200
"""Points of one request to the collector: some 2 ms of encoding, in which the event loop has to wait for the interpreter."""
REMEMBERED: Final = 50_000
_UNITS: Final = {"seconds": "s", "bytes": "By", "ratio": "1"}
_label: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_escape: Final = re.compile(r"\\(.)")

Attributes = dict[str, str]


class Taken(NamedTuple):
    """A family whose points have been read off."""

    name: str
    kind: str
    help: str
    points: Sequence[Point]


class Encoder:
    """Makes metrics data of what was taken. For one thread; `since` is Unix nanoseconds, from when the counters count."""

    def __init__(self, resource: Resource, since: int) -> None:
        self._resource = resource
        self._since = since
        self._scope = InstrumentationScope("outrider", __version__)
        self._attributes: dict[str, Attributes] = {}

    def batches(self, families: Sequence[Taken]) -> Iterator[MetricsData]:
        """Metrics data of at most BATCH points each. Between points the interpreter is offered to others."""
        now = time.time_ns()
        metrics: list[Metric] = []
        room = BATCH
        for family in families:
            points = family.points
            while points:
                metrics.append(self._metric(family, points[:room], now))
                points, room = points[room:], max(room - len(points), 0)
                time.sleep(0)
                if not room:
                    yield self._data(metrics)
                    metrics, room = [], BATCH
        if metrics:
            yield self._data(metrics)

    def _data(self, metrics: list[Metric]) -> MetricsData:
        scope = ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        return MetricsData([ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")])

    def _metric(self, family: Taken, points: Sequence[Point], now: int) -> Metric:
        name = PREFIX + family.name.removesuffix("_total")
        unit = _UNITS.get(name.rpartition("_")[2], "1")
        return Metric(name=name, description=family.help, unit=unit, data=self._data_of(family.kind, points, now))

    def _data_of(self, kind: str, points: Sequence[Point], now: int) -> Gauge | Sum | HistogramData:
        cumulative = AggregationTemporality.CUMULATIVE
        if kind == "histogram":
            found = [self._histogram(labels, value, now) for labels, value in points if isinstance(value, Histogram)]
            return HistogramData(data_points=found, aggregation_temporality=cumulative)
        numbers = [
            NumberDataPoint(self._attributes_of(labels), self._since, now, value)
            for labels, value in points
            if not isinstance(value, Histogram)
        ]
        if kind == "counter":
            return Sum(data_points=numbers, aggregation_temporality=cumulative, is_monotonic=True)
        return Gauge(data_points=numbers)

    def _histogram(self, labels: str, series: Histogram, now: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=self._attributes_of(labels),
            start_time_unix_nano=self._since,
            time_unix_nano=now,
            count=sum(series.counts),
            sum=series.total,
            bucket_counts=series.counts,
            explicit_bounds=series.bounds,
            min=None,  # type: ignore[arg-type]  # optional in the protocol, and not known
            max=None,  # type: ignore[arg-type]
            exemplars=[] if series.exemplars is None else list(map(_exemplar, series.exemplars.values())),
        )

    def _attributes_of(self, labels: str) -> Attributes:
        found = self._attributes.get(labels)
        if found is None:
            if len(self._attributes) >= REMEMBERED:
                self._attributes.clear()
            found = self._attributes[labels] = attributes_of(labels)
        return found


def attributes_of(labels: str) -> Attributes:
    """The inside of `{a="1",b="2"}`, read back."""
    return {name: _escape.sub(_unescaped, value) for name, value in _label.findall(labels)}


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _exemplar(one: OwnExemplar) -> Exemplar:
    return Exemplar({}, float(one.value), int(one.at * 1e9), int(one.span_id, 16), int(one.trace_id, 16))
