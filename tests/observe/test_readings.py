"""The metrics of several processes, shown as one."""

from __future__ import annotations

import pytest
from observe_samples import attempt, exchange

from sidecar.model.snapshot import Backend, Listener, Mode, Route, Snapshot, Upstream
from sidecar.model.telemetry import Telemetry
from sidecar.observe.metrics import Metrics
from sidecar.observe.readings import SLICE, configured, merged, names_in, pack, retained, traffic_in, unpack
from sidecar.observe.series import Exemplar, Family, Histogram
from sidecar.observe.traffic import TrafficCount, traffic_counts

BOUNDS = (0.1, 1.0)


def histogram(*values, exemplar=None, bounds=BOUNDS):
    made = Histogram(bounds)
    for value in values:
        made.observe(value)
    if exemplar is not None:
        made.exemplify(exemplar)
    return made


def counter(*points, name="requests_total"):
    return Family(name, "counter", "", list(points))


def total(families):
    return {family.name: dict(family.points) for family in families}


def test_a_reading_survives_the_way_to_another_process():
    exemplar = Exemplar("a" * 32, "b" * 16, 0.05, 12.5)
    families = [
        counter(('code="200"', 3), ('code="500"', 1)),
        Family(
            "request_duration_seconds",
            "histogram",
            "",
            [('route="a"', histogram(0.05, 5.0, exemplar=exemplar)), ("", histogram(bounds=(1.0,)))],
        ),
        Family("memory_usage_bytes", "gauge", "", [("", 1.5)]),
    ]
    there = dict(unpack(list(pack(families))))
    assert there["requests_total"] == {'code="200"': 3, 'code="500"': 1}
    assert isinstance(there["requests_total"]['code="200"'], int)
    one = there["request_duration_seconds"]['route="a"']
    assert (one.bounds, one.counts, one.total, one.exemplars) == (BOUNDS, [1, 0, 1], 5.05, {0: exemplar})
    assert there["request_duration_seconds"][""].bounds == (1.0,)
    assert there["memory_usage_bytes"] == {"": 1.5}


def test_a_large_family_travels_in_slices():
    points = [(f'route="r{number}"', number) for number in range(2 * SLICE + 1)]
    packed = list(pack([counter(*points)]))
    assert len(packed) == 3
    assert [label for _, series in unpack(packed) for label in series.items()] == points


def test_counters_and_histograms_and_most_gauges_add_up():
    own = [counter(("a", 1)), Family("active_requests", "gauge", "", [("", 1)]), Family("lag", "histogram", "", [("", histogram(0.05))])]
    one = {"requests_total": {"a": 2, "b": 5}, "active_requests": {"": 2}, "lag": {"": histogram(0.5, 9.0)}}
    both = total(merged(own, [one, one]))
    assert both["requests_total"] == {"a": 5, "b": 10}
    assert both["active_requests"] == {"": 5}
    assert both["lag"][""].counts == [1, 2, 2]
    assert one["lag"][""].counts == [0, 1, 1]  # what was read stays as it is


@pytest.mark.parametrize("name", ["upstream_endpoints", "file_descriptors", "resource_usage_ratio", "resource_near_limit"])
def test_of_some_the_highest_counts(name):
    assert total(merged([Family(name, "gauge", "", [("", 2)])], [{name: {"": 7, "x": 1}}, {name: {"": 3}}]))[name] == {"": 7, "x": 1}


@pytest.mark.parametrize("name", ["config_info", "build_info", "config_updates_total", "network_receive_bytes_total", "workers"])
def test_some_are_one_process_s_alone(name):
    own = Family(name, "gauge", "", [("a", 1)])
    assert total(merged([own], [{name: {"a": 1, "b": 1}}]))[name] == {"a": 1}
    assert list(pack([own])) == []


def test_the_newest_exemplar_of_a_bucket_is_shown():
    def at(when):
        return histogram(0.05, exemplar=Exemplar("a" * 32, "b" * 16, 0.05, when))

    for order in ((1.0, 2.0), (2.0, 1.0)):
        own = Family("lag", "histogram", "", [("", histogram())])
        both = total(merged([own], [{"lag": {"": at(when)}} for when in order]))["lag"][""]
        assert both.exemplars[0].at == 2.0


def test_what_a_process_has_counted_stays_when_it_has_ended_and_what_it_held_does_not():
    kinds = {"requests_total": "counter", "lag": "histogram", "active_requests": "gauge"}
    ended = {"requests_total": {"a": 2}, "lag": {"": histogram(0.05)}, "active_requests": {"": 4}}
    once = retained({}, ended, kinds)
    twice = retained(once, ended, kinds)
    assert twice["requests_total"] == {"a": 4}
    assert twice["lag"][""].counts == [2, 0, 0]
    assert "active_requests" not in twice
    assert once["requests_total"] == {"a": 2}
    assert ended["lag"][""].counts == [1, 0, 0]


def snapshot(buckets=BOUNDS):
    return Snapshot(
        revision="1",
        hash="1",
        listeners=(Listener(name="in", port=1, bind="::", mode=Mode.REVERSE),),
        upstreams={"app": Upstream(name="app")},
        routes=(Route(name='say "a\\b"', index=0, backends=(Backend(name="app"),)),),
        telemetry=Telemetry(buckets=buckets),
    )


def test_series_of_what_the_configuration_does_not_have_go():
    kept = {
        'listener="in",route="say \\"a\\\\b\\"",upstream="app",code="200"': 1,
        'listener="in",route="",upstream=""': 1,
        'upstream="forward"': 1,
        'culprit="code"': 1,
        "": 1,
    }
    gone = {'listener="old",route="",upstream=""': 1, 'route="x",upstream="app"': 1, 'upstream="old",outcome="success"': 1}
    assert configured({"requests_total": {**kept, **gone}}, snapshot())["requests_total"] == kept


def test_histograms_in_other_buckets_go_but_for_those_that_no_document_changes():
    reading = {"request_duration_seconds": {'upstream="app"': histogram(1.0)}, "event_loop_lag_seconds": {"": histogram(1.0)}}
    assert configured(reading, snapshot())["request_duration_seconds"]
    left = configured(reading, snapshot(buckets=(5.0,)))
    assert left == {"request_duration_seconds": {}, "event_loop_lag_seconds": reading["event_loop_lag_seconds"]}


def test_names_are_read_as_they_were_written():
    assert names_in('listener="in",route="a\\nb\\"\\\\",upstream="",code="200"') == {"listener": "in", "route": 'a\nb"\\', "upstream": ""}


def test_traffic_is_the_same_as_in_one_process():
    metrics = Metrics()
    for status in (200, 200, 503, 404):
        metrics.exchange_started(made := exchange(attempt(status=status), status=status))
        metrics.exchange_finished(made)
    series = list(metrics.traffic.values())
    families = [
        counter(*[(f'{one.labels},method="{m}",code="{s}",reason="none"', n) for one in series for (m, s, _), n in one.requests.items()]),
        Family("request_duration_seconds", "histogram", "", [(one.labels, one.durations) for one in series]),
    ]
    assert list(traffic_in(families)) == list(traffic_counts(metrics))
    assert isinstance(next(traffic_in(families)), TrafficCount)
