"""The dashboard for whoever runs the sidecars themselves: one process, its configuration, its limits, its connections."""

from __future__ import annotations

from charts.source.board import Board, Panels, Variable
from charts.source.links import PROCESS, see
from charts.source.panels import BYTES, BYTES_PER_SECOND, COUNT, EVENTS, PERCENT, SECONDS, Column, Query, graph, grid, heat, number
from charts.source.promql import Scope, target, total

HERE = Scope([("namespace", '=~"$namespace"'), ("pod", '=~"$pod"')], "$__rate_interval")
MEMORY, FILES = '="memory"', '="file_descriptors"'
VARIABLES = (
    Variable(
        name="namespace",
        label="Namespace",
        description="Namespaces that have sidecars",
        query="label_values(outrider_build_info, namespace)",
    ),
    Variable(
        name="pod",
        label="Pod",
        description="Pods that have a sidecar",
        query='label_values(outrider_build_info{namespace=~"$namespace"}, pod)',
    ),
)


def board() -> Board:
    """The sidecar itself."""
    return Board(
        uid=PROCESS,
        title="Outrider / Sidecar",
        description="The process: what it was told, what it uses, how near its limits it is.",
        variables=VARIABLES,
        deploys=HERE,
        rows=(
            ("Now", _now()),
            ("Configuration", _configuration()),
            ("Processor and event loop", _processor()),
            ("Memory, files, network", _limits()),
            ("Connections", _connections()),
            ("Kubernetes", _kubernetes()),
            ("Telemetry itself", _telemetry()),
        ),
    )


def _now() -> Panels:
    return [
        number(
            "Up for",
            "Since the youngest of the chosen processes started." + see("OutriderRestarting"),
            f"min(time() - ({target(HERE.of('process_start_time_seconds'))}))",
            unit=SECONDS,
        ),
        number(
            "Refused documents",
            "Sidecars whose newest document was refused." + see("OutriderConfigRejected"),
            total(HERE.of("config_rejected")),
            warn=1,
            bad=1,
        ),
        number(
            "Sources that cannot be read",
            "Files or ConfigMaps that a sidecar follows and cannot read now; what is active stays." + see("OutriderConfigSourceLost"),
            f"sum(1 - {HERE.of('config_source_connected')})",
            warn=1,
            bad=1,
        ),
        number(
            "Memory of its limit",
            "The fullest one. At 100 % the kernel ends the container." + see("OutriderMemory"),
            f"max({HERE.of('resource_usage_ratio', resource=MEMORY)})",
            unit=PERCENT,
            warn=0.75,
            bad=0.9,
        ),
        number(
            "Open files of the limit",
            "The fullest one. At the limit no connection is accepted or made." + see("OutriderFileDescriptors"),
            f"max({HERE.of('resource_usage_ratio', resource=FILES)})",
            unit=PERCENT,
            warn=0.5,
            bad=0.8,
        ),
        number(
            "Loop lag p99",
            "How late the event loop comes; every request waits that long in addition." + see("OutriderEventLoopLag"),
            HERE.quantile(0.99, "event_loop_lag_seconds"),
            unit=SECONDS,
            warn=0.025,
            bad=0.1,
        ),
    ]


def _configuration() -> Panels:
    return [
        grid(
            "In force",
            "`revision` is a ConfigMap's resourceVersion or a file's time; `hash` is of the document. `last_good`: the sidecar started on a bad document and serves by the one before.",
            Column(title="sidecars", expr=f"count by (source, revision, hash) ({HERE.of('config_info')})"),
            span=10,
        ),
        graph(
            "Documents seen",
            "`unchanged`: the same bytes again. `rejected`: `GET /config/problems` on the admin surface says what and where."
            + see("OutriderConfigRejected"),
            Query(expr=total(HERE.rate("config_updates_total"), "source, result"), legend="{{source}}: {{result}}"),
            unit=EVENTS,
            span=7,
        ),
        graph(
            "Time since the last change",
            "A line that jumps to zero is a document that came into force." + see("OutriderConfigDiffers"),
            Query(expr=f"time() - {HERE.of('config_last_applied_timestamp_seconds')}", legend="{{pod}}"),
            unit=SECONDS,
            span=7,
        ),
    ]


