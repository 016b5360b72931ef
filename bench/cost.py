"""`python -m bench.cost`: what one 1 KiB GET costs in the sources, by stage: counted, not timed, so that it repeats on any machine.

Bytecode instructions of the interpreter, by the part of the package that they are of, over the same harness as
`bench.exchange`; writes, waits and timers, of which a system call or a turn of the loop comes. Prints JSON. Calls into C
count as one instruction, whatever they do: `bench.exchange` under callgrind tells those apart.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop

from bench.exchange import Bench, Wire, compiled
from sidecar.http1.connection import Connection

PACKAGE = Path(__file__).parent.parent / "sidecar"
WARM = 2_000
COUNTED = 200


class Instructions:
    """Counts the instructions that run in the package, by file, between `start` and `stop`."""

    def __init__(self) -> None:
        self.by_file: Counter[str] = Counter()

    def start(self) -> None:
        """From now on, on this thread."""
        if sys.version_info < (3, 12):
            sys.settrace(self._call)
            return
        monitoring = sys.monitoring  # 3.12's sys.settrace tells of no instructions
        monitoring.use_tool_id(monitoring.PROFILER_ID, "bench.cost")
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, self._instruction)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION)

    def stop(self) -> None:
        """No more."""
        if sys.version_info < (3, 12):
            sys.settrace(None)
        else:
            sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)

    def _instruction(self, code: CodeType, _offset: int) -> Any:
        if not code.co_filename.startswith(str(PACKAGE)):
            return sys.monitoring.DISABLE
        self.by_file[code.co_filename] += 1
        return None

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """A call begins, or a coroutine goes on."""
        if not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._one

    def _one(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.by_file[frame.f_code.co_filename] += 1
        return self._one


def stage(filename: str) -> str:
    """`proxy/admit` for the stages of the pipeline, the package (`protocol`, `observe`) for what they call."""
    path = Path(filename).relative_to(PACKAGE).with_suffix("")
    return str(path) if path.parts[0] == "proxy" else path.parts[0]


class Events:
    """Counts what the loop is asked for: of the connections' writes and waits, of the loop's timers."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def watch(self, owner: type, name: str, what: str) -> None:
        real, seen = getattr(owner, name), self.seen

        def counted(*arguments: Any) -> Any:
            seen[what] += 1
            return real(*arguments)

        setattr(owner, name, counted)


async def main() -> None:
    if compiled():
        raise SystemExit("the package is compiled: there are no bytecode instructions to count")
    events = Events()
    events.watch(Wire, "write", "writes")
    events.watch(Connection, "arrival", "waits")
    bench = Bench()
    await bench.start()
    bench.timekeeper._timer = asyncio.get_running_loop().call_later(3600, int)  # no sweeps: a slow machine has more of them
    await bench.run(WARM)
    events.seen.clear()
    counted = Instructions()
    counted.start()
    await bench.run(COUNTED)
    counted.stop()
    asked = len(bench.clients)  # their first write is the harness's own
    instructions: Counter[str] = Counter()
    for filename, number in counted.by_file.items():
        instructions[stage(filename)] += number
    figures = {
        "instructions": {name: round(number / COUNTED) for name, number in sorted(instructions.items())},
        "writes": (events.seen["writes"] - asked) / COUNTED,
        "waits": events.seen["waits"] / COUNTED,
    }
    print(json.dumps(figures, indent=1), flush=True)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
