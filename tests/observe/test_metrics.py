"""The table of interface.md section 4, read back through prometheus_client's own parsers."""

from __future__ import annotations

import random

import pytest
from observe_samples import attempt, exchange, failed_exchange, families, head, run, snapshot
from prometheus_client.parser import text_string_to_metric_families

from sidecar.model.endpoint import EndpointState
from sidecar.model.reason import Clock, Reason, Rejection
from sidecar.model.status import ConfigStatus, EndpointStatus, KubeStatus, UpstreamStatus
from sidecar.model.telemetry import AccessLog, Telemetry
from sidecar.observe.exposition import Exposition
from sidecar.observe.metrics import MAX_OUTCOMES, Metrics
from sidecar.observe.runtime import RuntimeSampler
from sidecar.observe.series import LATE_SECONDS


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def read(metrics, **sources):
    """{(sample name without prefix, labels): value}."""
    _, _, body = Exposition(families(metrics, **sources).collect).render(b"", b"")
    samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name.removeprefix("outrider_"), tuple(sorted(sample.labels.items())))
            assert key not in samples, "a series appears once"
            samples[key] = sample.value
    return samples


def value(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))))


def series(samples, name):
    return [key for key in samples if key[0] == name]


ALL = {"listener": "inbound", "route": "orders-read", "upstream": "orders"}


def test_a_request_is_counted_with_its_six_labels():
    metrics = Metrics()
    run(metrics, exchange(attempt()), exchange(attempt()))
    samples = read(metrics)
    assert value(samples, "requests_total", **ALL, method="GET", code="200", reason="none") == 2
    assert value(samples, "request_bytes_total", **ALL) == 20
    assert value(samples, "response_bytes_total", **ALL) == 4000


def test_a_reply_of_our_own_is_counted_with_its_reason_and_empty_names_for_what_was_not_chosen():
    metrics = Metrics()
    run(metrics, exchange(route="", upstream="", status=404, reason=Reason.NO_ROUTE))
    assert (
        value(read(metrics), "requests_total", listener="inbound", route="", upstream="", method="GET", code="404", reason="no_route") == 1
    )


def test_an_exchange_without_a_reply_is_counted_under_the_status_of_its_reason():
    metrics = Metrics()
    run(metrics, exchange(attempt(), status=0, reason=Reason.CLIENT_CLOSED))
    assert value(read(metrics), "requests_total", **ALL, method="GET", code="499", reason="client_closed") == 1


@pytest.mark.parametrize(
    ("sent", "shown"), [(b"GET", "GET"), (b"QUERY", "QUERY"), (b"PURGE", "_OTHER"), (b"get", "_OTHER"), (b'"\n', "_OTHER")]
)
def test_methods_outside_the_registered_ones_are_other(sent, shown):
    metrics = Metrics()
    run(metrics, exchange(attempt(), request=head(method=sent)))
    assert value(read(metrics), "requests_total", **ALL, method=shown, code="200", reason="none") == 1


def test_durations_fall_into_buckets_whose_upper_bound_is_inclusive():
    metrics = Metrics()
    run(metrics, exchange(attempt(), seconds=0.25), exchange(attempt(), seconds=0.251), exchange(attempt(), seconds=99))
    samples = read(metrics)
    assert value(samples, "request_duration_seconds_bucket", **ALL, le="0.1") == 0
    assert value(samples, "request_duration_seconds_bucket", **ALL, le="0.25") == 1
    assert value(samples, "request_duration_seconds_bucket", **ALL, le="0.5") == 2
    assert value(samples, "request_duration_seconds_bucket", **ALL, le="1.0") == 2
    assert value(samples, "request_duration_seconds_bucket", **ALL, le="+Inf") == 3
    assert value(samples, "request_duration_seconds_count", **ALL) == 3
    assert value(samples, "request_duration_seconds_sum", **ALL) == pytest.approx(99.501)


