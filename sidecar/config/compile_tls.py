"""The `tls` of listeners and upstreams, as the nouns that `sidecar/tls/` reads."""

from __future__ import annotations

from sidecar.config import values
from sidecar.model import tls as model
from sidecar.model.document_ends import (
    CaDoc,
    CertificateDoc,
    ListenerTlsDoc,
    SubjectAltName,
    SystemCertificates,
    UpstreamTlsDoc,
    Verification,
)


def listener_tls(doc: ListenerTlsDoc) -> model.ListenerTls:
    """The short forms are one entry of `certificates`."""
    certificates = list(doc.certificates)
    if doc.certificate_ref is not None:
        certificates.append(doc.certificate_ref)
    if doc.cert_file is not None:
        certificates.append(CertificateDoc(cert_file=doc.cert_file, key_file=doc.key_file))
    return model.ListenerTls(
        certificates=tuple(map(_certificate, certificates)),
        client_ca=None if doc.client_ca is None else _ca(doc.client_ca),
        client_auth=doc.client_auth,
    )


def upstream_tls(doc: UpstreamTlsDoc) -> model.UpstreamTls:
    """What is verified, and with what."""
    return model.UpstreamTls(
        hostname=None if doc.hostname is None else values.hostname(doc.hostname),
        ca=tuple(map(_ca, doc.ca_certificate_refs)),
        system_ca=doc.well_known_ca_certificates is SystemCertificates.SYSTEM,
        client_certificate=None if doc.client_certificate_ref is None else _certificate(doc.client_certificate_ref),
        alt_names=tuple(map(_alt_name, doc.subject_alt_names)),
        min_version=doc.min_version,
        verify=doc.verification is Verification.FULL,
    )


def _alt_name(doc: SubjectAltName) -> model.AltName:
    value = values.hostname(doc.hostname or "") if doc.type is model.AltNameType.HOSTNAME else doc.uri or ""
    return model.AltName(type=doc.type, value=value)


def _certificate(doc: CertificateDoc) -> model.CertificateRef:
    return model.CertificateRef(cert_file=doc.cert_file, key_file=doc.key_file, name=doc.name, namespace=doc.namespace)


def _ca(doc: CaDoc) -> model.CaRef:
    return model.CaRef(file=doc.file, kind=doc.kind, name=doc.name, namespace=doc.namespace, key=doc.key if doc.file is None else "")
