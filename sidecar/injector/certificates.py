"""The injector's own certificates: an authority that signs itself, and the short-lived ones that it signs. Pure: time is an argument.

ECDSA on P-256 throughout. All are valid five minutes before they are made, for API servers whose clocks are behind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.tls.material import KeyPair, Unusable

COMMON_NAME: Final = "outrider-injector-ca"
"""How the subjects of our authorities begin; what follows tells two apart."""
BACKDATED: Final = timedelta(minutes=5)
MAX_TRUSTED: Final = 8
"""Authorities in one bundle: more have never been of use, and the bundle is part of every webhook configuration."""
_NO_USAGE: Final = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long certificates are valid. Each is replaced after two thirds of its life."""

    authority: timedelta = timedelta(days=365)
    leaf: timedelta = timedelta(days=7)


class Leaf(NamedTuple):
    """What the server shows: a certificate with its key."""

    pair: KeyPair
    signer: bytes
    """The authority's certificate, PEM."""
    renew_at: datetime
    expires: datetime


class Authority:
    """A CA certificate and its key. Two are the same when their certificates are."""

    __slots__ = ("_certificate", "_key", "pem")

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.pem = _pem(certificate)
        """The certificate; what others must trust."""

    @classmethod
    def make(cls, now: datetime, lifetime: timedelta) -> Authority:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        subject = _name(f"{COMMON_NAME} {identity.digest[:4].hex()}")
        certificate = (
            _builder(subject, subject, key, now, now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True}), critical=True)
            .add_extension(identity, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def parse(cls, certificate: bytes, key: bytes, now: datetime) -> Authority:
        """From PEM. Raises Unusable: not a CA, another one's key, or expired."""
        try:
            read = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError, x509.InvalidVersion):
            raise Unusable("its certificate and key are not PEM that can be read") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or private.public_key() != read.public_key():
            raise Unusable("its key does not belong to its certificate")
        if not _is_authority(read):
            raise Unusable("its certificate is not that of an authority")
        if now >= read.not_valid_after_utc:
            raise Unusable("its certificate has expired")
        return cls(read, private)

    @property
    def key_pem(self) -> bytes:
        """The key, PKCS#8, not encrypted."""
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def renew_at(self) -> datetime:
        """When a new one should sign."""
        return _renew_at(self._certificate)

    @property
    def expires(self) -> datetime:
        """When it is of no use any more."""
        return self._certificate.not_valid_after_utc

    def issue(self, hosts: Sequence[str], now: datetime, lifetime: timedelta) -> Leaf:
        """A certificate for a server with these names and addresses, valid no longer than its authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + lifetime, self.expires)
        certificate = (
            _builder(_name(hosts[0][:64]), self._certificate.subject, key, now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Leaf(KeyPair(_pem(certificate), private), self.pem, _renew_at(certificate), certificate.not_valid_after_utc)


def expiry(certificate: bytes) -> datetime:
    """When the first certificate of a chain (PEM) expires. Raises Unusable."""
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        raise Unusable("the certificate cannot be read") from None


def authorities(text: bytes) -> list[bytes]:
    """The CA certificates in a text of PEM, each once, at most MAX_TRUSTED; what else is in it is left out."""
    return list(dict.fromkeys(_pem(one) for one in _read_all(text) if _is_authority(one)))[:MAX_TRUSTED]


def still_trusted(texts: Iterable[bytes], now: datetime) -> list[bytes]:
    """Our own authorities in these texts that have not expired, the newest first, at most MAX_TRUSTED - 1."""
    ours = {
        _pem(one): one
        for text in texts
        for one in _read_all(text)
        if _is_authority(one) and _common_name(one).startswith(COMMON_NAME) and now < one.not_valid_after_utc
    }
    return sorted(ours, key=lambda pem: ours[pem].not_valid_before_utc, reverse=True)[: MAX_TRUSTED - 1]


def _read_all(text: bytes) -> list[x509.Certificate]:
    """Those that can be read."""
    found = []
    end = b"-----END CERTIFICATE-----"
    for part in text.split(end)[: 4 * MAX_TRUSTED]:
        start = part.rfind(b"-----BEGIN CERTIFICATE-----")
        if start >= 0:
            try:
                found.append(x509.load_pem_x509_certificate(part[start:] + end))
            except (ValueError, x509.InvalidVersion):
                continue
    return found


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _renew_at(certificate: x509.Certificate) -> datetime:
    made = certificate.not_valid_before_utc + BACKDATED
    return made + (certificate.not_valid_after_utc - made) * 2 / 3


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
