"""The compiled configuration: immutable nouns that the hot path reads. `config.compile` makes them, nobody changes them.

Durations are seconds (float, 0.0 = off), sizes are bytes, names are str as in the document, anything compared with
bytes from the wire is bytes in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from msgspec import Struct, field

from sidecar.model.health import CircuitBreaking, HealthCheck, OutlierDetection
from sidecar.model.telemetry import Telemetry
from sidecar.model.tls import ListenerTls, UpstreamTls

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


class Client(StrEnum):
    """Which client library talks to an upstream."""

    NATIVE = "Native"
    AIOHTTP = "Aiohttp"
    HTTPX = "Httpx"


class HttpProtocol(StrEnum):
    """Which version of HTTP an upstream speaks; `H2C` is HTTP/2 without TLS."""

    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"
    H2C = "H2C"


class AllowEntry(Struct, frozen=True, kw_only=True):
    """One entry of a Forward listener's `allow`: a host glob (lower case) or a network; `ports` None = any port."""

    host: str | None
    network: Network | None
    ports: frozenset[int] | None


class Listener(Struct, frozen=True, kw_only=True):
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
    tls: ListenerTls | None = None
    allow: tuple[AllowEntry, ...] = ()


class Target(Struct, frozen=True, kw_only=True):
    """One static address: `host` and `port`, or `unix_path`. `tls`: its URL begins with `https://`."""

    host: str
    port: int
    weight: int = 1
    unix_path: str | None = None
    tls: bool = False


class DnsName(Struct, frozen=True, kw_only=True):
    """`dns:` of an upstream."""

    host: str
    port: int


class ServiceName(Struct, frozen=True, kw_only=True):
    """`service:` of an upstream. `namespace` None: the pod's own; `port`: its name, or the number that the pods listen on."""

    name: str
    namespace: str | None
    port: int | str

    def __str__(self) -> str:
        """For messages: `service shop/orders:http`."""
        return f"service {f'{self.namespace}/' if self.namespace else ''}{self.name}:{self.port}"


class PoolLimits(Struct, frozen=True, kw_only=True):
    """`connectionPool`. 0 = unlimited (counts) or off (ages)."""

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    idle_timeout: float = 4.0
    learn_keep_alive: bool = True
    max_connection_age: float = 0.0
    max_requests_per_connection: int = 0


class LoadBalancer(Struct, frozen=True, kw_only=True):
    """`loadBalancer`; `hash_name` is the header, cookie or query parameter that `hash_on` names, else ""."""

    policy: Balancing = Balancing.LEAST_REQUEST
    hash_on: HashOn | None = None
    hash_name: str = ""


class RetryBudget(Struct, frozen=True, kw_only=True):
    """At most `percent` of the requests in `interval`, plus `min_retries` per `min_interval`, may be retries."""

    percent: float = 20.0
    interval: float = 10.0
    min_retries: int = 10
    min_interval: float = 1.0


class HttpProxy(Struct, frozen=True, kw_only=True):
    """`proxyURL` of an upstream. `authorization`: the value of `Proxy-Authorization`, None without credentials."""

    host: str
    port: int
    authorization: bytes | None = None

    def __repr__(self) -> str:
        """Without the credentials."""
        return f"HttpProxy(host={self.host!r}, port={self.port!r})"


class Upstream(Struct, frozen=True, kw_only=True):
    """A named set of endpoints and how to reach them. Exactly one of `targets`, `service` and `dns` is given.

    `tls`: how, where TLS is spoken: to targets whose URL says so, to all endpoints of a service or a DNS name. None: nowhere.
    """

    name: str
    targets: tuple[Target, ...] = ()
    service: ServiceName | None = None
    dns: DnsName | None = None
    client: Client = Client.NATIVE
    protocol: HttpProtocol = HttpProtocol.HTTP1
    tls: UpstreamTls | None = None
    proxy: HttpProxy | None = None
    connect_timeout: float = 5.0
    pool: PoolLimits = field(default_factory=PoolLimits)
    load_balancer: LoadBalancer = field(default_factory=LoadBalancer)
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    outlier_detection: OutlierDetection | None = None
    circuit_breaker: CircuitBreaking | None = None
    health_check: HealthCheck | None = None


class PathMatch(Struct, frozen=True, kw_only=True):
    """`value` in the document's spelling; how it is compared is policy/router.py's business."""

    type: PathType = PathType.PREFIX
    value: str = "/"


class ValueMatch(Struct, frozen=True, kw_only=True):
    """A header (name in lower case) or query parameter (name as written) that must match."""

    name: str
    value: str
    type: ValueType = ValueType.EXACT


class Match(Struct, frozen=True, kw_only=True):
    """All parts must hold; a route matches when one of its matches does."""

    path: PathMatch = field(default_factory=PathMatch)
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()


class HeaderModifier(Struct, frozen=True, kw_only=True):
    """RequestHeaderModifier or ResponseHeaderModifier: (name, value) pairs as written, removal by lower-case name."""

    set: tuple[tuple[bytes, bytes], ...] = ()
    add: tuple[tuple[bytes, bytes], ...] = ()
    remove: frozenset[bytes] = frozenset()


class UrlRewrite(Struct, frozen=True, kw_only=True):
    """URLRewrite. At most one of the two path fields is given; both None leaves the path alone."""

    hostname: str | None = None
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class Redirect(Struct, frozen=True, kw_only=True):
    """RequestRedirect: what is None keeps the request's own value (Gateway API HTTPRequestRedirectFilter)."""

    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None
    status: int = 302


class Mirror(Struct, frozen=True, kw_only=True):
    """RequestMirror: the upstream that gets copies, and of what share of the requests (0 to 1)."""

    name: str
    share: float = 1.0


class Filters(Struct, frozen=True, kw_only=True):
    """A route's filters, in the order of the document within each kind."""

    request_headers: tuple[HeaderModifier, ...] = ()
    response_headers: tuple[HeaderModifier, ...] = ()
    rewrite: UrlRewrite | None = None
    redirect: Redirect | None = None
    mirrors: tuple[Mirror, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.request_headers or self.response_headers or self.rewrite or self.redirect)


class Timeouts(Struct, frozen=True, kw_only=True):
    """The clocks of a route (product.md 3.2)."""

    request: float = 0.0
    backend_request: float = 0.0
    response_header: float = 60.0
    stream_idle: float = 300.0
    tunnel_idle: float = 3600.0
    upgrade_handshake: float = 10.0
    queue: float = 5.0


DEFAULT_CONDITIONS = frozenset({Condition.CONNECT_FAILURE, Condition.RESET, Condition.REFUSED_STREAM})


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """A route's `retry` stanza; `attempts` counts retries, so tries = 1 + attempts."""

    attempts: int = 2
    codes: frozenset[int] = frozenset({502, 503, 504})
    backoff: float = 0.025
    max_backoff: float = 0.25
    conditions: frozenset[Condition] = DEFAULT_CONDITIONS
    methods: RetryMethods = RetryMethods.IDEMPOTENT
    max_buffered_body: int = 64 * 1024


class Backend(Struct, frozen=True, kw_only=True):
    """A weighted reference to an upstream by name."""

    name: str
    weight: int = 1


class Route(Struct, frozen=True, kw_only=True):
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


class Lifecycle(Struct, frozen=True, kw_only=True):
    """`lifecycle`, seconds."""

    drain_delay: float = 5.0
    drain_timeout: float = 20.0


class Snapshot(Struct, frozen=True, kw_only=True):
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
