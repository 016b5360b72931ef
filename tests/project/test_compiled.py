"""What is compiled may do only what compiled code does well; and the package says what it is."""

from __future__ import annotations

import ast
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import uvloop
from support import Connection, RawClient, Script, ScriptedUpstream
from support.engine import Engine, upstream

from sidecar.admin.versions import compiled, versions
from sidecar.model.snapshot import Timeouts
from sidecar.proxy import pipeline

ROOT = Path(__file__).parents[2]


def hook() -> ModuleType:
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILED: tuple[str, ...] = hook().COMPILED


def within(node: ast.AST) -> Iterator[ast.AST]:
    """All of a statement, without functions that are only defined in it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from within(child)


def handlers(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts that run while an exception is, or may be, handled."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            yield from [*node.handlers, *node.finalbody]
        elif isinstance(node, ast.AsyncWith):
            yield node


@pytest.mark.parametrize("name", COMPILED)
def test_nothing_compiled_awaits_while_it_handles_an_exception(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    suspending = (ast.Await, ast.Yield, ast.YieldFrom, ast.AsyncFor, ast.AsyncWith)

    assert [node.lineno for part in handlers(tree) for node in within(part) if isinstance(node, suspending)] == []


BAD = b"bad\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def resets(connection: Connection) -> None:
    await connection.read_request()
    connection.reset()


async def silent(connection: Connection) -> None:
    await connection.read_request()
    await connection.read_until_close()


@pytest.mark.parametrize(("script", "request_", "status"), [(silent, BAD, 400), (resets, GET, 502), (silent, GET, 504)])
def test_an_exchange_that_failed_leaves_no_exception_behind_in_the_thread(script: Script, request_: bytes, status: int) -> None:
    async def main() -> None:
        timeouts = Timeouts(response_header=0.05)
        async with ScriptedUpstream(script) as fake, Engine(upstream(fake.port), route={"timeouts": timeouts}) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(request_)
                assert (await client.read_response()).status == status
                assert sys.exc_info() == (None, None, None)  # also while it lingers for what a refused client still sends

    uvloop.run(main())


def test_a_traceback_names_the_line() -> None:
    try:
        pipeline.response_head(None, None)  # type: ignore[arg-type]
    except (AttributeError, TypeError) as error:
        told = "".join(traceback.format_exception(error))
    else:
        pytest.fail("no error")

    lines = re.findall(r'File "[^"]*sidecar/proxy/respond\.py", line (\d+), in response_head', told)
    assert len(lines) == 1
    assert int(lines[0]) > 1


def test_the_version_says_whether_it_is_compiled() -> None:
    assert compiled() is not str(pipeline.__file__).endswith(".py")
    assert versions()["build"] == ("compiled" if compiled() else "pure Python")


def test_without_the_variable_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hook()
    monkeypatch.setattr(made, "compiled", lambda *_: pytest.fail("it compiles"))
    for value, version in (("", "standard"), ("0", "standard"), ("1", "editable")):
        monkeypatch.setenv(made.VARIABLE, value)
        build_data: dict[str, object] = {"pure_python": True}
        builder = made.CustomBuildHook(str(ROOT), {}, None, None, "", "wheel")
        builder.initialize(version, build_data)
        builder.finalize(version, build_data, "")
        assert build_data == {"pure_python": True}
