"""TLS to the API server: one context for as long as the files behind it stay the same."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any, Final

from sidecar.kube.api import KubeError
from sidecar.kube.text import one_line

MAX_FILE: Final = 4 * 1024 * 1024


class TLS:
    """A context, and a digest of what it was made of."""

    __slots__ = ("context", "digest")

    def __init__(self, context: ssl.SSLContext, digest: bytes) -> None:
        self.context = context
        self.digest = digest


def current(configuration: Any, last: TLS | None) -> TLS:
    """`last` when the library's Configuration and its files say the same as then, else a new one. Raises KubeError."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    digest = hashlib.sha256(repr((bool(configuration.verify_ssl), [_digest(path) for path in paths])).encode()).digest()
    if last is not None and last.digest == digest:
        return last
    return TLS(_context(*paths, verify=bool(configuration.verify_ssl)), digest)


def _digest(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            return hashlib.sha256(file.read(MAX_FILE)).digest()
    except OSError as error:
        raise KubeError(f"{path}: {error.strerror}") from None


def _context(authority: str | None, certificate: str | None, key: str | None, *, verify: bool) -> ssl.SSLContext:
    """Certificates are held to what Go's clients hold them to: Python 3.13's additional rules refuse many clusters' own CAs."""
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        raise KubeError(f"the API server's CA certificates ({authority}) cannot be used: {one_line(str(error))}") from None
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password="")  # an encrypted key fails instead of asking the terminal
        except (OSError, ValueError) as error:
            raise KubeError(f"the client certificate or its key cannot be used: {one_line(str(error))}") from None
    return context
