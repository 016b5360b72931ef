"""Alerts about configuration, the process and its limits, and telemetry itself."""

from __future__ import annotations

from typing import Final

from charts.source.promql import WORKLOAD, grown, target, total, workload
from charts.source.rules import FIVE, Alert

_PLACE: Final = "{{ $labels.namespace }}/{{ $labels.workload }}"
_POD: Final = "{{ $labels.namespace }}/{{ $labels.pod }}"
_BY_POD: Final = f"{WORKLOAD}, pod"
_SIDECARS: Final = total(workload(FIVE.of("build_info")), WORKLOAD)
_WITH_CONFIG: Final = total(workload(FIVE.of("config_info")), WORKLOAD)
_HASHES: Final = f"count by ({WORKLOAD}, hash) ({workload(FIVE.of('config_info'))})"
_DOWN: Final = f"{FIVE.of('up')} and on (job, instance) max_over_time({FIVE.of('build_info')}[6h])"
_RESTARTS: Final = target(f"changes({FIVE.of('process_start_time_seconds')}[30m])")
_LAG: Final = total(workload(FIVE.rate("event_loop_lag_seconds_bucket")), f"{_BY_POD}, le")

_INTERNAL: Final = FIVE.of("requests_total", reason='="proxy_internal_error"')


def _worst(expr: str) -> str:
    return f"max by ({_BY_POD}) ({workload(expr)})"


CONFIG_ALERTS: Final = (
    Alert(
        name="OutriderConfigRejected",
        measure=total(workload(FIVE.of("config_rejected")), WORKLOAD),
        limit="> 0",
        minutes=5,
        severity="warning",
        summary=f"{{{{ $value }}}} sidecars of {_PLACE} refuse the newest document",
        description="They serve by the one before. What is wrong and in which line: `outrider status` in the pod, the log line config_rejected, or `outrider validate FILE` before the next try.",
    ),
    Alert(
        name="OutriderConfigSourceLost",
        measure=total(workload(f"(1 - {FIVE.of('config_source_connected')})"), f"{WORKLOAD}, source"),
        limit="> 0",
        minutes=10,
        severity="warning",
        summary=f"{{{{ $value }}}} sidecars of {_PLACE} cannot read their configuration ({{{{ $labels.source }}}})",
        description="What is active stays, changes do not arrive. A file: is it still mounted? A ConfigMap: may the pod's service account read it, and is the API server reachable? The log line config_source_lost has the error.",
    ),
    Alert(
        name="OutriderWatchLost",
        measure=total(workload(FIVE.of("kube_watches", state='="lost"')), f"{WORKLOAD}, resource"),
        limit="> 0",
        minutes=10,
        severity="warning",
        summary=f"{_PLACE} cannot follow {{{{ $labels.resource }}}} through the API server",
        description="What is known stays in use and gets old: addresses of pods that are gone, certificates that run out. May the service account list and watch them, and is the API server reachable?",
    ),
    Alert(
        name="OutriderCertificateExpiring",
        measure=f"min by ({WORKLOAD}, source) ({workload(FIVE.of('certificate_not_after_timestamp_seconds'))}) - time()",
        limit="< 172800",
        minutes=15,
        severity="warning",
        summary=f"A certificate of {_PLACE} expires in {{{{ $value | humanizeDuration }}}}: {{{{ $labels.source }}}}",
        description="Nobody has renewed it. After that clients, or upstreams that ask for it, refuse it. Is there a newer one that was not taken over (certificate_failed in the log, outrider_certificate_current)?",
    ),
    Alert(
        name="OutriderNoConfiguration",
        measure=f"{_SIDECARS} - ({_WITH_CONFIG} or 0 * {_SIDECARS})",
        limit="> 0",
        minutes=5,
        severity="critical",
        summary=f"{{{{ $value }}}} sidecars of {_PLACE} have no configuration and are not ready",
        description="No valid document has been seen since they started, and none of an earlier run is there. `outrider status` in the pod tells why; the pod gets no traffic.",
    ),
    Alert(
        name="OutriderConfigDiffers",
        measure=f"count by ({WORKLOAD}) ({_HASHES})",
        limit="> 1",
        minutes=30,
        severity="info",
        summary=f"Sidecars of {_PLACE} run {{{{ $value }}}} different configurations",
        description="Some did not get or did not accept the newest document, or a roll-out is stuck. The workload's dashboard lists revisions; `GET /config` tells a pod's.",
    ),
)

