"""The watchman over all tests is itself watched: each kind of thing left behind fails a test, by name."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8")
HEADER = "import asyncio, logging, os, subprocess, threading, time, uvloop, pytest\nkept = []\n"

LEAKS = {
    "task still running: forgotten": """
        async def main():
            kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))
        asyncio.run(main())
    """,
    "task still running: in-uvloop": """
        async def main():
            kept.append(asyncio.create_task(asyncio.sleep(60), name="in-uvloop"))
        uvloop.run(main())
    """,
    "open file descriptor": "kept.append(open('/dev/null'))",
    "open file descriptor*socket": "kept.append(__import__('socket').socket())",
    "thread still running: lingers": "threading.Thread(target=time.sleep, args=(4,), name='lingers').start()",
    "child process*sleep": "kept.append(subprocess.Popen(['sleep', '20']))",
    "logged unexpectedly: boom": """
        try:
            raise ValueError
        except ValueError:
            logging.getLogger("outrider").exception("boom")
    """,
    "logged unexpectedly: *exception was never retrieved": """
        async def fail():
            raise ValueError
        async def main():
            asyncio.create_task(fail())
            await asyncio.sleep(0.01)
        asyncio.run(main())
    """,
    "logged unexpectedly: Exception in callback": """
        async def main():
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0.01)
        asyncio.run(main())
    """,
}


CLEANUP = """
@pytest.fixture(autouse=True, scope="module")
def clean():
    yield
    for thing in kept:
        thing.kill() if hasattr(thing, "kill") else getattr(thing, "close", int)()
        thing.wait() if hasattr(thing, "wait") else None
"""


def run(pytester: pytest.Pytester, *tests: tuple[str, str]) -> pytest.RunResult:
    """Run tests, each (decorator, body), under our conftest in a process of their own."""
    pytester.makeini("[pytest]\nmarkers =\n  expects_traceback: see conftest.py")
    pytester.makeconftest(CONFTEST.replace("SETTLE = 10.0", "SETTLE = 0.1"))
    functions = [f"{mark}\ndef test_{n}():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n" for n, (mark, body) in enumerate(tests)]
    pytester.makepyfile(HEADER + CLEANUP + "\n".join(functions))
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_test_that_leaves_something_behind_fails_with_its_name(pytester: pytest.Pytester) -> None:
    result = run(pytester, *[("", body) for body in LEAKS.values()])

    result.assert_outcomes(passed=len(LEAKS), errors=len(LEAKS))
    for message in LEAKS:
        result.stdout.fnmatch_lines_random([f"*{message}*"])


def test_a_tidy_test_passes(pytester: pytest.Pytester) -> None:
    body = """
        async def main():
            task = asyncio.create_task(asyncio.sleep(0.01))
            await task
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()
        asyncio.run(main())
        logging.getLogger("outrider").error("an error without a traceback is a test's own business")
    """

    run(pytester, ("", body)).assert_outcomes(passed=1)


def test_a_marker_allows_the_traceback_that_it_describes_and_no_other(pytester: pytest.Pytester) -> None:
    body = LEAKS["logged unexpectedly: boom"]
    result = run(pytester, ('@pytest.mark.expects_traceback("bo+m")', body), ('@pytest.mark.expects_traceback("bang")', body))

    result.assert_outcomes(passed=2, errors=1)


def test_a_test_that_fails_anyway_shows_its_own_failure_only(pytester: pytest.Pytester) -> None:
    run(pytester, ("", "kept.append(open('/dev/null'))\nassert False")).assert_outcomes(failed=1)


def test_a_coroutine_that_never_ends_fails_its_test_and_no_other(pytester: pytest.Pytester) -> None:
    forever = """
        async def main():
            while True:
                await asyncio.sleep(0.01)
        uvloop.run(main())
    """
    result = run(pytester, ("@pytest.mark.timeout(6)", forever), ("", "pass"))

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*TimeoutError*"])
