"""The in-process data plane alone in a process, so that its memory can be read: `python engine_process.py UPSTREAM_PORT`.

Prints its port; then, for each line on stdin, its highest resident set since the line before (KiB).
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvloop
from support.engine import Engine, upstream


def peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): begin to measure anew
    return int(status.partition("VmHWM:")[2].split()[0])


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


async def main() -> None:
    async with Engine(upstream(int(sys.argv[1]))) as engine:
        say(engine.port())
        while await asyncio.to_thread(sys.stdin.readline):
            say(peak())


uvloop.run(main())
