"""The compiled configuration: immutable nouns that the hot path reads. `config.compile` makes them, nobody changes them.

Durations are seconds (float, 0.0 = off), sizes are bytes, names are str as in the document, anything compared with
bytes from the wire is bytes in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


class Mode(StrEnum):
    """What a listener is: `REVERSE` faces callers of the application, `FORWARD` is the application's way out."""

    REVERSE = "Reverse"
    FORWARD = "Forward"


class Forwarded(StrEnum):
    """What happens to X-Forwarded-* and X-Real-IP (product.md 3.8)."""

    APPEND = "Append"
    SET = "Set"
    PRESERVE = "Preserve"
    OFF = "Off"


class PathType(StrEnum):
    """Gateway API HTTPPathMatch type."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class ValueType(StrEnum):
    """Gateway API HTTPHeaderMatch / HTTPQueryParamMatch type."""

    EXACT = "Exact"
    REGEX = "RegularExpression"


class Condition(StrEnum):
    """What may be retried besides status codes (product.md 3.3 and 3.9)."""

    CONNECT_FAILURE = "ConnectFailure"
    RESET = "Reset"
    REFUSED_STREAM = "RefusedStream"
    TIMEOUT = "Timeout"


class RetryMethods(StrEnum):
    """Whether requests that are not idempotent may be sent twice once bytes have left."""

    IDEMPOTENT = "Idempotent"
    ALL = "All"


class Balancing(StrEnum):
    """How an endpoint is chosen."""

    ROUND_ROBIN = "RoundRobin"
    LEAST_REQUEST = "LeastRequest"
    RANDOM = "Random"
    PEAK_EWMA = "PeakEWMA"
    CONSISTENT_HASH = "ConsistentHash"


class HashOn(StrEnum):
    """What a ConsistentHash upstream hashes."""

    HEADER = "Header"
    COOKIE = "Cookie"
    QUERY = "QueryParam"
    SOURCE_IP = "SourceIP"
    PATH = "Path"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowEntry:
    """One entry of a Forward listener's `allow`: a host glob (lower case) or a network; `ports` None = any port."""

    host: str | None
    network: Network | None
    ports: frozenset[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening socket. `trusted_proxies` None: every peer is believed; (): nobody."""

    name: str
    port: int
    bind: str
    mode: Mode
    header_timeout: float = 15.0
    body_idle_timeout: float = 60.0
    idle_timeout: float = 3600.0
    max_header_bytes: int = 32 * 1024
    max_header_count: int = 128
    max_target_bytes: int = 8 * 1024
    max_request_body: int = 0
    max_connections: int = 0
    trusted_proxies: tuple[Network, ...] | None = None
    forwarded: Forwarded = Forwarded.APPEND
    allow: tuple[AllowEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One static address: `host` and `port`, or `unix_path`."""

    scheme: str
    host: str
    port: int
    weight: int = 1
    unix_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsName:
    """`dns:` of an upstream."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """`connectionPool`. 0 = unlimited (counts) or off (ages)."""

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    idle_timeout: float = 4.0
    learn_keep_alive: bool = True
    max_connection_age: float = 0.0
    max_requests_per_connection: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer:
    """`loadBalancer`; `hash_name` is the header, cookie or query parameter that `hash_on` names, else ""."""

    policy: Balancing = Balancing.LEAST_REQUEST
    hash_on: HashOn | None = None
    hash_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """At most `percent` of the requests in `interval`, plus `min_retries` per `min_interval`, may be retries."""

    percent: float = 20.0
    interval: float = 10.0
    min_retries: int = 10
    min_interval: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A named set of endpoints and how to reach them. Exactly one of `targets` and `dns` is given."""

    name: str
    targets: tuple[Target, ...] = ()
    dns: DnsName | None = None
    connect_timeout: float = 5.0
    pool: PoolLimits = field(default_factory=PoolLimits)
    load_balancer: LoadBalancer = field(default_factory=LoadBalancer)
    retry_budget: RetryBudget = field(default_factory=RetryBudget)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """`value` in the document's spelling; how it is compared is policy/router.py's business."""

    type: PathType = PathType.PREFIX
    value: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """A header (name in lower case) or query parameter (name as written) that must match."""

    name: str
    value: str
    type: ValueType = ValueType.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All parts must hold; a route matches when one of its matches does."""

    path: PathMatch = field(default_factory=PathMatch)
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderModifier:
    """RequestHeaderModifier or ResponseHeaderModifier: (name, value) pairs as written, removal by lower-case name."""

    set: tuple[tuple[bytes, bytes], ...] = ()
    add: tuple[tuple[bytes, bytes], ...] = ()
    remove: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlRewrite:
    """URLRewrite. At most one of the two path fields is given; both None leaves the path alone."""

    hostname: str | None = None
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """RequestRedirect: what is None keeps the request's own value (Gateway API HTTPRequestRedirectFilter)."""

    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None
    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """A route's filters, in the order of the document within each kind."""

    request_headers: tuple[HeaderModifier, ...] = ()
    response_headers: tuple[HeaderModifier, ...] = ()
    rewrite: UrlRewrite | None = None
    redirect: Redirect | None = None

    def __bool__(self) -> bool:
        return bool(self.request_headers or self.response_headers or self.rewrite or self.redirect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The clocks of a route (product.md 3.2)."""

    request: float = 0.0
    backend_request: float = 0.0
    response_header: float = 60.0
    stream_idle: float = 300.0
    tunnel_idle: float = 3600.0
    upgrade_handshake: float = 10.0
    queue: float = 5.0


DEFAULT_CONDITIONS = frozenset({Condition.CONNECT_FAILURE, Condition.RESET, Condition.REFUSED_STREAM})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A route's `retry` stanza; `attempts` counts retries, so tries = 1 + attempts."""

    attempts: int = 2
    codes: frozenset[int] = frozenset({502, 503, 504})
    backoff: float = 0.025
    max_backoff: float = 0.25
    conditions: frozenset[Condition] = DEFAULT_CONDITIONS
    methods: RetryMethods = RetryMethods.IDEMPOTENT
    max_buffered_body: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A weighted reference to an upstream by name."""

    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One rule. `listener` None: every listener. `hostnames` (): every host. `index`: place in the document."""

    name: str
    index: int
    listener: str | None = None
    hostnames: tuple[str, ...] = ()
    matches: tuple[Match, ...] = (Match(),)
    filters: Filters = field(default_factory=Filters)
    backends: tuple[Backend, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy | None = None


class LogFormat(StrEnum):
    """`telemetry.accessLog.format`."""

    JSON = "JSON"
    NONE = "None"


class LogQuery(StrEnum):
    """What the access log shows of the query string."""

    DROP = "Drop"
    KEEP = "Keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """`telemetry.accessLog`. `always_*`: written whatever `sample` says; `slower_than` None: no such rule."""

    format: LogFormat = LogFormat.JSON
    sample: float = 1.0
    always_error: bool = True
    always_retried: bool = True
    slower_than: float | None = 1.0
    redact_headers: frozenset[bytes] = frozenset({b"authorization", b"cookie", b"set-cookie"})
    query: LogQuery = LogQuery.DROP


DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """`telemetry`; `buckets` are histogram bounds in seconds, ascending."""

    buckets: tuple[float, ...] = DEFAULT_BUCKETS
    access_log: AccessLog = field(default_factory=AccessLog)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """`lifecycle`, seconds."""

    drain_delay: float = 5.0
    drain_timeout: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One whole configuration. `defaults` are the timeouts of requests without a route (forward destinations)."""

    revision: str
    hash: str
    listeners: tuple[Listener, ...]
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    default_timeouts: Timeouts = field(default_factory=Timeouts)
    default_retry: RetryPolicy | None = None
    telemetry: Telemetry = field(default_factory=Telemetry)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    warnings: tuple[str, ...] = ()
