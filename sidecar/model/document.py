"""The configuration document (product.md section 2), field by field: names, types, defaults, meaning.

This is the only place that knows the document's shape. Validation, the compiler, `outrider schema` and
`docs/configuration.md` all read it from here. Durations and sizes stay text, so that what a user wrote is what
`GET /config` shows; `model/quantity.py` reads them. `UNSET` means "not given" where that differs from null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType, field

from sidecar.model.document_ends import Duration, ListenerDoc, Part, Percent, Port, RouteName, Share, Size, UpstreamDoc, Weight, says
from sidecar.model.snapshot import Condition, Mode, PathType, RetryMethods, ValueType
from sidecar.model.telemetry import DEFAULT_BUCKETS, Exporter, LogFormat, LogQuery, Propagator, Sampler

API_VERSION: Final = "outrider.dev/v1alpha1"
KIND: Final = "SidecarConfig"


class FilterType(StrEnum):
    """Gateway API HTTPRouteFilter `type`."""

    REQUEST_HEADERS = "RequestHeaderModifier"
    RESPONSE_HEADERS = "ResponseHeaderModifier"
    REWRITE = "URLRewrite"
    REDIRECT = "RequestRedirect"
    MIRROR = "RequestMirror"


class PathModifierType(StrEnum):
    """Gateway API HTTPPathModifier `type`."""

    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"


class Always(StrEnum):
    """Exchanges that the access log never samples away."""

    ERROR = "Error"
    RETRIED = "Retried"


class PathMatchDoc(Part, frozen=True):
    """Compared with the normalised path; the query is no part of it."""

    type: Annotated[PathType, says("`PathPrefix` goes by whole path elements; regular expressions are RE2 and match the whole path.")] = (
        PathType.PREFIX
    )
    value: Annotated[str, says("Path or expression.")] = "/"


class ValueMatchDoc(Part, frozen=True):
    """A header or query parameter that must match."""

    name: Annotated[str, says("Header (any case) or query parameter (as written).")]
    value: Annotated[str, says("Value or RE2 expression for the whole value.")]
    type: Annotated[ValueType, says("How it is compared.")] = ValueType.EXACT


class MatchDoc(Part, frozen=True):
    """All parts must hold; a route matches when one of its matches does."""

    path: Annotated[PathMatchDoc, says("Condition on the path.")] = field(default_factory=PathMatchDoc)
    method: Annotated[str | None, says("Method; null: any.")] = None
    headers: Annotated[list[ValueMatchDoc], says("Conditions on headers.")] = field(default_factory=list)
    query_params: Annotated[list[ValueMatchDoc], says("Conditions on query parameters.")] = field(default_factory=list)


class HeaderDoc(Part, frozen=True):
    """A header to write."""

    name: Annotated[str, says("Name; framing and hop-by-hop headers cannot be written.")]
    value: Annotated[str, says("Value.")]


class HeaderModifierDoc(Part, frozen=True):
    """Applied in the order set, add, remove."""

    set: Annotated[list[HeaderDoc], says("Replace the header, or add it where it is absent.")] = field(default_factory=list)
    add: Annotated[list[HeaderDoc], says("Add a line, whatever is there.")] = field(default_factory=list)
    remove: Annotated[list[str], says("Names to remove.")] = field(default_factory=list)


class PathModifierDoc(Part, frozen=True):
    """A new path: whole, or instead of the prefix that matched."""

    type: Annotated[PathModifierType, says("Which of the two.")]
    replace_full_path: Annotated[str | None, says("For type ReplaceFullPath.")] = None
    replace_prefix_match: Annotated[str | None, says("For type ReplacePrefixMatch; every match of the route must be a PathPrefix.")] = None


class UrlRewriteDoc(Part, frozen=True):
    """Changes what goes to the upstream."""

    hostname: Annotated[str | None, says("New `Host`; null keeps the client's.")] = None
    path: Annotated[PathModifierDoc | None, says("New path; null keeps the client's. The query is kept.")] = None


class RedirectDoc(Part, frozen=True):
    """Answers with a redirect; what is null keeps the request's own value."""

    scheme: Annotated[Literal["http", "https"] | None, says("Scheme of `Location`.")] = None
    hostname: Annotated[str | None, says("Host of `Location`.")] = None
    port: Annotated[Port | None, says("Port of `Location`; null: the scheme's own when `scheme` is given, else the listener's.")] = None
    path: Annotated[PathModifierDoc | None, says("Path of `Location`.")] = None
    status_code: Annotated[Literal[301, 302, 303, 307, 308], says("Status.")] = 302


