"""The table of metrics (interface.md section 4): counters of Metrics and gauges read at scrape time, as exposition lines."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping

from sidecar import __version__
from sidecar.model.status import ConfigStatus, UpstreamStatus
from sidecar.observe.metrics import OTHER, Metrics, Traffic
from sidecar.observe.runtime import RuntimeSample, RuntimeSampler
from sidecar.observe.series import Family, by_label, line, pairs

STATES = ("healthy", "unhealthy", "ejected", "draining")


class Families:
    """Collects every family of `outrider_`. The callables are asked at each scrape; they must be quick."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        upstreams: Callable[[], Iterable[UpstreamStatus]],
        config: Callable[[], ConfigStatus],
        runtime: RuntimeSampler,
        log_lines_dropped: Callable[[], int],
        observer_failures: Callable[[], Mapping[str, int]],
    ) -> None:
        self._metrics = metrics
        self._upstreams = upstreams
        self._config = config
        self._runtime = runtime
        self._log_lines_dropped = log_lines_dropped
        self._observer_failures = observer_failures

    def collect(self) -> Iterator[Family]:
        """All families, in the order of the table. Each is read when the iterator comes to it."""
        self._metrics.sweep()
        yield from self._of_traffic()
        yield from self._of_listeners()
        yield from self._of_retries()
        yield from self._of_upstreams()
        yield from self._of_registry(tuple(self._upstreams()))
        yield from self._of_config(self._config())
        yield from self._of_runtime(self._runtime.sample())
        yield Family(
            "log_lines_dropped_total",
            "counter",
            "Log lines lost because whoever reads our output was slow or gone.",
            [line("log_lines_dropped_total", "", self._log_lines_dropped())],
        )
        yield Family(
            "observer_failures_total",
            "counter",
            "Failures inside an observer (metrics, log, recorder); a bug, but never a request's problem.",
            [by_label("observer_failures_total", "", "observer", self._observer_failures())],
        )
        yield Family(
            "build_info",
            "gauge",
            "The running version.",
            [line("build_info", pairs(version=__version__, python=platform.python_version()), 1)],
        )

    def _of_traffic(self) -> Iterator[Family]:
        series = list(self._metrics.traffic.values())
        yield Family("requests_total", "counter", "Finished requests; reason is none when the upstream answered.", map(_requests, series))
        yield Family(
            "request_duration_seconds",
            "histogram",
            "From the request's head to the last byte of the response; tunnels are not in it.",
            (one.durations.render("request_duration_seconds", one.labels) for one in series),
        )
        yield Family(
            "request_bytes_total",
            "counter",
            "Bytes of request bodies.",
            (line("request_bytes_total", one.labels, one.bytes_in) for one in series),
        )
        yield Family(
            "response_bytes_total",
            "counter",
            "Bytes of response bodies.",
            (line("response_bytes_total", one.labels, one.bytes_out) for one in series),
        )

    def _of_listeners(self) -> Iterator[Family]:
        doors = list(self._metrics.doors.values())
        yield Family(
            "active_requests",
            "gauge",
            "Requests in flight, tunnels included.",
            (line("active_requests", door.labels, door.active) for door in doors),
        )
        yield Family(
            "active_tunnels",
            "gauge",
            "Open tunnels (CONNECT, WebSocket, other upgrades).",
            (line("active_tunnels", door.labels, door.tunnels) for door in doors),
        )
        yield Family(
            "downstream_connections_active",
            "gauge",
            "Open connections of clients.",
            (line("downstream_connections_active", door.labels, door.connections) for door in doors),
        )
        yield Family(
            "downstream_connections_total",
            "counter",
            "Connections that clients have opened.",
            (line("downstream_connections_total", door.labels, door.connections_total) for door in doors),
        )
        yield Family(
            "rejected_messages_total",
            "counter",
            "Messages refused, by the rule that they broke.",
            (by_label("rejected_messages_total", door.labels, "kind", door.rejected) for door in doors),
        )

    def _of_retries(self) -> Iterator[Family]:
        troubles = list(self._metrics.trouble.values())
        yield Family(
            "retries_total",
            "counter",
            "Retries, by what made them necessary.",
            (by_label("retries_total", one.labels, "reason", one.retries) for one in troubles),
        )
        yield Family(
            "retries_skipped_total",
            "counter",
            "Retries that the policy wanted and that were not made.",
            (by_label("retries_skipped_total", one.labels, "why", one.skipped) for one in troubles),
        )
        yield Family(
            "timeouts_total",
            "counter",
            "Clocks that fired.",
            (by_label("timeouts_total", one.labels, "clock", one.timeouts) for one in troubles),
        )

    def _of_upstreams(self) -> Iterator[Family]:
        far = list(self._metrics.far.values())
        yield Family(
            "attempts_total",
            "counter",
            "Attempts, by outcome.",
            (by_label("attempts_total", one.labels, "outcome", one.outcomes) for one in far),
        )
        yield Family(
            "upstream_response_duration_seconds",
            "histogram",
            "From the request sent to the response's head, of each attempt.",
            (one.responses.render("upstream_response_duration_seconds", one.labels) for one in far),
        )
        yield Family(
            "upstream_connects_total",
            "counter",
            "Attempts to connect, by result.",
            (by_label("upstream_connects_total", one.labels, "result", one.connects) for one in far),
        )
        yield Family(
            "upstream_connect_duration_seconds",
            "histogram",
            "Name look-up and handshakes of connections that came about.",
            (one.connect_times.render("upstream_connect_duration_seconds", one.labels) for one in far),
        )

    def _of_registry(self, upstreams: tuple[UpstreamStatus, ...]) -> Iterator[Family]:
        yield Family("upstream_connections_open", "gauge", "Connections to endpoints, by state.", map(_connections, upstreams))
        yield Family(
            "upstream_pending_requests",
            "gauge",
            "Requests waiting for a connection.",
            (line("upstream_pending_requests", pairs(upstream=one.name), one.pending) for one in upstreams),
        )
        yield Family("upstream_endpoints", "gauge", "Endpoints, by state.", map(_endpoints, upstreams))

    def _of_config(self, config: ConfigStatus) -> Iterator[Family]:
        updates = (
            line("config_updates_total", pairs(source=source, result=result), count) for (source, result), count in config.updates.items()
        )
        yield Family("config_updates_total", "counter", "Documents seen, by what became of them.", updates)
        active = [line("config_info", pairs(source=config.source, revision=config.revision, hash=config.hash), 1)] if config.source else []
        yield Family("config_info", "gauge", "The active configuration.", active)
        applied = (
            [line("config_last_applied_timestamp_seconds", "", config.last_applied_timestamp)] if config.last_applied_timestamp else []
        )
        yield Family("config_last_applied_timestamp_seconds", "gauge", "When the active configuration was applied, Unix time.", applied)
        yield Family(
            "config_rejected",
            "gauge",
            "1 when the newest document was refused: what is active, if anything, is older.",
            [line("config_rejected", "", int(config.rejected))],
        )
        connected = (line("config_source_connected", pairs(source=source), int(up)) for source, up in config.source_connected.items())
        yield Family("config_source_connected", "gauge", "1 when the source can be read.", connected)

    def _of_runtime(self, now: RuntimeSample) -> Iterator[Family]:
        yield Family(
            "event_loop_lag_seconds",
            "histogram",
            "How late the event loop came to its heartbeat.",
            [self._runtime.lag.render("event_loop_lag_seconds", "")],
        )
        yield _plain("file_descriptors", "gauge", "Open file descriptors.", now.descriptors)
        yield _plain("file_descriptors_limit", "gauge", "Open file descriptors allowed.", now.descriptors_limit)
        yield _plain("memory_usage_bytes", "gauge", "Resident memory.", now.rss_bytes)
        yield _plain("memory_limit_bytes", "gauge", "The cgroup's limit; absent when there is none.", now.memory_limit_bytes)
        yield _plain("cpu_throttled_seconds_total", "counter", "Time for which the cgroup's CPU quota held us back.", now.throttled_seconds)
        network = [(pairs(interface=name), traffic) for name, traffic in now.network.items()]
        received = (line("network_receive_bytes_total", labels, traffic.received) for labels, traffic in network)
        yield Family(
            "network_receive_bytes_total", "counter", "Bytes received in our network namespace, the application's included.", received
        )
        transmitted = (line("network_transmit_bytes_total", labels, traffic.transmitted) for labels, traffic in network)
        yield Family(
            "network_transmit_bytes_total", "counter", "Bytes sent in our network namespace, the application's included.", transmitted
        )


def _plain(name: str, kind: str, text: str, value: float | None) -> Family:
    return Family(name, kind, text, [] if value is None else [line(name, "", value)])


def _requests(series: Traffic) -> str:
    labels = series.labels
    return "".join(
        [
            line("requests_total", f'{labels},method="{method}",code="{status or OTHER}",reason="{reason or "none"}"', count)
            for (method, status, reason), count in series.requests.items()
        ]
    )


def _connections(upstream: UpstreamStatus) -> str:
    states = {"active": upstream.connections_active, "idle": upstream.connections_idle, "connecting": upstream.connections_connecting}
    return by_label("upstream_connections_open", pairs(upstream=upstream.name), "state", states)


def _endpoints(upstream: UpstreamStatus) -> str:
    states = dict.fromkeys(STATES, 0)
    for endpoint in upstream.endpoints:
        states[endpoint.state] = states.get(endpoint.state, 0) + 1
    return by_label("upstream_endpoints", pairs(upstream=upstream.name), "state", states)
