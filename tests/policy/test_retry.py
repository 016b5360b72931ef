"""Retries: product.md 3.3 and 3.9, sentence by sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import BadMessage, ProxyError, RefusedStream, StaleConnection, UpstreamError
from sidecar.model.reason import Clock, Phase, Reason, Rejection
from sidecar.model.snapshot import Condition, RetryMethods, RetryPolicy
from sidecar.policy.retry import NO, RetryState, Verdict, affordable, backoff, idempotent
from sidecar.protocol.retry_after import retry_after

POLICY = RetryPolicy()
NEEDS_TIMEOUT = RetryPolicy(conditions=frozenset({Condition.TIMEOUT}))

REFUSED = UpstreamError(Reason.CONNECTION_REFUSED, phase=Phase.CONNECT)
RESET = UpstreamError(Reason.CONNECTION_TERMINATED, phase=Phase.HEADERS)
UNSENT = [
    REFUSED,
    UpstreamError(Reason.CONNECTION_TIMEOUT, phase=Phase.CONNECT, clock=Clock.CONNECT),
    UpstreamError(Reason.DNS_ERROR, phase=Phase.CONNECT),
    UpstreamError(Reason.TLS_PROTOCOL_ERROR, phase=Phase.CONNECT),
    UpstreamError(Reason.CONNECTION_LIMIT_REACHED, phase=Phase.POOL, clock=Clock.QUEUE),
    UpstreamError(Reason.HTTP_RESPONSE_TIMEOUT, phase=Phase.CONNECT, clock=Clock.BACKEND_REQUEST),
    RefusedStream(Reason.HTTP_PROTOCOL_ERROR, phase=Phase.SEND),
]


def on_error(error, *, policy=POLICY, method=b"GET", key=False, tries=1, replayable=True, started=False):
    return RetryState(policy, method, key).on_error(error, tries=tries, body_replayable=replayable, response_started=started)


def on_status(status, *, policy=POLICY, method=b"GET", key=False, tries=1, replayable=True, started=False):
    return RetryState(policy, method, key).on_status(status, tries=tries, body_replayable=replayable, response_started=started)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE", b"QUERY"])
def test_these_methods_are_idempotent(method):
    assert idempotent(method)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get", b"FOO", b""])
def test_these_methods_are_not(method):
    assert not idempotent(method)


@pytest.mark.parametrize("error", UNSENT)
@pytest.mark.parametrize("policy", [None, POLICY])
def test_a_failure_before_any_byte_left_is_replayed_for_every_method_once_even_without_a_stanza(error, policy):
    assert on_error(error, policy=policy, method=b"POST") == Verdict(retry=True, reason=error.reason.value)


@pytest.mark.parametrize("error", UNSENT)
def test_without_a_stanza_the_replay_is_one(error):
    state = RetryState(None, b"POST", has_idempotency_key=False)
    assert state.max_tries == 2
    assert state.on_error(error, tries=2, body_replayable=True, response_started=False) is NO


def test_with_a_stanza_the_replay_of_a_failed_connect_is_part_of_attempts():
    none = RetryPolicy(attempts=0)
    assert RetryState(none, b"GET", has_idempotency_key=False).max_tries == 1
    assert on_error(REFUSED, policy=none) is NO
    assert [on_error(REFUSED, policy=RetryPolicy(attempts=3), tries=tries).retry for tries in (1, 2, 3, 4)] == [True, True, True, False]


def test_tries_are_one_plus_attempts():
    assert RetryState(RetryPolicy(attempts=2), b"GET", has_idempotency_key=False).max_tries == 3


def test_without_a_stanza_nothing_that_was_sent_is_repeated():
    assert on_error(RESET, policy=None) is NO
    assert on_status(503, policy=None) is NO


def test_after_bytes_left_only_idempotent_methods_are_repeated():
    assert on_error(RESET) == Verdict(retry=True, reason="connection_terminated")
    assert on_error(RESET, method=b"POST") == Verdict(retry=False, reason="connection_terminated", skipped="method")


def test_an_idempotency_key_makes_any_method_repeatable():
    assert on_error(RESET, method=b"POST", key=True).retry
    assert on_status(503, method=b"POST", key=True).retry


def test_methods_all_is_the_explicit_opt_in():
    everything = RetryPolicy(methods=RetryMethods.ALL)
    assert on_error(RESET, method=b"POST", policy=everything).retry
    assert on_status(503, method=b"POST", policy=everything).retry


@pytest.mark.parametrize("phase", [Phase.SEND, Phase.HEADERS, Phase.BODY])
@pytest.mark.parametrize("reason", [Reason.CONNECTION_TERMINATED, Reason.HTTP_RESPONSE_INCOMPLETE, Reason.CONNECTION_WRITE_TIMEOUT])
def test_a_broken_connection_is_a_reset(phase, reason):
    error = UpstreamError(reason, phase=phase)
    assert on_error(error).retry
    assert not on_error(error, policy=RetryPolicy(conditions=frozenset({Condition.CONNECT_FAILURE}))).retry


@pytest.mark.parametrize(
    ("error", "condition"), [(UNSENT[0], Condition.CONNECT_FAILURE), (UNSENT[-1], Condition.REFUSED_STREAM), (RESET, Condition.RESET)]
)
def test_only_the_conditions_of_the_stanza_are_repeated(error, condition):
    assert on_error(error, policy=RetryPolicy(conditions=frozenset({condition}))).retry
    assert on_error(error, policy=RetryPolicy(conditions=frozenset(Condition) - {condition})) is NO


@pytest.mark.parametrize("clock", [Clock.RESPONSE_HEADER, Clock.BACKEND_REQUEST])
def test_timeout_must_be_named_and_holds_for_idempotent_methods(clock):
    error = UpstreamError(Reason.HTTP_RESPONSE_TIMEOUT, phase=Phase.HEADERS, clock=clock)
    assert on_error(error) is NO
    assert on_error(error, policy=NEEDS_TIMEOUT).retry
    assert on_error(error, policy=NEEDS_TIMEOUT, method=b"POST").skipped == "method"


def test_a_timeout_after_the_response_began_is_not_repeated():
    error = UpstreamError(Reason.HTTP_RESPONSE_TIMEOUT, phase=Phase.BODY, clock=Clock.BACKEND_REQUEST)
    assert on_error(error, policy=NEEDS_TIMEOUT) is NO


@pytest.mark.parametrize(
    "error",
    [
        ProxyError(Reason.REQUEST_TIMEOUT, clock=Clock.REQUEST, phase=Phase.CONNECT),
        ProxyError(Reason.REQUEST_BODY_TIMEOUT, clock=Clock.BODY_IDLE, phase=Phase.SEND),
        ProxyError(Reason.HTTP_REQUEST_ERROR),
        BadMessage(Rejection.BAD_CHUNK),
        BadMessage(Rejection.BAD_STATUS_LINE, reason=Reason.HTTP_PROTOCOL_ERROR, phase=Phase.HEADERS),
        UpstreamError(Reason.STREAM_IDLE_TIMEOUT, phase=Phase.HEADERS, clock=Clock.STREAM_IDLE),
        UpstreamError(Reason.HTTP_UPGRADE_FAILED, phase=Phase.HEADERS, clock=Clock.UPGRADE_HANDSHAKE),
        UpstreamError(Reason.OVERLOADED, phase=Phase.POOL),
        UpstreamError(Reason.DESTINATION_UNAVAILABLE, phase=Phase.POOL),
        UpstreamError(Reason.DESTINATION_IP_PROHIBITED, phase=Phase.CONNECT),
        UpstreamError(Reason.CIRCUIT_OPEN, phase=Phase.POOL),
        ProxyError(Reason.DRAINING),
    ],
)
@pytest.mark.parametrize("policy", [None, RetryPolicy(conditions=frozenset(Condition), methods=RetryMethods.ALL)])
def test_our_refusals_the_clients_faults_and_the_request_clock_are_never_repeated(error, policy):
    assert on_error(error, policy=policy) is NO


def test_by_status_only_listed_codes_are_repeated():
    assert on_status(503) == Verdict(retry=True, reason="status_503")
    assert on_status(500) is NO
    assert on_status(429, policy=RetryPolicy(codes=frozenset({429}))).reason == "status_429"
    assert on_status(503, method=b"POST") == Verdict(retry=False, reason="status_503", skipped="method")


def test_when_tries_run_out_the_last_answer_stands():
    assert on_status(503, tries=3) is NO
    assert on_error(RESET, tries=3) is NO


def test_nothing_is_repeated_after_a_response_byte_reached_the_client():
    assert on_error(RESET, started=True) == Verdict(retry=False, reason="connection_terminated", skipped="started")
    assert on_error(REFUSED, started=True).skipped == "started"
    assert on_status(503, started=True).skipped == "started"


def test_a_body_that_was_not_kept_skips_the_retry():
    assert on_error(REFUSED, replayable=False).skipped == "body"
    assert on_status(503, replayable=False) == Verdict(retry=False, reason="status_503", skipped="body")


def test_a_stale_connection_is_replayed_once_for_idempotent_requests_with_or_without_a_stanza():
    for policy in (None, POLICY, RetryPolicy(attempts=0)):
        state = RetryState(policy, b"GET", has_idempotency_key=False)
        assert state.on_stale(replays=0, body_replayable=True) == Verdict(retry=True, reason="stale_connection")
        assert state.on_stale(replays=1, body_replayable=True) is NO


def test_a_stale_connection_is_not_replayed_for_what_is_not_idempotent():
    assert RetryState(None, b"POST", has_idempotency_key=False).on_stale(replays=0, body_replayable=True) is NO
    assert RetryState(None, b"POST", has_idempotency_key=True).on_stale(replays=0, body_replayable=True).retry


def test_a_stale_replay_needs_the_body_and_an_untouched_client():
    state = RetryState(None, b"PUT", has_idempotency_key=False)
    assert state.on_stale(replays=0, body_replayable=False) == Verdict(retry=False, reason="stale_connection", skipped="body")
    assert state.on_stale(replays=0, body_replayable=True, response_started=True) is NO


def test_a_stale_connection_that_is_not_replayed_is_a_reset_like_any_other():
    stale = StaleConnection(Reason.CONNECTION_TERMINATED, phase=Phase.HEADERS)
    assert on_error(stale).retry
    assert on_error(stale, policy=None) is NO


@given(
    st.sampled_from([*UNSENT, RESET]),
    st.sampled_from([None, POLICY, NEEDS_TIMEOUT, RetryPolicy(methods=RetryMethods.ALL)]),
    st.sampled_from([b"GET", b"POST"]),
    st.booleans(),
)
def test_what_was_sent_is_never_repeated_for_a_plain_post_unless_the_stanza_says_all(error, policy, method, key):
    verdict = on_error(error, policy=policy, method=method, key=key)
    sent = error is RESET
    if verdict.retry and sent and method == b"POST" and not key:
        assert policy is not None
        assert policy.methods is RetryMethods.ALL
    assert not (verdict.retry and verdict.skipped)


def test_a_retry_that_would_outlast_the_clocks_is_skipped_before_the_budget_is_touched():
    wanted = Verdict(retry=True, reason="status_503")

    def spend():
        raise AssertionError("the budget must not be asked")

    assert affordable(wanted, delay=2.0, time_left=2.0, spend=spend) == Verdict(retry=False, reason="status_503", skipped="time")
    assert affordable(NO, delay=0.0, time_left=9.0, spend=spend) is NO


def test_a_spent_budget_skips_the_retry():
    wanted = Verdict(retry=True, reason="status_503")
    assert affordable(wanted, delay=0.0, time_left=float("inf"), spend=lambda: False).skipped == "budget"
    assert affordable(wanted, delay=0.0, time_left=float("inf"), spend=lambda: True) is wanted


def test_backoff_is_a_minimum_and_grows_to_its_maximum():
    policy = RetryPolicy(backoff=0.025, max_backoff=0.25)
    assert [backoff(policy, n, lambda: 0.0) for n in (1, 2, 3, 9)] == [0.025] * 4
    assert [round(backoff(policy, n, lambda: 1.0), 6) for n in (1, 2, 3, 4, 5)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert backoff(policy, 10**9, lambda: 0.5) == 0.025 + 0.5 * 0.225


@pytest.mark.parametrize("policy", [RetryPolicy(backoff=0.5, max_backoff=0.1), RetryPolicy(backoff=0.0, max_backoff=0.0)])
def test_a_maximum_below_the_minimum_leaves_the_minimum(policy):
    assert backoff(policy, 3, lambda: 0.9) == policy.backoff


NOV_1994 = 784111777.0


@pytest.mark.parametrize("value", [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"])
def test_retry_after_reads_the_three_forms_of_a_date(value):
    assert retry_after(value, NOV_1994 - 2.5) == 2.5
    assert retry_after(value, NOV_1994 + 10) == 0.0


@pytest.mark.parametrize(("value", "seconds"), [(b"0", 0.0), (b"120", 120.0), (b"9" * 400, float("inf"))])
def test_retry_after_reads_seconds(value, seconds):
    assert retry_after(value, 0.0) == seconds


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"soon", b"\xff", b"Sun, 99 Nov 1994 99:99:99 GMT", b"Sun, 06 Nov"])
def test_retry_after_that_is_neither_says_nothing(value):
    assert retry_after(value, 0.0) is None


@given(st.one_of(st.binary(max_size=40), st.text("0123456789 :,-+GMTSunNov", max_size=40).map(str.encode)), st.floats(0, 4e9))
def test_retry_after_never_raises_and_is_never_negative(value, now):
    seconds = retry_after(value, now)
    assert seconds is None or seconds >= 0