class BackendRefDoc(Part, frozen=True):
    """A reference to an upstream."""

    name: Annotated[str, says("Name of an upstream.")]
    weight: Annotated[Weight, says("Share of the requests, relative to the other references.")] = 1


class MirrorRefDoc(Part, frozen=True):
    """A reference to an upstream that gets copies."""

    name: Annotated[str, says("Name of an upstream.")]


class MirrorDoc(Part, frozen=True):
    """Sends a copy of requests elsewhere and ignores the answer. A copy leaves when its original has been answered.

    Bodies are copied up to the length that is kept for a replay (64 KiB, or `retry.maxBufferedBody`). A copy has all that its original had,
    `Host`, credentials and cookies too: name a mirror that may see them, and not the sidecar itself. Of its answer 1 MiB is read.
    """

    backend_ref: Annotated[MirrorRefDoc, says("Where the copy goes.")]
    percent: Annotated[Percent, says("Share of the requests.")] = 100.0


class FilterDoc(Part, frozen=True):
    """One change to a request or response; the field named like `type` holds its parameters."""

    type: Annotated[FilterType, says("Kind of the filter.")]
    request_header_modifier: Annotated[HeaderModifierDoc | None, says("Headers that go to the upstream.")] = None
    response_header_modifier: Annotated[HeaderModifierDoc | None, says("Headers that go to the client.")] = None
    url_rewrite: Annotated[UrlRewriteDoc | None, says("Host and path that go to the upstream.")] = None
    request_redirect: Annotated[RedirectDoc | None, says("Answer with a redirect; nothing goes to an upstream.")] = None
    request_mirror: Annotated[MirrorDoc | None, says("Copy requests to another upstream.")] = None


class TimeoutsDoc(Part, frozen=True):
    """Independent clocks; the first to fire wins and is named in the error. `0s` is off.

    Left out: the value of `defaults.timeouts`, else the built-in one (here in brackets).
    """

    request: Annotated[Duration | UnsetType, says("The whole transaction, queueing and retries included. [0s]")] = UNSET
    backend_request: Annotated[Duration | UnsetType, says("One attempt. Not above `request`, unless one of them is off. [0s]")] = UNSET
    response_header: Annotated[Duration | UnsetType, says("From the request sent to the response's head. [60s]")] = UNSET
    stream_idle: Annotated[Duration | UnsetType, says("No byte in either direction. [5m]")] = UNSET
    tunnel_idle: Annotated[Duration | UnsetType, says("The same after CONNECT or an upgrade. [1h]")] = UNSET
    upgrade_handshake: Annotated[Duration | UnsetType, says("Wait for 101. [10s]")] = UNSET
    queue: Annotated[Duration | UnsetType, says("Wait for a connection of the pool. [5s]")] = UNSET


class RetryDoc(Part, frozen=True):
    """When a failed attempt is made again. Bodies above `maxBufferedBody` are streamed and not retried."""

    attempts: Annotated[int, Meta(ge=0, le=100, description="Retries: tries = 1 + attempts.")] = 2
    codes: Annotated[list[Annotated[int, Meta(ge=400, le=599)]], says("Statuses that are retried.")] = field(
        default_factory=lambda: [502, 503, 504]
    )
    backoff: Annotated[Duration, says("Shortest wait before a retry.")] = "25ms"
    max_backoff: Annotated[Duration, says("Longest wait before a retry.")] = "250ms"
    conditions: Annotated[list[Condition], says("Failures that are retried.")] = field(
        default_factory=lambda: [Condition.CONNECT_FAILURE, Condition.RESET, Condition.REFUSED_STREAM]
    )
    methods: Annotated[RetryMethods, says("`All` also repeats requests that are not idempotent.")] = RetryMethods.IDEMPOTENT
    max_buffered_body: Annotated[Size, says("Largest request body kept for a retry; at most 16Mi.")] = "64Ki"