PROCESS_ALERTS: Final = (
    Alert(
        name="OutriderNotScraped",
        measure=f"min by ({_BY_POD}) ({workload(f'({_DOWN})')})",
        limit="== 0",
        minutes=5,
        severity="warning",
        summary=f"The sidecar of {_POD} does not answer scrapes any more",
        description="It hangs, restarts or is overloaded; requests may fail too. `kubectl describe pod` and the previous container's log tell which.",
    ),
    Alert(
        name="OutriderRestarting",
        measure=_worst(f"({_RESTARTS})"),
        limit="> 2",
        minutes=1,
        severity="critical",
        summary=f"The sidecar of {_POD} started {{{{ $value }}}} times again within half an hour",
        description="Each restart cuts the connections of the pod. `kubectl logs POD -c outrider --previous` ends with the reason; OOMKilled is in `kubectl describe pod`.",
    ),
    Alert(
        name="OutriderFileDescriptors",
        measure=_worst(FIVE.of("resource_usage_ratio", resource='="file_descriptors"')),
        limit="> 0.8",
        minutes=5,
        severity="warning",
        summary=f"The sidecar of {_POD} uses {{{{ $value | humanizePercentage }}}} of its open files",
        description="At the limit it neither accepts nor makes connections. `GET /connections` tells whose they are.",
    ),
    Alert(
        name="OutriderMemory",
        measure=_worst(FIVE.of("resource_usage_ratio", resource='="memory"')),
        limit="> 0.9",
        minutes=5,
        severity="warning",
        summary=f"The sidecar of {_POD} uses {{{{ $value | humanizePercentage }}}} of its memory",
        description="At the limit the kernel ends the container and its connections with it. Memory follows connections and buffered bodies: `GET /connections`, or a larger limit.",
    ),
    Alert(
        name="OutriderCPUThrottled",
        measure=_worst(FIVE.rate("cpu_throttled_seconds_total")),
        limit="> 0.1",
        minutes=15,
        severity="warning",
        summary=f"The sidecar of {_POD} is held back by its CPU limit {{{{ $value | humanizePercentage }}}} of the time",
        description="Requests are slower for it. Raise the CPU limit of the container, or leave it out and set a request only.",
    ),
    Alert(
        name="OutriderEventLoopLag",
        measure=f"histogram_quantile(0.99, {_LAG})",
        limit="> 0.1",
        minutes=10,
        severity="warning",
        summary=f"The event loop of the sidecar of {_POD} comes {{{{ $value | humanizeDuration }}}} late",
        description="Every request waits that long in addition. Throttled or starved of CPU first; `GET /runtime` and the log otherwise.",
    ),
)

TELEMETRY_ALERTS: Final = (
    Alert(
        name="OutriderSpansDropped",
        measure=total(workload(FIVE.rate("spans_dropped_total")), f"{WORKLOAD}, why"),
        limit="> 0.1",
        minutes=10,
        severity="info",
        summary=f"{_PLACE} loses {{{{ $value | humanize }}}} spans per second: {{{{ $labels.why }}}}",
        description="Traces have gaps, requests are not slowed. export_failed: the collector does not answer. queue_full: it is too slow, or too much is sampled.",
    ),
    Alert(
        name="OutriderLogLinesDropped",
        measure=total(workload(FIVE.rate("log_lines_dropped_total")), WORKLOAD),
        limit="> 0.1",
        minutes=10,
        severity="info",
        summary=f"{_PLACE} loses {{{{ $value | humanize }}}} log lines per second",
        description="The container runtime or the node's disk takes them too slowly; requests are not slowed. Sample the access log, or look at the node.",
    ),
    Alert(
        name="OutriderObserverFailed",
        measure=total(workload(grown(FIVE.of("observer_failures_total"), "15m")), f"{WORKLOAD}, observer"),
        limit="> 0",
        minutes=1,
        severity="info",
        summary=f"The observer {{{{ $labels.observer }}}} of {_PLACE} fails",
        description="A bug of ours: figures or logs may be wrong, requests are not touched. Report the log's observer_failed lines.",
    ),
    Alert(
        name="OutriderInternalErrors",
        measure=total(workload(grown(_INTERNAL, "15m")), WORKLOAD),
        limit="> 0",
        minutes=1,
        severity="warning",
        summary=f"The sidecar of {_PLACE} failed {{{{ $value | humanize }}}} requests by itself",
        description="A bug of ours, or out of memory. Report the log's internal_error lines.",
    ),
)
