"""Certificates with their keys, and CA bundles: tried when they are made, and never shown by mistake.

A key that does not belong to its certificate, or a bundle that holds no certificate, is no value at all (`Unusable`). What is
secret shows in no `repr`, message or log line; values are told apart by a digest of their public part.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from typing import Final

from sidecar.tls.certificate import read_certificate

CERTIFICATE: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"
"""The keys of a Secret of type kubernetes.io/tls."""
_END: Final = b"-----END CERTIFICATE-----"
_WEAK: Final = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
_CERTIFICATES: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")


class Unusable(Exception):
    """What an object holds cannot be used; the text is for people and holds nothing of it."""


class KeyPair:
    """A certificate, its chain, and the private key: PEM. Only `certificate`, `parsed` and `digest` may ever be shown."""

    __slots__ = ("_names", "certificate", "digest", "key", "parsed")

    def __init__(self, certificate: bytes, key: bytes, names: tuple[str, str] = (CERTIFICATE, PRIVATE_KEY)) -> None:
        """Raises Unusable: no PEM, an encrypted key, or one that does not belong to the certificate.

        Only the certificates of `certificate` are taken: some tools put the key in there as well. `names`: what the two are
        called where they come from, for messages.
        """
        self._names = names
        self.certificate = b"\n".join(_CERTIFICATES.findall(certificate))
        self.key = key
        self.digest = _digest(self.certificate)
        """SHA-256 of `certificate`, shortened: for logs, and to tell two apart."""
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        try:
            self.parsed = read_certificate(self.certificate.partition(_END)[0].decode("ascii") + _END.decode())
        except ValueError:
            raise Unusable(f"the certificate of {names[0]} cannot be read") from None

    def __repr__(self) -> str:
        return f"KeyPair({self.digest})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyPair) and (self.certificate, self.key) == (other.certificate, other.key)

    def __hash__(self) -> int:
        return hash(self.certificate)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make it the certificate of `context`. Raises Unusable.

        `ssl` takes files only: this one is in memory, without a name, and gone when the call returns.
        """
        file = os.memfd_create("key-pair", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(self.certificate + b"\n" + self.key + b"\n")
            context.load_cert_chain(f"/proc/self/fd/{file}", password=_no_password)
        except ssl.SSLError as error:
            raise Unusable(self._explain(error)) from None
        except _Encrypted:
            raise Unusable(f"{self._names[1]} is encrypted (write it without a password)") from None
        finally:
            os.close(file)

    def _explain(self, error: ssl.SSLError) -> str:
        certificate, key = self._names
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{key} does not belong to {certificate}"
        if error.reason in _WEAK:
            return f"{certificate} is too weak (make it with RSA of 2048 bits or more, or P-256, and SHA-256)"
        return f"{certificate} and {key} are not a certificate and its key in PEM"


class CaBundle:
    """One or more CA certificates, PEM; what was between them in the object is left out."""

    __slots__ = ("count", "digest", "pem")

    def __init__(self, text: bytes) -> None:
        """Raises Unusable: there is no certificate in it, or one that cannot be read."""
        found = _CERTIFICATES.findall(text)
        if not found:
            raise Unusable("it holds no PEM certificate")
        self.pem = b"\n".join(found).decode("ascii")
        self.digest = _digest(self.pem.encode())
        try:
            self.load_into(context := ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        except ssl.SSLError:
            raise Unusable("it holds a certificate that cannot be read") from None
        self.count = context.cert_store_stats()["x509"]
        """Different certificates."""

    def __repr__(self) -> str:
        return f"CaBundle({self.digest}, {self.count} certificates)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaBundle) and self.pem == other.pem

    def __hash__(self) -> int:
        return hash(self.pem)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Trust its certificates in `context`."""
        context.load_verify_locations(cadata=self.pem)


def _digest(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


class _Encrypted(Exception):
    """From the password callback to who called OpenSSL."""


def _no_password() -> bytes:
    """Called for an encrypted key only; without it OpenSSL would ask the terminal."""
    raise _Encrypted
