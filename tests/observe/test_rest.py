"""At rest: an event loop with nothing to do has no heartbeat and wakes nobody, and what then holds it up is seen all the same."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
import uvloop
from support import Sidecar

from sidecar.observe import runtime, watchdog
from sidecar.observe.runtime import RuntimeSampler
from sidecar.observe.watchdog import ASLEEP, Block
from sidecar.proxy.timekeeper import Timekeeper


@pytest.fixture(autouse=True)
def soon_idle(monkeypatch):
    """Whatever a test does between two heartbeats counts as nothing; and a machine that holds a loop up for 0.1 s on its own is none of ours."""
    monkeypatch.setattr(runtime, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(runtime, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(runtime, "IDLE_SHARE", 100.0)
    monkeypatch.setattr(watchdog, "BLOCKED", 0.4)


@asynccontextmanager
async def at_rest() -> AsyncIterator[RuntimeSampler]:
    """A sampler whose heart has paused."""
    sampler = RuntimeSampler()
    sampler.start()
    try:
        await until(lambda: sampler.due_at == ASLEEP)
        yield sampler
    finally:
        sampler.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def waits_for_a_file():
    time.sleep(1.2)


async def seen(sampler: RuntimeSampler) -> Block:
    await until(lambda: bool(sampler.watchdog.last()))
    (block,) = sampler.watchdog.last()
    return block


def test_a_loop_at_rest_has_no_heartbeat_until_an_exchange_begins():
    async def main():
        async with at_rest() as sampler:
            beats = sum(sampler.lag.counts)
            await asyncio.sleep(0.1)  # five that would have been
            assert sum(sampler.lag.counts) == beats
            timekeeper = Timekeeper(asyncio.get_running_loop(), sampler.stir)
            timekeeper.enter(Mock())
            assert sampler.due_at != ASLEEP
            timekeeper.close()
            await until(lambda: sum(sampler.lag.counts) > beats)
            await until(lambda: sampler.due_at == ASLEEP)  # and again

    uvloop.run(main())


def test_a_document_that_comes_begins_with_a_heartbeat():
    """What is made of it may hold the loop up."""
    document = {"apiVersion": "outrider.dev/v1alpha1", "kind": "SidecarConfig"}
    with Sidecar(document) as sidecar:

        def beats() -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{sidecar.status_port}/metrics", timeout=30) as answer:
                return float(re.search(r"^outrider_event_loop_lag_seconds_count (\S+)$", answer.read().decode(), re.MULTILINE)[1])

        deadline = time.monotonic() + 60
        before = -1.0
        while (now := beats()) != before:  # not at rest yet
            assert time.monotonic() < deadline
            before = now
            time.sleep(1.0)
        sidecar.edit({**document, "lifecycle": {"drainTimeout": "7s"}})
        sidecar.wait_for("config_applied", count=2)
        while beats() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_exchange_that_blocks_a_loop_that_was_at_rest_is_named():
    async def main():
        async with at_rest() as sampler:
            sampler.stir()
            waits_for_a_file()
            return await seen(sampler)

    block = uvloop.run(main())
    assert block.stack[0].endswith(" waits_for_a_file")


def test_a_loop_at_rest_is_not_stuck():
    async def main():
        async with at_rest() as sampler:
            sampler.beat_at -= 3600
            return sampler.heartbeat_age()

    assert uvloop.run(main()) == 0.0


def test_an_hour_at_rest_is_no_hour_that_a_loop_was_stuck_for():
    async def main():
        async with at_rest() as sampler:
            sampler.beat_at -= 3600
            sampler.stir()
            return sampler.heartbeat_age()

    assert uvloop.run(main()) < 60


def test_who_has_given_up_something_looks_at_the_limits_also_while_nothing_happens(monkeypatch):
    monkeypatch.setattr(RuntimeSampler, "check_limits", lambda _: None)  # before the watchdog gets it, which would end the overload

    async def main():
        sampler = RuntimeSampler()
        sampler.overload.level = 1
        sampler.start()
        try:
            beats = sum(sampler.lag.counts)
            await until(lambda: sum(sampler.lag.counts) > beats + 2 * runtime.IDLE_BEATS)
            assert sampler.due_at != ASLEEP
            sampler.overload.level = 0
            await until(lambda: sampler.due_at == ASLEEP)
        finally:
            sampler.stop()

    uvloop.run(main())


def test_limits_are_looked_at_also_at_rest_and_one_that_is_near_ends_it(monkeypatch):
    monkeypatch.setattr(watchdog, "REST_SECONDS", 0.02)

    async def main():
        async with at_rest() as sampler:
            looks = []
            sampler.on_look = looks.append
            await until(lambda: len(looks) > 2)
            assert sampler.due_at == ASLEEP
            monkeypatch.setattr(sampler.overload, "update", lambda *_: setattr(sampler.overload, "level", 1))
            await until(lambda: sampler.due_at != ASLEEP)

    uvloop.run(main())
