"""What holds for every test: it leaves nothing behind and logs no traceback that it did not ask for.

A test fails when, at its end, there is a task that its event loop had to cancel, a file descriptor (a connection is
one), a thread or a child process that was not there before, or when a record with a traceback (or an error of asyncio's
own) was logged. `@pytest.mark.expects_traceback("part of the message")` allows such records. Wider fixtures start
before the first look and end after the last, so what they own does not count.
"""

from __future__ import annotations

import asyncio
import asyncio.runners
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

SETTLE = 10.0
"""Seconds that something which is about to end may take to do so."""
PASSED = pytest.StashKey[bool]()
SOONER = 5.0
"""Seconds by which a coroutine is cancelled before pytest-timeout would raise where uvloop swallows it, and the run would hang."""

Snapshot = dict[str, str]

settings.register_profile(  # no test measures time; as Hypothesis does by itself where CI is set
    "without a clock",
    settings.default,
    deadline=None,
    suppress_health_check={*settings.default.suppress_health_check, HealthCheck.too_slow},
)
settings.load_profile("without a clock")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; what it starts would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
_seconds = [0.0]
_run = uvloop.run


def run_bounded(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """`uvloop.run`, that raises TimeoutError when the test has taken its time."""

    async def bounded() -> Any:
        async with asyncio.timeout(_seconds[0] - SOONER if _seconds[0] else None):
            return await main

    return _run(bounded(), **options)


uvloop.run = run_bounded  # before any test module is imported
uvloop.new_event_loop().close()  # libuv opens a pipe for signals with the first loop and keeps it


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("timeout")
    _seconds[0] = float(marker.args[0] if marker is not None else item.config.getini("timeout") or 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare the process before and after the test; a test that failed anyway is not asked."""
    tasks = _watch_tasks(monkeypatch)
    before = {**_descriptors(), **_threads(), **_children()}
    with _tracebacks(request) as records:
        yield
    if not request.node.stash.get(PASSED, False):
        return
    left = [f"task still running: {task}" for task in tasks] + _left(before)
    problems = left + [f"logged unexpectedly: {record}" for record in records]
    if problems:
        pytest.fail("the test left something behind:\n  " + "\n  ".join(problems), pytrace=False)


def _left(before: Snapshot) -> list[str]:
    """What is there now and was not before, once what is ending has had its time."""
    deadline = time.monotonic() + SETTLE
    while left := [text for key, text in {**_descriptors(), **_threads(), **_children()}.items() if key not in before]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return []


def _descriptors() -> Snapshot:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of this very listing
            continue
        found[f"fd {number} {target}"] = f"open file descriptor {number}: {target}"
    return found


def _threads() -> Snapshot:
    return {f"thread {thread.ident}": f"thread still running: {thread.name}" for thread in threading.enumerate()}


def _children() -> Snapshot:
    found = {}
    for thread in os.listdir("/proc/self/task"):
        for pid in _read(f"/proc/self/task/{thread}/children").split():
            found[f"child {pid}"] = f"child process not ended or not waited for: {pid} {_read(f'/proc/{pid}/cmdline').replace(chr(0), ' ')}"
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # it ended meanwhile
        return ""


def _watch_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that `asyncio.run` (and `uvloop.run`, which uses the same Runner) finds when the test's coroutine is over."""
    leaked: list[str] = []
    cancel_all: Callable[[asyncio.AbstractEventLoop], None] = asyncio.runners._cancel_all_tasks

    def look_first(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(_settle(loop))
        leaked.extend(_describe(task) for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", look_first)
    return leaked


async def _settle(loop: asyncio.AbstractEventLoop) -> None:
    """Let tasks that are ending end: a few turns of the loop, more when one has been cancelled already."""
    me = asyncio.current_task()
    deadline = loop.time() + SETTLE
    for _ in range(5):
        await asyncio.sleep(0)
    while asyncio.all_tasks(loop) - {me} and loop.time() < deadline:
        await asyncio.sleep(0.005)


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    place = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', task.get_coro())}){place}"


class _tracebacks(logging.Handler):  # noqa: N801  # used as a context manager, like a function
    """Collects records that carry a traceback, and asyncio's own errors, unless the test's marker expects them."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(logging.WARNING)
        self._expected = [re.compile(pattern) for mark in request.node.iter_markers("expects_traceback") for pattern in mark.args or (".",)]
        self._seen: set[int] = set()
        self._records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        alarming = record.exc_info is not None and record.exc_info[1] is not None
        alarming = alarming or (record.name == "asyncio" and record.levelno >= logging.ERROR)
        if alarming and id(record) not in self._seen:
            self._seen.add(id(record))
            text = logging.Formatter().format(record)
            if not any(pattern.search(text) for pattern in self._expected):
                self._records.append(text)

    def __enter__(self) -> list[str]:
        for name in (None, "outrider"):
            logging.getLogger(name).addHandler(self)
        return self._records

    def __exit__(self, *_: object) -> None:
        for name in (None, "outrider"):
            logging.getLogger(name).removeHandler(self)
