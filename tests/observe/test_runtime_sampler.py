"""The runtime sampler: kernel files as they look on v1 and v2 hosts, in and out of containers; the heartbeat."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import PurePosixPath

import pytest

from sidecar.model.snapshot import Listener, Mode
from sidecar.observe import runtime
from sidecar.observe.runtime import RuntimeSampler, low_limit_warning, raise_fd_limit
from sidecar.observe.runtime_files import (
    Traffic,
    cgroup_folders,
    parse_cgroup,
    parse_cpu_limit,
    parse_inactive_file,
    parse_limit,
    parse_mountinfo,
    parse_network,
    parse_resident_pages,
    parse_throttled,
)

V2_CONTAINER = "31 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
V1_CONTAINER = """\
40 39 0:33 /kubepods/burstable/pod1/c1 /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory
41 39 0:34 /kubepods/burstable/pod1/c1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:16 - cgroup cgroup rw,cpu,cpuacct
38 30 0:29 / /proc rw,nosuid - proc proc rw
"""
V1_CGROUP = "9:cpu,cpuacct:/kubepods/burstable/pod1/c1\n5:memory:/kubepods/burstable/pod1/c1\n1:name=systemd:/kubepods/burstable/pod1/c1\n"
HYBRID = V1_CONTAINER + "44 39 0:27 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n"


def folders(mountinfo, cgroup, controller="memory"):
    version, found = cgroup_folders(parse_mountinfo(mountinfo), parse_cgroup(cgroup), controller)
    return version, [str(folder) for folder in found]


def test_a_v2_container_sees_its_cgroup_at_the_mount_point():
    assert folders(V2_CONTAINER, "0::/\n") == (2, ["/sys/fs/cgroup"])


def test_a_nested_v2_cgroup_comes_with_its_ancestors_own_one_first():
    assert folders(V2_CONTAINER, "0::/a/b\n") == (2, ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"])


def test_a_v2_path_outside_the_mount_falls_back_to_the_mount_point():
    assert folders(V2_CONTAINER, "0::/../other\n") == (2, ["/sys/fs/cgroup"])


def test_a_v1_container_finds_each_controller_where_it_is_mounted():
    assert folders(V1_CONTAINER, V1_CGROUP) == (1, ["/sys/fs/cgroup/memory"])
    assert folders(V1_CONTAINER, V1_CGROUP, "cpu") == (1, ["/sys/fs/cgroup/cpu,cpuacct"])


def test_a_v1_host_process_sees_its_folder_below_the_mount():
    host = V1_CONTAINER.replace("/kubepods/burstable/pod1/c1 ", "/ ")
    assert folders(host, "5:memory:/user/me\n") == (
        1,
        ["/sys/fs/cgroup/memory/user/me", "/sys/fs/cgroup/memory/user", "/sys/fs/cgroup/memory"],
    )


def test_on_a_hybrid_host_the_hierarchy_that_has_the_controller_wins():
    assert folders(HYBRID, V1_CGROUP + "0::/kubepods/x\n") == (1, ["/sys/fs/cgroup/memory"])


@pytest.mark.parametrize(("mountinfo", "cgroup"), [("", ""), (V2_CONTAINER, ""), ("", "0::/\n"), ("garbage\n - \n1 2 - cgroup", "x\n:\n")])
def test_without_cgroups_there_are_no_folders(mountinfo, cgroup):
    assert folders(mountinfo, cgroup) == (0, [])


def test_a_path_relative_to_the_root_stays_inside_the_mount():
    _, found = cgroup_folders(parse_mountinfo(V2_CONTAINER), {"": "/x"}, "cpu")
    assert found[0] == PurePosixPath("/sys/fs/cgroup/x")


@pytest.mark.parametrize(
    ("text", "limit"),
    [("67108864\n", 67108864), ("max\n", None), ("9223372036854771712\n", None), ("", None), ("-1\n", None), ("0\n", 0)],
)
def test_memory_limits_are_bytes_or_none(text, limit):
    assert parse_limit(text) == limit


def test_throttled_time_is_seconds_in_both_versions():
    assert parse_throttled("usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n") == 1.5
    assert parse_throttled("nr_periods 4\nnr_throttled 2\nthrottled_time 2500000000\n") == 2.5
    assert parse_throttled("usage_usec 5\n") is None
    assert parse_throttled("throttled_usec x\n") is None
    assert parse_throttled("") is None


def test_resident_pages_are_the_second_number_of_statm():
    assert parse_resident_pages("5000 1234 800 1 0 900 0\n") == 1234
    assert parse_resident_pages("") == 0


def test_the_quota_of_either_version_is_cpus_or_none():
    assert parse_cpu_limit("150000 100000\n", "", "") == 1.5
    assert parse_cpu_limit("max 100000\n", "", "") is None
    assert parse_cpu_limit("", "50000\n", "100000\n") == 0.5
    assert parse_cpu_limit("", "-1\n", "100000\n") is None
    assert parse_cpu_limit("", "", "") is None
    assert parse_cpu_limit("1 0\n", "", "") is None


def test_pages_that_the_kernel_drops_first_are_those_of_the_whole_cgroup():
    assert parse_inactive_file("inactive_file 5\ntotal_inactive_file 7\n") == 7
    assert parse_inactive_file("anon 1\ninactive_file 5\n") == 5
    assert parse_inactive_file("") == 0


NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:12345678901  9    0    0    0     0          0         0     2222      8    0    0    0     0       0          0
eth0:1: 5       1    0    0    0     0          0         0      6       1    0    0    0     0       0          0
 bad0: x
"""


