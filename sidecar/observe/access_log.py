"""AccessLog: one line per exchange, with the fields and the order of interface.md section 6.

What comes again (names of the configuration, hosts, user agents, addresses) is rendered once and remembered; the rest is
checked and pasted between quotes when it is harmless (it nearly always is), escaped otherwise. A dict through an encoder
costs twice as much, and no encoder escapes all that `text.escaped` does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from sidecar.model.exchange import Exchange, Trace
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Snapshot
from sidecar.model.telemetry import AccessLog as Settings
from sidecar.model.telemetry import LogFormat, LogQuery
from sidecar.observe.base import SilentObserver, TrafficKey, response_seconds, status_of, traffic_key
from sidecar.observe.output import Output
from sidecar.observe.text import Rendered, escaped, harmless, printable, shortened, utc, utc_seconds

BATCH_LINES: Final = 128
BATCH_BYTES: Final = 64 * 1024
BATCH_SECONDS: Final = 0.25
MAX_PATH: Final = 2048
MAX_NAME: Final = 256
MAX_AGENT: Final = 512
MAX_DETAIL: Final = 1024
REDACTED: Final = b"[redacted]"

_JSON: Final = (
    b'{"time":"%b%bZ","level":"%b","event":"access",%b,"endpoint":"%b","method":"%b","authority":"%b","path":"%b","status":%b,"reason":"%b",'
    b'"attempts":%b,"duration_ms":%b,"upstream_ms":%b,"bytes_in":%b,"bytes_out":%b,"client":"%b","protocol":"HTTP/1.%b",'
    b'"request_id":"%b",%b"user_agent":"%b"%b}\n'
)
_NUMBERS: Final = [b"%d" % number for number in range(1000)]
_THOUSANDTHS: Final = [b".%03d" % number for number in range(1000)]
"""Most numbers of a line are small: found, not formatted, which is half of what a line costs."""


class AccessLog(SilentObserver):
    """Writes batches of at most 128 lines, 250 ms after the first one at the latest. Needs a running event loop."""

    def __init__(
        self, output: Output, *, console: bool = False, wall: Callable[[], float] = time.time, chance: Callable[[], float] = random.random
    ) -> None:
        self._output = output
        self._render = self._console_line if console else self._json_line
        self._wall = wall
        self._chance = chance
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._names: Rendered[TrafficKey] = Rendered(_names)
        self._labels: Rendered[str] = Rendered(_label)
        self._methods: Rendered[bytes] = Rendered(_token)
        self._authorities: Rendered[bytes] = Rendered(_token)
        self._agents: Rendered[bytes] = Rendered(self._agent)
        self._second = 0
        self._second_text = b""
        self._configure(Settings())

    def config_applied(self, snapshot: Snapshot) -> None:
        """Takes over `telemetry.accessLog`."""
        self._configure(snapshot.telemetry.access_log)

    def exchange_finished(self, exchange: Exchange) -> None:
        """Queues the exchange's line, if it is to have one."""
        if not self._everything and not self._wanted(exchange):
            return
        line = self._render(exchange)
        lines = self._lines
        lines.append(line)
        self._size += len(line)
        if len(lines) >= BATCH_LINES or self._size >= BATCH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand what is collected to the output now; call it when draining. Never blocks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            self._output.write(b"".join(self._lines))
            self._lines.clear()
            self._size = 0

    def close(self) -> None:
        """Flush; the output is its owner's to close."""
        self.flush()

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        self._enabled = settings.format is not LogFormat.NONE
        self._everything = self._enabled and settings.sample >= 1.0
        self._keep_query = settings.query is LogQuery.KEEP
        self._hide_agent = b"user-agent" in settings.redact_headers
        self._agents.clear()

    def _wanted(self, exchange: Exchange) -> bool:
        if not self._enabled:
            return False
        settings = self._settings
        return (
            (settings.always_error and is_error(exchange))
            or (settings.always_retried and (len(exchange.attempts) > 1 or exchange.replays > 0))
            or (settings.slower_than is not None and exchange.ended_at - exchange.started_at >= settings.slower_than)
            or self._chance() < settings.sample
        )

    def _json_line(self, exchange: Exchange) -> bytes:
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second, self._second_text = second, utc_seconds(second).encode()
        head = exchange.head
        path = head.path if self._keep_query else head.path.partition(b"?")[0]
        if len(path) > MAX_PATH:
            path = shortened(path, MAX_PATH)
        request_id = exchange.request_id
        if not harmless(path + request_id):  # both at once: the copy costs less than another look
            path, request_id = escaped(path), escaped(request_id)
        agent = b""
        for _, name, value in head.fields:
            if name == b"user-agent":
                agent = self._agents[value]
                break
        endpoint, upstream_ms = b"", b"null"
        attempts = exchange.attempts
        if attempts:
            last = attempts[-1]
            if last.endpoint is not None:
                endpoint = self._labels[last.endpoint.label]
            seconds = response_seconds(last)
            if seconds is not None:
                upstream_ms = _milliseconds(seconds)
        reason = exchange.reason
        return _JSON % (
            self._second_text,
            _THOUSANDTHS[int((now - second) * 1000)],
            b"info" if reason is None else _level(reason),
            self._names[traffic_key(exchange)],
            endpoint,
            self._methods[head.method],
            self._authorities[head.host],
            path,
            _number(exchange.status or status_of(exchange)),
            b"none" if reason is None else reason.value.encode(),
            _number(len(attempts) - exchange.replays),
            _milliseconds(exchange.ended_at - exchange.started_at),
            upstream_ms,
            _number(exchange.bytes_in),
            _number(exchange.bytes_out),
            self._labels[exchange.client],
            _NUMBERS[head.minor],
            request_id,
            b"" if exchange.trace is None else b'"trace_id":"%b","span_id":"%b",' % _trace(exchange.trace),
            agent,
            _extras(exchange)
            if reason is not None or exchange.replays or exchange.tunnel or exchange.retries_skipped or exchange.identity
            else b"",
        )

    def _console_line(self, exchange: Exchange) -> bytes:
        now = self._wall()
        head = exchange.head
        path = head.path if self._keep_query else head.path.partition(b"?")[0]
        _, route, upstream = traffic_key(exchange)
        last = exchange.attempts[-1] if exchange.attempts else None
        facts = {
            "route": route,
            "upstream": upstream,
            "endpoint": last.endpoint.label if last is not None and last.endpoint is not None else "",
            "reason": exchange.reason or "",
            "clock": exchange.clock or "",
            "attempts": str(len(exchange.attempts)) if len(exchange.attempts) > 1 else "",
            "id": _text(exchange.request_id) if exchange.reason is not None else "",
        }
        told = " ".join(f"{name}={value}" for name, value in facts.items() if value)
        what = f"{_text(shortened(head.method, MAX_NAME))} {_text(shortened(head.host, MAX_NAME))}{_text(shortened(path, MAX_PATH))}"
        milliseconds = (exchange.ended_at - exchange.started_at) * 1000
        text = f"{utc(now)[11:-1]} {status_of(exchange)} {what} {milliseconds:.1f}ms {told}"
        return printable(text.rstrip()).encode("utf-8", "backslashreplace") + b"\n"

    def _agent(self, value: bytes) -> bytes:
        return REDACTED if self._hide_agent else escaped(shortened(value, MAX_AGENT))


