"""Attributes of spans by OpenTelemetry's semantic conventions for HTTP (stable, 1.44), and our own `outrider.*`.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import Final

from sidecar.errors import ProxyError
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Clock, Reason
from sidecar.model.tls import Secured
from sidecar.observe.tracing.record import Record
from sidecar.observe.tracing.tls_attributes import http_version, tls_attributes
from sidecar.protocol.forwarded import parse_node
from sidecar.protocol.target import split_authority

Attributes = dict[str, str | int | float | bool]
ServerKey = tuple[str, bool, bytes, int, str, str | None, str | None, int, Reason | None, Clock | None, bool, str, int, str, Secured | None]
ClientKey = tuple[
    str, bool, str, str | None, str | None, str, int, str, int, str | None, int, int, str, Clock | None, bool, bool, str, Secured | None
]

OTHER: Final = "_OTHER"
SUCCESS: Final = "success"
RETRY: Final = "retry"
"""Name of the event."""
UNIX: Final = "unix"
_PORT_OF: Final = {b"": 80, b"http": 80, b"https": 443}
_SIGNED: Final = frozenset(
    ("AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token")
)
"""Query parameters that let their holder in; the conventions' own list."""


def text(value: bytes) -> str:
    """Bytes of the network as the text of an attribute."""
    return value.decode("utf-8", "backslashreplace")


def redacted(query: str) -> str:
    """A query string whose signatures are not shown: their keys stay."""
    parts = query.split("&")
    for part in parts:
        if part.partition("=")[0] in _SIGNED:
            return "&".join([_without_value(part) for part in parts])
    return query


def _without_value(part: str) -> str:
    key, mark, _ = part.partition("=")
    return f"{key}=REDACTED" if mark and key in _SIGNED else part


def shown(target: bytes) -> str:
    """A request-target as it may be shown."""
    path, mark, query = text(target).partition("?")
    return f"{path}?{redacted(query)}" if mark else path


def server(record: Record, methods: frozenset[str]) -> Attributes:
    """Of the SERVER span: its groups in this order, which encoder.py encodes one by one."""
    attributes = server_facts(server_key(record, methods))
    attributes |= server_address(record.host, record.scheme)
    attributes |= peer_address(record.client, record.forwarded_for)
    attributes |= user_agent(record.user_agent)
    path, _, query = shown(record.target).partition("?")
    attributes["url.path"] = path
    if query:
        attributes["url.query"] = query
    attributes["outrider.request_id"] = text(record.request_id)
    return attributes | tunnel_counts(record) if record.tunnel else attributes


def client(record: Record, attempt: Attempt, methods: frozenset[str]) -> Attributes:
    """Of the CLIENT span of one attempt."""
    key = client_key(record, attempt, methods)
    attributes = client_facts(key)
    attributes["url.full"] = full_url(key, shown(record.sent_target))
    return attributes


# -- groups of attributes: each depends on its arguments alone, so that who encodes them can remember what came of it


def server_key(record: Record, methods: frozenset[str]) -> ServerKey:
    """What `server_facts` depends on."""
    method = text(record.method)
    return (
        method,
        method in methods,
        record.scheme,
        record.minor,
        record.listener.name,
        None if record.route is None else record.route.name,
        None if record.upstream is None else record.upstream.name,
        record.status,
        record.reason,
        record.clock,
        record.aborted,
        record.retries_skipped,
        record.replays,
        record.tunnel,
        record.secured,
    )


def server_facts(key: ServerKey) -> Attributes:
    """Of the SERVER span, what many exchanges have in common."""
    method, known, scheme, minor, listener, route, upstream, status, reason, clock, _, skipped, replays, tunnel, secured = key
    attributes = _method(method, known=known)
    attributes["url.scheme"] = text(scheme) or "http"
    if route is not None:
        attributes["http.route"] = route
    if status and reason is not Reason.CLIENT_CLOSED:
        attributes["http.response.status_code"] = status
    attributes["network.protocol.version"] = f"1.{minor}"
    if (error := server_error(key)) is not None:
        attributes["error.type"] = error
    attributes |= tls_attributes(secured) | _own(listener, route, upstream)
    if reason is not None:
        attributes["outrider.reason"] = reason.value
    if clock is not None:
        attributes["outrider.clock"] = clock.value
    if skipped:
        attributes["outrider.retries_skipped"] = skipped
    if replays:
        attributes["outrider.replays"] = replays
    if tunnel:
        attributes["outrider.tunnel"] = tunnel
    return attributes


def server_address(authority: bytes, scheme: bytes) -> Attributes:
    """The host that the client asked for; the port is given with it, the scheme's own when it named none."""
    if not authority:
        return {}
    try:
        host, port = split_authority(authority, _PORT_OF.get(scheme, 0))
    except (ProxyError, ValueError):  # it has been cut
        return {}
    address: Attributes = {"server.address": text(host)}
    if port:
        address["server.port"] = port
    return address


def peer_address(client: str, forwarded_for: bytes) -> Attributes:
    """Who is at the other end, and who asked in the first place."""
    if client == UNIX:
        return {}
    return {"network.peer.address": client, "client.address": _origin(forwarded_for) or client}


def user_agent(value: bytes) -> Attributes:
    """None when the request had none."""
    return {"user_agent.original": text(value)} if value else {}


