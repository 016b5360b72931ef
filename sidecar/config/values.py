"""The small grammars inside the document's strings: targets, hosts, networks, allow entries, header names, paths.

Each function gives the value or raises ValueError with a sentence for the author: what is wrong (what to write).
`validate.py` reports the sentence, `compile.py` takes the value.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address, ip_address, ip_network
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from sidecar.config.problem import shown
from sidecar.model.quantity import parse_duration
from sidecar.model.snapshot import AllowEntry, HttpProxy, Network, Target
from sidecar.protocol.hop_by_hop import REQUEST_DROPPED, RESPONSE_DROPPED

MAX_UNIX_PATH: Final = 107
"""sockaddr_un has 108 bytes, the last is NUL."""
_LABEL = r"[A-Za-z0-9_](?:[-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
_hostname = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?\Z")
_glob = re.compile(r"[A-Za-z0-9_*?](?:[-A-Za-z0-9_.*?]{0,251}[A-Za-z0-9_*?.])?\Z")
_target = re.compile(r"https?://(\[[^\]]*\]|[^/:?#@\[\]]*)(?::([0-9]{0,5}))?/?\Z", re.IGNORECASE)
_proxy = re.compile(r"http://(?:([^/?#@\s]*)@)?(\[[^\]]*\]|[^/:?#@\[\]\s]+)(?::([0-9]{1,5}))?/?\Z", re.IGNORECASE)
_collector = re.compile(r"https?://(\[[^\]]*\]|[^/:?#\[\]\s]+)(?::([0-9]{1,5}))?(?:/[^?#\s]*)?\Z", re.IGNORECASE)
_allow_six = re.compile(r"\[([^\]]+)\](/[0-9]{1,3})?(?::(.*))?\Z")
_label = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_subdomain = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*\Z")
_key = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")
_uri = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,2048}\Z")
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
_port = re.compile(r"[0-9]{1,5}\Z")
_path = re.compile(r"/[^?#\s]*\Z")
_escape = re.compile(r"%(?![0-9A-Fa-f]{2})")
_control = re.compile("[\x00-\x08\x0a-\x1f\x7f]")

WEB_PORTS: Final = frozenset({80, 443})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_NOT_IN_REQUEST: Final = REQUEST_DROPPED | _FRAMING | {b"host"}
_NOT_IN_RESPONSE: Final = RESPONSE_DROPPED | _FRAMING

seconds = lru_cache(maxsize=4096)(parse_duration)
"""`parse_duration`, remembered: thousands of routes have few different clocks."""


def hostname(text: str) -> str:
    """A host name or address without port, in lower case; an IPv6 address without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError:
        pass
    if "://" in text or "/" in text:
        raise ValueError(f"{shown(text)} is not a host name (write the host alone, without scheme and path)")
    if ":" in text:
        raise ValueError(f"{shown(text)} is not a host name (write it without a port)")
    if len(text) > 253 or _hostname.match(text) is None:
        raise ValueError(f"{shown(text)} is not a host name (write letters, digits and hyphens, for example orders.shop.svc)")
    if text.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"{shown(text)} is not a host name (an IPv4 address has four numbers from 0 to 255)")
    return text.lower().removesuffix(".")


def route_hostname(text: str) -> str:
    """A hostname of a route: like `hostname`, or `*.` and a name."""
    if text == "*":
        raise ValueError('"*" is not needed (leave hostnames out to match every host)')
    if "*" not in text:
        return hostname(text)
    if not text.startswith("*.") or "*" in text[1:]:
        raise ValueError(f"{shown(text)}: a wildcard is the whole first label (write for example *.shop.svc)")
    return "*." + hostname(text[2:])


def network(text: str) -> Network:
    """A CIDR network, or an address for itself alone."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wide = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network (write for example 10.0.0.0/8 or fd00::/8)") from None
    raise ValueError(f"{shown(text)} has bits beyond its prefix (write {wide})")


def bind_address(text: str) -> str:
    """What a listener binds: an IP address or `unix:/PATH`."""
    if text.startswith("unix:"):
        _unix_path(text[5:], "unix:/run/outrider/in.sock")
        return text
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(
            f"{shown(text)} is not an address (write for example 0.0.0.0, 127.0.0.1, :: or unix:/run/outrider/in.sock)"
        ) from None


def _unix_path(path: str, example: str) -> str:
    if not path.startswith("/") or path == "/":
        raise ValueError(f"the path of a unix socket must be absolute (write for example {example})")
    if len(path.encode()) > MAX_UNIX_PATH or not path.isprintable():
        raise ValueError(f"the path of a unix socket has at most {MAX_UNIX_PATH} printable bytes (write a shorter one)")
    return path


def make_target(url: str, weight: int = 1) -> Target:
    """The static address that the `url` of an upstream's target names."""
    lower = url[:9].lower()
    if lower.startswith("unix:"):
        return Target(host="", port=0, weight=weight, unix_path=_unix_path(url[7:] if url[5:7] == "//" else "", "unix:///run/app.sock"))
    tls = lower.startswith("https://")
    if not tls and not lower.startswith("http://"):
        raise ValueError(f"{shown(url)} has no scheme that is known here (write http://HOST:PORT, https://HOST:PORT or unix:///PATH)")
    if "@" in url:
        raise ValueError("a target cannot have credentials (write http://HOST:PORT)")
    match = _target.match(url)
    if match is None:
        raise ValueError(f"{shown(url)} must be a host and a port only (write http://HOST:PORT; a path is set with the filter URLRewrite)")
    port = int(match[2] or (443 if tls else 80))
    if not 0 < port < 65536:
        raise ValueError(f"{port} is not a port (write 1 to 65535)")
    return Target(host=hostname(match[1]), port=port, weight=weight, tls=tls)


