"""The ends of the document: listeners and upstreams (product.md section 2), and the types that all of it is made of.

See `model/document.py` for the whole.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sidecar.model.quantity import DURATION, SIZE
from sidecar.model.snapshot import Balancing, Client, Forwarded, HashOn, HttpProtocol, Mode
from sidecar.model.tls import AltNameType, ClientAuth, MinVersion, ObjectKind

Duration = Annotated[str, Meta(pattern=DURATION)]
Size = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(pattern=SIZE)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$(?!\n)")]
RouteName = Annotated[str, Meta(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?|routes\[[0-9]{1,6}\])$(?!\n)")]


def says(description: str) -> Meta:
    """What a field means."""
    return Meta(description=description)


class Part(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What every mapping of the document has in common: camelCase keys, unknown ones refused."""


class Verification(StrEnum):
    """Whether an upstream's certificate is verified."""

    FULL = "Full"
    NONE = "None"


class SystemCertificates(StrEnum):
    """Gateway API BackendTLSPolicy `wellKnownCACertificates`."""

    SYSTEM = "System"
    NONE = "None"


class CertificateDoc(Part, frozen=True):
    """A certificate with its key: two files, or a `kubernetes.io/tls` Secret."""

    cert_file: Annotated[str | None, says("PEM file with the certificate chain.")] = None
    key_file: Annotated[str | None, says("PEM file with the private key.")] = None
    name: Annotated[str | None, says("Name of a kubernetes.io/tls Secret.")] = None
    namespace: Annotated[str | None, says("Namespace of the Secret; the pod's own when left out.")] = None


class CaDoc(Part, frozen=True):
    """A bundle of CA certificates: a file, or a key of a ConfigMap or Secret."""

    file: Annotated[str | None, says("PEM file.")] = None
    kind: Annotated[ObjectKind | None, says("Kind of the object that holds the bundle.")] = None
    name: Annotated[str | None, says("Name of the object.")] = None
    namespace: Annotated[str | None, says("Namespace of the object; the pod's own when left out.")] = None
    key: Annotated[str, says("Key within the object.")] = "ca.crt"


class ListenerTlsDoc(Part, frozen=True):
    """TLS towards clients."""

    certificates: Annotated[list[CertificateDoc], says("Chosen by SNI; the first is the default.")] = field(default_factory=list)
    certificate_ref: Annotated[CertificateDoc | None, says("Short for one entry of `certificates`.")] = None
    cert_file: Annotated[str | None, says("Short for one entry of `certificates`.")] = None
    key_file: Annotated[str | None, says("Short for one entry of `certificates`.")] = None
    client_ca: Annotated[CaDoc | None, says("Verify clients against this bundle.")] = field(default=None, name="clientCA")
    client_auth: Annotated[ClientAuth, says("Whether a client without a certificate is refused.")] = ClientAuth.REQUIRED


class ListenerDoc(Part, frozen=True):
    """A socket that accepts requests."""

    name: Annotated[Name, says("Unique; label `listener` of the metrics.")]
    port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | UnsetType, says("TCP port; 0 takes a free one. Required unless `bind` is a unix socket.")
    ] = UNSET
    bind: Annotated[str | UnsetType, says("Address to bind, or `unix:/PATH`. Default: `0.0.0.0` for Reverse, `127.0.0.1` for Forward.")] = (
        UNSET
    )
    mode: Annotated[
        Mode, says("`Reverse` faces callers of the application; `Forward` is the application's way out (HTTP_PROXY, CONNECT).")
    ] = Mode.REVERSE
    header_timeout: Annotated[Duration, says("Longest wait for a whole request head, from its first byte.")] = "15s"
    body_idle_timeout: Annotated[Duration, says("Longest wait between two reads of a request body; never a limit on the whole body.")] = (
        "60s"
    )
    idle_timeout: Annotated[Duration, says("How long a keep-alive connection may be idle between requests.")] = "1h"
    max_header_bytes: Annotated[Size, says("Largest request head, request line included; more is a 431.")] = "32Ki"
    max_header_count: Annotated[Positive, says("Most header fields of a request; more is a 431.")] = 128
    max_target_bytes: Annotated[Size, says("Longest request target; more is a 414.")] = "8Ki"
    max_request_body: Annotated[Size, says("Largest request body; more is a 413. 0: unlimited, streamed.")] = 0
    max_connections: Annotated[Count, says("Most connections; at the limit accepting pauses. 0: unlimited.")] = 0
    trusted_proxies: Annotated[
        list[str] | None,
        says("Networks (CIDR) whose word about the client, the trace and the deadline is believed. null: every peer; []: nobody."),
    ] = None
    forwarded: Annotated[
        Forwarded, says("What happens to X-Forwarded-* and X-Real-IP: add ours, set ours alone, leave all as it is, or remove them.")
    ] = Forwarded.APPEND
    tls: Annotated[ListenerTlsDoc | None, says("TLS towards clients.")] = None
    allow: Annotated[
        list[str],
        says(
            "Forward only: destinations that need no route: host globs or networks, with `:PORT` or `:*` (alone: ports 443 and 80). Private ranges and metadata addresses must be named as networks or addresses."
        ),
    ] = field(default_factory=list)


