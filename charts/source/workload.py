"""The dashboard for whoever owns one workload: its routes, its upstreams, its clocks, its retries."""

from __future__ import annotations

from charts.source.board import Board, Panels, Variable
from charts.source.links import TO_POD, TO_ROUTE, TO_UPSTREAM, WORKLOAD_BOARD, see
from charts.source.panels import BYTES_PER_SECOND, COUNT, EVENTS, PER_SECOND, PERCENT, SECONDS, Column, Query, graph, grid, heat, number
from charts.source.promql import POD_END, Scope, share, total, workload

PODS = (("namespace", '="$namespace"'), ("pod", f'=~"$workload(?:{POD_END})?"'), ("pod", '=~"$pod"'))
HERE = Scope([*PODS, ("listener", '=~"$listener"'), ("route", '=~"$route"'), ("upstream", '=~"$upstream"')], "$__rate_interval")
_OWN = Scope(PODS[:2], "$__rate_interval")


def _values(name: str, metric: str, label: str) -> Variable:
    return Variable(
        name=name,
        label=label,
        description=f"Only this {name}; metrics that do not tell {name}s apart ignore it",
        query=f"label_values({_OWN.of(metric)}, {name})",
    )


_INFO = Scope(PODS[:1], "").of("build_info")
VARIABLES = (
    Variable(
        name="namespace",
        label="Namespace",
        description="Where the workload is",
        query="label_values(outrider_build_info, namespace)",
        every=False,
    ),
    Variable(
        name="workload",
        label="Workload",
        description="What the names of its pods have in common",
        query=f"query_result(count by (workload) ({workload(_INFO)}))",
        regex='/workload="([^"]+)"/',
        every=False,
    ),
    _values("pod", "build_info", "Pod"),
    _values("listener", "downstream_connections_total", "Listener"),
    _values("route", "requests_total", "Route"),
    _values("upstream", "upstream_endpoints", "Upstream"),
)


def board() -> Board:
    """One workload."""
    return Board(
        uid=WORKLOAD_BOARD,
        title="Outrider / Workload",
        description="One workload: which route and which upstream hurt, which clock fired, what was retried.",
        variables=VARIABLES,
        deploys=HERE,
        rows=(
            ("Now", _now()),
            ("Requests", _requests()),
            ("Which upstream", _upstreams()),
            ("Connections to upstreams", _connections()),
            ("Which clock, which rule", _clocks()),
            ("Pods", _pods()),
        ),
    )


def _now() -> Panels:
    return [
        number("Requests", "Finished requests per second.", total(HERE.rate("requests_total")), unit=PER_SECOND),
        number(
            "Failed",
            "Share of requests that failed: 5xx, or a failure behind another status." + see("OutriderHighErrorRatio"),
            HERE.share_of_errors(""),
            unit=PERCENT,
            warn=0.01,
            bad=0.05,
        ),
        number("Median", "Half of the requests took less.", HERE.quantile(0.5, "request_duration_seconds"), unit=SECONDS, warn=0.5, bad=1),
        number(
            "Slowest 1 %",
            "99th percentile." + see("OutriderSlowResponses"),
            HERE.quantile(0.99, "request_duration_seconds"),
            unit=SECONDS,
            warn=1,
            bad=2.5,
        ),
        number(
            "Retried",
            "Retries per request, re-used connections that had gone left out." + see("OutriderManyRetries"),
            share(total(HERE.rate("retries_total", reason='!="stale_connection"')), total(HERE.rate("requests_total"))),
            unit=PERCENT,
            warn=0.05,
            bad=0.2,
        ),
        number("In flight", "Requests now, tunnels included.", total(HERE.of("active_requests"))),
    ]