def _processor() -> Panels:
    return [
        graph(
            "Processor",
            "Cores used. One process uses one core at most; a line near the number of workers needs more pods, or more `--workers`."
            + see("OutriderEventLoopLag"),
            Query(expr=target(HERE.rate("process_cpu_seconds_total")), legend="{{pod}}"),
            unit=COUNT,
            warn=0.8,
        ),
        graph(
            "Throttled",
            "Share of time for which the CPU limit held the container back. Every request is slower meanwhile; raise the limit or leave it out."
            + see("OutriderCPUThrottled"),
            Query(expr=HERE.rate("cpu_throttled_seconds_total"), legend="{{pod}}"),
            unit=PERCENT,
            bad=0.1,
        ),
        graph(
            "Event loop lag",
            "p50 and p99 of how late the heartbeat came." + see("OutriderEventLoopLag"),
            Query(expr=HERE.quantile(0.5, "event_loop_lag_seconds", "pod"), legend="{{pod}} median"),
            Query(expr=HERE.quantile(0.99, "event_loop_lag_seconds", "pod"), legend="{{pod}} p99"),
            unit=SECONDS,
            bad=0.1,
        ),
        heat(
            "How lag spreads",
            "A band far above the rest is something that blocks the loop now and then.",
            total(HERE.rate("event_loop_lag_seconds_bucket"), "le"),
        ),
        graph(
            "What held the loop up",
            "Times that it stood for more than 100 ms. `code`: ours ran too long, the log's warning has the stack. `wait`: something that blocks. `throttled`: the CPU limit. `starved`: the node has no CPU left."
            + see("OutriderEventLoopLag"),
            Query(expr=total(HERE.rate("event_loop_blocked_total"), "pod, culprit"), legend="{{pod}}: {{culprit}}"),
            unit=EVENTS,
        ),
        graph(
            "Workers",
            "Processes that serve traffic, and those that have ended without being told to (`worker_exited` in the log says why). More than one with `--workers`.",
            Query(expr=HERE.of("workers"), legend="{{pod}}"),
            Query(expr=HERE.rate("worker_exits_total"), legend="{{pod}} ended, per second"),
            unit=COUNT,
        ),
        graph(
            "Garbage collections",
            "By generation; the oldest one is the slow one.",
            Query(
                expr=total(target(HERE.rate("python_gc_collections_total")), "pod, generation"), legend="{{pod}} generation {{generation}}"
            ),
            unit=EVENTS,
        ),
    ]


def _limits() -> Panels:
    return [
        graph(
            "Memory",
            "Resident memory and the container's limit." + see("OutriderMemory"),
            Query(expr=HERE.of("memory_usage_bytes"), legend="{{pod}}"),
            Query(expr=f"min({HERE.of('memory_limit_bytes')})", legend="lowest limit"),
            unit=BYTES,
            span=6,
        ),
        graph(
            "Near a limit",
            "1 where the sidecar itself has warned (`resource_limit` in its log): memory above 0.9, open files above 0.8, a quarter of the time throttled."
            + see("OutriderMemory", "OutriderFileDescriptors", "OutriderCPUThrottled"),
            Query(expr=f"max by (pod, resource) ({HERE.of('resource_near_limit')})", legend="{{pod}}: {{resource}}"),
            unit=COUNT,
            span=6,
        ),
        graph(
            "Overload",
            "What is given up while memory or open files are short: 1 idle connections, 2 new requests too, 3 new connections too.",
            Query(expr=f"max by (pod, resource) ({HERE.of('overload_level')})", legend="{{pod}}: {{resource}}"),
            unit=COUNT,
            span=6,
        ),
        graph(
            "Given up in overload",
            "Idle connections closed, requests refused, exchanges cut.",
            Query(expr=total(HERE.rate("overload_actions_total"), "pod, action"), legend="{{pod}}: {{action}}"),
            unit=EVENTS,
            span=6,
        ),
        graph(
            "Open files",
            "Each exchange needs two." + see("OutriderFileDescriptors"),
            Query(expr=HERE.of("file_descriptors"), legend="{{pod}}"),
            Query(expr=f"min({HERE.of('file_descriptors_limit')})", legend="lowest limit"),
            unit=COUNT,
            span=6,
        ),
        graph(
            "Network of the pod",
            "The application's traffic is in it: the network namespace is shared.",
            Query(expr=total(HERE.rate("network_receive_bytes_total", interface='!="lo"'), "pod"), legend="{{pod}} received"),
            Query(expr=total(HERE.rate("network_transmit_bytes_total", interface='!="lo"'), "pod"), legend="{{pod}} sent"),
            unit=BYTES_PER_SECOND,
            span=6,
        ),
    ]


