"""The one place that makes an `ssl.SSLContext`: towards upstreams, whatever client library uses it, and towards clients.

A context is never changed once it is made: other material makes another one, and connections keep what they began with.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from sidecar.model.snapshot import HttpProtocol
from sidecar.model.tls import AltName, ClientAuth, ListenerTls, MinVersion, UpstreamTls
from sidecar.tls.certificate import Certificate
from sidecar.tls.material import CaBundle, KeyPair
from sidecar.tls.names import covers, has_one_of, told

HTTP1: Final = ("http/1.1",)
HTTP2: Final = ("h2",)
_VERSIONS: Final = {MinVersion.TLS12: ssl.TLSVersion.TLSv1_2, MinVersion.TLS13: ssl.TLSVersion.TLSv1_3}
_OPTIONS: Final = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
SESSIONS_MAX: Final = 256
"""Sessions that a context keeps, some 5 KiB each; the least recently used go first."""
_TLS12: Final = "TLSv1.2"
_HOSTNAME_MISMATCH: Final = 62
"""X509_V_ERR_HOSTNAME_MISMATCH"""


class NameMismatch(ssl.SSLCertVerificationError):
    """The chain is good, and none of the names of `subjectAltNames` is in the certificate."""

    def __init__(self) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, "none of the subjectAltNames is in the certificate")
        self.reason = "CERTIFICATE_VERIFY_FAILED"
        self.verify_code = _HOSTNAME_MISMATCH
        self.verify_message = "none of the subjectAltNames is in the certificate"


class _Kept(NamedTuple):
    """A session, and until when (monotonic) no other is taken in its place."""

    session: ssl.SSLSession
    good_until: float


class ClientContext(ssl.SSLContext):
    """A context towards upstreams. It verifies `alt_names` itself, so that every library that uses it does.

    It keeps the sessions that its connections were given: a handshake that resumes one costs a fraction (RFC 8446 section 2.2).
    """

    alt_names: tuple[AltName, ...] = ()

    def __init__(self, _protocol: int) -> None:
        self._sessions: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def session(self, label: str, server_name: str) -> ssl.SSLSession | None:
        """One to resume with the endpoint `label`. It was verified for this very name, and is not verified anew."""
        kept = self._sessions.get((label, server_name))
        return None if kept is None else kept.session

    def keep_session(self, label: str, connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        """Take the session that `connection` has by now; TLS 1.3 gives it with or after the first answer.

        One that was resumed is good until half of its life is over. Not only is that cheaper: until Python 3.12.8 and 3.13.1 reading
        `session` leaks 6 KiB (https://github.com/python/cpython/issues/116810).
        """
        key = (label, connection.server_hostname or "")
        now = monotonic()
        kept = self._sessions.get(key)
        if kept is not None and now < kept.good_until and connection.session_reused:
            self._sessions.move_to_end(key)
            return
        session = connection.session
        if session is None or not (session.has_ticket or (connection.version() == _TLS12 and session.id)):
            return
        self._sessions[key] = _Kept(session, now + session.timeout / 2)
        self._sessions.move_to_end(key)
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)

    def forget_session(self, label: str, server_name: str) -> None:
        """A handshake that would have resumed it failed."""
        self._sessions.pop((label, server_name), None)


class _Checked(ssl.SSLObject):
    """The end of a handshake looks at the names, as OpenSSL does where there is one hostname to look for."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        if isinstance(context, ClientContext) and not has_one_of(told(self), context.alt_names):
            raise NameMismatch


def alpn_of(protocol: HttpProtocol) -> tuple[str, ...]:
    """What a connection for this version of HTTP offers (RFC 7301)."""
    return HTTP2 if protocol is HttpProtocol.HTTP2 else HTTP1


def client_context(tls: UpstreamTls, alpn: Sequence[str], ca: Sequence[CaBundle], certificate: KeyPair | None) -> ClientContext:
    """The context for connections to an upstream. `ca` and `certificate`: what the references of `tls` stand for now.

    The name to verify is the `server_hostname` that the connection is made with (`names.server_name`), or `alt_names`.
    With the system's certificates this takes some 20 ms and 0.8 MB.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.options |= _OPTIONS
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whoever names an intermediate CA trusts that one
    context.set_alpn_protocols(list(alpn))
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.alt_names:
        context.check_hostname = False
        context.alt_names = tls.alt_names
        context.sslobject_class = _Checked
    if tls.verify and tls.system_ca:
        context.load_default_certs()
    for bundle in ca:
        bundle.load_into(context)
    if certificate is not None:
        certificate.load_into(context)
    return context


class _Named(NamedTuple):
    certificate: Certificate
    context: ssl.SSLContext


class ServerContext:
    """The contexts of a listener: one for each certificate, chosen by SNI (RFC 6066 section 3)."""

    __slots__ = ("_named", "default")

    def __init__(self, tls: ListenerTls, certificates: Sequence[KeyPair], client_ca: CaBundle | None) -> None:
        """`certificates` in the order of the document; the first one is for everybody who asks for none of the others."""
        self._named = [_Named(pair.parsed, _server_context(tls, pair, client_ca)) for pair in certificates]
        self.default = self._named[0].context
        """Every handshake begins with it."""
        if len(self._named) > 1:
            self.default.sni_callback = self._choose

    def _choose(self, connection: Any, name: str | None, _context: ssl.SSLContext) -> None:
        """OpenSSL has read a name of a ClientHello."""
        if name is not None and (chosen := self.find(name)) is not None:
            connection.context = chosen

    def find(self, name: str) -> ssl.SSLContext | None:
        """The context for `name`: of an exact name before that of a wildcard; None: no certificate has it."""
        name = name.lower().removesuffix(".")
        wildcard: ssl.SSLContext | None = None
        for certificate, context in self._named:
            for pattern in certificate.dns:
                if pattern.lower() == name:
                    return context
                if wildcard is None and covers(pattern, name):
                    wildcard = context
        return wildcard


def _server_context(tls: ListenerTls, certificate: KeyPair, client_ca: CaBundle | None) -> ssl.SSLContext:
    """All contexts of a listener differ in nothing but the certificate: SNI exchanges no other part of a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= _OPTIONS
    context.set_alpn_protocols(list(HTTP1))
    certificate.load_into(context)
    if client_ca is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client_ca.load_into(context)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth is ClientAuth.REQUIRED else ssl.CERT_OPTIONAL
    return context
