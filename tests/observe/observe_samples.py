"""Exchanges built by hand for the tests of this folder."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.head import RequestHead
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Listener, Mode, Route, Snapshot, Upstream
from sidecar.model.status import ConfigStatus, KubeStatus
from sidecar.model.telemetry import Telemetry
from sidecar.observe.families import Families
from sidecar.observe.metrics import Metrics
from sidecar.observe.runtime import RuntimeSampler

START = 1000.0
LISTENER = Listener(name="inbound", port=15001, bind="0.0.0.0", mode=Mode.REVERSE)


def head(method=b"GET", path=b"/v1/orders?token=secret", host=b"orders.shop.svc", agent=b"curl/8.5", minor=1):
    fields = [(b"Host", b"host", host), (b"User-Agent", b"user-agent", agent), (b"Authorization", b"authorization", b"Bearer sesame")]
    made = RequestHead(method, path, minor, fields)
    made.host = host
    return made


def attempt(number=1, *, outcome="success", clock=None, status=200, responded=True):
    made = Attempt(number, START)
    made.endpoint = Endpoint("10.0.0.9", 8080)
    made.phase = Phase.BODY if responded else Phase.HEADERS
    made.connected_at, made.sent_at = START + 0.001, START + 0.002
    made.headers_at = START + 0.012 if responded else 0.0
    made.ended_at = START + 0.013
    made.status, made.outcome, made.clock = (status if responded else 0), outcome, clock
    return made


def exchange(
    *attempts, route="orders-read", upstream="orders", status=200, reason=None, clock=None, seconds=0.02, request=None, listener=LISTENER
):
    made = Exchange(listener, request or head(), "10.1.2.3", START)
    made.route = Route(name=route, index=0) if route else None
    made.upstream = Upstream(name=upstream) if upstream else None
    made.attempts = list(attempts)
    made.request_id = b"req-1"
    made.status, made.reason, made.clock = status, reason, clock
    made.ended_at = START + seconds
    made.bytes_in, made.bytes_out = 10, 2000
    return made


def failed_exchange():
    """Two tries that timed out."""
    tries = [attempt(n, outcome=Reason.HTTP_RESPONSE_TIMEOUT.value, clock=Clock.RESPONSE_HEADER, responded=False) for n in (1, 2)]
    made = exchange(*tries, status=504, reason=Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER)
    made.detail = "no response head from 10.0.0.9:8080"
    return made


def run(observer, *exchanges):
    """Script whole lives of exchanges."""
    for one in exchanges:
        observer.exchange_started(one)
        for tried in one.attempts:
            observer.attempt_finished(one, tried)
        observer.exchange_finished(one)


def snapshot(*, listeners=("inbound",), routes=("orders-read",), upstreams=("orders",), telemetry=None):
    return Snapshot(
        revision="7",
        hash="abc",
        listeners=tuple(Listener(name=name, port=1, bind="::", mode=Mode.REVERSE) for name in listeners),
        upstreams={name: Upstream(name=name) for name in upstreams},
        routes=tuple(Route(name=name, index=index) for index, name in enumerate(routes)),
        telemetry=telemetry or Telemetry(),
    )


class Trace(NamedTuple):
    """What tracing leaves on an exchange."""

    trace_id: str = "0af7651916cd43dd8448eb211c80319c"
    span_id: str = "b7ad6b7169203331"
    sampled: bool = True


def families(
    metrics=None, *, upstreams=(), config=None, kube=None, runtime=None, dropped=0, spans=None, exports=None, failures=None, certificates=()
):
    return Families(
        metrics or Metrics(),
        upstreams=lambda: upstreams,
        config=lambda: config or ConfigStatus(),
        kube=lambda: kube or KubeStatus(),
        certificates=lambda: certificates,
        runtime=runtime or RuntimeSampler(),
        log_lines_dropped=lambda: dropped,
        spans_dropped=lambda: spans or {},
        metric_exports=lambda: exports or {},
        observer_failures=lambda: failures or {},
    )
