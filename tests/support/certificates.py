"""Certificates that tests make for themselves, valid for two days, on the curve P-256."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID


class Pair(NamedTuple):
    """A certificate with its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, not encrypted, as `EC PRIVATE KEY`: kube-apiserver takes no PKCS#8 for tokens."""
        return key_pem(self.key)

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.crt and NAME.key."""
        (folder / f"{name}.crt").write_bytes(self.pem)
        (folder / f"{name}.key").write_bytes(self.key_pem)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in the traditional form."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def authority(name: str) -> Pair:
    """A certificate authority."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return Pair(key, _builder(subject, subject, key, key, ca=True).sign(key, hashes.SHA256()))


def intermediate(ca: Pair, name: str) -> Pair:
    """An authority whose certificate `ca` has signed."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return Pair(key, _builder(subject, ca.certificate.subject, key, ca.key, ca=True).sign(ca.key, hashes.SHA256()))


def issue(
    ca: Pair,
    name: str,
    *,
    organization: str = "",
    hosts: Sequence[str] = (),
    uris: Sequence[str] = (),
    client: bool = False,
    valid: tuple[int, int] = (-1, 48),
    key: Any = None,
    alt_names: bytes = b"",
) -> Pair:
    """A certificate signed by `ca`: for a server with these names and addresses, or for a client.

    `valid`: from and until when, in hours from now; `key`: instead of one on P-256; `alt_names`: subjectAltName in DER, as it is.
    """
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    key = new_key() if key is None else key
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = _builder(x509.Name(attributes), ca.certificate.subject, key, ca.key, ca=False, valid=valid)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    names = [*map(_general, hosts), *map(x509.UniformResourceIdentifier, uris)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if alt_names:
        builder = builder.add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, alt_names), critical=False)
    return Pair(key, builder.sign(ca.key, hashes.SHA256()))


def general_names(*names: tuple[int, bytes]) -> bytes:
    """A subjectAltName in DER of (kind, bytes) pairs that no rule restrains: 1 email, 2 DNS, 6 URI, 7 address (RFC 5280 section 4.2.1.6)."""
    return _der(0x30, b"".join(_der(0x80 | kind, value) for kind, value in names))


def _der(tag: int, value: bytes) -> bytes:
    size = len(value).to_bytes(3, "big").lstrip(b"\0") if len(value) > 127 else b""
    return bytes([tag, 0x80 | len(size) if size else len(value)]) + size + value


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, issuer_key: Any, *, ca: bool, valid: tuple[int, int] = (-1, 48)
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(hours=valid[0]))
        .not_valid_after(now + dt.timedelta(hours=valid[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(usage, critical=True)
    )