def object_name(text: str) -> str:
    """The name of a Service or a namespace (RFC 1123 label)."""
    if _label.match(text) is None:
        raise ValueError(f"{shown(text)} is not the name of a Kubernetes object (write lower case letters, digits and hyphens, 63 at most)")
    return text


def object_subdomain(text: str) -> str:
    """The name of a Secret or ConfigMap (RFC 1123 subdomain)."""
    if len(text) > 253 or _subdomain.match(text) is None:
        raise ValueError(f"{shown(text)} is not the name of a Kubernetes object (write lower case letters, digits, hyphens and dots)")
    return text


def object_key(text: str) -> str:
    """A key within a Secret or ConfigMap."""
    if _key.match(text) is None or text in (".", ".."):
        raise ValueError(f"{shown(text)} is not the key of an object (write letters, digits, -, _ and ., for example ca.crt)")
    return text


def absolute_uri(text: str) -> str:
    """A URI with a scheme, as certificates name workloads by (RFC 5280 section 4.2.1.6)."""
    if _uri.match(text) is None:
        raise ValueError(f"{shown(text)} is not a URI (write for example spiffe://cluster.local/ns/shop/sa/orders)")
    return text


def service_port(port: int | str) -> int | str:
    """A port of a Service: its name, or the number that the pods listen on."""
    if isinstance(port, int):
        if not 0 < port < 65536:
            raise ValueError(f"{port} is not a port (write 1 to 65535, or the port's name)")
    elif port.isascii() and port.isdigit():
        raise ValueError(f"{shown(port)} is a text (write {int(port)} without quotes for the number that the pods listen on)")
    elif _label.match(port) is None:
        raise ValueError(f"{shown(port)} is not the name of a port (write lower case letters, digits and hyphens, for example http)")
    return port


def collector(url: str) -> str:
    """The base URL of an OpenTelemetry collector."""
    if "@" in url:
        raise ValueError("a collector's URL cannot have credentials (put them into the variable OTEL_EXPORTER_OTLP_HEADERS)")
    match = _collector.match(url)
    if match is None:
        raise ValueError(f"{shown(url)} is not the URL of a collector (write for example http://otel-collector.telemetry:4318)")
    if match[2] and not 0 < int(match[2]) < 65536:
        raise ValueError(f"{match[2]} is not a port (write 1 to 65535)")
    for path in ("/v1/traces", "/v1/metrics"):
        if url.rstrip("/").endswith(path):
            raise ValueError(f"{path} is appended here (write the URL without it)")
    hostname(match[1])
    return url


def proxy(url: str) -> HttpProxy:
    """The HTTP proxy that `proxyURL` names; its credentials are percent-encoded (RFC 3986 section 3.2.1)."""
    match = _proxy.match(url)
    if match is None:
        raise ValueError(
            "this is not the URL of an HTTP proxy (write for example http://proxy.corp:3128, or http://USER:PASSWORD@HOST:PORT)"
        )
    port = int(match[3] or 80)
    if not 0 < port < 65536:
        raise ValueError(f"{port} is not a port (write 1 to 65535)")
    return HttpProxy(host=hostname(match[2]), port=port, authorization=None if match[1] is None else _basic(match[1]))


def _basic(credentials: str) -> bytes:
    """The value of `Proxy-Authorization` (RFC 7617 section 2)."""
    user, colon, password = credentials.partition(":")
    if not colon or not user or _escape.search(credentials) is not None:
        raise ValueError("the credentials of a proxy are USER:PASSWORD, percent-encoded (write %25 for %, %40 for @, %2F for /)")
    pair = unquote_to_bytes(user), unquote_to_bytes(password)
    if b":" in pair[0] or any(byte < 0x20 or byte == 0x7F for part in pair for byte in part):
        raise ValueError("the credentials of a proxy cannot hold control characters, nor its user a colon (RFC 7617)")
    return b"Basic " + b64encode(b":".join(pair))


