"""Access-log lines: fields, order, sampling, batches, and peers that try to forge."""

from __future__ import annotations

import asyncio
import json

import pytest
from observe_samples import attempt, exchange, failed_exchange, head, snapshot

from sidecar.model.reason import Reason
from sidecar.model.telemetry import AccessLog as Settings
from sidecar.model.telemetry import LogFormat, LogQuery, Telemetry
from sidecar.observe.access_log import BATCH_BYTES, BATCH_LINES, AccessLog

FIELDS = [
    "time",
    "level",
    "event",
    "listener",
    "route",
    "upstream",
    "endpoint",
    "method",
    "authority",
    "path",
    "status",
    "reason",
    "attempts",
    "duration_ms",
    "upstream_ms",
    "bytes_in",
    "bytes_out",
    "client",
    "protocol",
    "request_id",
    "user_agent",
]
WALL = 1767225599.9994


class Sink:
    """An output that remembers."""

    def __init__(self):
        self.writes = []

    def write(self, lines):
        self.writes.append(lines)

    def lines(self):
        return b"".join(self.writes).splitlines(keepends=True)


def written(*exchanges, settings=None, chance=lambda: 0.5, console=False):
    sink = Sink()

    async def go():
        log = AccessLog(sink, console=console, wall=lambda: WALL, chance=chance)
        if settings is not None:
            log.config_applied(snapshot(telemetry=Telemetry(access_log=settings)))
        for one in exchanges:
            log.exchange_finished(one)
        log.close()

    asyncio.run(go())
    return sink.lines()


def one_line(made, **options):
    lines = written(made, **options)
    assert len(lines) == 1
    return json.loads(lines[0])


def test_a_line_has_the_documented_fields_in_the_documented_order():
    line = one_line(exchange(attempt()))
    assert list(line) == FIELDS
    assert line == {
        "time": "2025-12-31T23:59:59.999Z",
        "level": "info",
        "event": "access",
        "listener": "inbound",
        "route": "orders-read",
        "upstream": "orders",
        "endpoint": "10.0.0.9:8080",
        "method": "GET",
        "authority": "orders.shop.svc",
        "path": "/v1/orders",
        "status": 200,
        "reason": "none",
        "attempts": 1,
        "duration_ms": 20.0,
        "upstream_ms": 10.0,
        "bytes_in": 10,
        "bytes_out": 2000,
        "client": "10.1.2.3",
        "protocol": "HTTP/1.1",
        "request_id": "req-1",
        "user_agent": "curl/8.5",
    }


def test_an_exchange_without_route_upstream_and_attempt_has_every_field_too():
    line = one_line(exchange(route="", upstream="", status=404, reason=Reason.NO_ROUTE, request=head(agent=b"", minor=0)))
    assert list(line) == FIELDS
    assert (line["route"], line["upstream"], line["endpoint"], line["attempts"], line["upstream_ms"]) == ("", "", "", 0, None)
    assert (line["reason"], line["level"], line["protocol"], line["user_agent"]) == ("no_route", "warning", "HTTP/1.0", "")


def test_a_failure_also_says_which_clock_and_what_happened():
    line = one_line(failed_exchange())
    assert (line["reason"], line["clock"], line["detail"], line["attempts"]) == (
        "http_response_timeout",
        "responseHeader",
        "no response head from 10.0.0.9:8080",
        2,
    )


def test_replays_tunnels_and_retries_that_were_not_made_are_told():
    made = exchange(attempt(), status=101)
    made.replays, made.tunnel, made.retries_skipped = 1, "websocket", "method"
    line = one_line(made)
    assert (line["replays"], line["tunnel"], line["retries_skipped"]) == (1, "websocket", "method")


def test_a_client_that_left_is_logged_as_499_and_is_no_warning():
    line = one_line(exchange(attempt(), status=0, reason=Reason.CLIENT_CLOSED))
    assert (line["status"], line["reason"], line["level"]) == (499, "client_closed", "info")


def test_the_query_string_is_dropped_unless_the_document_keeps_it():
    assert one_line(exchange(attempt()))["path"] == "/v1/orders"
    assert one_line(exchange(attempt()), settings=Settings(query=LogQuery.KEEP))["path"] == "/v1/orders?token=secret"


def test_no_credential_reaches_the_log_and_a_redacted_user_agent_does_not_either():
    for line in written(exchange(attempt()), failed_exchange()):
        assert b"sesame" not in line
        assert b"secret" not in line
    hidden = one_line(exchange(attempt(), request=head(agent=b"private/1")), settings=Settings(redact_headers=frozenset({b"user-agent"})))
    assert hidden["user_agent"] == "[redacted]"


