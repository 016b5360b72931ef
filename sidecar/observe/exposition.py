"""Exposition: `/metrics` as Prometheus text 0.0.4 or OpenMetrics 1.0.0, plain or gzip, whole or in slices.

Our own families come as numbers with finished labels (families.py): 1,000 routes are 20,000 lines, and prometheus_client's
generic writer takes about ten times as long for them as joining strings. The client library renders
its own `process_*` and `python_*` collectors, and its parser checks all of it in the tests.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics
from prometheus_client.registry import Collector

from sidecar.observe.series import PREFIX, Exemplar, Family, Histogram

TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
SLICE: Final = 32 * 1024
"""Characters between two chances for other work: below a millisecond, compression included."""
GZIP_LEVEL: Final = 3
GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""zlib's way to ask for a gzip header."""

Page = tuple[bytes, bytes | None, bytes]
"""(Content-Type, Content-Encoding or None, body)."""


class Exposition:
    """Renders what `collect` yields, and the client library's own collectors, as the scraper asks for it."""

    def __init__(self, collect: Callable[[], Iterable[Family]], processes: Callable[[], Mapping[str, float]] | None = None) -> None:
        """`processes`: where several processes are one sidecar, what the library's collectors say of this one, of all (`processes.py`)."""
        self._collect = collect
        self._registry = CollectorRegistry()
        if processes is None:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._registry)
        else:
            PlatformCollector(registry=self._registry)
            for collector in (ProcessCollector, GCCollector):
                self._registry.register(_OfAll(collector(registry=CollectorRegistry()), processes))

    def render(self, accept: bytes, accept_encoding: bytes) -> Page:
        """The whole page at once, for tests and small tables."""
        openmetrics, gzip = wants_openmetrics(accept), wants_gzip(accept_encoding)
        return _page(list(_encode(self._slices(openmetrics=openmetrics), gzip=gzip)), openmetrics=openmetrics, gzip=gzip)

    async def render_in_slices(self, accept: bytes, accept_encoding: bytes) -> Page:
        """The same, letting traffic through between slices. Each series is consistent, the page is not one instant."""
        openmetrics, gzip = wants_openmetrics(accept), wants_gzip(accept_encoding)
        pieces = []
        for piece in _encode(self._slices(openmetrics=openmetrics), gzip=gzip):
            pieces.append(piece)
            await asyncio.sleep(0)
        return _page(pieces, openmetrics=openmetrics, gzip=gzip)

    def _slices(self, *, openmetrics: bool) -> Iterator[bytes]:
        waiting: list[str] = []
        size = 0
        for family in self._collect():
            waiting.append(_heading(family, openmetrics=openmetrics))
            name = PREFIX + family.name
            for labels, value in family.points:
                block = _histogram(name, labels, value, openmetrics) if isinstance(value, Histogram) else _line(name, labels, value)
                waiting.append(block)
                size += len(block)
                if size >= SLICE:
                    yield "".join(waiting).encode("utf-8", "replace")
                    waiting.clear()
                    size = 0
        yield "".join(waiting).encode("utf-8", "replace")
        if openmetrics:
            yield write_openmetrics(self._registry)  # type: ignore[no-untyped-call]  # the library leaves this one function unannotated
        else:
            yield write_text(self._registry)


class _OfAll(Collector):
    """A collector of the client library, with the figures of all processes in the place of this one's."""

    def __init__(self, own: Collector, figures: Callable[[], Mapping[str, float]]) -> None:
        self._own = own
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        figures = self._figures()
        for metric in self._own.collect():
            metric.samples = [
                sample._replace(value=figures.get(sample.name + sample.labels.get("generation", ""), sample.value))
                for sample in metric.samples
            ]
            yield metric


def wants_openmetrics(accept: bytes) -> bool:
    """Whether `Accept` prefers OpenMetrics; it has to be named, so a browser's or curl's `*/*` gets text."""
    qualities = _qualities(accept)
    wanted = qualities.get(b"application/openmetrics-text", 0.0)
    return wanted > 0.0 and wanted >= qualities.get(b"text/plain", 0.0)


def wants_gzip(accept_encoding: bytes) -> bool:
    """Whether `Accept-Encoding` names gzip with a quality above zero (RFC 9110 section 12.5.3)."""
    qualities = _qualities(accept_encoding)
    return qualities.get(b"gzip", qualities.get(b"*", 0.0)) > 0.0


def _qualities(value: bytes) -> dict[bytes, float]:
    """The best quality of each name in an Accept-like field (RFC 9110 section 12.4.2); parameters do not matter here."""
    best: dict[bytes, float] = {}
    for entry in value.split(b","):
        name, *parameters = [part.strip().lower() for part in entry.split(b";")]
        best[name] = max(best.get(name, 0.0), _quality(parameters))
    return best


def _quality(parameters: list[bytes]) -> float:
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _heading(family: Family, *, openmetrics: bool) -> str:
    # OpenMetrics names a counter's family without the suffix of its samples.
    name = PREFIX + (family.name.removesuffix("_total") if openmetrics and family.kind == "counter" else family.name)
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"


def _line(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


def _histogram(name: str, labels: str, series: Histogram, exemplars: bool) -> str:  # noqa: FBT001 - called for every series
    """Buckets, sum and count; exemplars are for OpenMetrics alone, the text format has no place for them."""
    start = f"{name}_bucket{{{labels},le=" if labels else f"{name}_bucket{{le="
    limits = [*map(repr, map(float, series.bounds)), "+Inf"]
    running = list(accumulate(series.counts))
    buckets = [f'{start}"{limit}"}} {count}\n' for limit, count in zip(limits, running, strict=True)]
    if exemplars and series.exemplars:
        for index, exemplar in list(series.exemplars.items()):
            buckets[index] = buckets[index][:-1] + _exemplar(exemplar)
    return "".join(buckets) + _line(f"{name}_sum", labels, series.total) + _line(f"{name}_count", labels, running[-1])


def _exemplar(exemplar: Exemplar) -> str:
    ids = f'trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"'
    return f" # {{{ids}}} {exemplar.value} {exemplar.at:.3f}\n"


def _encode(slices: Iterator[bytes], *, gzip: bool) -> Iterator[bytes]:
    if not gzip:
        yield from slices
        return
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    for piece in slices:
        yield packer.compress(piece)
    yield packer.flush()


def _page(pieces: list[bytes], *, openmetrics: bool, gzip: bool) -> Page:
    return OPENMETRICS if openmetrics else TEXT, b"gzip" if gzip else None, b"".join(pieces)
