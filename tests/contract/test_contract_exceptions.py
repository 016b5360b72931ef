"""The exceptions from the contract: the data, the tests and the reference agree."""

from __future__ import annotations

import importlib
from pathlib import Path

import uvloop
from contract_exceptions import HTTP2
from contract_kit import Kind, calling, over_http2, read, within

REFERENCE = Path(__file__).parents[2] / "docs/reference.md"


def test_the_reference_has_the_exceptions_and_no_others() -> None:
    section = REFERENCE.read_text().split("## What a client cannot carry")[1].split("\n## ")[0]
    rows = [line.split(" | ")[1] for line in section.splitlines() if line.startswith("| `Httpx`")]
    assert rows == [exception.what for exception in HTTP2]
    assert "`Aiohttp`" not in section


def test_each_exception_has_a_test_that_shows_it() -> None:
    for exception in HTTP2:
        module, _, name = exception.shown_by.partition(".")
        assert callable(getattr(importlib.import_module(module), name))


@over_http2
def test_http2_has_no_reason_phrase(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, _):
            assert (await caller.ask()).reason == b""

    uvloop.run(main())


@over_http2
def test_over_http2_nothing_is_learned_about_idle_connections(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(200, [(b"x", b"y")])) as (caller, _):
            response = await within(caller.send())
            await within(read(response))
            assert caller.counts.learned_idle_timeout is None

    uvloop.run(main())
