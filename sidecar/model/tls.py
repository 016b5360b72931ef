"""TLS as the document asks for it, towards clients and towards upstreams: what to present, whom to believe (product.md 3.9).

Nothing here is a certificate or a key: a reference says where one is. `sidecar/tls/` reads and follows them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct


class Secured(NamedTuple):
    """What the two ends of a connection have agreed on."""

    version: str
    """As OpenSSL calls it: `TLSv1.2`, `TLSv1.3`."""
    cipher: str
    """The suite, as OpenSSL calls it."""
    resumed: bool
    """The handshake took up an earlier session."""
    protocol: str
    """By ALPN (RFC 7301): `h2`, `http/1.1`; "" when nothing was agreed on."""


class ObjectKind(StrEnum):
    """Kubernetes objects that may hold a CA bundle."""

    CONFIG_MAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105 - a kind, not a password


class ClientAuth(StrEnum):
    """Whether a listener insists on a client's certificate."""

    REQUIRED = "Required"
    OPTIONAL = "Optional"


class Handshake(StrEnum):
    """How a client's handshake ended: label `result` of `outrider_tls_handshakes_total`."""

    SUCCESS = "success"
    RESUMED = "resumed"
    CERTIFICATE_REFUSED = "certificate_refused"
    """The client's is not good: unknown authority, expired."""
    CERTIFICATE_MISSING = "certificate_missing"
    """`clientAuth: Required`, and it showed none."""
    ALERT_RECEIVED = "alert_received"
    """The client ended it, most often because it does not believe our certificate."""
    PROTOCOL_ERROR = "protocol_error"
    """No version, cipher or grammar in common."""
    PLAIN_TEXT = "plain_text"
    CLOSED = "closed"
    TIMEOUT = "timeout"
    DROPPED = "dropped"
    """The oldest of too many at once."""
    NOT_CONFIGURED = "not_configured"
    """The listener's certificate has not come yet."""


class MinVersion(StrEnum):
    """The lowest version of TLS that is spoken."""

    TLS12 = "1.2"
    TLS13 = "1.3"


class AltNameType(StrEnum):
    """Gateway API BackendTLSPolicy `subjectAltNames[].type`."""

    HOSTNAME = "Hostname"
    URI = "URI"


class CertificateRef(Struct, frozen=True, kw_only=True):
    """A certificate with its key: two files, or a `kubernetes.io/tls` Secret (`namespace` None: the pod's own)."""

    cert_file: str | None = None
    key_file: str | None = None
    name: str | None = None
    namespace: str | None = None


class CaRef(Struct, frozen=True, kw_only=True):
    """A bundle of CA certificates: a file, or a key of a ConfigMap or Secret (`namespace` None: the pod's own)."""

    file: str | None = None
    kind: ObjectKind | None = None
    name: str | None = None
    namespace: str | None = None
    key: str = "ca.crt"


class AltName(Struct, frozen=True, kw_only=True):
    """One name that an upstream's certificate may have; a hostname in lower case."""

    type: AltNameType
    value: str


class UpstreamTls(Struct, frozen=True, kw_only=True):
    """TLS towards an upstream. `alt_names`, when given, are verified instead of `hostname`; any one of them suffices."""

    hostname: str | None = None
    """SNI and the name verified; None: the target's host."""
    ca: tuple[CaRef, ...] = ()
    system_ca: bool = True
    client_certificate: CertificateRef | None = None
    alt_names: tuple[AltName, ...] = ()
    min_version: MinVersion = MinVersion.TLS12
    verify: bool = True


class ListenerTls(Struct, frozen=True, kw_only=True):
    """TLS towards clients. `certificates` are chosen by SNI, the first is the default; `client_ca` None: clients are not asked."""

    certificates: tuple[CertificateRef, ...]
    client_ca: CaRef | None = None
    client_auth: ClientAuth = ClientAuth.REQUIRED
