"""The flight recorder behind `GET /recent`."""

from __future__ import annotations

import json

import pytest
from observe_samples import START, Trace, attempt, exchange, failed_exchange, head

from sidecar.model.reason import Clock, Reason
from sidecar.observe.recorder import FAILURES, MAX_ATTEMPTS, MAX_FOUND, SLOWEST, WINDOW_SECONDS, Recorder

WALL = 1767225600.0


def recorder(*exchanges):
    made = Recorder(wall=lambda: WALL)
    for one in exchanges:
        made.exchange_finished(one)
    return made


def test_a_failure_is_shown_with_every_attempt_its_times_and_its_clock():
    (shown,) = recorder(failed_exchange()).recent()["failures"]
    assert shown["requestId"] == "req-1"
    assert shown["time"] == "2025-12-31T23:59:59.980Z"
    assert (shown["listener"], shown["route"], shown["upstream"]) == ("inbound", "orders-read", "orders")
    assert (shown["status"], shown["reason"], shown["clock"], shown["durationMs"]) == (504, "http_response_timeout", "responseHeader", 20.0)
    assert shown["detail"] == "no response head from 10.0.0.9:8080"
    assert [tried["number"] for tried in shown["attempts"]] == [1, 2]
    assert shown["attempts"][0] == {
        "number": 1,
        "endpoint": "10.0.0.9:8080",
        "endpointState": "healthy",
        "phase": "headers",
        "reused": False,
        "delayMs": 0.0,
        "startedMs": 0.0,
        "connectedMs": 1.0,
        "sentMs": 2.0,
        "headersMs": None,
        "endedMs": 13.0,
        "status": None,
        "outcome": "http_response_timeout",
        "clock": "responseHeader",
    }


@pytest.mark.parametrize("kind", ["reason", "5xx", "retried", "replayed", "skipped"])
def test_what_is_kept_as_a_failure(kind):
    made = {
        "reason": exchange(status=404, reason=Reason.NO_ROUTE),
        "5xx": exchange(attempt(status=500), status=500),
        "retried": exchange(attempt(outcome="status_503"), attempt(2)),
        "replayed": exchange(attempt()),
        "skipped": exchange(attempt()),
    }[kind]
    made.replays = int(kind == "replayed")
    made.retries_skipped = "budget" if kind == "skipped" else ""
    assert len(recorder(made).recent()["failures"]) == 1


def test_a_request_that_went_well_is_no_failure():
    assert recorder(exchange(attempt())).recent()["failures"] == []


def test_the_newest_failures_come_first_and_old_ones_make_room():
    many = [exchange(attempt(status=500), status=500) for _ in range(FAILURES + 5)]
    for number, one in enumerate(many):
        one.request_id = b"%d" % number
    shown = recorder(*many).recent()["failures"]
    assert len(shown) == FAILURES
    assert (shown[0]["requestId"], shown[-1]["requestId"]) == (str(FAILURES + 4), "5")


def test_the_slowest_of_many_are_kept_slowest_first():
    shown = recorder(*(exchange(attempt(), seconds=((number * 37) % 500) / 1000) for number in range(500))).recent()["slowest"]
    assert [one["durationMs"] for one in shown] == [float(n) for n in range(499, 499 - SLOWEST, -1)]


def later(made, seconds):
    made.started_at += seconds
    made.ended_at += seconds
    return made


def test_the_slowest_are_chosen_anew_and_the_choice_before_is_shown_one_window_longer():
    made = recorder(exchange(attempt(), seconds=9))
    made.exchange_finished(later(exchange(attempt(), seconds=1), WINDOW_SECONDS + 10))
    assert [one["durationMs"] for one in made.recent()["slowest"]] == [9000.0, 1000.0]
    made.exchange_finished(later(exchange(attempt(), seconds=2), 2 * WINDOW_SECONDS + 20))
    assert [one["durationMs"] for one in made.recent()["slowest"]] == [2000.0, 1000.0]
    made.exchange_finished(later(exchange(attempt(), seconds=3), 9 * WINDOW_SECONDS))
    assert [one["durationMs"] for one in made.recent()["slowest"]] == [3000.0]


