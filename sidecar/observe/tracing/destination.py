"""Where spans go over HTTP, by the document's endpoint and OTEL_EXPORTER_OTLP_*: what the exporter of OpenTelemetry's SDK would read.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.util.re import parse_env_headers

from sidecar import __version__
from sidecar.observe.tracing.settings import TRACES_PATH

Warn = Callable[[str], None]

DEFAULT_ENDPOINT: Final = "http://localhost:4318"
DEFAULT_SECONDS: Final = 10.0
_CODINGS: Final = ("none", "gzip", "deflate")
_PORTS: Final = {"http": 80, "https": 443}
_FRAMING: Final = frozenset(("connection", "content-encoding", "content-length", "host", "transfer-encoding"))
_is_name: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_is_value: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A collector, and how to get there."""

    host: str
    port: int
    tls: bool
    seconds: float
    """For one batch, tries and waits between them included."""
    coding: str
    """Of the body: `none`, `gzip` or `deflate`."""
    head: bytes
    """Of each request, but for `Content-Length` and the empty line."""
    proxy: tuple[str, int] | None = None
    tunnel: bytes = b""
    """The CONNECT request that the proxy is sent first; b"" for none."""
    authority: str = ""
    """File or folder of CA certificates; "": the system's."""
    certificate: str = ""
    """File of the client's certificate; "" for none."""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """For one connection: files may have been rotated since the last. Raises OSError when they cannot be read."""
        folder = bool(self.authority) and Path(self.authority).is_dir()
        context = ssl.create_default_context(
            cafile=self.authority if self.authority and not folder else None, capath=self.authority if folder else None
        )
        context.set_alpn_protocols(["http/1.1"])
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None)
        return context


def read(endpoint: str | None, environment: Mapping[str, str], warn: Warn) -> Destination:
    """`endpoint` is the whole URL, None: the environment's. `warn` hears of what it does without.

    Raises ValueError for what it cannot do without, OSError for files that cannot be read.
    """
    variables = _Variables(environment)
    url = urlsplit(endpoint or _endpoint(environment))
    port = _PORTS.get(url.scheme)
    if port is None or not url.hostname:
        raise ValueError(f"{url.geturl()} is not the URL of a collector")
    tls = url.scheme == "https"
    host, port = url.hostname, url.port or port
    coding = variables.one_of("COMPRESSION", _CODINGS, warn)
    proxy, tunnel, credentials = _proxy(url, host, port, environment)
    head = _head(url, variables, coding, credentials, whole=proxy is not None and not tunnel)
    found = Destination(
        host=host,
        port=port,
        tls=tls,
        seconds=variables.seconds("TIMEOUT", DEFAULT_SECONDS, warn),
        coding=coding,
        head=head,
        proxy=proxy,
        tunnel=tunnel,
        authority=variables.text("CERTIFICATE"),
        certificate=variables.text("CLIENT_CERTIFICATE"),
        key=variables.text("CLIENT_KEY"),
    )
    if tls:
        found.context()
    return found


class _Variables:
    """OTEL_EXPORTER_OTLP_TRACES_name, else OTEL_EXPORTER_OTLP_name; an empty one is not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str:
        return self._environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "") or self._environment.get(f"OTEL_EXPORTER_OTLP_{name}", "")

    def one_of(self, name: str, known: tuple[str, ...], warn: Warn) -> str:
        """The first of `known` unless another is given."""
        given = self.text(name).strip().lower() or known[0]
        if given in known:
            return given
        warn(f"OTEL_EXPORTER_OTLP_{name}={given} is not known here ({', '.join(known)}); {known[0]} is used")
        return known[0]

    def seconds(self, name: str, default: float, warn: Warn) -> float:
        given = self.text(name)
        try:
            seconds = float(given) if given else default
        except ValueError:
            seconds = 0.0
        if 0 < seconds < float("inf"):
            return seconds
        warn(f"OTEL_EXPORTER_OTLP_{name}={given} is not a number of seconds; {default:g} is used")
        return default


def _endpoint(environment: Mapping[str, str]) -> str:
    if whole := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""):
        return whole
    return (environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "") or DEFAULT_ENDPOINT).removesuffix("/") + TRACES_PATH


def _head(url: SplitResult, variables: _Variables, coding: str, credentials: bytes, *, whole: bool) -> bytes:
    """`whole`: a proxy is told the whole URL (RFC 9112 section 3.2.2)."""
    fields = {"content-type": "application/x-protobuf", "user-agent": f"OTel-OTLP-Exporter-Python/outrider-{__version__}"}
    if url.username is not None:
        fields["authorization"] = _basic(url)
    for name, value in parse_env_headers(variables.text("HEADERS"), liberal=True).items():
        if name in _FRAMING or not _is_name(name) or not _is_value(value):
            raise ValueError(f"OTEL_EXPORTER_OTLP_HEADERS: {name} cannot be sent")
        fields[name] = value
    if coding != "none":
        fields["content-encoding"] = coding
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    authority = url.netloc.rpartition("@")[2]
    lines = [f"POST {f'http://{authority}' if whole else ''}{target} HTTP/1.1", f"host: {authority}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if not target.isascii() or not authority.isascii() or any(char <= " " for char in target + authority):
        raise ValueError(f"{url.geturl()} is not the URL of a collector")
    return "\r\n".join(lines).encode() + b"\r\n" + (credentials if whole else b"")


def _proxy(url: SplitResult, host: str, port: int, environment: Mapping[str, str]) -> tuple[tuple[str, int] | None, bytes, bytes]:
    """(address, CONNECT request for TLS, field of its own) by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""
    if not any(name.lower().endswith("_proxy") for name in environment):
        return None, b"", b""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - seldom

    proxies = getproxies()
    given = proxies.get(url.scheme) or proxies.get("all")
    if not given or proxy_bypass(f"{host}:{port}", proxies):
        return None, b"", b""
    proxy = urlsplit(given if "://" in given else f"http://{given}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"the proxy {proxy.hostname or given} is not one that speaks plain HTTP")
    credentials = b"" if proxy.username is None else f"proxy-authorization: {_basic(proxy)}\r\n".encode()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    tunnel = f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n".encode() + credentials + b"\r\n" if url.scheme == "https" else b""
    return (proxy.hostname, proxy.port or _PORTS["http"]), tunnel, credentials


def _basic(url: SplitResult) -> str:
    pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return "Basic " + b64encode(pair.encode()).decode()
