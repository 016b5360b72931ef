"""What can go wrong between us and an API server, in words for people; no credential is in them."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp

from sidecar.kube.api import BadAnswer, KubeError, Unreachable
from sidecar.kube.text import one_line


@contextmanager
def outside(server: Callable[[], str], seconds: float) -> Iterator[None]:
    """Turn every error of the network and of the HTTP client into a KubeError that names the `server`.

    `seconds` is the limit that a TimeoutError speaks of.
    """
    try:
        yield
    except KubeError:
        raise
    except TimeoutError:
        raise Unreachable(f"{server()} has not answered within {seconds:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _said(server(), error) from None


def _said(server: str, error: Exception) -> KubeError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return Unreachable(f"no TLS with {server}: {_tls_reason(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unreachable(f"the name of {server} is not known")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"the proxy on the way to {server} answered with status {error.status}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Unreachable(f"the proxy on the way to {server} cannot be reached: {_os_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"{server} cannot be reached: {_os_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientResponseError):
        return BadAnswer(f"{server} does not answer in HTTP")
    return Unreachable(f"the connection to {server} broke off")


def _tls_reason(error: Exception) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return one_line(getattr(cause, "verify_message", "") or getattr(cause, "reason", None) or str(cause), 200)


def _os_reason(error: OSError) -> str:
    """Event loops put the address into the text of a refused connection; the number is the same in all of them."""
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    return os.strerror(error.errno).lower() if error.errno else "no connection"
