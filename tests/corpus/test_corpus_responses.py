"""The corpus of hostile responses: what the client gets of each, and whether its connection is used again."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from corpus_data import Vector, files, of_file
from corpus_responses import deliveries, lane, play

LANES = 8
pytestmark = pytest.mark.timeout(600)  # thousands of connections, on a machine that may be busy


async def _play_all(vectors: list[Vector]) -> list[str]:
    problems: list[str] = []

    async def work(mine: list[Vector]) -> None:
        async with lane() as playing:
            for vector in mine:
                for delivery in deliveries(vector):
                    if wrong := await play(playing, vector, delivery):
                        problems.append(wrong)
                        break

    async with asyncio.TaskGroup() as group:
        for number in range(min(LANES, len(vectors))):
            group.create_task(work(vectors[number::LANES]))
    return problems


@pytest.mark.parametrize("name", files("responses"))
def test_a_response_reaches_the_client_as_written_or_not_at_all_however_it_is_delivered(name):
    assert uvloop.run(_play_all(of_file("responses", name))) == []
