"""Rules for how upstreams are reached and listeners are secured: TLS, client library, version of HTTP, proxy (product.md 3.9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import UNSET

from sidecar.config import values
from sidecar.config.problem import Path
from sidecar.config.rules_values import Finding, attempt
from sidecar.model.document import Document
from sidecar.model.document_ends import (
    CaDoc,
    CertificateDoc,
    ListenerTlsDoc,
    SubjectAltName,
    SystemCertificates,
    UpstreamDoc,
    UpstreamTlsDoc,
    Verification,
)
from sidecar.model.snapshot import Client, HttpProtocol, Snapshot
from sidecar.model.tls import AltNameType, ClientAuth

_HTTPS: Final = "https://"
_UNIX: Final = "unix:"


def check_reach(path: Path, upstream: UpstreamDoc) -> Iterator[Finding]:
    """Client, protocol, TLS and proxy of one upstream."""
    urls = [target.url.lower() for target in upstream.targets or ()]
    yield from _check_protocol(path, upstream, urls)
    if upstream.tls is not None:
        yield from _check_upstream_tls((*path, "tls"), upstream.tls)
        if urls and not any(url.startswith(_HTTPS) for url in urls):
            yield (*path, "tls"), "no target has TLS (write https:// in the url of a target, or remove tls)"
    if upstream.proxy_url is not None:
        yield from attempt((*path, "proxyURL"), values.proxy, upstream.proxy_url)
        for number, url in enumerate(urls):
            if url.startswith(_UNIX):
                yield (*path, "targets", number, "url"), "a unix socket cannot be reached through a proxy (remove proxyURL)"


def _check_protocol(path: Path, upstream: UpstreamDoc, urls: list[str]) -> Iterator[Finding]:
    protocol = upstream.protocol
    if protocol is HttpProtocol.HTTP1:
        return
    if upstream.client is not Client.HTTPX:
        yield (*path, "protocol"), f"{protocol.value} is spoken by the client Httpx only (write client: Httpx, or protocol: HTTP1)"
    plain = [number for number, url in enumerate(urls) if not url.startswith(_HTTPS)]
    if protocol is HttpProtocol.H2C:
        if upstream.tls is not None:
            yield (*path, "protocol"), "H2C is HTTP/2 without TLS (write protocol: HTTP2, or remove tls)"
        for number in range(len(urls)):
            if number not in plain:
                yield (*path, "targets", number, "url"), "H2C is HTTP/2 without TLS (write http://, or protocol: HTTP2)"
    elif urls:
        for number in plain:
            yield (*path, "targets", number, "url"), "HTTP2 is HTTP/2 over TLS (write https://, or protocol: H2C)"
    elif upstream.tls is None:
        yield (*path, "protocol"), "HTTP2 is HTTP/2 over TLS (write tls: {} beside it, or protocol: H2C)"


def reach_warnings(document: Document, snapshot: Snapshot) -> Iterator[str]:
    """Routes that say how upgrades are to be timed, to upstreams that have none: H2C can only be spoken to in HTTP/2 (RFC 9113 section 8.6)."""
    for index, route in enumerate(document.routes):
        said = [name for name in ("upgrade_handshake", "tunnel_idle") if getattr(route.timeouts, name) is not UNSET]
        for backend in route.backend_refs if said else ():
            upstream = snapshot.upstreams.get(backend.name)
            if upstream is not None and upstream.protocol is HttpProtocol.H2C:
                field = "upgradeHandshake" if said[0] == "upgrade_handshake" else "tunnelIdle"
                yield (
                    f"routes[{index}].timeouts.{field}: {backend.name} speaks H2C, over which WebSockets and other upgrades "
                    "fail with http_upgrade_failed (write protocol: HTTP1 for an upstream of them, or HTTP2 where it has TLS)"
                )


def _check_upstream_tls(path: Path, tls: UpstreamTlsDoc) -> Iterator[Finding]:
    if tls.hostname is not None:
        yield from attempt((*path, "hostname"), values.hostname, tls.hostname)
    for number, ca in enumerate(tls.ca_certificate_refs):
        yield from check_ca((*path, "caCertificateRefs", number), ca)
    if tls.well_known_ca_certificates is SystemCertificates.NONE and not tls.ca_certificate_refs and tls.verification is Verification.FULL:
        yield path, "nobody is trusted, so no certificate could be verified (write caCertificateRefs, or wellKnownCACertificates: System)"
    if tls.client_certificate_ref is not None:
        yield from check_certificate((*path, "clientCertificateRef"), tls.client_certificate_ref)
    for number, name in enumerate(tls.subject_alt_names):
        yield from _check_alt_name((*path, "subjectAltNames", number), name)


def _check_alt_name(path: Path, name: SubjectAltName) -> Iterator[Finding]:
    wanted, other = ("hostname", "uri") if name.type is AltNameType.HOSTNAME else ("uri", "hostname")
    given = {"hostname": name.hostname, "uri": name.uri}
    if given[other] is not None:
        yield (*path, other), f"type {name.type.value} has a {wanted} (remove {other})"
    text = given[wanted]
    if not text:
        yield path, f"type {name.type.value} needs a {wanted} (write {wanted}: ...)"
    elif name.type is AltNameType.HOSTNAME:
        yield from attempt((*path, "hostname"), values.hostname, text)
    else:
        yield from attempt((*path, "uri"), values.absolute_uri, text)


def check_listener_tls(path: Path, tls: ListenerTlsDoc) -> Iterator[Finding]:
    """Certificates and client authentication of one listener."""
    short = tls.cert_file is not None or tls.key_file is not None
    given = [
        name
        for name, there in (("certificates", bool(tls.certificates)), ("certificateRef", tls.certificate_ref), ("certFile", short))
        if there
    ]
    if not given:
        yield path, "has no certificate (write certFile and keyFile, or certificateRef: {name: ...}, or certificates for several)"
    elif len(given) > 1:
        yield (*path, given[1]), f"{' and '.join(given)} exclude each other (write all of them under certificates)"
    elif short:
        yield from check_certificate(path, CertificateDoc(cert_file=tls.cert_file, key_file=tls.key_file))
    elif tls.certificate_ref is not None:
        yield from check_certificate((*path, "certificateRef"), tls.certificate_ref)
    for number, certificate in enumerate(tls.certificates):
        yield from check_certificate((*path, "certificates", number), certificate)
    if tls.client_ca is not None:
        yield from check_ca((*path, "clientCA"), tls.client_ca)
    elif tls.client_auth is ClientAuth.OPTIONAL:
        yield (*path, "clientAuth"), "without a clientCA no client's certificate is asked for (write clientCA, or remove clientAuth)"


def check_certificate(path: Path, doc: CertificateDoc) -> Iterator[Finding]:
    """Two files, or the name of a Secret."""
    files = [(name, file) for name, file in (("certFile", doc.cert_file), ("keyFile", doc.key_file)) if file is not None]
    if doc.name is not None or doc.namespace is not None:
        if files:
            yield (*path, files[0][0]), "a certificate is in two files or in a Secret (keep certFile and keyFile, or name)"
        yield from _check_object(path, doc.name, doc.namespace)
    elif not files:
        yield path, "names no certificate (write certFile and keyFile, or name for a Secret)"
    elif len(files) == 1:
        missing = "keyFile" if files[0][0] == "certFile" else "certFile"
        yield path, f"{missing} is missing (write {missing} beside {files[0][0]})"
    for name, file in files:
        yield from attempt((*path, name), values.file_path, file)


def check_ca(path: Path, doc: CaDoc) -> Iterator[Finding]:
    """A file, or an object's kind and name."""
    if doc.file is not None:
        if doc.kind is not None or doc.name is not None or doc.namespace is not None:
            yield (*path, "file"), "a bundle is a file or in an object (keep file, or kind and name)"
        yield from attempt((*path, "file"), values.file_path, doc.file)
    elif doc.kind is None:
        yield path, "names no bundle (write file: /PATH, or kind: ConfigMap or Secret with a name)"
    else:
        yield from _check_object(path, doc.name, doc.namespace)
        yield from attempt((*path, "key"), values.object_key, doc.key)


def _check_object(path: Path, name: str | None, namespace: str | None) -> Iterator[Finding]:
    if name is None:
        yield path, "has no name (write name: ...)"
    else:
        yield from attempt((*path, "name"), values.object_subdomain, name)
    if namespace is not None:
        yield from attempt((*path, "namespace"), values.object_name, namespace)
