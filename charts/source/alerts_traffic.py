"""Recordings and alerts about requests, attempts and upstreams."""

from __future__ import annotations

from typing import Final

from charts.source.catalog import CLIENT_CLOCKS, TUNNEL_CLOCK
from charts.source.promql import WORKLOAD, total, workload
from charts.source.rules import FIVE, Alert, Record

REQUESTS: Final = "workload_listener_upstream:outrider_requests:rate5m"
FAILURES: Final = "workload_listener_upstream:outrider_requests_failed:rate5m"
DURATIONS: Final = "workload_listener_upstream_le:outrider_request_duration_seconds_bucket:rate5m"
CONNECTS: Final = "workload_upstream_result:outrider_upstream_connects:rate5m"
REJECTED: Final = "workload_listener_kind:outrider_rejected_messages:rate5m"
SOME_TRAFFIC: Final = 0.2
"""Requests per second below which a share of failures says little: 60 in five minutes."""

_PLACE: Final = "{{ $labels.namespace }}/{{ $labels.workload }}"
_TO: Final = '{{ or $labels.upstream "no upstream" }}'
_BY_LISTENER: Final = f"{WORKLOAD}, listener"
_BY_UPSTREAM: Final = f"{WORKLOAD}, upstream"
_BY_BOTH: Final = f"{WORKLOAD}, listener, upstream"
_TO_UPSTREAM: Final = total(REQUESTS, _BY_UPSTREAM)
_BUSY: Final = f"and on ({_BY_BOTH}) {REQUESTS} > {SOME_TRAFFIC}"
_BUSY_UPSTREAM: Final = f"and on ({_BY_UPSTREAM}) {_TO_UPSTREAM} > {SOME_TRAFFIC}"
_HEALTHY: Final = '="healthy"'
_STAYING: Final = '!="draining"'
_FAILED: Final = '!="success"'
_NOT_STALE: Final = '!="stale_connection"'
_UPSTREAM_CLOCKS: Final = '!~"' + "|".join([*CLIENT_CLOCKS, TUNNEL_CLOCK]) + '"'


def _events(name: str, by: str, **matchers: str) -> str:
    return total(workload(FIVE.rate(name, **matchers)), by)


_TIMEOUTS: Final = _events("timeouts_total", f"{_BY_UPSTREAM}, clock", clock=_UPSTREAM_CLOCKS)
_WAITING: Final = f"avg_over_time({FIVE.of('upstream_pending_requests')}[5m])"

RECORDS: Final = (
    Record(name=REQUESTS, expr=_events("requests_total", _BY_BOTH)),
    Record(name=FAILURES, expr=f"{total(workload(FIVE.errors()), _BY_BOTH)} or 0 * {REQUESTS}"),
    Record(name=CONNECTS, expr=_events("upstream_connects_total", f"{_BY_UPSTREAM}, result")),
    Record(name=REJECTED, expr=_events("rejected_messages_total", f"{WORKLOAD}, listener, kind")),
    Record(name=DURATIONS, expr=_events("request_duration_seconds_bucket", f"{_BY_BOTH}, le")),
)

REQUEST_ALERTS: Final = (
    Alert(
        name="OutriderHighErrorRatio",
        measure=f"{FAILURES} / {REQUESTS}",
        limit="> 0.05",
        guard=_BUSY,
        minutes=5,
        severity="warning",
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests of {_PLACE} to {_TO} fail",
        description=f"Listener {{{{ $labels.listener }}}}, upstream {_TO}. Failures by reason are on the workload's dashboard; `outrider why --last` in the pod tells one case.",
    ),
    Alert(
        name="OutriderMostRequestsFail",
        measure=f"{FAILURES} / {REQUESTS}",
        limit="> 0.5",
        guard=_BUSY,
        minutes=2,
        severity="critical",
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests of {_PLACE} to {_TO} fail",
        description=f"Listener {{{{ $labels.listener }}}}, {_TO} is as good as down for its clients. Look at its endpoints first: `outrider status` in the pod.",
    ),
    Alert(
        name="OutriderSlowResponses",
        measure=f"histogram_quantile(0.99, {DURATIONS})",
        limit="> 2.5",
        guard=_BUSY,
        minutes=10,
        severity="warning",
        summary=f"1 % of the requests of {_PLACE} to {_TO} take longer than {{{{ $value | humanizeDuration }}}}",
        description=f"Listener {{{{ $labels.listener }}}}, upstream {_TO}. Compare with the time to the response's head on the workload's dashboard: the rest is queueing, retries and the body. The points on the panel are traces.",
    ),
    Alert(
        name="OutriderTimeouts",
        measure=f"{_TIMEOUTS} / on ({_BY_UPSTREAM}) group_left () {_TO_UPSTREAM}",
        limit="> 0.01",
        guard=_BUSY_UPSTREAM,
        minutes=5,
        severity="warning",
        summary=f"The clock {{{{ $labels.clock }}}} fires for {{{{ $value | humanizePercentage }}}} of the requests of {_PLACE} to {_TO}",
        description="Its value and the line of the document that sets it: `outrider explain METHOD URL` in the pod. Whether the upstream became slower or the clock too short: time to the response's head on the workload's dashboard.",
    ),
    Alert(
        name="OutriderSheddingLoad",
        measure=_events("requests_total", f"{_BY_UPSTREAM}, reason", reason='=~"overloaded|connection_limit_reached|circuit_open"'),
        limit="> 0.1",
        minutes=5,
        severity="warning",
        summary=f"{_PLACE} refuses {{{{ $value | humanize }}}} requests per second to {_TO}: {{{{ $labels.reason }}}}",
        description="The limits of the upstream protect it. More endpoints, or higher limits if the upstream has room; `outrider status` shows the pool.",
    ),
)

