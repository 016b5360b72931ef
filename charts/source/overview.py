"""The dashboard for whoever is on call for everything: which workload, which upstream, which clock, which rule."""

from __future__ import annotations

from charts.source.board import Board, Panels, Variable
from charts.source.links import OVERVIEW, TO_POD, TO_WORKLOAD, see
from charts.source.panels import BYTES_PER_SECOND, EVENTS, PER_SECOND, PERCENT, SECONDS, Column, Query, graph, grid, number
from charts.source.promql import WORKLOAD, Scope, share, total, workload

ALL = Scope([("namespace", '=~"$namespace"'), ("listener", '=~"$listener"')], "$__rate_interval")
WORST = 10
"""Series in a graph over many workloads: the worst ones."""

VARIABLES = (
    Variable(
        name="namespace",
        label="Namespace",
        description="Namespaces that have sidecars",
        query="label_values(outrider_build_info, namespace)",
    ),
    Variable(
        name="listener",
        label="Listener",
        description="Inbound and outbound together count a request twice when both its ends have a sidecar; choose one side to compare",
        query='label_values(outrider_downstream_connections_total{namespace=~"$namespace"}, listener)',
    ),
)


def board() -> Board:
    """Overview of all sidecars."""
    return Board(
        uid=OVERVIEW,
        title="Outrider / All sidecars",
        description="What hurts, and where: start here, click a workload's name.",
        variables=VARIABLES,
        deploys=ALL,
        rows=(
            ("Now", _now()),
            ("Workloads", _workloads()),
            ("Upstreams, clocks, rules", _causes()),
            ("Sidecars", [*_sidecars(), *_flow()]),
        ),
    )


def _by_workload(name: str, **matchers: str) -> str:
    return total(workload(ALL.rate(name, **matchers)), WORKLOAD)


def _worst(expr: str) -> str:
    return f"topk({WORST}, {expr})"


def _now() -> Panels:
    return [
        number(
            "Sidecars",
            "Sidecars that were scraped. Fewer than pods: a pod was made without one, or is not scraped." + see("OutriderNotScraped"),
            f"count({ALL.of('build_info')})",
        ),
        number(
            "Requests",
            "Finished requests per second, on all chosen listeners.",
            total(ALL.rate("requests_total")),
            unit=PER_SECOND,
        ),
        number(
            "Failed",
            "Requests that failed: status 5xx, or a failure of ours or of the upstream behind another status. Look at the table below for whose."
            + see("OutriderHighErrorRatio"),
            ALL.share_of_errors(""),
            unit=PERCENT,
            warn=0.01,
            bad=0.05,
        ),
        number(
            "Slowest 1 %",
            "99th percentile of whole requests, tunnels left out." + see("OutriderSlowResponses"),
            ALL.quantile(0.99, "request_duration_seconds"),
            unit=SECONDS,
            warn=1,
            bad=2.5,
        ),
        number(
            "Refused documents",
            "Sidecars whose newest document was refused; they serve by the one before." + see("OutriderConfigRejected"),
            total(ALL.of("config_rejected")),
            warn=1,
            bad=1,
        ),
        number(
            "Alerts",
            "Alerts of ours that are pending or firing; the table under Sidecars names them.",
            'count(ALERTS{alertname=~"Outrider.*", namespace=~"$namespace|"}) or vector(0)',
            warn=1,
            bad=5,
        ),
    ]


def _workloads() -> Panels:
    requests = total(workload(ALL.rate("requests_total")), WORKLOAD)
    failed = share(total(workload(ALL.errors()), WORKLOAD), requests)
    slow = f"histogram_quantile(0.99, {total(workload(ALL.rate('request_duration_seconds_bucket')), WORKLOAD + ', le')})"
    return [
        grid(
            "Workloads, most failures first",
            "One row per workload (the pods' common name). Click a name for its own page.",
            Column(title="requests/s", expr=requests, unit=PER_SECOND),
            Column(title="failed", expr=failed, unit=PERCENT, warn=0.01, bad=0.05),
            Column(title="p99", expr=slow, unit=SECONDS, warn=1, bad=2.5),
            Column(title="time-outs/s", expr=_by_workload("timeouts_total"), unit=EVENTS, warn=0.01, bad=1),
            Column(title="retries/s", expr=_by_workload("retries_total"), unit=EVENTS, warn=1),
            Column(title="refused messages/s", expr=_by_workload("rejected_messages_total"), unit=EVENTS, warn=0.1),
            Column(title="sidecars", expr=f"count by ({WORKLOAD}) ({workload(ALL.of('build_info'))})"),
            sort="failed",
            links=(TO_WORKLOAD,),
        ),
        graph(
            "Requests",
            "The busiest workloads. A sudden drop to zero is an outage in front of the sidecars.",
            Query(expr=_worst(requests), legend="{{namespace}}/{{workload}}"),
            unit=PER_SECOND,
        ),
        graph(
            "Failed requests",
            "Share of requests that failed, the worst workloads." + see("OutriderHighErrorRatio", "OutriderMostRequestsFail"),
            Query(expr=_worst(failed), legend="{{namespace}}/{{workload}}"),
            unit=PERCENT,
            bad=0.05,
        ),
        graph(
            "Slowest 1 % of requests",
            "99th percentile by workload; the points are traces, a click leads to Jaeger." + see("OutriderSlowResponses"),
            Query(expr=_worst(slow), legend="{{namespace}}/{{workload}}", exemplars=True),
            unit=SECONDS,
            bad=2.5,
        ),
    ]