def test_the_upstream_response_time_is_from_request_sent_to_response_head_of_each_attempt_that_got_one():
    metrics = Metrics()
    early = attempt()
    early.sent_at = 0.0
    run(metrics, exchange(attempt(), early, attempt(outcome="connection_refused", responded=False)))
    samples = read(metrics)
    assert value(samples, "upstream_response_duration_seconds_count", upstream="orders") == 2
    assert value(samples, "upstream_response_duration_seconds_sum", upstream="orders") == pytest.approx(0.01)


def test_attempts_are_counted_by_outcome_and_retries_by_what_made_them_necessary():
    metrics = Metrics()
    run(
        metrics,
        exchange(attempt(1, outcome="connection_refused", responded=False), attempt(2, outcome="status_503", status=503), attempt(3)),
    )
    samples = read(metrics)
    for outcome in ("connection_refused", "status_503", "success"):
        assert value(samples, "attempts_total", upstream="orders", outcome=outcome) == 1
    assert value(samples, "retries_total", route="orders-read", upstream="orders", reason="connection_refused") == 1
    assert value(samples, "retries_total", route="orders-read", upstream="orders", reason="status_503") == 1
    assert len(series(samples, "retries_total")) == 2


def test_a_replay_of_a_stale_connection_is_a_retry_outside_the_attempts():
    metrics = Metrics()
    replayed = exchange(attempt(outcome="stale_connection", responded=False), attempt(2))  # as proxy/dispatch.py leaves it
    replayed.replays = 1
    run(metrics, replayed)
    samples = read(metrics)
    assert value(samples, "retries_total", route="orders-read", upstream="orders", reason="stale_connection") == 1
    assert value(samples, "attempts_total", upstream="orders", outcome="success") == 1


def test_a_retry_that_was_not_made_is_counted_with_its_reason():
    metrics = Metrics()
    skipped = exchange(attempt(status=503), status=503)
    skipped.retries_skipped = "budget"
    run(metrics, skipped)
    assert value(read(metrics), "retries_skipped_total", route="orders-read", upstream="orders", why="budget") == 1


def test_each_clock_that_fired_is_counted_once():
    metrics = Metrics()
    run(metrics, failed_exchange())
    assert value(read(metrics), "timeouts_total", route="orders-read", upstream="orders", clock="responseHeader") == 2
    waited = exchange(
        attempt(outcome="http_response_timeout", clock=Clock.RESPONSE_HEADER, responded=False),
        status=504,
        reason=Reason.REQUEST_TIMEOUT,
        clock=Clock.REQUEST,
    )
    run(metrics, waited)
    samples = read(metrics)
    assert value(samples, "timeouts_total", route="orders-read", upstream="orders", clock="responseHeader") == 3
    assert value(samples, "timeouts_total", route="orders-read", upstream="orders", clock="request") == 1


def test_gauges_follow_requests_connections_and_tunnels_up_and_down():
    metrics = Metrics()
    tunnel = exchange(attempt(), status=101)
    metrics.connection_opened("inbound")
    metrics.exchange_started(tunnel)
    tunnel.tunnel = "websocket"
    metrics.tunnel_started(tunnel)
    samples = read(metrics)
    for name in ("active_requests", "active_tunnels", "downstream_connections_active", "downstream_connections_total"):
        assert value(samples, name, listener="inbound") == 1
    metrics.exchange_finished(tunnel)
    metrics.connection_closed("inbound")
    samples = read(metrics)
    for name in ("active_requests", "active_tunnels", "downstream_connections_active"):
        assert value(samples, name, listener="inbound") == 0
    assert value(samples, "downstream_connections_total", listener="inbound") == 1


