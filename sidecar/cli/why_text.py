"""`outrider why` for people: what happened, what ended it, what the configuration said, every attempt, what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.observe.text import printable

Json = Mapping[str, Any]

_LABEL: Final = 12
"""Width of the left column."""
MAX_RECORDS: Final = 4
MAX_ATTEMPTS: Final = 8
"""On one screen; `--output json` has them all."""

ADVICE: Final = {
    "dns_timeout": "the resolver did not answer in time: look at the pod's DNS (dns_failed in the log), or raise connectTimeout",
    "dns_error": "the name does not resolve: compare the upstream's `dns.host` with what the cluster's DNS knows",
    "destination_not_found": "no backend of the route can be used: give one a weight above 0",
    "destination_unavailable": "no endpoint could take the request: see `outrider status` for the upstream's endpoints, and whether its pods are ready",
    "destination_ip_prohibited": "the name leads to a special address: name that address or its network in `allow` of the listener, if it is meant",
    "connection_refused": "nothing listens there: is the server running, and is the port right?",
    "connection_terminated": "the server closed the connection without an answer: see its log; a restart or a keep-alive shorter than ours look like this",
    "connection_timeout": "no connection in time: a network policy, a wrong address or an overloaded server; `connect` is the clock",
    "connection_read_timeout": "the server stopped sending: see its log",
    "connection_write_timeout": "the server stopped reading: see its log",
    "connection_limit_reached": "every connection of the pool was busy for the whole of `queue`: a slow server, or a pool that is too small for the load",
    "tls_protocol_error": "the TLS handshake failed: does the server speak TLS on this port, and a version that is allowed?",
    "tls_certificate_error": "the server's certificate was not accepted: compare its names and its authority with the upstream's `tls`",
    "tls_alert_received": "the server ended the TLS handshake: does it want a client certificate?",
    "http_request_error": "the request is malformed: the detail names the rule; the fault is with the client",
    "http_request_denied": "the destination is not in `allow` of the listener (or the method is not possible there)",
    "http_response_incomplete": "the server's response ended too early, so the client's was cut: see the server's log",
    "http_response_header_section_size": "the server's response head is above 64 KiB or 256 fields",
    "http_response_timeout": "the server did not answer in time: find out why it is slow before raising the clock",
    "http_upgrade_failed": "the server did not switch protocols as it was asked to",
    "http_protocol_error": "the server's response is not valid HTTP: the detail names the rule; is this port another protocol's?",
    "proxy_internal_error": "a bug of the sidecar: its log has the traceback (internal_error); please report it",
    "proxy_configuration_error": "the configuration does not allow to serve this request: see GET /config/problems",
    "proxy_loop_detected": "the request came back here again and again: an upstream leads back to this sidecar",
    "no_route": "no route matches: the explanation below says why each did not",
    "request_timeout": "the time for the whole request was over, retries and back-off included: the attempts say where it went",
    "stream_idle_timeout": "nothing moved for too long: a stream that is quiet on purpose needs a longer streamIdle (tunnelIdle for tunnels)",
    "overloaded": "the upstream's queue or its limit of requests was full: more endpoints, or higher limits in connectionPool (before any upstream was chosen: the sidecar's own memory or descriptors were short, see GET /runtime)",
    "circuit_open": "the circuit breaker gives the upstream a rest: its failures before this one are the cause",
    "rate_limited": "more requests than are allowed",
    "draining": "the sidecar was shutting down: is the caller told in time (readiness, drainDelay)?",
    "client_closed": "the client went away before the answer was there: its own time-out is shorter than this request took",
    "request_header_timeout": "the client did not send its request's head in time",
    "request_body_timeout": "the client stopped sending its body",
    "request_too_large": "the body is above maxRequestBody",
    "header_section_too_large": "the head is above maxHeaderBytes or maxHeaderCount",
    "uri_too_long": "the target is above maxTargetBytes",
}
"""What to look at, by reason; a test holds it against the closed list."""
_SKIPPED: Final = {
    "budget": "the upstream's retry budget was spent",
    "body": "the body was too large to keep for a second try",
    "method": "the method is not idempotent",
    "started": "bytes of the response had already reached the client",
    "time": "the back-off would not have fitted into the time that was left",
}


def render(answer: Json) -> str:
    """The text of what `GET /why` answered; ends with a line feed."""
    records = answer["records"]
    lines: list[str] = []
    for number, record in enumerate(records[:MAX_RECORDS]):
        if number:
            lines += ["", "-" * 72]
        lines += _record(record, answer["activeRevision"])
    if len(records) > MAX_RECORDS:
        lines += ["", f"and {len(records) - MAX_RECORDS} more with this request id (--output json has them)"]
    return "\n".join(printable(line).rstrip() for line in lines) + "\n"


def _record(record: Json, active: str | None) -> Iterator[str]:
    for label, rows in (
        ("Request", _request(record)),
        ("Outcome", _outcome(record)),
        ("Ended by", _ended_by(record)),
        ("Attempts", _attempts(record)),
        ("Settings", _settings(record)),
        ("From", _source(record, active)),
        ("What to do", _advice(record)),
    ):
        for index, row in enumerate(rows):
            yield f"{label if index == 0 else '':<{_LABEL}}{row}"


def _request(record: Json) -> list[str]:
    what = f"{record['method']} {record['authority']}{record['path']}" if record["method"] else "(no head that could be read)"
    trace = f"  trace {record['traceId']}" if record["traceId"] else ""
    return [what, f"{record['requestId']}  from {record['client']} at {record['time']} on {record['listener']}{trace}"]


def _outcome(record: Json) -> list[str]:
    moved = f"{record['durationMs']:.1f} ms, {record['bytesIn']} bytes in, {record['bytesOut']} bytes out"
    tunnel = f", a {record['tunnel']} tunnel" if record["tunnel"] else ""
    who = "the sidecar answered" if record["reason"] else "the upstream answered"
    if record["reason"] == "client_closed":
        who = "nobody was left to answer"
    return [f"{record['status']} {record['reason'] or ''}".rstrip() + f": {who} after {moved}{tunnel}"]


def _ended_by(record: Json) -> list[str]:
    rows = []
    if record["clock"]:
        rows.append(f"clock {record['clock']}{_set_to(record, record['clock'])}")
        if record["callerDeadlineMs"]:
            rows.append(f"the caller's x-request-timeout-ms said {record['callerDeadlineMs']}, which can only shorten it")
    elif record["reason"]:
        rows.append(f"rule {record['reason']}")
    if record["detail"]:
        rows.append(record["detail"])
    return rows


def _set_to(record: Json, clock: str) -> str:
    """`: 1s, line 14`, when the record says so."""
    names = (f".{clock}", "connectTimeout" if clock == "connect" else "\0")
    found = next((one for one in record["settings"] if one["path"].endswith(names)), None)
    return "" if found is None else f": {found['value']}, {found['origin']}"


def _attempts(record: Json) -> list[str]:
    attempts = record["attempts"]
    if not attempts:
        return ["none: it ended before an endpoint was asked"]
    rows: list[tuple[str, ...]] = [("#", "endpoint", "began", "connected", "sent", "answered", "ended", "outcome")]
    rows += [_attempt(one) for one in attempts[-MAX_ATTEMPTS:]]
    lines = _columns(rows)
    if len(attempts) > MAX_ATTEMPTS:
        lines.insert(1, f"({len(attempts) - MAX_ATTEMPTS} before these)")
    if record["replays"]:
        lines.append("the first one met a kept connection that the server had closed, and was replayed")
    if skipped := record["retriesSkipped"]:
        lines.append(f"not tried again: {_SKIPPED.get(skipped, skipped)}")
    return lines


def _attempt(one: Json) -> tuple[str, ...]:
    state = f" ({one['endpointState']})" if one["endpointState"] not in (None, "healthy") else ""
    kept = "kept" if one["reused"] else _after(one["connectedMs"])
    clock = f" ({one['clock']})" if one["clock"] else ""
    delay = f" after {one['delayMs']:.0f} ms of back-off" if one["delayMs"] else ""
    status = f" {one['status']}" if one["status"] else ""
    return (
        str(one["number"]),
        f"{one['endpoint'] or '-'}{state}",
        _after(one["startedMs"]),
        kept,
        _after(one["sentMs"]),
        _after(one["headersMs"]),
        _after(one["endedMs"]),
        f"{one['outcome']}{status}{clock}{delay}",
    )


def _after(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _settings(record: Json) -> list[str]:
    return _columns([(one["path"], one["value"], one["origin"]) for one in record["settings"]])


def _source(record: Json, active: str | None) -> list[str]:
    if not record["revision"]:
        return ["no configuration was active"]
    if not record["source"]:
        return [f"revision {record['revision']}, too long ago to say where its settings were"]
    now = "" if record["revision"] == active else f" (not the active one any more: that is {active})"
    return [f"{record['source']}, revision {record['revision']}{now}"]


def _advice(record: Json) -> list[str]:
    reason = record["reason"]
    if reason is None:
        if record["status"] >= 500:
            return ["the upstream answered this itself: its log has the cause"]
        return ["nothing failed: it was slow, or worked at another try"]
    rows = [ADVICE.get(reason, "")]
    if reason in ("no_route", "http_request_denied") and record["method"]:
        rows.append(_explanation(record))
    return [row for row in rows if row]


def _explanation(record: Json) -> str:
    target = record["authority"] if record["method"] == "CONNECT" else f"http://{record['authority']}{record['path']}"
    return f"outrider explain {shlex.quote(record['method'])} {shlex.quote(target)} --listener {shlex.quote(record['listener'])}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two blanks apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