def file_path(path: str) -> str:
    """A file that the sidecar reads: an absolute path."""
    if not path.startswith("/") or not path.isprintable() or len(path) > 4096:
        raise ValueError(f"{shown(path)} is not an absolute path (write for example /etc/outrider/tls.crt)")
    return path


def allow_entry(text: str) -> AllowEntry:
    """`HOST`, `HOST:PORT`, `HOST:*`, the same with a network; a host may hold `*` and `?`, IPv6 with a port brackets."""
    if (six := _allow_six.match(text)) is not None:
        host, port = six[1] + (six[2] or ""), six[3]
        if not _is_ipv6(six[1].partition("/")[0]):
            raise ValueError(f"{shown(text)}: brackets are for IPv6 (write for example [fd00::/8]:443)")
    elif text.count(":") > 1:
        host, port = text, None
        if not _is_ipv6(text.partition("/")[0]) or ":" in text.partition("/")[2]:
            raise ValueError(f"{shown(text)} is not an IPv6 address or network (with a port it needs brackets: [fd00::/8]:443)")
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    ports = _allow_ports(text, port)
    if "/" in host or _is_address(host):
        return AllowEntry(host=None, network=network(host), ports=ports)
    if _glob.match(host) is None or "://" in text:
        raise ValueError(f"{shown(text)} is not a destination (write HOST, *.HOST or a network, with :PORT or :* if not 80 and 443)")
    return AllowEntry(host=host.lower().removesuffix("."), network=None, ports=ports)


def _allow_ports(text: str, port: str | None) -> frozenset[int] | None:
    if port is None:
        return WEB_PORTS
    if port == "*":
        return None
    if _port.match(port) is None or not 0 < int(port) < 65536:
        raise ValueError(f"{shown(text)}: {shown(port)} is not a port (write 1 to 65535, or * for any)")
    return frozenset({int(port)})


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def header_name(text: str) -> bytes:
    """A field name (RFC 9110 section 5.1), as written."""
    if _token.match(text) is None:
        raise ValueError(f"{shown(text)} is not a header name (write letters, digits and hyphens)")
    return text.encode("ascii")


def modified_name(text: str, message: Literal["request", "response"]) -> bytes:
    """The name of a header that a filter may write or remove: not one of framing or of the connection."""
    name = header_name(text)
    lower = name.lower()
    if lower == b"host" and message == "request":
        raise ValueError("Host cannot be changed by a header filter (write a URLRewrite filter with hostname)")
    refused = _NOT_IN_REQUEST if message == "request" else _NOT_IN_RESPONSE
    if lower in refused or lower.replace(b"_", b"-") in refused:
        raise ValueError(f"{shown(text)} belongs to one connection or to the framing, the sidecar manages it (remove the entry)")
    return name


def header_value(text: str) -> bytes:
    """A field value (RFC 9110 section 5.5); other characters than ASCII go as UTF-8."""
    if _control.search(text) is not None:
        raise ValueError("a header value cannot hold line breaks or control characters (remove them)")
    if text != text.strip(" \t"):
        raise ValueError("a header value cannot begin or end with a blank (remove it)")
    return text.encode()


def method(text: str) -> str:
    """A request method: a token, upper case where it is a known one."""
    if _token.match(text) is None:
        raise ValueError(f"{shown(text)} is not a method (write for example GET)")
    if text != text.upper() and text.upper() in _METHODS:
        raise ValueError(f"methods are case-sensitive (write {text.upper()})")
    return text


_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))


def check_target(text: str) -> bytes:
    """The target of a health check: an absolute path, perhaps with a query (RFC 9112 section 3.2.1)."""
    where, question, query = text.partition("?")
    path(where)
    if not query.isascii() or not query.isprintable() or " " in query or "#" in query:
        raise ValueError(f"{shown(text)} must be a path and a query (percent-encode other characters)")
    if not where.isascii():
        raise ValueError(f"{shown(text)} must be ASCII (percent-encode other characters)")
    return f"{where}{question}{query}".encode("ascii")


def path(text: str) -> str:
    """An absolute path without query."""
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} must begin with a slash (write {shown('/' + text)})")
    if _path.match(text) is None or _control.search(text) is not None:
        raise ValueError(f"{shown(text)} must be a path only (write it without ?, # and blanks; percent-encode them)")
    if not text.isascii():
        escaped = "".join(char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace")) for char in text)
        raise ValueError(f"{shown(text)} holds characters that no request has (write {shown(escaped)})")
    if len(text) > 4096:
        raise ValueError("the path is longer than 4096 characters (write a shorter prefix)")
    if _escape.search(text) is not None:
        raise ValueError(f"{shown(text)} has a % that begins no escape (write %25)")
    return text