def test_an_upgrade_that_failed_is_no_tunnel_and_the_life_of_a_tunnel_is_no_response_time():
    metrics = Metrics()
    failed, tunnel = exchange(attempt(), status=504), exchange(attempt(), status=101, seconds=3600)
    failed.tunnel = tunnel.tunnel = "websocket"
    run(metrics, failed)
    assert value(read(metrics), "active_tunnels", listener="inbound") == 0
    metrics.exchange_started(tunnel)
    metrics.tunnel_started(tunnel)
    metrics.exchange_finished(tunnel)
    samples = read(metrics)
    assert value(samples, "request_duration_seconds_sum", **ALL) == 0
    assert value(samples, "requests_total", **ALL, method="GET", code="101", reason="none") == 1


def test_rejected_messages_are_counted_by_rule():
    metrics = Metrics()
    metrics.message_rejected("inbound", Rejection.CL_TE_CONFLICT)
    assert value(read(metrics), "rejected_messages_total", listener="inbound", kind="cl_te_conflict") == 1


def test_connects_are_counted_by_result_and_timed_when_they_succeed():
    metrics = Metrics()
    metrics.upstream_connected("orders", "success", 0.003)
    metrics.upstream_connected("orders", "connection_timeout", 5.0)
    samples = read(metrics)
    assert value(samples, "upstream_connects_total", upstream="orders", result="success") == 1
    assert value(samples, "upstream_connects_total", upstream="orders", result="connection_timeout") == 1
    assert value(samples, "upstream_connect_duration_seconds_sum", upstream="orders") == pytest.approx(0.003)


def endpoint(state):
    return EndpointStatus(address="10.0.0.9:80", state=state, weight=1, active=0, requests=0, failures=0)


def test_what_the_registry_says_about_upstreams_is_shown_as_gauges():
    status = UpstreamStatus(
        name="orders",
        source="static",
        endpoints=(endpoint(EndpointState.HEALTHY), endpoint(EndpointState.HEALTHY), endpoint(EndpointState.EJECTED)),
        connections_active=3,
        connections_idle=4,
        connections_connecting=1,
        pending=2,
        learned_idle_timeout=None,
        budget_available=10.0,
    )
    samples = read(Metrics(), upstreams=(status,))
    assert [value(samples, "upstream_connections_open", upstream="orders", state=s) for s in ("active", "idle", "connecting")] == [3, 4, 1]
    assert value(samples, "upstream_pending_requests", upstream="orders") == 2
    assert [value(samples, "upstream_endpoints", upstream="orders", state=s) for s in ("healthy", "unhealthy", "ejected", "draining")] == [
        2,
        0,
        1,
        0,
    ]


def test_the_state_of_the_configuration_is_shown():
    config = ConfigStatus(
        source="file",
        revision="sha-1",
        hash="beef",
        last_applied_timestamp=1700000000.5,
        rejected=True,
        source_connected={"file": True, "configmap": False},
        updates={("file", "applied"): 2, ("file", "rejected"): 1},
    )
    samples = read(Metrics(), config=config)
    assert value(samples, "config_info", source="file", revision="sha-1", hash="beef") == 1
    assert value(samples, "config_last_applied_timestamp_seconds") == 1700000000.5
    assert value(samples, "config_rejected") == 1
    assert value(samples, "config_source_connected", source="file") == 1
    assert value(samples, "config_source_connected", source="configmap") == 0
    assert value(samples, "config_updates_total", source="file", result="applied") == 2
    assert value(samples, "config_updates_total", source="file", result="rejected") == 1


def test_what_is_done_at_the_api_server_is_counted():
    kube = KubeStatus(
        requests={("configmaps", "watch", "ended"): 3},
        watches={("secrets", "lost"): 1, ("configmaps", "connected"): 2},
        events={"exists": 4},
    )
    samples = read(Metrics(), kube=kube)
    assert value(samples, "kube_requests_total", resource="configmaps", verb="watch", outcome="ended") == 3
    assert value(samples, "kube_watches", resource="secrets", state="lost") == 1
    assert value(samples, "config_events_total", result="exists") == 4


def test_before_the_first_configuration_nothing_claims_to_be_active():
    samples = read(Metrics())
    assert series(samples, "config_info") == []
    assert series(samples, "config_last_applied_timestamp_seconds") == []
    assert value(samples, "config_rejected") == 0


