import asyncio
import sys

import pytest
import uvloop

from sidecar.config import loader
from sidecar.config.load import Problems, load
from sidecar.config.loader import INLINE_BYTES, ChildFailed, Compiled, ask_child, load_async

HEAD = 'apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'


def many_routes(count):
    routes = "".join(
        f"  - {{name: r{n}, matches: [{{path: {{value: /{n}}}}}], backendRefs: [{{name: app}}], timeouts: {{request: {n % 9}s}}}}\n"
        for n in range(count)
    )
    return f"{HEAD}routes:\n{routes}".encode()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_large_document_judged_in_a_child_compiles_to_the_same_snapshot(run):
    data = many_routes(300)
    assert len(data) > INLINE_BYTES
    compiled = run(load_async(data, revision="r7"))
    direct = load(data, revision="r7")
    assert isinstance(compiled, Compiled)
    assert compiled.snapshot == direct.snapshot
    assert compiled.packed.document() == direct.document
    assert compiled.origins.of("routes[299].timeouts.request") == direct.origins.of("routes[299].timeouts.request") == "line 304"


def test_a_small_document_starts_no_child(monkeypatch):
    monkeypatch.setattr(loader, "ask_child", None)
    assert isinstance(asyncio.run(load_async(HEAD.encode())), Compiled)


def test_problems_come_back_from_the_child_with_their_places():
    outcome = asyncio.run(load_async(many_routes(300) + b"lifecycle: {drainDelay: 5}\n"))
    assert isinstance(outcome, Problems)
    assert [(problem.path, problem.line) for problem in outcome.problems] == [("lifecycle.drainDelay", 305)]


def test_documents_that_are_too_large_are_refused_without_a_child(monkeypatch):
    monkeypatch.setattr(loader, "ask_child", None)
    outcome = asyncio.run(load_async(b"x" * (10 << 20)))
    assert "larger than" in outcome.problems[0].message


def test_traffic_is_served_while_a_child_parses():
    async def scenario():
        turns = 0
        task = asyncio.ensure_future(load_async(many_routes(300)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns, await task

    turns, compiled = uvloop.run(scenario())
    assert turns > 10
    assert isinstance(compiled, Compiled)


def test_a_child_that_takes_too_long_is_killed_and_reported():
    with pytest.raises(ChildFailed, match="within 0.001 s"):
        asyncio.run(ask_child(many_routes(300), seconds=0.001))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.05])
def test_a_cancelled_load_leaves_no_child_behind_however_far_it_is(run, after):
    async def scenario():
        task = asyncio.ensure_future(load_async(many_routes(2000)))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())  # the fixture of the whole suite looks for processes and descriptors


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9"),
        ("print('no answer')", "ended with status 0"),
        ("import sys; sys.stdin.read(); [sys.stdout.write('x' * 1_000_000) for _ in range(20)]", "too long"),
    ],
)
def test_a_child_without_a_usable_answer_is_a_problem_not_an_exception(program, said, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    outcome = asyncio.run(load_async(many_routes(300)))
    assert isinstance(outcome, Problems)
    assert said in outcome.problems[0].message


def test_a_process_that_cannot_be_started_is_a_problem_not_an_exception(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    outcome = asyncio.run(load_async(many_routes(300)))
    assert "no process can be started" in outcome.problems[0].message