FORGERIES = [
    b'x","event":"ready","y":"',
    b"x\\",
    b"x\r\n{}",
    b"x\x00\x07\x1b[2J\x7f",
    "x\u2028\u2029\u0085\x9b31m\u202e".encode(),
    b"x\xff\xfe\xc0\xaf\xed\xa0\x80",
    "caf\u00e9 \U0001f600".encode(),
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_value_from_the_network_can_forge_a_line_or_talk_to_a_terminal(forgery):
    made = exchange(
        attempt(), request=head(method=forgery, path=b"/" + forgery, host=forgery, agent=forgery), reason=Reason.HTTP_REQUEST_ERROR
    )
    made.request_id = forgery
    made.detail = forgery.decode("utf-8", "replace")
    for console in (False, True):
        (line,) = written(made, console=console)
        assert line.endswith(b"\n")
        assert line[:-1].decode("utf-8").isprintable()
        assert len(line.decode().splitlines()) == 1
    parsed = json.loads(written(made)[0])
    shown = forgery.decode("utf-8", "backslashreplace")
    assert (parsed["event"], parsed["method"], parsed["authority"]) == ("access", shown, shown)
    assert (parsed["path"], parsed["request_id"], parsed["user_agent"]) == ("/" + shown, shown, shown)


def test_long_values_are_cut():
    long = b"a" * 100_000
    (line,) = written(exchange(attempt(), request=head(method=long, path=long, host=long, agent=long)))
    assert len(line) < 4096
    assert json.loads(line)["path"].endswith("...")


def always(**changes):
    return Settings(**{"sample": 0.0, "always_error": False, "always_retried": False, "slower_than": None, **changes})


def test_sampling_writes_the_lines_that_chance_picks():
    assert len(written(exchange(attempt()), settings=always(sample=0.5), chance=lambda: 0.49)) == 1
    assert written(exchange(attempt()), settings=always(sample=0.5), chance=lambda: 0.5) == []
    assert written(exchange(attempt()), settings=always(), chance=lambda: 0.0) == []


def test_errors_retries_and_slow_requests_are_written_whatever_the_sample_when_always_says_so():
    error, gone = exchange(attempt(status=503), status=503), exchange(status=404, reason=Reason.NO_ROUTE)
    retried, slow = exchange(attempt(outcome="status_503"), attempt(2)), exchange(attempt(), seconds=1.0)
    replayed = exchange(attempt())
    replayed.replays = 1
    everything = (error, gone, retried, replayed, slow, exchange(attempt()))
    assert len(written(*everything, settings=always())) == 0
    assert len(written(*everything, settings=always(always_error=True))) == 2
    assert len(written(*everything, settings=always(always_retried=True))) == 2
    assert len(written(*everything, settings=always(slower_than=1.0))) == 1


def test_format_none_writes_nothing_at_all():
    assert written(failed_exchange(), settings=Settings(format=LogFormat.NONE)) == []


def test_lines_leave_in_batches_of_128_and_the_rest_with_one_timer():
    sink = Sink()

    async def go():
        log = AccessLog(sink)
        for _ in range(BATCH_LINES + 1):
            log.exchange_finished(exchange(attempt()))
        at_once = len(sink.lines())
        await asyncio.sleep(0.4)
        return at_once

    assert asyncio.run(go()) == BATCH_LINES
    assert [batch.count(b"\n") for batch in sink.writes] == [BATCH_LINES, 1]


def test_a_batch_of_long_lines_leaves_early():
    lines = Sink()

    async def go():
        log = AccessLog(lines)
        for _ in range(100):
            log.exchange_finished(exchange(attempt(), request=head(path=b"/\xff" * 1000)))
        log.flush()

    asyncio.run(go())
    assert len(lines.writes) > 1
    assert max(map(len, lines.writes)) < BATCH_BYTES + 16 * 1024


def test_flush_leaves_no_timer_behind_and_an_idle_log_has_none():
    async def go():
        sink = Sink()
        log = AccessLog(sink)
        assert log._timer is None
        log.exchange_finished(exchange(attempt()))
        assert log._timer is not None
        log.flush()
        log.flush()
        return log._timer, len(sink.writes)

    assert asyncio.run(go()) == (None, 1)


def test_peers_cannot_make_the_memory_of_rendered_values_grow():
    async def go():
        log = AccessLog(Sink())
        for number in range(3000):
            log.exchange_finished(exchange(attempt(), request=head(agent=b"agent/%d" % number)))
        log.exchange_finished(exchange(attempt(), request=head(agent=b"a" * 5000)))
        return log._agents

    remembered = asyncio.run(go())
    assert len(remembered) <= remembered.LIMIT
    assert max(map(len, remembered)) <= remembered.LONGEST


def test_on_a_terminal_a_line_is_short_and_tells_what_failed():
    (line,) = written(failed_exchange(), console=True)
    text = line.decode()
    assert text.startswith("23:59:59.999 504 GET orders.shop.svc/v1/orders 20.0ms route=orders-read upstream=orders endpoint=10.0.0.9:8080")
    assert "reason=http_response_timeout clock=responseHeader attempts=2 id=req-1" in text
    (good,) = written(exchange(attempt()), console=True)
    assert b"reason" not in good