def test_the_process_its_version_and_the_losses_of_the_log_are_shown():
    sampler = RuntimeSampler()
    sampler.lag.observe(0.003)
    samples = read(Metrics(), runtime=sampler, dropped=7, failures={"Metrics": 1})
    assert value(samples, "event_loop_lag_seconds_count") == 1
    assert value(samples, "event_loop_lag_seconds_bucket", le="0.0025") == 0
    assert value(samples, "event_loop_lag_seconds_bucket", le="0.005") == 1
    for name in ("file_descriptors", "file_descriptors_limit", "memory_usage_bytes", "process_resident_memory_bytes"):
        assert value(samples, name) > 0
    assert series(samples, "network_receive_bytes_total")
    assert series(samples, "network_transmit_bytes_total")
    assert value(samples, "log_lines_dropped_total") == 7
    assert value(samples, "observer_failures_total", observer="Metrics") == 1
    assert [dict(labels).keys() for _, labels in series(samples, "build_info")] == [{"version", "python"}]
    assert series(samples, "python_info")


TABLE = [
    "requests_total",
    "request_duration_seconds",
    "upstream_response_duration_seconds",
    "request_bytes_total",
    "response_bytes_total",
    "active_requests",
    "active_tunnels",
    "attempts_total",
    "retries_total",
    "retries_skipped_total",
    "timeouts_total",
    "downstream_connections_active",
    "downstream_connections_total",
    "upstream_connections_open",
    "upstream_connects_total",
    "upstream_connect_duration_seconds",
    "upstream_pending_requests",
    "upstream_endpoints",
    "rejected_messages_total",
    "config_updates_total",
    "config_info",
    "config_last_applied_timestamp_seconds",
    "config_rejected",
    "config_source_connected",
    "config_events_total",
    "kube_requests_total",
    "kube_watches",
    "event_loop_lag_seconds",
    "file_descriptors",
    "file_descriptors_limit",
    "memory_usage_bytes",
    "memory_limit_bytes",
    "cpu_throttled_seconds_total",
    "network_receive_bytes_total",
    "network_transmit_bytes_total",
    "spans_dropped_total",
    "log_lines_dropped_total",
    "build_info",
]


def test_every_metric_of_the_table_is_announced_with_its_type_even_before_it_has_samples():
    _, _, body = Exposition(families().collect).render(b"", b"")
    types = dict(line.split()[2:] for line in body.decode().splitlines() if line.startswith("# TYPE"))
    assert [name for name in TABLE if f"outrider_{name}" not in types] == []
    for name in TABLE:
        expected = "counter" if name.endswith("_total") else "histogram" if name.endswith("duration_seconds") or "lag" in name else "gauge"
        assert types[f"outrider_{name}"] == expected


def test_ten_thousand_inventive_requests_make_no_new_series():
    dice = random.Random(1)
    metrics = Metrics()
    metrics.config_applied(snapshot())
    run(metrics, exchange(attempt(), request=head(method=b"ODD")))
    before = read(metrics)
    for _ in range(10_000):
        noise = dice.randbytes(12)
        run(metrics, exchange(attempt(), request=head(method=b"X" + noise, path=b"/" + noise, host=noise, agent=noise)))
    after = read(metrics)
    assert {key for key in after if key[0].startswith("request")} == {key for key in before if key[0].startswith("request")}


def test_an_upstream_that_invents_status_codes_cannot_make_series_without_end():
    metrics = Metrics()
    run(metrics, *(exchange(attempt(), status=code) for code in range(100, 1000)))
    samples = read(metrics)
    assert len(series(samples, "requests_total")) == MAX_OUTCOMES + 1
    assert value(samples, "requests_total", **ALL, method="GET", code="_OTHER", reason="none") == 900 - MAX_OUTCOMES
    assert sum(samples[key] for key in series(samples, "requests_total")) == 900


