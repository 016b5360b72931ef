"""What the injector counts, and its metrics (docs/reference.md, "Metrics of the injector")."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Final

from sidecar import __version__
from sidecar.injector.mutate import Outcome
from sidecar.observe.series import Family, Histogram, Point, by_label, pairs

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds; 0.02 is the goal for the 99th percentile."""


class Failure(StrEnum):
    """Reasons of results `error` and `unknown`: no verdict was reached, the pod may start."""

    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    NO_DEFAULTS = "no_defaults"
    INTERNAL = "internal"


class Validation(StrEnum):
    """`result` of `outrider_injector_config_validations_total`. `unknown`: no verdict was reached, the ConfigMap may be written."""

    VALID = "valid"
    INVALID = "invalid"
    NOT_OURS = "not_ours"
    UNKNOWN = "unknown"


class Tally:
    """Counts reviews. The callables are asked at each scrape."""

    def __init__(self, *, expires: Callable[[], float | None], ready: Callable[[], bool], events: Callable[[], Mapping[str, int]]) -> None:
        """`expires`: of the certificate in use, Unix time; `events` by what became of them."""
        self._expires = expires
        self._ready = ready
        self._events = events
        self._requests: Counter[tuple[str, str]] = Counter({(Outcome.INJECTED.value, "none"): 0})
        self._validations: Counter[str] = Counter({result.value: 0 for result in Validation})
        self._durations = {kind: Histogram(BUCKETS) for kind in ("inject", "validate")}

    def injected(self, outcome: Outcome, reason: str, seconds: float) -> None:
        """A pod's review has been answered."""
        self._requests[outcome.value, str(reason)] += 1
        self._durations["inject"].observe(seconds)

    def validated(self, result: Validation, seconds: float) -> None:
        """A ConfigMap's review has been answered."""
        self._validations[result.value] += 1
        self._durations["validate"].observe(seconds)

    def families(self) -> Iterator[Family]:
        """For the exposition."""
        requests: list[Point] = [(pairs(result=result, reason=reason), count) for (result, reason), count in self._requests.items()]
        yield Family("injector_requests_total", "counter", "Reviews of pods, by what was done and why.", requests)
        yield Family(
            "injector_request_duration_seconds",
            "histogram",
            "From a review's head to its answer.",
            [(pairs(webhook=kind), series) for kind, series in self._durations.items()],
        )
        yield Family(
            "injector_config_validations_total",
            "counter",
            "Reviews of ConfigMaps with a document, by verdict.",
            by_label("", "result", self._validations),
        )
        expires = self._expires()
        yield Family(
            "injector_certificate_expiry_timestamp_seconds",
            "gauge",
            "When the certificate in use expires, Unix time.",
            [] if expires is None else [("", expires)],
        )
        yield Family("injector_ready", "gauge", "1 while the injector is ready.", [("", int(self._ready()))])
        yield Family(
            "injector_events_total", "counter", "Events about refused pods, by what became of them.", by_label("", "result", self._events())
        )
        yield Family(
            "injector_build_info", "gauge", "The running version.", [(pairs(version=__version__, python=platform.python_version()), 1)]
        )