def tunnel_counts(record: Record) -> Attributes:
    """What went through a tunnel."""
    counts: Attributes = {"outrider.tunnel.bytes_in": record.bytes_in, "outrider.tunnel.bytes_out": record.bytes_out}
    if record.tunnel == "websocket":
        counts["outrider.tunnel.messages_in"] = record.messages_in
        counts["outrider.tunnel.messages_out"] = record.messages_out
    return counts


def client_key(record: Record, attempt: Attempt, methods: frozenset[str]) -> ClientKey:
    """What `client_facts` depends on."""
    method = text(record.method)
    upstream, endpoint = record.upstream, attempt.endpoint
    host, port, unix_path = ("", 0, None) if endpoint is None else (endpoint.host, endpoint.port, endpoint.unix_path)
    name = None if upstream is None else upstream.name
    address, address_port = (name or "", 0) if endpoint is None else (unix_path or host, port)
    if upstream is not None and upstream.dns is not None:  # the name that the document gives, rather than the address behind it
        address, address_port = upstream.dns.host, upstream.dns.port
    return (
        method,
        method in methods,
        record.listener.name,
        None if record.route is None else record.route.name,
        name,
        address,
        address_port,
        host if attempt.connected_at else "",
        port,
        unix_path if attempt.connected_at else None,
        attempt.status,
        attempt.number,
        attempt.outcome,
        attempt.clock,
        attempt.reused,
        endpoint is not None and endpoint.tls,
        http_version(upstream, attempt.secured),
        attempt.secured,
    )


def client_facts(key: ClientKey) -> Attributes:
    """Of a CLIENT span, all but its URL. `peer` and `unix_path` are of a connection that came about."""
    method, known, listener, route, upstream, address, port, peer, peer_port, unix_path, status, number, outcome, clock, reused = key[:15]
    version, secured = key[16:]
    attributes = _method(method, known=known)
    attributes["server.address"] = address
    if port:
        attributes["server.port"] = port
    if unix_path:
        attributes["network.transport"] = UNIX
        attributes["network.peer.address"] = unix_path
    elif peer and parse_node(peer.encode()) is not None:
        attributes["network.peer.address"] = peer
        attributes["network.peer.port"] = peer_port
    if status:
        attributes["http.response.status_code"] = status
        attributes["network.protocol.version"] = version
    if number > 1:
        attributes["http.request.resend_count"] = number - 1
    if (error := client_error(key)) is not None:
        attributes["error.type"] = error
    attributes |= tls_attributes(secured) | _own(listener, route, upstream)
    if outcome != SUCCESS:
        attributes["outrider.reason"] = outcome
    if clock is not None:
        attributes["outrider.clock"] = clock.value
    if reused:
        attributes["outrider.connection_reused"] = True
    return attributes


def base_url(key: ClientKey) -> str:
    """`url.full` of what was asked of the upstream, up to its path; of a CONNECT, whole."""
    method, address, port = key[0], key[5], key[6]
    host = f"[{address}]" if ":" in address else address
    authority = f"{host}:{port}" if port else host
    return authority if method == "CONNECT" else f"{'https' if key[15] else 'http'}://{authority}"


def full_url(key: ClientKey, target: str) -> str:
    """`url.full`; `target` as it may be shown."""
    return base_url(key) + (target if target.startswith("/") else "")


def server_name(key: ServerKey) -> str:
    """The name of the SERVER span: never a raw path."""
    method, route = _method_name(key[0], known=key[1]), key[5]
    return method if route is None else f"{method} {route}"


def client_name(key: ClientKey) -> str:
    """The name of a CLIENT span."""
    return _method_name(key[0], known=key[1])


def server_error(key: ServerKey) -> str | None:
    """`error.type`, None when the span is no error: 5xx is, 4xx is not, a client that left is not, a cut response is."""
    status, reason, aborted = key[7], key[8], key[10]
    if reason is Reason.CLIENT_CLOSED or (status < 500 and not aborted):
        return None
    return str(status) if reason is None else reason.value


def client_error(key: ClientKey) -> str | None:
    """`error.type`, None when the span is no error: 4xx and 5xx are, and every failure but that the client left."""
    status, outcome = key[10], key[12]
    if outcome == Reason.CLIENT_CLOSED.value:
        return None
    if status >= 400 and (outcome == SUCCESS or outcome.startswith("status_")):
        return str(status)
    return None if outcome == SUCCESS else outcome


def retries(record: Record) -> list[tuple[float, Attributes]]:
    """Of the events `retry`: when each further try was decided on; why, how long it waited, and which try it was to be."""
    return [
        (
            before.ended_at or attempt.started_at,
            {"reason": before.outcome, "delay_ms": round(attempt.delay * 1000, 3), "attempt": attempt.number},
        )
        for before, attempt in zip(record.attempts, record.attempts[1:], strict=False)
    ]


# -- what both spans share


def _method_name(method: str, *, known: bool) -> str:
    """The method as a span's name has it: `HTTP` for those that are not known."""
    return method if known else "HTTP"


def _method(method: str, *, known: bool) -> Attributes:
    if known:
        return {"http.request.method": method}
    return {"http.request.method": OTHER, "http.request.method_original": method}


def _own(listener: str, route: str | None, upstream: str | None) -> Attributes:
    own: Attributes = {"outrider.listener": listener}
    if route is not None:
        own["outrider.route"] = route
    if upstream is not None:
        own["outrider.upstream"] = upstream
    return own


def _origin(forwarded_for: bytes) -> str:
    """The first address of X-Forwarded-For, or ""."""
    address = parse_node(forwarded_for.partition(b",")[0])
    return "" if address is None else str(address)