UPSTREAM_ALERTS: Final = (
    Alert(
        name="OutriderNoHealthyEndpoints",
        measure=f"min by ({_BY_UPSTREAM}) ({workload(FIVE.of('upstream_endpoints', state=_HEALTHY))})",
        limit="== 0",
        guard=f"and on ({_BY_UPSTREAM}) {_TO_UPSTREAM} > 0",
        minutes=2,
        severity="critical",
        summary=f"A sidecar of {_PLACE} has no healthy endpoint for {_TO}",
        description="Requests to it fail with destination_unavailable. `outrider status` in the pod tells each endpoint's state and the upstream's problem (a name that cannot be resolved, failing health checks).",
    ),
    Alert(
        name="OutriderFewHealthyEndpoints",
        measure=f"{total(workload(FIVE.of('upstream_endpoints', state=_HEALTHY)), _BY_UPSTREAM)} / {total(workload(FIVE.of('upstream_endpoints', state=_STAYING)), _BY_UPSTREAM)}",
        limit="< 0.5",
        minutes=10,
        severity="warning",
        summary=f"Only {{{{ $value | humanizePercentage }}}} of the endpoints of {_TO} are healthy, as {_PLACE} sees it",
        description="The others carry their load. `outrider status` names the endpoints that are unhealthy or ejected.",
    ),
    Alert(
        name="OutriderConnectFailures",
        measure=f"{CONNECTS}{{result{_FAILED}}} / on ({_BY_UPSTREAM}) group_left () {total(CONNECTS, _BY_UPSTREAM)}",
        limit="> 0.2",
        guard=f"and on ({_BY_UPSTREAM}) {total(CONNECTS, _BY_UPSTREAM)} > 0.1",
        minutes=5,
        severity="warning",
        summary=f"{{{{ $value | humanizePercentage }}}} of the connects of {_PLACE} to {_TO} end with {{{{ $labels.result }}}}",
        description="Refused: nothing listens there. Timeout: a network policy, a full accept queue, a node that is gone. dns_...: the name.",
    ),
    Alert(
        name="OutriderPoolSaturated",
        measure=f"max by ({_BY_UPSTREAM}) ({workload(_WAITING)})",
        limit="> 1",
        minutes=5,
        severity="warning",
        summary=f"Requests of {_PLACE} wait for a connection to {_TO}",
        description="{{ $value | humanize }} on average in the sidecar with the most. The upstream is slower than before, or its pool too small: compare its time to the response's head with `connections` in `outrider status`.",
    ),
    Alert(
        name="OutriderManyRetries",
        measure=f"{_events('retries_total', _BY_UPSTREAM, reason=_NOT_STALE)} / on ({_BY_UPSTREAM}) {_TO_UPSTREAM}",
        limit="> 0.2",
        guard=_BUSY_UPSTREAM,
        minutes=10,
        severity="warning",
        summary=f"{_PLACE} makes {{{{ $value | humanizePercentage }}}} retries per request to {_TO}",
        description="Clients notice little yet; the upstream carries the additional load. Attempts by outcome on the workload's dashboard tell what fails.",
    ),
    Alert(
        name="OutriderRetryBudgetExhausted",
        measure=_events("retries_skipped_total", f"{WORKLOAD}, route, upstream", why='="budget"'),
        limit="> 0.05",
        minutes=5,
        severity="warning",
        summary=f"{_PLACE} leaves out {{{{ $value | humanize }}}} retries per second to {_TO}: the budget is used up",
        description="Route '{{ $labels.route }}'. So many attempts fail that more of them would make it worse: repair the upstream, do not raise the budget.",
    ),
    Alert(
        name="OutriderRejectedMessages",
        measure=REJECTED,
        limit="> 0.5",
        guard=f"unless on ({_BY_LISTENER}) (0.05 * {total(REQUESTS, _BY_LISTENER)} > on ({_BY_LISTENER}) {total(REJECTED, _BY_LISTENER)})",
        minutes=5,
        severity="warning",
        summary=f"{_PLACE} refuses {{{{ $value | humanize }}}} messages per second on {{{{ $labels.listener }}}}: {{{{ $labels.kind }}}}",
        description="More than 5 % of the requests break a rule: a new client that is not correct, a limit that is too low, or an attack. The access log has the clients' addresses.",
    ),
)
