"""The corpus of hostile requests: what reaches the upstream of each, and what its connection does afterwards."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from corpus_data import Vector, files, of_file
from corpus_requests import deliveries, lane, play

LANES = 8
pytestmark = pytest.mark.timeout(600)  # thousands of connections, on a machine that may be busy


async def _play_all(vectors: list[Vector]) -> list[str]:
    """Problems of all vectors, each in all its deliveries; some at a time, each lane with a sidecar of its own."""
    settings = {vector.expected.get("setting", "plain") for vector in vectors}
    problems: list[str] = []

    async def work(setting: str, mine: list[Vector]) -> None:
        async with lane(setting) as playing:
            for vector in mine:
                for delivery in deliveries(vector):
                    if wrong := await play(playing, vector, delivery):
                        problems.append(wrong)
                        break

    tasks = []
    for setting in settings:
        chosen = [vector for vector in vectors if vector.expected.get("setting", "plain") == setting]
        tasks += [work(setting, chosen[number::LANES]) for number in range(min(LANES, len(chosen)))]
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)
    return problems


@pytest.mark.parametrize("name", files("requests"))
def test_a_request_reaches_the_upstream_as_written_or_not_at_all_however_it_is_delivered(name):
    assert uvloop.run(_play_all(of_file("requests", name))) == []