def _number(value: int) -> bytes:
    return _NUMBERS[value] if value < 1000 else b"%d" % value


def _milliseconds(seconds: float) -> bytes:
    """With three decimals."""
    microseconds = int(seconds * 1e6 + 0.5)
    return _number(microseconds // 1000) + _THOUSANDTHS[microseconds % 1000]


def is_error(exchange: Exchange) -> bool:
    """What `always: [Error]` means: we answered or gave up in the upstream's place, or the status is 5xx."""
    return exchange.reason is not None or exchange.status >= 500


def _trace(trace: Trace) -> tuple[bytes, bytes]:
    """Sampled or not: the application's own lines may name the trace as well."""
    return trace.trace_id.encode(), trace.span_id.encode()


def _level(reason: Reason) -> bytes:
    # A client that went away is nobody's fault here.
    return b"info" if reason is Reason.CLIENT_CLOSED else b"warning"


def _extras(exchange: Exchange) -> bytes:
    """What is only there when something is to be told: which clock, what happened, what was not tried again."""
    told = [
        ("clock", b"" if exchange.clock is None else exchange.clock.value.encode()),
        ("detail", shortened(exchange.detail.encode("utf-8", "backslashreplace"), MAX_DETAIL)),
        ("retries_skipped", exchange.retries_skipped.encode()),
        ("tunnel", exchange.tunnel.encode()),
        ("client_identity", shortened(exchange.identity.encode("utf-8", "backslashreplace"), MAX_DETAIL)),
    ]
    text = b"".join(b',"%b":"%b"' % (name.encode(), escaped(value)) for name, value in told if value)
    return text + (b',"replays":%d' % exchange.replays if exchange.replays else b"")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _names(key: TrafficKey) -> bytes:
    return b'"listener":"%b","route":"%b","upstream":"%b"' % tuple(map(_label, key))


def _label(value: str) -> bytes:
    return escaped(value.encode("utf-8", "backslashreplace"))


def _token(value: bytes) -> bytes:
    return escaped(shortened(value, MAX_NAME))
