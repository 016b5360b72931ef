"""`python -m bench.api_requests`: how often the API server is asked in each failure, as rows of Markdown.

Three hours each, three times, by the clock of `tests/support/virtual_time.py`: the same figures on every machine. What a
failure is stands in `tests/kube/test_reflector_pace.py`, which also forbids more.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kube"))

from reflector_kit import FIRST, QUIET, ScriptedApi, following
from support.virtual_time import run_in_virtual_time
from test_reflector_pace import MODES

MINUTES = 180
SEEDS = 3


async def asked(mode: str, seed: int) -> list[float]:
    """When requests were made, in seconds since the start."""
    lists, watches, _ = MODES.get(mode, ([FIRST], [QUIET], 0.0))
    loop = asyncio.get_running_loop()
    api, began = ScriptedApi(lists, watches, honest=mode not in MODES), loop.time()
    async with following(api, seed=seed):
        await asyncio.sleep(MINUTES * 60)
    return [request.at - began for request in api.asked]


def main() -> None:
    print("| failure | first minute | each later minute, mean | most within a second |\n|---|--:|--:|--:|")
    for mode in ["none: a healthy server", *MODES]:
        runs = [run_in_virtual_time(asked(mode, seed)) for seed in range(SEEDS)]
        first = max(sum(at < 60 for at in run) for run in runs)
        later = sum(sum(at >= 60 for at in run) for run in runs) / SEEDS / (MINUTES - 1)
        most = max(sum(at <= other < at + 1 for other in run) for run in runs for at in run)
        print(f"| {mode} | {first} | {later:.1f} | {most} |")


if __name__ == "__main__":
    main()