def test_network_bytes_are_read_per_interface():
    assert parse_network(NET_DEV) == {"lo": Traffic(100, 100), "eth0": Traffic(12345678901, 2222), "eth0:1": Traffic(5, 6)}
    assert parse_network("") == {}


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_sample_takes_the_narrowest_memory_limit_of_the_hierarchy(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2_CONTAINER,
            "proc/self/cgroup": "0::/pod/container\n",
            "proc/self/statm": "100 10 1 1 0 1 0\n",
            "proc/self/net/dev": NET_DEV,
            "proc/self/fd/0": "",
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": "1000000\n",
            "sys/fs/cgroup/pod/container/cpu.stat": "throttled_usec 250000\n",
        },
    )
    sample = RuntimeSampler(root=root).sample()
    assert sample.memory_limit_bytes == 1000000
    assert sample.throttled_seconds == 0.25
    assert sample.rss_bytes == 10 * resource.getpagesize()
    assert sample.network["lo"] == Traffic(100, 100)
    assert sample.descriptors > 0


def test_a_v1_sample_reads_the_v1_files(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V1_CONTAINER,
            "proc/self/cgroup": V1_CGROUP,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "33554432\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "throttled_time 500000000\n",
        },
    )
    sample = RuntimeSampler(root=root).sample()
    assert (sample.memory_limit_bytes, sample.throttled_seconds) == (33554432, 0.5)


def test_the_memory_that_counts_is_that_of_the_limit_which_will_be_hit_first_without_what_the_kernel_drops(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2_CONTAINER,
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/memory.max": "1000\n",
            "sys/fs/cgroup/pod/container/memory.current": "500\n",
            "sys/fs/cgroup/pod/memory.max": "2000\n",
            "sys/fs/cgroup/pod/memory.current": "1950\n",
            "sys/fs/cgroup/pod/memory.stat": "inactive_file 50\n",
            "sys/fs/cgroup/pod/container/cpu.max": "50000 100000\n",
        },
    )
    sampler = RuntimeSampler(root=root)
    sample = sampler.sample()
    assert (sample.memory_limit_bytes, sample.working_set_bytes, sample.cpu_limit) == (1000, 1900, 0.5)
    sampler.check_limits()
    assert sampler.pressure.near()["memory"] == 1


def test_a_machine_without_proc_and_cgroups_gives_a_sample_without_them(tmp_path):
    sample = RuntimeSampler(root=tmp_path).sample()
    assert (sample.memory_limit_bytes, sample.throttled_seconds, sample.rss_bytes, sample.descriptors, sample.network) == (
        None,
        None,
        0,
        0,
        {},
    )


def test_a_pod_in_the_hosts_network_shows_a_bounded_number_of_interfaces(tmp_path):
    lines = "".join(f"veth{number}: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n" for number in range(500))
    root = tree(tmp_path, {"proc/self/net/dev": f"a\nb\n{lines}"})
    assert len(RuntimeSampler(root=root).sample().network) == runtime.MAX_INTERFACES


def test_open_descriptors_of_this_very_process_are_counted():
    before = RuntimeSampler().sample().descriptors
    reader, writer = os.pipe()
    after = RuntimeSampler().sample().descriptors
    os.close(reader)
    os.close(writer)
    assert after == before + 2