def test_the_life_of_a_tunnel_is_not_slowness():
    tunnel = exchange(attempt(), status=101, seconds=3600)
    tunnel.tunnel = "websocket"
    assert recorder(tunnel).recent() == {"failures": [], "slowest": []}


def test_nothing_secret_is_kept_and_hostile_values_are_harmless():
    made = exchange(attempt(), status=400, reason=Reason.HTTP_REQUEST_ERROR, request=head(path=b"/a\x1b\xff?password=hunter2", host=b"h\n"))
    made.detail = "odd \u2028 bytes"
    text = json.dumps(recorder(failed_exchange(), made).recent())
    for secret in ("sesame", "secret", "hunter2"):
        assert secret not in text
    (newest, _) = json.loads(text)["failures"]
    assert (newest["path"], newest["authority"], newest["detail"]) == ("/a\\x1b\\xff", "h\\n", "odd \\u2028 bytes")


def test_a_record_is_bounded_whatever_the_request_was():
    long = b"a" * 100_000
    made = exchange(*(attempt(n) for n in range(1, 50)), request=head(method=long, path=long, host=long))
    made.detail = "d" * 100_000
    made.request_id = long
    (shown,) = recorder(made).recent()["failures"]
    assert len(json.dumps(shown)) < 16 * 1024
    assert [tried["number"] for tried in shown["attempts"]] == list(range(50 - MAX_ATTEMPTS, 50))


def test_a_request_is_found_by_its_id_the_newest_of_several_first_and_once_each():
    made = recorder()
    for number, status in enumerate((500, 502)):
        one = later(exchange(attempt(status=status), status=status, seconds=9), number)
        one.request_id = b"same"
        made._wall = lambda number=number: WALL + number
        made.exchange_finished(one)
    made.exchange_finished(exchange(attempt(status=500), status=500))
    assert [one["status"] for one in made.find("same")] == [502, 500]
    assert made.find("other") == []
    assert made.find("same\udc80") == []


def test_a_request_that_failed_and_was_slow_is_found_once():
    wall = iter(range(100))
    made = Recorder(wall=lambda: next(wall))
    made.exchange_finished(failed_exchange())
    assert len(made.find("req-1")) == 1


def test_a_slow_request_that_went_well_is_found_too():
    assert [one["status"] for one in recorder(exchange(attempt())).find("req-1")] == [200]


def test_the_last_failure_is_the_newest_and_there_may_be_none():
    assert recorder(exchange(attempt())).last() == []
    assert [one["status"] for one in recorder(failed_exchange(), exchange(attempt(status=500), status=500)).last()] == [500]


def test_one_id_used_again_and_again_gives_a_bounded_answer():
    assert len(recorder(*(failed_exchange() for _ in range(100))).find("req-1")) == MAX_FOUND


def test_the_trace_and_the_callers_deadline_are_told_when_they_matter():
    made = failed_exchange()
    made.trace = Trace()
    made.head.fields.append((b"X-Request-Timeout-Ms", b"x-request-timeout-ms", b"250"))
    (shown,) = recorder(made).last()
    assert (shown["traceId"], shown["callerDeadlineMs"]) == (Trace().trace_id, None)
    made.clock = Clock.REQUEST
    (shown,) = recorder(made).last()
    assert shown["callerDeadlineMs"] == "250"


def test_what_is_kept_does_not_hold_on_to_the_exchange():
    made = failed_exchange()
    kept = recorder(made)
    made.attempts.clear()
    made.detail = "changed"
    (shown,) = kept.recent()["failures"]
    assert len(shown["attempts"]) == 2
    assert shown["detail"].startswith("no response")
    assert shown["attempts"][0]["startedMs"] == made.started_at - START
