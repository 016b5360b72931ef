"""The table of metrics (interface.md section 4): counters of Metrics and gauges read when asked, as points.

A family is made of plain numbers and label strings, so that what renders, exports or adds them up needs to know nothing
of what is counted.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

from sidecar import __version__
from sidecar.model.status import CertificateStatus, ConfigStatus, HealthStatus, KubeStatus, UpstreamStatus, WorkersStatus
from sidecar.observe.metrics import OTHER, Metrics, Traffic
from sidecar.observe.runtime import RuntimeSample, RuntimeSampler
from sidecar.observe.series import Family, Point, by_label, pairs
from sidecar.observe.watchdog import Culprit
from sidecar.policy.overload import Action

STATES: Final = ("healthy", "unhealthy", "ejected", "draining")
NO_SPANS: Final = {"queue_full": 0, "export_failed": 0}
"""`spans_dropped_total` has both series from the start: a rate needs a zero to begin at."""
NO_EXPORTS: Final = {"success": 0, "failed": 0}


class Families:
    """Collects every family of `outrider_`. The callables are asked at each scrape; they must be quick."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        upstreams: Callable[[], Iterable[UpstreamStatus]],
        config: Callable[[], ConfigStatus],
        kube: Callable[[], KubeStatus],
        certificates: Callable[[], Iterable[CertificateStatus]],
        runtime: RuntimeSampler,
        log_lines_dropped: Callable[[], int],
        spans_dropped: Callable[[], Mapping[str, int]],
        metric_exports: Callable[[], Mapping[str, int]],
        observer_failures: Callable[[], Mapping[str, int]],
        workers: Callable[[], WorkersStatus] = WorkersStatus,
    ) -> None:
        """`spans_dropped` by why, `metric_exports` by result, `observer_failures` by observer."""
        self._metrics = metrics
        self._upstreams = upstreams
        self._config = config
        self._kube = kube
        self._certificates = certificates
        self._runtime = runtime
        self._log_lines_dropped = log_lines_dropped
        self._spans_dropped = spans_dropped
        self._metric_exports = metric_exports
        self._observer_failures = observer_failures
        self._workers = workers

    def collect(self) -> Iterator[Family]:
        """All families, in the order of the table. Each is read when the iterator comes to it."""
        self._metrics.sweep()
        yield from self._of_traffic()
        yield from self._of_listeners()
        yield from self._of_retries()
        yield from self._of_upstreams()
        yield from self._of_registry(tuple(self._upstreams()))
        yield from self._of_config(self._config())
        yield from self._of_kube(self._kube())
        yield from self._of_certificates(tuple(self._certificates()))
        yield from self._of_runtime(self._runtime.sample())
        yield from self._of_limits()
        yield from self._of_telemetry()
        workers = self._workers()
        yield _one("workers", "gauge", "Processes that serve traffic.", workers.serving)
        yield _one("worker_exits_total", "counter", "Workers that have ended without being told to.", workers.exits)
        yield _one("build_info", "gauge", "The running version.", 1, pairs(version=__version__, python=platform.python_version()))

    def _of_traffic(self) -> Iterator[Family]:
        series = list(self._metrics.traffic.values())
        yield Family(
            "requests_total", "counter", "Finished requests; reason is none when the upstream answered.", _joined(map(_requests, series))
        )
        yield Family(
            "request_duration_seconds",
            "histogram",
            "From the request's head to the last byte of the response; tunnels are not in it.",
            ((one.labels, one.durations) for one in series),
        )
        yield Family("request_bytes_total", "counter", "Bytes of request bodies.", ((one.labels, one.bytes_in) for one in series))
        yield Family("response_bytes_total", "counter", "Bytes of response bodies.", ((one.labels, one.bytes_out) for one in series))

    def _of_listeners(self) -> Iterator[Family]:
        doors = list(self._metrics.doors.values())
        yield Family("active_requests", "gauge", "Requests in flight, tunnels included.", ((door.labels, door.active) for door in doors))
        yield Family(
            "active_tunnels",
            "gauge",
            "Open tunnels (CONNECT, WebSocket, other upgrades).",
            ((door.labels, door.tunnels) for door in doors),
        )
        yield Family(
            "downstream_connections_active", "gauge", "Open connections of clients.", ((door.labels, door.connections) for door in doors)
        )
        yield Family(
            "downstream_connections_total",
            "counter",
            "Connections that clients have opened.",
            ((door.labels, door.connections_total) for door in doors),
        )
        yield Family(
            "rejected_messages_total",
            "counter",
            "Messages refused, by the rule that they broke.",
            _joined(by_label(door.labels, "kind", door.rejected) for door in doors),
        )

        yield Family(
            "tls_handshakes_total",
            "counter",
            "TLS handshakes of clients, by how they ended.",
            _joined(by_label(door.labels, "result", door.handshakes) for door in doors),
        )

    def _of_retries(self) -> Iterator[Family]:
        troubles = list(self._metrics.trouble.values())
        yield Family(
            "retries_total",
            "counter",
            "Retries, by what made them necessary.",
            _joined(by_label(one.labels, "reason", one.retries) for one in troubles),
        )
        yield Family(
            "retries_skipped_total",
            "counter",
            "Retries that the policy wanted and that were not made.",
            _joined(by_label(one.labels, "why", one.skipped) for one in troubles),
        )
        yield Family(
            "timeouts_total", "counter", "Clocks that fired.", _joined(by_label(one.labels, "clock", one.timeouts) for one in troubles)
        )

    def _of_upstreams(self) -> Iterator[Family]:
        far = list(self._metrics.far.values())
        yield Family(
            "attempts_total", "counter", "Attempts, by outcome.", _joined(by_label(one.labels, "outcome", one.outcomes) for one in far)
        )
        yield Family(
            "upstream_response_duration_seconds",
            "histogram",
            "From the request sent to the response's head, of each attempt.",
            ((one.labels, one.responses) for one in far),
        )
        yield Family(
            "upstream_connects_total",
            "counter",
            "Attempts to connect, by result.",
            _joined(by_label(one.labels, "result", one.connects) for one in far),
        )
        yield Family(
            "upstream_connect_duration_seconds",
            "histogram",
            "Name look-up and handshakes of connections that came about.",
            ((one.labels, one.connect_times) for one in far),
        )

    def _of_registry(self, upstreams: tuple[UpstreamStatus, ...]) -> Iterator[Family]:
        yield Family("upstream_connections_open", "gauge", "Connections to endpoints, by state.", _joined(map(_connections, upstreams)))
        yield Family(
            "upstream_pending_requests",
            "gauge",
            "Requests waiting for a connection.",
            ((pairs(upstream=one.name), one.pending) for one in upstreams),
        )
        yield Family("upstream_endpoints", "gauge", "Endpoints, by state.", _joined(map(_endpoints, upstreams)))
        yield Family(
            "mirrored_requests_total",
            "counter",
            "Copies of requests, by what became of them; body and busy: none was made.",
            _joined(by_label(pairs(upstream=one.name), "result", one.copies) for one in upstreams),
        )
        yield from self._of_health([(pairs(upstream=one.name), one.health) for one in upstreams if one.health is not None])

    def _of_health(self, judged: list[tuple[str, HealthStatus]]) -> Iterator[Family]:
        yield Family(
            "endpoint_ejections_total",
            "counter",
            "Endpoints taken out by outlier detection, by criterion.",
            _joined(by_label(labels, "why", health.ejections) for labels, health in judged),
        )
        yield Family(
            "health_checks_total",
            "counter",
            "Health checks of endpoints, by result.",
            _joined(by_label(labels, "result", health.checks) for labels, health in judged),
        )
        yield Family(
            "upstream_circuit_open",
            "gauge",
            "1 while the circuit breaker refuses requests, or tries whether it still must.",
            ((labels, int(health.circuit != "closed")) for labels, health in judged if health.circuit),
        )

    def _of_config(self, config: ConfigStatus) -> Iterator[Family]:
        yield Family(
            "config_updates_total",
            "counter",
            "Documents seen, by what became of them.",
            [(pairs(source=source, result=result), count) for (source, result), count in config.updates.items()],
        )
        labels = pairs(source=config.source, revision=config.revision, hash=config.hash)
        yield _one("config_info", "gauge", "The active configuration.", 1 if config.source else None, labels)
        yield _one(
            "config_last_applied_timestamp_seconds",
            "gauge",
            "When the active configuration was applied, Unix time.",
            config.last_applied_timestamp or None,
        )
        yield _one(
            "config_rejected",
            "gauge",
            "1 when the newest document was refused: what is active, if anything, is older.",
            int(config.rejected),
        )
        connected = [(pairs(source=source), int(up)) for source, up in config.source_connected.items()]
        yield Family("config_source_connected", "gauge", "1 when the source can be read.", connected)

    def _of_kube(self, kube: KubeStatus) -> Iterator[Family]:
        yield Family(
            "config_events_total",
            "counter",
            "Kubernetes Events about documents, by what became of them.",
            by_label("", "result", kube.events),
        )
        yield Family(
            "kube_requests_total",
            "counter",
            "Lists and watches of the API server that have ended, by how.",
            [(pairs(resource=resource, verb=verb, outcome=outcome), count) for (resource, verb, outcome), count in kube.requests.items()],
        )
        yield Family(
            "kube_watches",
            "gauge",
            "What is followed through the API server, by whether it can be read now.",
            [(pairs(resource=resource, state=state), count) for (resource, state), count in kube.watches.items()],
        )

    def _of_certificates(self, certificates: tuple[CertificateStatus, ...]) -> Iterator[Family]:
        there = [(pairs(source=one.source), one.not_after) for one in certificates if one.not_after is not None]
        yield Family("certificate_not_after_timestamp_seconds", "gauge", "When a certificate of ours expires, Unix time.", there)
        usable = [(pairs(source=one.source), int(not one.problem)) for one in certificates]
        yield Family(
            "certificate_current",
            "gauge",
            "1 when the newest certificate of its source is in use, 0 when it is missing or no good.",
            usable,
        )

    def _of_runtime(self, now: RuntimeSample) -> Iterator[Family]:
        yield Family("event_loop_lag_seconds", "histogram", "How late the event loop came to its heartbeat.", [("", self._runtime.lag)])
        blocked = {culprit.value: self._runtime.watchdog.blocks[culprit] for culprit in Culprit}
        yield Family(
            "event_loop_blocked_total",
            "counter",
            "Times that the event loop was held up for more than 100 ms, by what held it up.",
            by_label("", "culprit", blocked),
        )
        yield _one("file_descriptors", "gauge", "Open file descriptors.", now.descriptors)
        yield _one("file_descriptors_limit", "gauge", "Open file descriptors allowed.", now.descriptors_limit)
        yield _one("memory_usage_bytes", "gauge", "Resident memory.", now.rss_bytes)
        yield _one("memory_limit_bytes", "gauge", "The cgroup's limit; absent when there is none.", now.memory_limit_bytes)
        yield _one("cpu_throttled_seconds_total", "counter", "Time for which the cgroup's CPU quota held us back.", now.throttled_seconds)
        network = [(pairs(interface=name), traffic) for name, traffic in now.network.items()]
        yield Family(
            "network_receive_bytes_total",
            "counter",
            "Bytes received in our network namespace, the application's included.",
            [(labels, traffic.received) for labels, traffic in network],
        )
        yield Family(
            "network_transmit_bytes_total",
            "counter",
            "Bytes sent in our network namespace, the application's included.",
            [(labels, traffic.transmitted) for labels, traffic in network],
        )

    def _of_limits(self) -> Iterator[Family]:
        pressure = self._runtime.pressure
        yield Family(
            "resource_usage_ratio",
            "gauge",
            "Share of a limit that is used; for cpu the share of time that the quota took away.",
            by_label("", "resource", pressure.shares()),
        )
        yield Family(
            "resource_near_limit",
            "gauge",
            "1 when a resource is so near its limit that the log has warned.",
            by_label("", "resource", pressure.near()),
        )
        overload = self._runtime.overload
        yield Family(
            "overload_level",
            "gauge",
            "What is given up because a resource is short: 0 nothing, 1 idle connections, 2 new requests too, 3 new connections too.",
            by_label("", "resource", {resource: int(level) for resource, level in overload.levels.items()}),
        )
        yield Family(
            "overload_actions_total",
            "counter",
            "What has been given up because memory or descriptors were short.",
            by_label("", "action", {action.value: overload.actions[action] for action in Action}),
        )

    def _of_telemetry(self) -> Iterator[Family]:
        yield Family(
            "spans_dropped_total",
            "counter",
            "Spans that the collector never got.",
            by_label("", "why", {**NO_SPANS, **self._spans_dropped()}),
        )
        yield Family(
            "metric_exports_total",
            "counter",
            "Metrics sent to a collector, by result.",
            by_label("", "result", {**NO_EXPORTS, **self._metric_exports()}),
        )
        yield _one(
            "log_lines_dropped_total",
            "counter",
            "Log lines lost because whoever reads our output was slow or gone.",
            self._log_lines_dropped(),
        )
        yield Family(
            "observer_failures_total",
            "counter",
            "Failures inside an observer (metrics, log, recorder); a bug, but never a request's problem.",
            by_label("", "observer", self._observer_failures()),
        )


def _joined(blocks: Iterable[list[Point]]) -> Iterator[Point]:
    return chain.from_iterable(blocks)


def _one(name: str, kind: str, text: str, value: float | None, labels: str = "") -> Family:
    """A family of one series; of none when there is no value."""
    return Family(name, kind, text, [] if value is None else [(labels, value)])


def _requests(series: Traffic) -> list[Point]:
    labels = series.labels
    return [
        (f'{labels},method="{method}",code="{status or OTHER}",reason="{reason or "none"}"', count)
        for (method, status, reason), count in series.requests.items()
    ]


def _connections(upstream: UpstreamStatus) -> list[Point]:
    states = {"active": upstream.connections_active, "idle": upstream.connections_idle, "connecting": upstream.connections_connecting}
    return by_label(pairs(upstream=upstream.name), "state", states)


def _endpoints(upstream: UpstreamStatus) -> list[Point]:
    states = dict.fromkeys(STATES, 0)
    for endpoint in upstream.endpoints:
        states[endpoint.state] = states.get(endpoint.state, 0) + 1
    return by_label(pairs(upstream=upstream.name), "state", states)