class TargetDoc(Part, frozen=True):
    """One static address of an upstream."""

    url: Annotated[str, says("`http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`.")]
    weight: Annotated[Weight, says("Share of the requests, relative to the other targets.")] = 1


class ServiceDoc(Part, frozen=True):
    """A Kubernetes Service whose EndpointSlices are watched. The sidecar's account needs the right to list and watch them."""

    name: Annotated[str, says("Name of the Service. One of type ExternalName has no endpoints: write `dns` for it.")]
    port: Annotated[int | str, says("Name of the port, or the number that the pods listen on (`targetPort`, not the Service's own).")]
    namespace: Annotated[str | None, says("Namespace; the pod's own when left out.")] = None


class DnsDoc(Part, frozen=True):
    """A name whose addresses are looked up again when their TTL ends; the last answer is kept on failure."""

    host: Annotated[str, says("Name to look up (A and AAAA).")]
    port: Annotated[Port, says("Port to connect to.")]


class SubjectAltName(Part, frozen=True):
    """A name that must be in the upstream's certificate."""

    type: Annotated[AltNameType, says("Kind of the name.")]
    hostname: Annotated[str | None, says("For type Hostname.")] = None
    uri: Annotated[str | None, says("For type URI.")] = None


class UpstreamTlsDoc(Part, frozen=True):
    """TLS towards an upstream. Targets with `https://` have it anyway; `service` and `dns` have it when it is written, if only as `{}`."""

    hostname: Annotated[str | None, says("SNI and the name verified; null: the target's host.")] = None
    ca_certificate_refs: Annotated[list[CaDoc], says("CA bundles to verify against.")] = field(default_factory=list)
    well_known_ca_certificates: Annotated[SystemCertificates, says("Whether the system's CA bundle is trusted.")] = field(
        default=SystemCertificates.SYSTEM, name="wellKnownCACertificates"
    )
    client_certificate_ref: Annotated[CertificateDoc | None, says("Our certificate for mutual TLS.")] = None
    subject_alt_names: Annotated[list[SubjectAltName], says("Names verified instead of `hostname`.")] = field(default_factory=list)
    min_version: Annotated[MinVersion, says("Lowest TLS version.")] = MinVersion.TLS12
    verification: Annotated[Verification, says("`None` accepts any certificate: never in production.")] = Verification.FULL


class ConnectionPoolDoc(Part, frozen=True):
    """Connections to an upstream, per process."""

    max_connections: Annotated[Count, says("Most connections. 0: unlimited.")] = 1024
    max_pending_requests: Annotated[Count, says("Most requests that wait for a connection; more get 503 `overloaded`. 0: unlimited.")] = (
        1024
    )
    max_requests: Annotated[Count, says("Most requests in flight. 0: unlimited.")] = 1024
    idle_timeout: Annotated[Duration, says("Close a connection that was idle this long. 0s: never.")] = "4s"
    learn_keep_alive: Annotated[bool, says("Remember how long the server keeps idle connections and stay below it.")] = True
    max_connection_age: Annotated[Duration, says("Replace a connection of this age. 0s: never.")] = "0s"
    max_requests_per_connection: Annotated[Count, says("Replace a connection after so many requests. 0: never.")] = 0


class HashOnDoc(Part, frozen=True):
    """What a ConsistentHash upstream hashes."""

    type: Annotated[HashOn, says("Part of the request.")]
    name: Annotated[str | None, says("Name of the header, cookie or query parameter.")] = None


class LoadBalancerDoc(Part, frozen=True):
    """How an endpoint is chosen."""

    policy: Annotated[
        Balancing,
        says(
            "LeastRequest picks the less busy of two random endpoints; PeakEWMA the faster; ConsistentHash always the same for the same key."
        ),
    ] = Balancing.LEAST_REQUEST
    hash_on: Annotated[HashOnDoc | None, says("For ConsistentHash, and only there.")] = None


class MinRetryRateDoc(Part, frozen=True):
    """Retries that are always allowed."""

    count: Annotated[Count, says("Retries per `interval`.")] = 10
    interval: Annotated[Duration, says("Length of the window.")] = "1s"


class RetryBudgetDoc(Part, frozen=True):
    """Bounds retries of an upstream, so that they cannot multiply an outage."""

    percent: Annotated[Percent, says("Retries as a percentage of the requests in `interval`.")] = 20.0
    interval: Annotated[Duration, says("Length of the window.")] = "10s"
    min_retry_rate: Annotated[MinRetryRateDoc, says("Allowed on top, whatever the traffic.")] = field(default_factory=MinRetryRateDoc)


