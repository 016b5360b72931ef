"""Readings: the metrics of several processes, taken off each of them and shown as one.

Counters and histograms add up, those of processes that have ended stay in the sum: a counter never falls. Of a gauge it
depends on what it is about; the table below says it for those that are no sums.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import msgspec

from sidecar.model.snapshot import Snapshot
from sidecar.observe.base import TrafficKey
from sidecar.observe.metrics import FORWARD
from sidecar.observe.series import Exemplar, Family, Histogram, Point
from sidecar.observe.traffic import TrafficCount

OWN: Final = frozenset(
    (
        "config_updates_total",
        "config_info",
        "config_last_applied_timestamp_seconds",
        "config_rejected",
        "config_source_connected",
        "config_events_total",
        "kube_requests_total",
        "kube_watches",
        "file_descriptors_limit",
        "memory_limit_bytes",
        "cpu_throttled_seconds_total",
        "network_receive_bytes_total",
        "network_transmit_bytes_total",
        "metric_exports_total",
        "workers",
        "worker_exits_total",
        "build_info",
    )
)
"""What the process knows that owns the rest, and it alone, or what is the same in all."""
LARGEST: Final = frozenset(
    ("upstream_endpoints", "file_descriptors", "resource_usage_ratio", "resource_near_limit", "overload_level", "upstream_circuit_open")
)
"""What each process has for itself of the same thing."""
SMALLEST: Final = frozenset(("certificate_not_after_timestamp_seconds", "certificate_current"))
"""The same, where the worst of them is the lowest."""

TRAFFIC: Final = frozenset(("requests_total", "request_duration_seconds"))
"""What `traffic_in` looks at."""

SLICE: Final = 500
"""Series that are packed at a stretch, a millisecond or two."""

_HOW: Final[dict[str, Callable[[Any, Any], Any]]] = {**dict.fromkeys(LARGEST, max), **dict.fromkeys(SMALLEST, min)}

Series = dict[str, float | Histogram]
"""Value by labels."""
Reading = Mapping[str, Series]
"""Series by family: a process at one moment."""

_label: Final = re.compile(r'(listener|route|upstream)="((?:[^"\\]|\\.)*)"')
_escape: Final = re.compile(r"\\(.)")
_code: Final = re.compile(r',code="([0-9]+)"')
_encode: Final = msgspec.msgpack.Encoder().encode


class _Wire(msgspec.Struct, array_like=True):
    """Series of a family between processes. Histograms: (labels, which of `bounds`, counts, total, exemplars by bucket)."""

    name: str
    numbers: list[tuple[str, int | float]]
    bounds: list[tuple[float, ...]]
    histograms: list[tuple[str, int, list[int], float, dict[int, Exemplar] | None]]


_decode: Final = msgspec.msgpack.Decoder(_Wire).decode


def pack(families: Iterable[Family]) -> Iterator[bytes]:
    """Families for the way to another process, SLICE series at a time; those that count only there stay here."""
    for family in families:
        if family.name not in OWN:
            points = iter(family.points)
            while some := list(islice(points, SLICE)):
                yield _packed(family.name, some)


def _packed(name: str, points: list[Point]) -> bytes:
    wire = _Wire(name, [], [], [])
    known: dict[tuple[float, ...], int] = {}
    for labels, value in points:
        if isinstance(value, Histogram):
            bounds = known.setdefault(value.bounds, len(known))
            wire.histograms.append((labels, bounds, value.counts, value.total, value.exemplars))
        else:
            wire.numbers.append((labels, value))
    wire.bounds = list(known)
    return _encode(wire)


def unpack(packed: Iterable[bytes]) -> Iterator[tuple[str, Series]]:
    """The families again, slice by slice: a name may come several times."""
    for data in packed:
        wire = _decode(data)
        series: Series = dict(wire.numbers)
        for labels, bounds, counts, total, exemplars in wire.histograms:
            histogram = series[labels] = Histogram(wire.bounds[bounds])
            histogram.counts, histogram.total, histogram.exemplars = counts, total, exemplars
        yield wire.name, series


def merged(own: Iterable[Family], readings: Sequence[Reading]) -> Iterator[Family]:
    """`own`, with what the others have."""
    for family in own:
        if family.name in OWN:
            yield family
        else:
            yield family._replace(points=_merged(family, readings))


def _merged(family: Family, readings: Sequence[Reading]) -> list[Point]:
    total: Series = {}
    add = _HOW.get(family.name, operator.add)
    for points in (family.points, *(reading.get(family.name, {}).items() for reading in readings)):
        for labels, value in points:
            before = total.get(labels)
            if before is None:
                total[labels] = value.copy() if isinstance(value, Histogram) else value
            elif isinstance(before, Histogram):
                if isinstance(value, Histogram):
                    _add(before, value)
            elif not isinstance(value, Histogram):
                total[labels] = add(before, value)
    return list(total.items())


def _add(total: Histogram, more: Histogram) -> None:
    if more.bounds != total.bounds:  # the document has changed the buckets: these begin anew
        return
    total.counts = [a + b for a, b in zip(total.counts, more.counts, strict=True)]
    total.total += more.total
    for bucket, exemplar in (more.exemplars or {}).items():
        known = None if total.exemplars is None else total.exemplars.get(bucket)
        if known is None or known.at < exemplar.at:
            total.exemplars = {**(total.exemplars or {}), bucket: exemplar}


def retained(before: Reading, ended: Reading, kinds: Mapping[str, str]) -> dict[str, Series]:
    """What stays of processes that have ended: `before`, and one more. `kinds` by family."""
    counted = {name: dict(series) for name, series in before.items()}
    for name, series in ended.items():
        if kinds.get(name) in ("counter", "histogram"):
            counted[name] = dict(_merged(Family(name, "", "", list(counted.get(name, {}).items())), [{name: series}]))
    return counted


def configured(reading: Reading, snapshot: Snapshot) -> dict[str, Series]:
    """Without the series of what the configuration does not have, or counts in other buckets."""
    names: dict[str, Collection[str]] = {
        "listener": {"", *(listener.name for listener in snapshot.listeners)},
        "route": {"", *(route.name for route in snapshot.routes)},
        "upstream": {"", FORWARD, *snapshot.upstreams},
    }
    buckets = snapshot.telemetry.buckets

    def current(labels: str, value: float | Histogram) -> bool:
        # Histograms without labels are of the process itself, in buckets that no document changes.
        return _known(labels, names) and not (labels and isinstance(value, Histogram) and value.bounds != buckets)

    return {name: {labels: value for labels, value in series.items() if current(labels, value)} for name, series in reading.items()}


def _known(labels: str, names: Mapping[str, Collection[str]]) -> bool:
    return all(value in names[label] for label, value in names_in(labels).items())


def names_in(labels: str) -> dict[str, str]:
    """`listener`, `route` and `upstream`, as far as the labels have them."""
    return {label: _escape.sub(_unescape, value) if "\\" in value else value for label, value in _label.findall(labels)}


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def traffic_in(families: Iterable[Family]) -> Iterator[TrafficCount]:
    """What `traffic.traffic_counts` says of one process, of merged families."""
    counts: dict[TrafficKey, tuple[int, int]] = {}
    durations: dict[TrafficKey, Histogram] = {}
    for family in families:
        for labels, value in family.points:
            key = _traffic_key(labels)
            if isinstance(value, Histogram):
                durations[key] = value
            else:
                requests, errors = counts.get(key, (0, 0))
                code = _code.search(labels)
                failed = int(value) if code is not None and int(code[1]) >= 500 else 0
                counts[key] = (requests + int(value), errors + failed)
    for key, (requests, errors) in counts.items():
        histogram = durations.get(key)
        if histogram is not None:
            yield TrafficCount(key, requests, errors, histogram.bounds, tuple(histogram.counts))


@lru_cache(maxsize=16_384)
def _traffic_key(labels: str) -> TrafficKey:
    names = names_in(labels)
    return names.get("listener", ""), names.get("route", ""), names.get("upstream", "")