HOSTILE = 'a"b\\c\nd{e="f"} 1\nforged 1\u2028\x1b'


def test_hostile_names_come_back_unchanged_and_forge_nothing():
    metrics = Metrics()
    run(metrics, exchange(attempt(), route=HOSTILE))
    samples = read(metrics, config=ConfigStatus(source="file", revision=HOSTILE, hash="h"))
    assert (
        value(samples, "requests_total", listener="inbound", route=HOSTILE, upstream="orders", method="GET", code="200", reason="none") == 1
    )
    assert value(samples, "config_info", source="file", revision=HOSTILE, hash="h") == 1
    assert series(samples, "forged") == []


def labels_of(samples, name, label):
    return {dict(labels)[label] for _, labels in series(samples, name)}


def test_a_new_configuration_forgets_what_it_does_not_have():
    metrics = Metrics()
    metrics.config_applied(snapshot(routes=("a", "b"), upstreams=("x", "y")))
    run(metrics, exchange(attempt(), route="a", upstream="x"), exchange(attempt(outcome="status_503"), attempt(2), route="b", upstream="y"))
    metrics.upstream_connected("y", "success", 0.1)
    metrics.config_applied(snapshot(routes=("a",), upstreams=("x",)))
    samples = read(metrics)
    assert labels_of(samples, "requests_total", "route") == {"a"}
    assert labels_of(samples, "attempts_total", "upstream") == {"x"}
    assert labels_of(samples, "upstream_connects_total", "upstream") == set()
    assert labels_of(samples, "retries_total", "route") == set()


def test_requests_without_a_route_and_the_forward_upstream_outlive_every_reload():
    metrics = Metrics()
    run(metrics, exchange(route="", upstream="", status=404, reason=Reason.NO_ROUTE), exchange(attempt(), route="", upstream="forward"))
    metrics.config_applied(snapshot(routes=(), upstreams=()))
    assert labels_of(read(metrics), "requests_total", "upstream") == {"", "forward"}


def test_a_request_that_ends_after_its_route_is_gone_is_counted_but_its_series_does_not_live_for_ever():
    clock = Time()
    metrics = Metrics(clock=clock)
    old = exchange(attempt(), route="old", upstream="x")
    metrics.exchange_started(old)
    metrics.config_applied(snapshot(routes=("new",), upstreams=("x",)))
    metrics.exchange_finished(old)
    assert labels_of(read(metrics), "requests_total", "route") == {"old"}
    clock.now = LATE_SECONDS
    assert labels_of(read(metrics), "requests_total", "route") == set()


def test_the_gauges_of_a_removed_listener_stay_until_they_are_back_at_zero():
    metrics = Metrics()
    metrics.connection_opened("inbound")
    going = exchange(attempt())
    metrics.exchange_started(going)
    metrics.config_applied(snapshot(listeners=("other",)))
    assert value(read(metrics), "active_requests", listener="inbound") == 1
    metrics.exchange_finished(going)
    metrics.connection_closed("inbound")
    assert labels_of(read(metrics), "active_requests", "listener") == {"other"}


def test_new_buckets_start_the_histograms_anew_and_leave_the_counters():
    metrics = Metrics()
    run(metrics, exchange(attempt()))
    metrics.config_applied(snapshot(telemetry=Telemetry(buckets=(1.0, 2.0), access_log=AccessLog())))
    run(metrics, exchange(attempt()))
    samples = read(metrics)
    assert labels_of(samples, "request_duration_seconds_bucket", "le") == {"1.0", "2.0", "+Inf"}
    assert value(samples, "request_duration_seconds_count", **ALL) == 1
    assert value(samples, "requests_total", **ALL, method="GET", code="200", reason="none") == 2


def test_an_attempt_whose_outcome_was_forgotten_shows_as_our_own_fault():
    metrics = Metrics()
    run(metrics, exchange(attempt(outcome="")))
    assert value(read(metrics), "attempts_total", upstream="orders", outcome="proxy_internal_error") == 1