class SuccessRateDoc(Part, frozen=True):
    """Ejects an endpoint whose share of successes falls below a threshold."""

    threshold: Annotated[Share, says("Lowest share of successes.")] = 0.8
    window: Annotated[Duration, says("Length of the window.")] = "10s"
    min_requests: Annotated[Positive, says("Requests in the window before the share counts.")] = 20


class OutlierDetectionDoc(Part, frozen=True):
    """Takes failing endpoints out of rotation for a while: no answer, a broken one, or status 5xx. Never the last healthy one."""

    consecutive_failures: Annotated[
        Positive,
        says("Failures in a row that eject an endpoint; a single one does within its probation, the first request after an ejection."),
    ] = 7
    min_penalty: Annotated[Duration, says("Length of the first ejection; it doubles with each that follows within `maxPenalty`.")] = "1s"
    max_penalty: Annotated[Duration, says("Longest ejection.")] = "60s"
    max_ejection_percent: Annotated[Percent, says("Most endpoints, in percent, that are out of rotation at once, rounded down.")] = 50.0
    success_rate: Annotated[SuccessRateDoc | None, says("Second criterion; null: none.")] = field(default_factory=SuccessRateDoc)


class CircuitBreakerDoc(Part, frozen=True):
    """Refuses at once, with 503 `circuit_open`, what would fail anyway. Counts the upstream's failures, whatever the endpoint; per process."""

    consecutive_failures: Annotated[Positive, says("Failures in a row that open the breaker.")] = 10
    open_for: Annotated[Duration, says("How long it stays open.")] = "10s"
    half_open_requests: Annotated[Positive, says("Requests let through on trial afterwards; all of them must succeed.")] = 1


class HealthCheckDoc(Part, frozen=True):
    """Asks every endpoint regularly whether it is well. An endpoint is healthy until its checks say otherwise."""

    path: Annotated[str, says("Target of the GET request; any 2xx or 3xx passes.")] = "/healthz"
    interval: Annotated[Duration, says("Time between two checks.")] = "10s"
    timeout: Annotated[Duration, says("Longest wait for the answer.")] = "2s"
    unhealthy_threshold: Annotated[Positive, says("Failures in a row that take an endpoint out.")] = 3
    healthy_threshold: Annotated[Positive, says("Successes in a row that bring it back.")] = 2


class UpstreamDoc(Part, frozen=True):
    """A named set of endpoints and how to reach them: exactly one of `targets`, `service` and `dns`."""

    name: Annotated[Name, says("Unique; label `upstream` of the metrics. `forward` is taken by the forward listeners.")]
    targets: Annotated[list[TargetDoc] | None, says("Static addresses.")] = None
    service: Annotated[ServiceDoc | None, says("Endpoints of a Kubernetes Service.")] = None
    dns: Annotated[DnsDoc | None, says("Addresses of a name.")] = None
    client: Annotated[
        Client, says("Who speaks to it: `Native`, our own HTTP/1.1 engine, the cheapest; the libraries aiohttp or httpx (docs/clients.md).")
    ] = Client.NATIVE
    protocol: Annotated[
        HttpProtocol,
        says(
            "Version of HTTP: `HTTP2` over TLS (ALPN `h2`), `H2C` the same in the clear by prior knowledge, both with the client Httpx only. "
            "WebSockets and other upgrades to `HTTP2` go over HTTP/1.1, asked for by ALPN; over `H2C` they fail with `http_upgrade_failed`."
        ),
    ] = HttpProtocol.HTTP1
    tls: Annotated[UpstreamTlsDoc | None, says("TLS towards the upstream.")] = None
    proxy_url: Annotated[str | None, says("Reach the upstream through this HTTP proxy; credentials percent-encoded.")] = field(
        default=None, name="proxyURL"
    )
    connect_timeout: Annotated[Duration, says("DNS + TCP + TLS.")] = "5s"
    connection_pool: Annotated[ConnectionPoolDoc, says("Limits and ages of connections.")] = field(default_factory=ConnectionPoolDoc)
    load_balancer: Annotated[LoadBalancerDoc, says("How an endpoint is chosen.")] = field(default_factory=LoadBalancerDoc)
    retry_budget: Annotated[RetryBudgetDoc, says("Bounds retries.")] = field(default_factory=RetryBudgetDoc)
    outlier_detection: Annotated[OutlierDetectionDoc | None, says("Takes failing endpoints out of rotation; null: no.")] = None
    circuit_breaker: Annotated[CircuitBreakerDoc | None, says("Refuses requests at once while the upstream fails; null: no.")] = None
    health_check: Annotated[HealthCheckDoc | None, says("Asks every endpoint regularly; null: no.")] = None