def _causes() -> Panels:
    upstream = f"{WORKLOAD}, upstream"
    healthy = workload(ALL.of("upstream_endpoints", state='="healthy"'))
    attempts = total(workload(ALL.rate("attempts_total")), upstream)
    failing = share(total(workload(ALL.rate("attempts_total", outcome='!="success"')), upstream), attempts)
    slow = f"histogram_quantile(0.99, {total(workload(ALL.rate('upstream_response_duration_seconds_bucket')), upstream + ', le')})"
    return [
        grid(
            "Which upstream: most failing attempts first",
            "Attempts, not requests: what retries have hidden shows here." + see("OutriderConnectFailures", "OutriderNoHealthyEndpoints"),
            Column(title="attempts/s", expr=attempts, unit=PER_SECOND),
            Column(title="failing", expr=failing, unit=PERCENT, warn=0.01, bad=0.05),
            Column(title="p99 to the head", expr=slow, unit=SECONDS, warn=1, bad=2.5),
            Column(title="healthy endpoints", expr=f"min by ({upstream}) ({healthy})"),
            Column(title="waiting", expr=f"max by ({upstream}) ({workload(ALL.of('upstream_pending_requests'))})", warn=1, bad=10),
            sort="failing",
            links=(TO_WORKLOAD,),
        ),
        graph(
            "Which failure",
            "Requests that the sidecar answered or gave up, by reason; docs/reference.md says what each means."
            + see("OutriderHighErrorRatio"),
            Query(expr=total(ALL.rate("requests_total", reason='!="none"'), "reason"), legend="{{reason}}"),
            unit=PER_SECOND,
            span=6,
            stack=True,
        ),
        graph(
            "Which clock",
            "Time-outs by the clock that fired; its value is in the document, `outrider explain` says where." + see("OutriderTimeouts"),
            Query(expr=total(ALL.rate("timeouts_total"), "clock"), legend="{{clock}}"),
            unit=EVENTS,
            span=6,
            stack=True,
        ),
        graph(
            "Which rule",
            "Messages of clients refused, by the rule that they broke. A new client or an attack." + see("OutriderRejectedMessages"),
            Query(expr=total(ALL.rate("rejected_messages_total"), "kind"), legend="{{kind}}"),
            unit=EVENTS,
            span=6,
            stack=True,
        ),
        graph(
            "Retries, and retries not made",
            "What made retries necessary, and why some were not made: `budget` means that more of them would make it worse."
            + see("OutriderManyRetries", "OutriderRetryBudgetExhausted"),
            Query(expr=total(ALL.rate("retries_total"), "reason"), legend="retried: {{reason}}"),
            Query(expr=total(ALL.rate("retries_skipped_total"), "why"), legend="not made: {{why}}"),
            unit=EVENTS,
            span=6,
        ),
    ]


def _sidecars() -> Panels:
    pods = "namespace, pod"
    memory, files = (ALL.of("resource_usage_ratio", resource=f'="{name}"') for name in ("memory", "file_descriptors"))
    return [
        grid(
            "Sidecars, fullest memory first",
            "One row per pod. Click a pod for its sidecar's own page."
            + see("OutriderMemory", "OutriderCPUThrottled", "OutriderFileDescriptors"),
            Column(
                title="memory of its limit",
                expr=f"max by ({pods}) ({memory})",
                unit=PERCENT,
                warn=0.75,
                bad=0.9,
            ),
            Column(
                title="open files of the limit",
                expr=f"max by ({pods}) ({files})",
                unit=PERCENT,
                warn=0.5,
                bad=0.8,
            ),
            Column(title="throttled", expr=total(ALL.rate("cpu_throttled_seconds_total"), pods), unit=PERCENT, warn=0.05, bad=0.1),
            Column(title="loop lag p99", expr=ALL.quantile(0.99, "event_loop_lag_seconds", pods), unit=SECONDS, warn=0.025, bad=0.1),
            Column(title="document refused", expr=f"max by ({pods}) ({ALL.of('config_rejected')})", warn=1, bad=1),
            span=14,
            sort="memory of its limit",
            links=(TO_POD,),
        ),
        grid(
            "Alerts",
            "Pending and firing alerts of ours; docs/runbooks has a page for each.",
            Column(
                title="series",
                expr='count by (alertname, alertstate, severity, namespace, workload) (ALERTS{alertname=~"Outrider.*", namespace=~"$namespace|"})',
            ),
            span=10,
            links=(TO_WORKLOAD,),
        ),
        grid(
            "Versions",
            "Running versions; more than one during a roll-out only.",
            Column(title="sidecars", expr=f"count by (version, python) ({ALL.of('build_info')})"),
            span=6,
        ),
    ]


def _flow() -> Panels:
    return [
        graph(
            "Traffic",
            "Bytes of bodies per second.",
            Query(expr=total(ALL.rate("request_bytes_total")), legend="requests"),
            Query(expr=total(ALL.rate("response_bytes_total")), legend="responses"),
            unit=BYTES_PER_SECOND,
            span=9,
        ),
        graph(
            "In flight",
            "Requests and tunnels now. A steady rise means that upstreams do not answer." + see("OutriderPoolSaturated"),
            Query(expr=total(ALL.of("active_requests")), legend="requests, tunnels included"),
            Query(expr=total(ALL.of("active_tunnels")), legend="tunnels"),
            unit="short",
            span=9,
        ),
    ]