def _connections() -> Panels:
    return [
        graph(
            "Of clients",
            "Open now, by listener.",
            Query(expr=total(HERE.of("downstream_connections_active"), "listener"), legend="{{listener}}"),
            unit=COUNT,
        ),
        graph(
            "New ones of clients",
            "Per second. Near the rate of requests: clients do not keep their connections.",
            Query(expr=total(HERE.rate("downstream_connections_total"), "listener"), legend="{{listener}}"),
            unit=EVENTS,
        ),
        graph(
            "To upstreams",
            "By state." + see("OutriderPoolSaturated"),
            Query(expr=total(HERE.of("upstream_connections_open"), "upstream, state"), legend="{{upstream}}: {{state}}"),
            unit=COUNT,
        ),
        graph(
            "TLS handshakes of clients",
            "Per second, by how they ended. `alert_received`: most often a client that does not believe our certificate. `certificate_missing`, `certificate_refused`: the client's own.",
            Query(expr=total(HERE.rate("tls_handshakes_total"), "listener, result"), legend="{{listener}}: {{result}}"),
            unit=EVENTS,
        ),
        graph(
            "Certificates expire in",
            "Time left, of each certificate that the document names." + see("OutriderCertificateExpiring"),
            Query(expr=f"min by (source) ({HERE.of('certificate_not_after_timestamp_seconds')}) - time()", legend="{{source}}"),
            unit=SECONDS,
        ),
        graph(
            "Certificates out of date",
            "Pods in which the newest certificate of a source is missing or no good; the last good one is in use, if there is one."
            + see("OutriderCertificateExpiring"),
            Query(expr=f"sum by (source) (1 - {HERE.of('certificate_current')})", legend="{{source}}"),
            unit=COUNT,
        ),
    ]


def _kubernetes() -> Panels:
    return [
        graph(
            "What is followed",
            "Lists that the sidecar follows through the API server; empty for sidecars that read files. `lost`: what it knows is getting old."
            + see("OutriderWatchLost", "OutriderConfigSourceLost"),
            Query(expr=total(HERE.of("kube_watches"), "resource, state"), legend="{{resource}}: {{state}}"),
            unit=COUNT,
        ),
        graph(
            "Requests to the API server",
            "Ended lists and watches by outcome. `forbidden`: a role is missing. `unreachable`, `server_error`: the API server. `ended`, `expired`: as it should be."
            + see("OutriderWatchLost"),
            Query(expr=total(HERE.rate("kube_requests_total"), "resource, verb, outcome"), legend="{{resource}} {{verb}}: {{outcome}}"),
            unit=EVENTS,
        ),
        graph(
            "Events written",
            "Kubernetes Events that tell a document's author what is wrong with it. `refused`: the service account may not create events.",
            Query(expr=total(HERE.rate("config_events_total"), "result"), legend="{{result}}"),
            unit=EVENTS,
        ),
    ]


def _telemetry() -> Panels:
    return [
        graph(
            "Spans lost",
            "`queue_full`: more than the exporter takes. `export_failed`: the collector does not answer. Requests are not slowed by either."
            + see("OutriderSpansDropped"),
            Query(expr=total(HERE.rate("spans_dropped_total"), "pod, why"), legend="{{pod}}: {{why}}"),
            unit=EVENTS,
            span=6,
        ),
        graph(
            "Metrics pushed",
            "Only with `telemetry.metrics.otlp`: exports to the collector by result. Anything but success: does it take metrics at that address?",
            Query(expr=total(HERE.rate("metric_exports_total"), "pod, result"), legend="{{pod}}: {{result}}"),
            unit=EVENTS,
            span=6,
        ),
        graph(
            "Log lines lost",
            "Whoever reads our output is slow or gone. Requests are not slowed by it." + see("OutriderLogLinesDropped"),
            Query(expr=HERE.rate("log_lines_dropped_total"), legend="{{pod}}"),
            unit=EVENTS,
            span=6,
        ),
        graph(
            "Failures of our own observers",
            "Always zero, or a bug: report it with the log's `observer_failed` lines." + see("OutriderObserverFailed"),
            Query(expr=total(HERE.rate("observer_failures_total"), "pod, observer"), legend="{{pod}}: {{observer}}"),
            unit=EVENTS,
            span=6,
        ),
    ]