class RouteDoc(Part, frozen=True):
    """One rule. The most specific match wins, not the first."""

    name: Annotated[RouteName | UnsetType, says("Unique; label `route` of the metrics. Left out: `routes[N]`, counted from 0.")] = UNSET
    listener: Annotated[str | None, says("Name of a listener; null: every listener.")] = None
    hostnames: Annotated[list[str], says("Hosts, without port; `*.` as the first label stands for one or more labels. []: every host.")] = (
        field(default_factory=list)
    )
    matches: Annotated[list[MatchDoc], says("One of these must hold. []: every request.")] = field(default_factory=list)
    filters: Annotated[list[FilterDoc], says("Changes to request and response.")] = field(default_factory=list)
    backend_refs: Annotated[list[BackendRefDoc], says("Where requests go; required unless a filter redirects.")] = field(
        default_factory=list
    )
    timeouts: Annotated[TimeoutsDoc, says("Clocks; merged key by key with `defaults.timeouts`.")] = field(default_factory=TimeoutsDoc)
    retry: Annotated[
        RetryDoc | UnsetType | None, says("Replaces `defaults.retry` whole. null: no retries for this route; left out: `defaults.retry`.")
    ] = UNSET


class DefaultsDoc(Part, frozen=True):
    """Merged under every route."""

    timeouts: Annotated[TimeoutsDoc, says("Clocks of routes that do not name their own, and of forward destinations without a route.")] = (
        field(default_factory=TimeoutsDoc)
    )
    retry: Annotated[RetryDoc | None, says("Retries of routes that do not say.")] = None


class TracingDoc(Part, frozen=True):
    """Spans (OpenTelemetry)."""

    exporter: Annotated[
        Exporter,
        says(
            "Where spans go: over HTTP/protobuf or gRPC. `None`: `OTEL_TRACES_EXPORTER`, or OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set."
        ),
    ] = Exporter.NONE
    endpoint: Annotated[
        str | None,
        says(
            "Base URL of the collector; /v1/traces is appended for HTTP. null: `OTEL_EXPORTER_OTLP_ENDPOINT`, else the exporter's own on localhost."
        ),
    ] = None
    sampler: Annotated[
        Sampler | UnsetType, says("Which traces are kept. Left out: `OTEL_TRACES_SAMPLER`, else `ParentBasedTraceIdRatio`.")
    ] = UNSET
    ratio: Annotated[Share | UnsetType, says("Share of traces for the ratio samplers. Left out: `OTEL_TRACES_SAMPLER_ARG`, else 0.01.")] = (
        UNSET
    )
    propagators: Annotated[
        list[Propagator] | UnsetType,
        says("Formats in which a trace comes and goes. Left out: `OTEL_PROPAGATORS`, else `[tracecontext, baggage]`."),
    ] = UNSET


class OtlpMetricsDoc(Part, frozen=True):
    """Metrics sent to a collector (OTLP over HTTP)."""

    endpoint: Annotated[
        str, says("Base URL of the collector; /v1/metrics is appended. Headers, time-outs and certificates: `OTEL_EXPORTER_OTLP_*`.")
    ]
    interval: Annotated[Duration, says("Between two exports; at least 1s.")] = "1m"


class MetricsDoc(Part, frozen=True):
    """Prometheus metrics."""

    buckets: Annotated[list[Annotated[float, Meta(gt=0)]], says("Bounds of the duration histograms, seconds, ascending.")] = field(
        default_factory=lambda: list(DEFAULT_BUCKETS)
    )
    otlp: Annotated[
        OtlpMetricsDoc | None,
        says("Sends the same metrics to a collector as well, which needs the extra `tracing`. null: they are only scraped."),
    ] = None


class SlowerThanDoc(Part, frozen=True):
    """Exchanges that took longer."""

    slower_than: Annotated[Duration, says("Total duration.")]


class AccessLogDoc(Part, frozen=True):
    """One line for each exchange."""

    format: Annotated[LogFormat, says("`None` writes no access log.")] = LogFormat.JSON
    sample: Annotated[Share, says("Share of exchanges that are logged.")] = 1.0
    always: Annotated[list[Always | SlowerThanDoc], says("Logged whatever `sample` says.")] = field(
        default_factory=lambda: [Always.ERROR, Always.RETRIED, SlowerThanDoc(slower_than="1s")]
    )
    redact_headers: Annotated[list[str], says("Headers whose values are never logged.")] = field(
        default_factory=lambda: ["authorization", "cookie", "set-cookie"]
    )
    query: Annotated[LogQuery, says("What becomes of the query string.")] = LogQuery.DROP


