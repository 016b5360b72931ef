"""`outrider why`: records of the flight recorder, through a real admin surface, as a person reads them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from admin.admin_fakes import Caller, World, served
from observe.observe_samples import START, Trace, attempt, exchange, failed_exchange, head

from sidecar.cli.main import main
from sidecar.cli.why_text import ADVICE, MAX_ATTEMPTS, render
from sidecar.config.load import Loaded, load
from sidecar.model.endpoint import EndpointState
from sidecar.model.exchange import Exchange
from sidecar.model.head import RequestHead
from sidecar.model.reason import Clock, Reason
from sidecar.observe.cited import Source
from sidecar.observe.recorder import Recorder

SCREEN = 24
"""Lines of a terminal."""
DOCUMENT = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
upstreams:
  - {name: orders, targets: [{url: "http://127.0.0.1:8000"}]}
routes:
  - name: orders-read
    backendRefs: [{name: orders}]
    timeouts: {responseHeader: 1s}
    retry: {attempts: 1}
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OUTRIDER_ADMIN", "OUTRIDER_ADMIN_ADDRESS", "OUTRIDER_LAST", "OUTRIDER_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


def kept(*exchanges: Exchange) -> list[dict[str, Any]]:
    """What the recorder knows of exchanges that ended under DOCUMENT, the newest first."""
    loaded = load(DOCUMENT.encode(), revision="r1")
    assert isinstance(loaded, Loaded)
    recorder = Recorder(active=lambda: Source("file", loaded.snapshot, loaded.origins.of), wall=lambda: 1767225600.0)
    for one in exchanges:
        one.revision = "r1"
        if one.route is not None:
            one.route = loaded.snapshot.routes[0]
        recorder.exchange_finished(one)
    return list(recorder.recent()["failures"]) or recorder.find("req-1")


def text(*exchanges: Exchange, active: str = "7") -> str:
    return render({"activeRevision": active, "records": kept(*exchanges)})


def why(records: list[dict[str, Any]], *words: str) -> int:
    world = World()
    world.records = records

    async def use(caller: Caller) -> int:
        return await asyncio.to_thread(main, ["why", *words, "--admin", caller.base])

    return asyncio.run(served(world, use))


def test_a_time_out_is_told_on_one_screen_with_its_clock_line_attempts_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    failed = failed_exchange()
    failed.trace = Trace()
    failed.attempts[1].delay = 0.03
    assert why(kept(failed), "req-1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREEN
    assert lines[0] == "Request     GET orders.shop.svc/v1/orders"
    assert lines[1] == f"            req-1  from 10.1.2.3 at 2025-12-31T23:59:59.980Z on inbound  trace {Trace().trace_id}"
    assert lines[2] == "Outcome     504 http_response_timeout: the sidecar answered after 20.0 ms, 10 bytes in, 2000 bytes out"
    assert lines[3] == "Ended by    clock responseHeader: 1s, line 8"
    assert lines[4] == "            no response head from 10.0.0.9:8080"
    assert lines[5].split() == ["Attempts", "#", "endpoint", "began", "connected", "sent", "answered", "ended", "outcome"]
    assert lines[7].endswith("http_response_timeout (responseHeader) after 30 ms of back-off")
    assert [line.split() for line in lines[8:]][:4] == [
        ["Settings", "routes[0]", "orders-read", "line", "6"],
        ["upstreams[0]", "orders", "line", "4"],
        ["routes[0].timeouts.responseHeader", "1s", "line", "8"],
        ["routes[0].retry", "1", "retries", "line", "9"],
    ]
    assert lines[12] == "From        file, revision r1 (not the active one any more: that is 7)"
    assert lines[13].startswith("What to do  the server did not answer in time")


def test_the_last_failure_needs_no_id_and_json_is_what_the_surface_says(capsys: pytest.CaptureFixture[str]) -> None:
    records = kept(failed_exchange())
    assert why(records, "--last", "--output=json") == 0
    assert json.loads(capsys.readouterr().out) == {"activeRevision": "7", "records": records}


def test_a_request_that_is_not_known_is_1_and_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert why([], "nobody-knows") == 1
    error = capsys.readouterr().err
    assert error.startswith("outrider: nobody-knows: not known: the last failures, retries and slowest requests are kept")
    assert error.count("\n") == 1


def test_when_nothing_has_failed_last_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert why([], "--last") == 1
    assert capsys.readouterr().err == "outrider: nothing has failed since the sidecar started\n"


@pytest.mark.parametrize("words", [[], ["req-1", "--last"]])
def test_one_of_an_id_and_last_is_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", *words]) == 2
    assert "REQUEST-ID" in capsys.readouterr().err


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == {reason.value for reason in Reason}


def test_no_route_leads_to_the_explanation_of_every_rule() -> None:
    told = text(exchange(route="", upstream="", status=404, reason=Reason.NO_ROUTE, request=head(path=b"/a'b?x=secret")))
    assert "Ended by    rule no_route" in told
    assert "none: it ended before an endpoint was asked" in told
    assert """outrider explain GET 'http://orders.shop.svc/a'"'"'b' --listener inbound""" in told
    assert "secret" not in told


def test_an_answer_of_the_upstreams_own_is_told_as_such() -> None:
    told = text(exchange(attempt(status=500), status=500), active="r1")
    assert "500: the upstream answered after" in told
    assert "Ended by" not in told
    assert "its log has the cause" in told
    assert "file, revision r1\n" in told


def test_retries_replays_and_what_was_not_tried_are_told() -> None:
    one = exchange(attempt(outcome="stale_connection", responded=False), attempt(2, outcome="status_503", status=503), attempt(3))
    one.replays, one.retries_skipped = 1, "budget"
    one.attempts[0].reused = True
    endpoint = one.attempts[1].endpoint
    assert endpoint is not None
    endpoint.state = EndpointState.EJECTED
    told = text(one)
    assert "kept" in told
    assert "10.0.0.9:8080 (ejected)" in told
    assert "status_503 503" in told
    assert "met a kept connection that the server had closed" in told
    assert "not tried again: the upstream's retry budget was spent" in told
    assert "retryBudget.percent" in told


def test_a_deadline_that_the_caller_set_is_named() -> None:
    one = failed_exchange()
    one.clock, one.reason = Clock.REQUEST, Reason.REQUEST_TIMEOUT
    one.head.fields.append((b"X-Request-Timeout-Ms", b"x-request-timeout-ms", b"250"))
    told = text(one)
    assert "clock request: off, built-in" in told
    assert "x-request-timeout-ms said 250" in told


def test_bytes_that_were_no_request_are_told_without_one() -> None:
    one = Exchange(exchange().listener, RequestHead(b"", b"", 1, []), "10.9.9.9", START)
    one.reason, one.status, one.request_id, one.ended_at = Reason.HTTP_REQUEST_ERROR, 400, b"req-1", START
    one.detail = "a line ends with LF alone"
    told = text(one)
    assert "(no head that could be read)" in told
    assert "a line ends with LF alone" in told


def test_a_client_that_went_away_got_no_answer() -> None:
    assert "499 client_closed: nobody was left to answer after" in text(exchange(attempt(), status=0, reason=Reason.CLIENT_CLOSED))


def test_many_attempts_and_many_records_still_fit_a_screen() -> None:
    many = exchange(*(attempt(n, outcome="connection_refused") for n in range(1, 14)), status=502, reason=Reason.CONNECTION_REFUSED)
    told = text(many)
    assert f"({13 - MAX_ATTEMPTS} before these)" in told
    assert len(told.splitlines()) <= SCREEN
    assert "and 2 more with this request id" in text(*(failed_exchange() for _ in range(6)))


def test_nothing_of_a_peer_moves_a_terminal() -> None:
    told = text(exchange(status=404, reason=Reason.NO_ROUTE, request=head(path=b"/\x1b[2J\xe2\x80\xae", host=b"h\x07")))
    assert told.replace("\n", "").isprintable()
