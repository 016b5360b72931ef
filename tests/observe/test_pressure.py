"""Limits that come near: one warning for each crossing, and the metrics and `/runtime` that go with it."""

from __future__ import annotations

import logging

import pytest
from observe_samples import families
from prometheus_client.parser import text_string_to_metric_families

from sidecar.observe.exposition import Exposition
from sidecar.observe.pressure import RELIEF, THRESHOLDS, Pressure, Resource, Use
from sidecar.observe.runtime import RuntimeSampler


def told(caplog):
    return [(record.event, record.fields["resource"]) for record in caplog.records]


@pytest.fixture(autouse=True)
def every_level(caplog):
    with caplog.at_level(logging.INFO, "outrider"):
        yield


@pytest.mark.parametrize("resource", Resource)
def test_a_resource_warns_once_when_it_crosses_and_again_only_after_relief(resource, caplog):
    pressure, threshold = Pressure(), THRESHOLDS[resource] * 1000

    def now(used):
        pressure.update([Use(resource, used, 1000)])

    now(threshold - 1)
    assert told(caplog) == []
    now(threshold)
    now(threshold - 1)
    now(threshold + 5)  # to and fro around the threshold is one crossing
    assert told(caplog) == [("resource_limit", resource.value)]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].fields == {"resource": resource.value, "used": threshold, "limit": 1000, "share": THRESHOLDS[resource]}
    now(threshold - RELIEF * 1000 - 1)
    assert told(caplog)[-1] == ("resource_relieved", resource.value)
    now(threshold)
    assert told(caplog)[-1] == ("resource_limit", resource.value)
    assert len(told(caplog)) == 3


def test_a_limit_that_was_lifted_is_forgotten():
    pressure = Pressure()
    pressure.update([Use(Resource.MEMORY, 99, 100)])
    assert pressure.near() == {"memory": 1}
    pressure.update([])
    assert (pressure.near(), pressure.shares(), pressure.document()) == ({}, {}, [])


def test_runtime_shows_each_limit_with_its_share_and_whether_it_is_near():
    pressure = Pressure()
    pressure.update([Use(Resource.MEMORY, 95, 100), Use(Resource.FILE_DESCRIPTORS, 10, 100)])
    assert pressure.document() == [
        {"resource": "memory", "used": 95, "limit": 100, "share": 0.95, "warnsAt": 0.9, "near": True},
        {"resource": "file_descriptors", "used": 10, "limit": 100, "share": 0.1, "warnsAt": 0.8, "near": False},
    ]


def test_the_metrics_show_the_shares_and_what_is_near():
    sampler = RuntimeSampler()
    sampler.pressure.update([Use(Resource.MEMORY, 95, 100), Use(Resource.CPU, 0.1, 1.0)])
    _, _, body = Exposition(families(runtime=sampler).collect).render(b"", b"")
    found = {
        family.name: {s.labels["resource"]: s.value for s in family.samples}
        for family in text_string_to_metric_families(body.decode())
        if family.name.startswith("outrider_resource")
    }
    assert found == {
        "outrider_resource_usage_ratio": {"memory": 0.95, "cpu": 0.1},
        "outrider_resource_near_limit": {"memory": 1.0, "cpu": 0.0},
    }


def throttled_tree(root, seconds):
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text("50000 100000\n")
    (folder / "cpu.stat").write_text(f"throttled_usec {int(seconds * 1e6)}\n")
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/mountinfo").write_text("31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
    (root / "proc/self/cgroup").write_text("0::/\n")


def test_a_quota_that_takes_much_of_the_time_is_told_in_shares_of_that_time(tmp_path, caplog):
    now = 0.0
    throttled_tree(tmp_path, 10.0)
    sampler = RuntimeSampler(root=tmp_path, clock=lambda: now)
    looks = ((5.0, 12.0, None), (20.0, 10.0, 0.0), (40.0, 20.0, 0.5), (45.0, 30.0, 0.5), (60.0, 99.0, 1.0), (80.0, 99.0, 0.0))
    for at, throttled, share in looks:
        now = at
        throttled_tree(tmp_path, throttled)
        sampler.check_limits()
        assert sampler.pressure.shares().get("cpu") == share
    assert [event for event, resource in told(caplog) if resource == "cpu"] == ["resource_limit", "resource_relieved"]