class TelemetryDoc(Part, frozen=True):
    """What the sidecar tells about the traffic."""

    tracing: Annotated[TracingDoc, says("Spans.")] = field(default_factory=TracingDoc)
    metrics: Annotated[MetricsDoc, says("Metrics.")] = field(default_factory=MetricsDoc)
    access_log: Annotated[AccessLogDoc, says("Access log.")] = field(default_factory=AccessLogDoc)


class LifecycleDoc(Part, frozen=True):
    """The end of the sidecar's life."""

    drain_delay: Annotated[
        Duration, says("How long inbound listeners keep accepting after SIGTERM, and after the last new connection that came since.")
    ] = "5s"
    drain_timeout: Annotated[
        Duration, says("How long exchanges in flight may take after that; half of it may be spent on accepting for longer.")
    ] = "20s"


class CaseRequestDoc(Part, frozen=True):
    """A request that is matched without being sent."""

    url: Annotated[str, says("Path, or absolute URL whose host takes the place of `Host`.")]
    method: Annotated[str, says("Method.")] = "GET"
    headers: Annotated[dict[str, str], says("Headers by name.")] = field(default_factory=dict)
    listener: Annotated[
        str | None,
        says(
            "Listener it arrives at; null: the expected route's own, else for a path the first Reverse one, for a URL the first that has a route for it."
        ),
    ] = None


class CaseExpectDoc(Part, frozen=True):
    """What must come out; what is left out is not compared."""

    route: Annotated[str | UnsetType | None, says("Name of the route; null: none may match.")] = UNSET
    upstream: Annotated[str | UnsetType, says("An upstream that the route sends to.")] = UNSET
    timeouts: Annotated[TimeoutsDoc, says("Clocks in effect.")] = field(default_factory=TimeoutsDoc)
    headers: Annotated[
        dict[str, str | None],
        says(
            "Request headers as the route's filters leave them; null: absent. What every request gets is not among them (`Via`, `X-Forwarded-*`, `x-request-id`)."
        ),
    ] = field(default_factory=dict)


class CaseDoc(Part, frozen=True):
    """A test that the document must pass to be accepted."""

    request: Annotated[CaseRequestDoc, says("The request.")]
    expect: Annotated[CaseExpectDoc, says("The outcome.")]
    name: Annotated[str | None, says("For messages.")] = None


def default_listeners() -> list[ListenerDoc]:
    """The listeners of a document that names none."""
    return [ListenerDoc(name="inbound", port=15001, mode=Mode.REVERSE), ListenerDoc(name="outbound", port=15002, mode=Mode.FORWARD)]


class Document(Part, frozen=True):
    """The whole document, key `sidecar.yaml` of the ConfigMap or a file."""

    api_version: Annotated[Literal["outrider.dev/v1alpha1"], says("Version of this format.")]
    kind: Annotated[Literal["SidecarConfig"], says("Kind of the document.")]
    listeners: Annotated[
        list[ListenerDoc],
        says("Sockets that accept requests. Left out: `inbound` (Reverse, 0.0.0.0:15001) and `outbound` (Forward, 127.0.0.1:15002)."),
    ] = field(default_factory=default_listeners)
    upstreams: Annotated[list[UpstreamDoc], says("Where requests go.")] = field(default_factory=list)
    routes: Annotated[list[RouteDoc], says("Which requests go where. Left out, with exactly one upstream: everything goes there.")] = field(
        default_factory=list
    )
    defaults: Annotated[DefaultsDoc, says("Merged under every route.")] = field(default_factory=DefaultsDoc)
    telemetry: Annotated[TelemetryDoc, says("Metrics, access log, traces.")] = field(default_factory=TelemetryDoc)
    lifecycle: Annotated[LifecycleDoc, says("Draining.")] = field(default_factory=LifecycleDoc)
    tests: Annotated[list[CaseDoc], says("A document whose own tests fail is rejected.")] = field(default_factory=list)
