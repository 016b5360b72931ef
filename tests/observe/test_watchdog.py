"""The watchdog: what held the event loop up, seen by a thread while it happened."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import uvloop

from sidecar.observe import watchdog
from sidecar.observe.runtime import RuntimeSampler
from sidecar.observe.watchdog import Culprit, Usage, culprit_between


@pytest.fixture(autouse=True)
def a_machine_of_its_own(monkeypatch):
    """What is tested takes longer; a busy machine holds a loop up for 0.1 s on its own."""
    assert watchdog.BLOCKED == 0.1
    monkeypatch.setattr(watchdog, "BLOCKED", 0.4)


def watched(blocking, *, tell=None, run=asyncio.run):
    """What a sampler has to say about a loop on which `blocking` is called."""

    async def main():
        sampler = RuntimeSampler()
        sampler.start()
        try:
            await asyncio.sleep(0.01)
            blocking()
            for _ in range(200):  # the thread sees the loop come round a little later
                await asyncio.sleep(0.01)
                if sampler.watchdog.last():
                    break
            return sampler.watchdog, sampler.document()["loopBlocked"]
        finally:
            sampler.stop()

    return run(main())


def waits_for_a_file():
    time.sleep(1.2)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_what_blocks_the_loop_on_purpose_is_named_with_its_stack(run, caplog):
    with caplog.at_level(logging.WARNING, "outrider"):
        dog, shown = watched(waits_for_a_file, run=run)
    (block,) = dog.last()
    assert block.seconds >= 0.1
    assert block.culprit is Culprit.WAIT
    assert block.stack[0].startswith("test_watchdog:")
    assert block.stack[0].endswith(" waits_for_a_file")
    assert not any(frame.startswith(("asyncio.runners", "uvloop", "_pytest")) for frame in block.stack)
    assert shown["count"]["wait"] == 1
    assert shown["last"][0]["stack"] == list(block.stack)
    (record,) = [record for record in caplog.records if record.event == "loop_blocked"]
    assert "waits_for_a_file" in record.getMessage()
    assert record.fields["culprit"] == "wait"
    json.dumps(record.fields)


def test_a_loop_that_comes_round_leaves_nothing(caplog):
    dog, _ = watched(lambda: None)
    assert not dog.blocks.keys() - {Culprit.STARVED, Culprit.THROTTLED}, "what the machine does is not ours"
    assert all(block.culprit in dog.blocks for block in dog.last())


def test_a_block_that_goes_on_is_told_before_it_is_over(monkeypatch, caplog):
    monkeypatch.setattr(watchdog, "ONGOING", 0.2)
    with caplog.at_level(logging.WARNING, "outrider"):
        dog, _ = watched(lambda: time.sleep(1.2))
    told = [record.fields["ongoing"] for record in caplog.records if record.event == "loop_blocked"]
    assert told == [True, False]
    assert dog.blocks.total() == 1


def test_many_blocks_are_one_line_and_the_rest_is_counted(caplog):
    async def main():
        sampler = RuntimeSampler()
        sampler.start()
        try:
            for wanted in range(1, 4):
                await asyncio.sleep(0.06)
                time.sleep(1.2)
                while sampler.watchdog.blocks.total() < wanted:
                    await asyncio.sleep(0.01)
        finally:
            sampler.stop()
        return sampler.watchdog

    with caplog.at_level(logging.WARNING, "outrider"):
        dog = asyncio.run(main())
    assert dog.blocks.total() == 3
    assert len([record for record in caplog.records if record.event == "loop_blocked"]) == 1


def test_the_thread_ends_with_the_sampler_and_only_there():
    async def main():
        sampler = RuntimeSampler()
        sampler.stop()
        sampler.start()
        alive = [thread.name for thread in threading.enumerate()]
        sampler.stop()
        sampler.stop()
        return alive, [thread.name for thread in threading.enumerate()]

    during, after = asyncio.run(main())
    assert "outrider-watchdog" in during
    assert "outrider-watchdog" not in after


@pytest.mark.parametrize(
    ("working", "queued", "throttled", "culprit"),
    [
        (0.9, 0.05, 0.0, Culprit.CODE),
        (0.05, 0.05, 0.0, Culprit.WAIT),
        (0.1, 0.8, 0.0, Culprit.STARVED),
        (0.1, 0.8, 0.7, Culprit.THROTTLED),
        (0.1, 0.0, 0.8, Culprit.THROTTLED),  # a kernel that does not count the quota's time as queueing
    ],
)
def test_the_culprit_is_what_the_thread_did_most_of_the_time(working, queued, throttled, culprit):
    assert culprit_between(Usage(5.0, 1.0, 1.0, 1.0), Usage(6.0, 1.0 + working, 1.0 + queued, 1.0 + throttled)) is culprit


STOPPED = """
    import asyncio, os, subprocess
    from sidecar.observe.runtime import RuntimeSampler

    async def main():
        helper = subprocess.Popen(["sh", "-c", f"read end; kill -STOP {os.getpid()}; sleep 1; kill -CONT {os.getpid()}"], stdin=subprocess.PIPE)
        sampler = RuntimeSampler()
        sampler.start()
        await asyncio.sleep(0.2)
        helper.stdin.close()
        for _ in range(600):
            await asyncio.sleep(0.01)
            if any(block.seconds > 0.4 for block in sampler.watchdog.last()):
                break
        sampler.stop()
        helper.wait()
        print([block.stack for block in sampler.watchdog.last() if block.seconds > 0.4])

    asyncio.run(main())
"""


def test_a_process_that_was_stopped_as_a_whole_has_no_stack_to_blame():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(STOPPED)], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "[()]", done.stderr
