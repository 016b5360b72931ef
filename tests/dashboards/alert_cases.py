"""What makes each alert fire, and what is near enough to it but must not: series as promtool reads them, one value a minute.

`orders` is the workload that has the trouble and `calm` the one that has almost the same; a case fires for the first
alone. Both are Deployments by their pods' names.
"""

from __future__ import annotations

from dataclasses import dataclass

PODS = {"orders": "orders-7d9f8b6c5-x2x4z", "calm": "calm-6b7c8d9f4-k5k6k"}
BORN = "_x20 1+0x6000"
"""A counter of rare events: the series begins with the first one."""
BOTH = {"listener": "inbound", "route": "all", "upstream": "app"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`series` by text of the selector; `labels` and `value` (as the summary shows it) of the alert that fires.

    `long` are minutes that the series last before the alert is looked for; by default a few more than its `for`.
    """

    alert: str
    series: dict[str, str]
    labels: dict[str, str]
    value: str = ""
    long: int = 0
    severity: str = ""


def made(who: str, metric: str, **labels: str) -> str:
    """The selector of a series of a workload's pod."""
    place = {"namespace": "shop", "pod": PODS[who], "instance": f"{who}:15021", "job": "outrider"}
    inside = ", ".join(f'{name}="{value}"' for name, value in {**place, **labels}.items())
    return f"{metric}{{{inside}}}"


def orders(metric: str, **labels: str) -> str:
    """Of the workload in trouble."""
    return made("orders", metric, **labels)


def calm(metric: str, **labels: str) -> str:
    """Of the other one."""
    return made("calm", metric, **labels)


def each(per_minute: float) -> str:
    """A counter that grows so much a minute, for ever."""
    return f"0+{per_minute:g}x6000"


def always(value: float) -> str:
    """A gauge."""
    return f"{value:g}+0x6000"


def requests(who: str, good: float, bad: float, **labels: str) -> dict[str, str]:
    """Answered and failed requests per minute."""
    answered = {**BOTH, "method": "GET", "code": "200", "reason": "none", **labels}
    failed = {**answered, "code": "503", "reason": "connection_refused"}
    return {made(who, "outrider_requests_total", **answered): each(good), made(who, "outrider_requests_total", **failed): each(bad)}


def durations(who: str, quick: float, slow: float) -> dict[str, str]:
    """Requests per minute that take up to half a second, and up to ten."""
    name = "outrider_request_duration_seconds_bucket"
    counts = {"0.5": quick, "5.0": quick, "10.0": quick + slow, "+Inf": quick + slow}
    return {
        **{made(who, name, **BOTH, le=bound): each(count) for bound, count in counts.items()},
        made(who, "outrider_request_duration_seconds_count", **BOTH): each(quick + slow),
    }


TO = {"namespace": "shop", "workload": "orders", "upstream": "app"}
AT = {**TO, "listener": "inbound"}
OF = {"namespace": "shop", "workload": "orders"}
POD = {**OF, "pod": PODS["orders"]}

TRAFFIC = (
    Case(
        alert="OutriderHighErrorRatio",
        # The other has the same share, but hardly any traffic.
        series={**requests("orders", 54, 6), **requests("calm", 5.4, 0.6)},
        labels=AT,
        value="10%",
    ),
    Case(
        alert="OutriderHighErrorRatio",
        # A gRPC failure has status 200; a client that went away is nobody's failure.
        series={
            **requests("orders", 54, 0),
            orders("outrider_requests_total", **BOTH, method="POST", code="200", reason="http_response_timeout"): each(6),
            **requests("calm", 54, 0),
            calm("outrider_requests_total", **BOTH, method="POST", code="499", reason="client_closed"): each(6),
        },
        labels=AT,
        value="10%",
    ),
    Case(
        alert="OutriderMostRequestsFail",
        series={**requests("orders", 12, 48, upstream=""), **requests("calm", 33, 27)},
        labels={**AT, "upstream": ""},
        value="80%",
    ),
    Case(
        alert="OutriderSlowResponses",
        series={**requests("orders", 60, 0), **durations("orders", 54, 6), **requests("calm", 600, 0), **durations("calm", 597, 3)},
        labels=AT,
        value="9.5s",
    ),
    Case(
        alert="OutriderTimeouts",
        series={
            **requests("orders", 60, 0),
            orders("outrider_timeouts_total", route="all", upstream="app", clock="responseHeader"): each(3),
            # Not the upstream's doing.
            orders("outrider_timeouts_total", route="", upstream="", clock="headerTimeout"): each(30),
            orders("outrider_timeouts_total", route="all", upstream="app", clock="tunnelIdle"): each(30),
            **requests("calm", 600, 0),
            calm("outrider_timeouts_total", route="all", upstream="app", clock="responseHeader"): each(3),
        },
        labels={**TO, "clock": "responseHeader"},
        value="5%",
    ),
    Case(
        alert="OutriderSheddingLoad",
        series={
            orders("outrider_requests_total", **BOTH, method="GET", code="503", reason="overloaded"): each(12),
            calm("outrider_requests_total", **BOTH, method="GET", code="503", reason="overloaded"): each(3),
            calm("outrider_requests_total", **BOTH, method="GET", code="503", reason="draining"): each(60),
        },
        labels={**TO, "reason": "overloaded"},
        value="200m",
    ),
)

UPSTREAMS = (
    Case(
        alert="OutriderNoHealthyEndpoints",
        # The other has none either, but nobody asks for it.
        series={
            **requests("orders", 0, 6),
            orders("outrider_upstream_endpoints", upstream="app", state="healthy"): always(0),
            orders("outrider_upstream_endpoints", upstream="app", state="unhealthy"): always(2),
            calm("outrider_upstream_endpoints", upstream="app", state="healthy"): always(0),
        },
        labels=TO,
    ),
    Case(
        alert="OutriderFewHealthyEndpoints",
        series={
            orders("outrider_upstream_endpoints", upstream="app", state="healthy"): always(1),
            orders("outrider_upstream_endpoints", upstream="app", state="ejected"): always(3),
            calm("outrider_upstream_endpoints", upstream="app", state="healthy"): always(1),
            calm("outrider_upstream_endpoints", upstream="app", state="draining"): always(3),
        },
        labels=TO,
        value="25%",
    ),
    Case(
        alert="OutriderConnectFailures",
        series={
            orders("outrider_upstream_connects_total", upstream="app", result="success"): each(6),
            orders("outrider_upstream_connects_total", upstream="app", result="connection_refused"): each(6),
            calm("outrider_upstream_connects_total", upstream="app", result="success"): each(54),
            calm("outrider_upstream_connects_total", upstream="app", result="connection_refused"): each(6),
        },
        labels={**TO, "result": "connection_refused"},
        value="50%",
    ),
    Case(
        alert="OutriderPoolSaturated",
        series={
            orders("outrider_upstream_pending_requests", upstream="app"): always(4),
            calm("outrider_upstream_pending_requests", upstream="app"): "0 4 " + always(0),
        },
        labels=TO,
        value="4",
    ),
    Case(
        alert="OutriderManyRetries",
        series={
            **requests("orders", 60, 0),
            orders("outrider_retries_total", route="all", upstream="app", reason="status_503"): each(30),
            **requests("calm", 60, 0),
            calm("outrider_retries_total", route="all", upstream="app", reason="status_503"): each(6),
            calm("outrider_retries_total", route="all", upstream="app", reason="stale_connection"): each(30),
        },
        labels=TO,
        value="50%",
    ),
    Case(
        alert="OutriderRetryBudgetExhausted",
        series={
            orders("outrider_retries_skipped_total", route="all", upstream="app", why="budget"): each(6),
            calm("outrider_retries_skipped_total", route="all", upstream="app", why="body"): each(60),
        },
        labels={**TO, "route": "all"},
        value="100m",
    ),
    Case(
        alert="OutriderRejectedMessages",
        series={
            **requests("orders", 120, 0),
            orders("outrider_rejected_messages_total", listener="inbound", kind="bare_lf"): each(60),
            # As many, among far more requests.
            **requests("calm", 6000, 0),
            calm("outrider_rejected_messages_total", listener="inbound", kind="bare_lf"): each(60),
        },
        labels={**OF, "listener": "inbound", "kind": "bare_lf"},
        value="1",
    ),
)

CONFIGURATION = (
    Case(
        alert="OutriderConfigRejected",
        series={orders("outrider_config_rejected"): always(1), calm("outrider_config_rejected"): "1 1 1 " + always(0)},
        labels=OF,
        value="1",
    ),
    Case(
        alert="OutriderConfigSourceLost",
        series={
            orders("outrider_config_source_connected", source="configmap"): always(0),
            calm("outrider_config_source_connected", source="configmap"): "0 0 0 0 0 1 " + always(1),
        },
        labels={**OF, "source": "configmap"},
        value="1",
    ),
    Case(
        alert="OutriderWatchLost",
        series={
            orders("outrider_kube_watches", resource="endpointslices", state="lost"): always(2),
            calm("outrider_kube_watches", resource="endpointslices", state="lost"): always(0),
            calm("outrider_kube_watches", resource="endpointslices", state="connected"): always(2),
        },
        labels={**OF, "resource": "endpointslices"},
    ),
    Case(
        alert="OutriderCertificateExpiring",
        series={
            orders("outrider_certificate_not_after_timestamp_seconds", source="/etc/tls/tls.crt"): always(90000),
            calm("outrider_certificate_not_after_timestamp_seconds", source="/etc/tls/tls.crt"): always(9000000),
        },
        labels={**OF, "source": "/etc/tls/tls.crt"},
        value="1d 0h 38m 0s",
    ),
    Case(
        alert="OutriderNoConfiguration",
        series={
            orders("outrider_build_info", version="1", python="3"): always(1),
            calm("outrider_build_info", version="1", python="3"): always(1),
            calm("outrider_config_info", source="file", revision="7", hash="a"): always(1),
        },
        labels=OF,
        value="1",
    ),
    Case(
        alert="OutriderConfigDiffers",
        series={
            orders("outrider_config_info", source="configmap", revision="7", hash="a"): always(1),
            orders("outrider_config_info", source="configmap", revision="8", hash="b").replace("x2x4z", "z4z2x"): always(1),
            calm("outrider_config_info", source="configmap", revision="7", hash="a"): always(1),
            calm("outrider_config_info", source="file", revision="8", hash="a").replace("k5k6k", "k6k5k"): always(1),
        },
        labels=OF,
        value="2",
    ),
)

PROCESS = (
    Case(
        alert="OutriderNotScraped",
        # Another program's target that is down is not ours.
        series={
            orders("up"): "1 1 1 1 1 " + always(0),
            orders("outrider_build_info", version="1", python="3"): "1 1 1 1 1 stale",
            calm("up"): always(0),
        },
        labels=POD,
        long=20,
    ),
    Case(
        alert="OutriderRestarting",
        series={
            orders("process_start_time_seconds"): "100 200 300 " + always(400),
            orders("outrider_build_info", version="1", python="3"): always(1),
            calm("process_start_time_seconds"): "100 200 " + always(300),
            calm("outrider_build_info", version="1", python="3"): always(1),
        },
        labels=POD,
        value="3",
    ),
    Case(
        alert="OutriderFileDescriptors",
        series={
            orders("outrider_resource_usage_ratio", resource="file_descriptors"): always(0.875),
            calm("outrider_resource_usage_ratio", resource="file_descriptors"): always(0.75),
            calm("outrider_resource_usage_ratio", resource="cpu"): always(1),
        },
        labels=POD,
        value="87.5%",
    ),
    Case(
        alert="OutriderMemory",
        series={
            orders("outrider_resource_usage_ratio", resource="memory"): always(0.96),
            calm("outrider_resource_usage_ratio", resource="memory"): always(0.85),
        },
        labels=POD,
        value="96%",
    ),
    Case(
        alert="OutriderCPUThrottled",
        series={orders("outrider_cpu_throttled_seconds_total"): each(15), calm("outrider_cpu_throttled_seconds_total"): each(3)},
        labels=POD,
        value="25%",
    ),
    Case(
        alert="OutriderEventLoopLag",
        series={
            **{
                orders("outrider_event_loop_lag_seconds_bucket", le=bound): each(n)
                for bound, n in (("0.1", 100), ("0.5", 120), ("+Inf", 120))
            },
            **{
                calm("outrider_event_loop_lag_seconds_bucket", le=bound): each(n)
                for bound, n in (("0.1", 120), ("0.5", 120), ("+Inf", 120))
            },
        },
        labels=POD,
        value="476ms",
    ),
)

TELEMETRY = (
    Case(
        alert="OutriderSpansDropped",
        series={
            orders("outrider_spans_dropped_total", why="export_failed"): each(60),
            calm("outrider_spans_dropped_total", why="export_failed"): each(3),
        },
        labels={**OF, "why": "export_failed"},
        value="1",
    ),
    Case(
        alert="OutriderLogLinesDropped",
        series={orders("outrider_log_lines_dropped_total"): each(60), calm("outrider_log_lines_dropped_total"): each(3)},
        labels=OF,
        value="1",
    ),
    Case(
        alert="OutriderObserverFailed",
        series={
            orders("outrider_observer_failures_total", observer="metrics"): BORN,
            calm("outrider_observer_failures_total", observer="metrics"): always(7),
        },
        labels={**OF, "observer": "metrics"},
        long=25,
    ),
    Case(
        alert="OutriderInternalErrors",
        series={
            orders("outrider_requests_total", **BOTH, method="GET", code="500", reason="proxy_internal_error"): BORN,
            calm("outrider_requests_total", **BOTH, method="GET", code="500", reason="none"): each(60),
            calm("outrider_requests_total", **BOTH, method="GET", code="500", reason="proxy_internal_error"): always(3),
        },
        labels=OF,
        value="1",
        long=25,
    ),
)

INJECTOR = (
    Case(
        alert="OutriderPodsWithoutSidecar",
        series={
            'apiserver_admission_webhook_fail_open_count{name="pod.inject.outrider.dev", type="admit"}': BORN,
            'apiserver_admission_webhook_fail_open_count{name="namespace.inject.outrider.dev", type="admit"}': always(4),
            'apiserver_admission_webhook_fail_open_count{name="pods.example.com", type="admit"}': each(60),
        },
        labels={},
        value="1",
        long=25,
    ),
    Case(
        alert="OutriderInjectorFails",
        series={
            'outrider_injector_requests_total{result="error", reason="timeout"}': BORN,
            'outrider_injector_requests_total{result="error", reason="internal"}': always(3),
            'outrider_injector_requests_total{result="injected", reason="none"}': each(60),
        },
        labels={"reason": "timeout"},
        value="1",
        long=25,
    ),
    Case(
        alert="OutriderSidecarRefused",
        series={
            'outrider_injector_requests_total{result="refused", reason="conflict"}': BORN,
            'outrider_injector_requests_total{result="skipped", reason="opted_out"}': each(60),
        },
        labels={"reason": "conflict"},
        value="1",
        long=25,
    ),
    Case(alert="OutriderInjectorDown", series={'outrider_injector_ready{pod="a"}': always(0)}, labels={}),
    Case(
        alert="OutriderInjectorCertificate",
        series={
            'outrider_injector_certificate_expiry_timestamp_seconds{pod="a"}': always(50000),
            'outrider_injector_certificate_expiry_timestamp_seconds{pod="b"}': always(600000),
        },
        labels={},
        value="13h 31m 20s",
    ),
)

EVERY = (*TRAFFIC, *UPSTREAMS, *CONFIGURATION, *PROCESS, *TELEMETRY, *INJECTOR)