def _requests() -> Panels:
    by = "listener, route, upstream"
    requests = total(HERE.rate("requests_total"), by)
    return [
        graph(
            "Requests by status",
            "`_OTHER` is a status beyond the 256 combinations that are told apart. 499: the client went away first, often because we were slow.",
            Query(expr=total(HERE.rate("requests_total"), "code"), legend="{{code}}"),
            unit=PER_SECOND,
            stack=True,
        ),
        graph(
            "Failures by reason",
            "What the sidecar answered or gave up itself; `none` is left out: the upstream's own answers. The access log has the same word, and `outrider why --last` tells one case."
            + see("OutriderHighErrorRatio"),
            Query(expr=total(HERE.rate("requests_total", reason='!="none"'), "reason, upstream"), legend="{{reason}} {{upstream}}"),
            unit=PER_SECOND,
            stack=True,
        ),
        graph(
            "Duration",
            "From the head of the request to the last byte of the response. Points are traces: a click leads to Jaeger, where each attempt is a span."
            + see("OutriderSlowResponses"),
            *(
                Query(expr=HERE.quantile(q, "request_duration_seconds"), legend=name, exemplars=q == 0.99)
                for q, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit=SECONDS,
            bad=2.5,
        ),
        grid(
            "Which route: most failures first",
            "One row per listener, route and upstream. An empty route: none matched (404). Click a name to see only that.",
            Column(title="requests/s", expr=requests, unit=PER_SECOND),
            Column(title="failed", expr=share(total(HERE.errors(), by), requests), unit=PERCENT, warn=0.01, bad=0.05),
            Column(title="median", expr=HERE.quantile(0.5, "request_duration_seconds", by), unit=SECONDS),
            Column(title="p99", expr=HERE.quantile(0.99, "request_duration_seconds", by), unit=SECONDS, warn=1, bad=2.5),
            Column(title="bytes in/s", expr=total(HERE.rate("request_bytes_total"), by), unit=BYTES_PER_SECOND),
            Column(title="bytes out/s", expr=total(HERE.rate("response_bytes_total"), by), unit=BYTES_PER_SECOND),
            span=16,
            sort="failed",
            links=(TO_ROUTE, TO_UPSTREAM),
        ),
        heat(
            "How durations spread",
            "Two bands mean two kinds of requests or a slow endpoint: split by route on top.",
            total(HERE.rate("request_duration_seconds_bucket"), "le"),
            exemplars=True,
        ),
    ]


def _upstreams() -> Panels:
    by = "upstream"
    attempts = total(HERE.rate("attempts_total"), by)
    failing = share(total(HERE.rate("attempts_total", outcome='!="success"'), by), attempts)
    return [
        graph(
            "Attempts by outcome",
            "Each try counts, so what retries hid shows here. `status_...`: a listed status made us try again.",
            Query(expr=total(HERE.rate("attempts_total"), "upstream, outcome"), legend="{{upstream}}: {{outcome}}"),
            unit=PER_SECOND,
            stack=True,
        ),
        graph(
            "Failing attempts",
            "Share of attempts by upstream. High here and low above: retries save the day, for as long as the budget lasts."
            + see("OutriderManyRetries", "OutriderRetryBudgetExhausted"),
            Query(expr=failing, legend="{{upstream}}"),
            unit=PERCENT,
            bad=0.05,
        ),
        graph(
            "Time to the response's head",
            "p99 of each attempt by upstream: the upstream's own share of the duration. Points are traces, a click leads to Jaeger."
            + see("OutriderSlowResponses"),
            Query(expr=HERE.quantile(0.99, "upstream_response_duration_seconds", by), legend="{{upstream}}", exemplars=True),
            unit=SECONDS,
            bad=2.5,
        ),
        graph(
            "Endpoints",
            "By state, the pod that sees the fewest. `outrider status` and `/upstreams` on the admin surface name them."
            + see("OutriderNoHealthyEndpoints", "OutriderFewHealthyEndpoints"),
            Query(expr=f"min by (upstream, state) ({HERE.of('upstream_endpoints')})", legend="{{upstream}}: {{state}}"),
            unit=COUNT,
        ),
        graph(
            "Endpoints taken out",
            "Ejections by outlier detection, by criterion, and failed health checks; upstreams whose document asks for them. The log names the endpoints."
            + see("OutriderNoHealthyEndpoints", "OutriderFewHealthyEndpoints"),
            Query(expr=total(HERE.rate("endpoint_ejections_total"), "upstream, why"), legend="{{upstream}}: {{why}}"),
            Query(expr=total(HERE.rate("health_checks_total", result='="failure"'), "upstream"), legend="{{upstream}}: failed checks"),
            unit=EVENTS,
        ),
        graph(
            "Copies of requests",
            "Mirrored requests by the upstream that gets them. `body`: too long to be kept. `busy`: too many on their way.",
            Query(expr=total(HERE.rate("mirrored_requests_total"), "upstream, result"), legend="{{upstream}}: {{result}}"),
            unit=EVENTS,
            stack=True,
        ),
        graph(
            "Circuit breakers that are open",
            "Pods whose breaker of the upstream refuses requests, or tries whether it still must. The failures before it opened are the cause."
            + see("OutriderSheddingLoad"),
            Query(expr=total(HERE.of("upstream_circuit_open"), "upstream"), legend="{{upstream}}"),
            unit=COUNT,
            bad=1,
        ),
        graph(
            "Retries",
            "By what made them necessary." + see("OutriderManyRetries"),
            Query(expr=total(HERE.rate("retries_total"), "route, upstream, reason"), legend="{{route}} {{upstream}}: {{reason}}"),
            unit=EVENTS,
            stack=True,
        ),
        graph(
            "Retries not made",
            "`budget`: too many already, the upstream is failing as a whole. `body`: too large to send twice. `method`: not safe to repeat. `started`: the response had begun. `time`: too little left of the request's clock."
            + see("OutriderRetryBudgetExhausted"),
            Query(expr=total(HERE.rate("retries_skipped_total"), "route, upstream, why"), legend="{{route}} {{upstream}}: {{why}}"),
            unit=EVENTS,
            stack=True,
        ),
    ]


def _connections() -> Panels:
    return [
        graph(
            "Pool",
            "Connections to endpoints. `active` at the limit of the upstream's pool, with requests waiting on the right: raise the limit or add endpoints."
            + see("OutriderPoolSaturated"),
            Query(expr=total(HERE.of("upstream_connections_open"), "upstream, state"), legend="{{upstream}}: {{state}}"),
            unit=COUNT,
        ),
        graph(
            "Waiting for a connection",
            "Requests in the queue of the pool; the clock `queue` ends their wait." + see("OutriderPoolSaturated", "OutriderSheddingLoad"),
            Query(expr=total(HERE.of("upstream_pending_requests"), "upstream"), legend="{{upstream}}"),
            unit=COUNT,
            warn=1,
        ),
        graph(
            "Connects",
            "By result. Many successes mean that connections are not kept: compare keep-alive times." + see("OutriderConnectFailures"),
            Query(expr=total(HERE.rate("upstream_connects_total"), "upstream, result"), legend="{{upstream}}: {{result}}"),
            unit=EVENTS,
            span=4,
            stack=True,
        ),
        graph(
            "Time to connect",
            "p99 of name look-up and handshake. High: DNS, or a full accept queue.",
            Query(expr=HERE.quantile(0.99, "upstream_connect_duration_seconds", "upstream"), legend="{{upstream}}"),
            unit=SECONDS,
            span=4,
            bad=1,
        ),
    ]


def _clocks() -> Panels:
    return [
        graph(
            "Which clock",
            "Time-outs by clock. `outrider explain METHOD URL` tells every clock of a route and the line that set it."
            + see("OutriderTimeouts"),
            Query(expr=total(HERE.rate("timeouts_total"), "route, upstream, clock"), legend="{{route}} {{upstream}}: {{clock}}"),
            unit=EVENTS,
            stack=True,
        ),
        graph(
            "Which rule",
            "Messages of clients refused, by the rule that they broke; nothing of them reached the application."
            + see("OutriderRejectedMessages"),
            Query(expr=total(HERE.rate("rejected_messages_total"), "listener, kind"), legend="{{listener}}: {{kind}}"),
            unit=EVENTS,
            stack=True,
        ),
        graph(
            "Clients",
            "Open connections and tunnels by listener. A listener refuses connections above its `maxConnections`.",
            Query(expr=total(HERE.of("downstream_connections_active"), "listener"), legend="{{listener}}: connections"),
            Query(expr=total(HERE.of("active_tunnels"), "listener"), legend="{{listener}}: tunnels"),
            unit=COUNT,
        ),
    ]


def _pods() -> Panels:
    requests = total(HERE.rate("requests_total"), "namespace, pod")
    return [
        grid(
            "Pods: is it one of them?",
            "The same figures by pod. One that differs: look at its sidecar (click), its node, its configuration.",
            Column(title="requests/s", expr=requests, unit=PER_SECOND),
            Column(title="failed", expr=share(total(HERE.errors(), "namespace, pod"), requests), unit=PERCENT, warn=0.01, bad=0.05),
            Column(title="p99", expr=HERE.quantile(0.99, "request_duration_seconds", "namespace, pod"), unit=SECONDS, warn=1, bad=2.5),
            Column(title="document refused", expr=f"max by (namespace, pod) ({HERE.of('config_rejected')})", warn=1, bad=1),
            span=14,
            sort="failed",
            links=(TO_POD,),
        ),
        grid(
            "Configuration",
            "Revisions in force. More than one for long: a pod did not get the newest document."
            + see("OutriderConfigDiffers", "OutriderConfigRejected"),
            Column(title="sidecars", expr=f"count by (source, revision, hash) ({HERE.of('config_info')})"),
            span=10,
        ),
    ]
