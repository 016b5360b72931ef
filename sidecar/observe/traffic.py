"""What has been counted so far by listener, route and upstream, as plain numbers: for the plots of the admin page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sidecar.observe.base import TrafficKey
from sidecar.observe.metrics import Metrics


class TrafficCount(NamedTuple):
    """One series since it began. `errors`: answers of 5xx, whoever made them.

    `bounds` are the upper bounds of the buckets of durations in seconds; `counts` has one more, for what is longer.
    """

    key: TrafficKey
    requests: int
    errors: int
    bounds: tuple[float, ...]
    counts: tuple[int, ...]


def traffic_counts(metrics: Metrics) -> Iterator[TrafficCount]:
    """Every series, each read when it is asked for: the caller may let others work in between."""
    for key, series in list(metrics.traffic.items()):
        requests = errors = 0
        for (_method, status, _reason), number in series.requests.items():
            requests += number
            if status >= 500:
                errors += number
        yield TrafficCount(key, requests, errors, series.durations.bounds, tuple(series.durations.counts))