def test_the_document_has_the_keys_of_the_interface():
    async def look():
        return RuntimeSampler().document()

    document = asyncio.run(look())
    assert list(document) == [
        "pid",
        "uptimeSeconds",
        "tasks",
        "fileDescriptors",
        "memory",
        "cpu",
        "loopLag",
        "loopBlocked",
        "network",
        "limits",
        "overload",
    ]
    assert {key: list(value) for key, value in document.items() if isinstance(value, dict) and key != "network"} == {
        "fileDescriptors": ["open", "limit"],
        "memory": ["rssBytes", "limitBytes", "workingSetBytes"],
        "cpu": ["seconds", "throttledSeconds", "limitCores"],
        "loopLag": ["p50", "p99", "max"],
        "loopBlocked": ["count", "last"],
        "overload": ["level", "resource", "mostRequests", "actions"],
    }
    assert document["network"]["lo"].keys() == {"receivedBytes", "transmittedBytes"}
    assert (document["pid"], document["tasks"]) == (os.getpid(), 1)


def test_a_blocked_loop_shows_as_lag_and_as_the_age_of_the_heartbeat(monkeypatch):
    monkeypatch.setattr(runtime, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 0.02)

    async def block():
        sampler = RuntimeSampler()
        sampler.start()
        await asyncio.sleep(0.05)
        time.sleep(0.2)
        age = sampler.heartbeat_age()
        await asyncio.sleep(0.05)
        sampler.stop()
        sampler.stop()
        return sampler, age

    sampler, age = asyncio.run(block())
    lag = sampler.loop_lag()
    assert age >= 0.18
    assert lag.max >= 0.1
    assert lag.p50 <= lag.p99 <= lag.max
    assert sum(sampler.lag.counts) >= 2


def test_before_the_first_heartbeat_the_lag_is_zero():
    lag = RuntimeSampler().loop_lag()
    assert (lag.p50, lag.p99, lag.max) == (0.0, 0.0, 0.0)


def test_percentiles_are_those_of_the_window():
    sampler = RuntimeSampler(clock=lambda: 0.0)
    sampler._recent.extend((0.0, number / 1000) for number in range(100, 0, -1))
    lag = sampler.loop_lag()
    assert (lag.p50, lag.p99, lag.max) == (0.051, 0.099, 0.1)


def test_heartbeats_that_are_older_than_the_window_are_forgotten(monkeypatch):
    now = 1000.0
    sampler = RuntimeSampler(clock=lambda: now)
    monkeypatch.setattr(sampler, "_schedule", lambda _seconds: None)
    sampler.due_at = now - 3
    sampler._beat()
    assert sampler.loop_lag().max == 3.0
    now += runtime.WINDOW_SECONDS + 1
    sampler.due_at = now
    assert sampler.loop_lag().max == 0.0  # also when nothing has happened since
    sampler._beat()
    assert [late for _, late in sampler._recent] == [0.0]


def test_an_idle_loop_is_woken_seldom_and_a_busy_one_often(monkeypatch):
    now, worked, periods = 1000.0, 0.0, []
    sampler = RuntimeSampler(clock=lambda: now)
    monkeypatch.setattr(sampler, "_schedule", periods.append)
    monkeypatch.setattr(runtime.time, "thread_time", lambda: worked)
    for share in (0.0, 0.5, 0.01 + runtime.BEAT_CPU * 0.9):
        now += 1.0
        worked += share
        sampler._beat()
    assert periods == [runtime.IDLE_SECONDS, runtime.HEARTBEAT_SECONDS, runtime.IDLE_SECONDS]


def limits(monkeypatch, soft, hard, *, refuse=False):
    seen = []

    def setrlimit(_, pair):
        if refuse:
            raise ValueError
        seen.append(pair)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return raise_fd_limit(), seen


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(monkeypatch):
    assert limits(monkeypatch, 1024, 65536) == ((1024, 65536), [(65536, 65536)])


def test_a_limit_of_a_billion_or_none_is_capped(monkeypatch):
    assert limits(monkeypatch, 1024, 1 << 30) == ((1024, 1 << 20), [(1 << 20, 1 << 30)])
    assert limits(monkeypatch, 1024, resource.RLIM_INFINITY) == ((1024, 1 << 20), [(1 << 20, resource.RLIM_INFINITY)])


def test_a_limit_that_is_high_enough_or_may_not_be_changed_stays(monkeypatch):
    assert limits(monkeypatch, 65536, 65536) == ((65536, 65536), [])
    assert limits(monkeypatch, 1024, 65536, refuse=True) == ((1024, 1024), [])


def test_a_low_limit_is_warned_about_with_what_it_means_and_what_to_do():
    listener = Listener(name="a", port=1, bind="::", mode=Mode.REVERSE)
    assert low_limit_warning(65536, [listener]) is None
    warning = low_limit_warning(1024, [listener, listener])
    assert "1024 open files" in warning
    assert "479 concurrent exchanges" in warning
    assert "RLIMIT_NOFILE" in warning
    greedy = Listener(name="b", port=2, bind="::", mode=Mode.REVERSE, max_connections=50_000)
    assert low_limit_warning(65536, [greedy]) is not None
