"""What the tests of several processes share: a sidecar with workers, its metrics as numbers, and the workers' own processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from support import RawClient, Sidecar
from support.upstream import Connection, Script, response

PATIENCE = 60.0
"""Seconds that any condition here may take to come about; the machine may be busy."""
IN = {"name": "inbound", "port": 0, "bind": "127.0.0.1"}
OUT = {"name": "outbound", "port": 0, "bind": "127.0.0.1", "mode": "Forward"}
LINE = re.compile(r"^(\w+)(?:\{(.*)\})? ([^ ]+)(?: # .*)?$", re.MULTILINE)


def document(port: int, *listeners: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One upstream on `port`, every request to it."""
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": list(listeners) or [IN],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
        "lifecycle": {"drainDelay": "0s", "drainTimeout": "20s"},
        **more,
    }


def of_workers(count: int, text: Any, *flags: str, **more: Any) -> Sidecar:
    """A sidecar with so many workers."""
    return Sidecar(text, flags=[f"--workers={count}", *flags], timeout=PATIENCE, **more)


def says(text: bytes, *, wait: Callable[[], Awaitable[object]] | None = None) -> Script:
    """Answers every request with `text`, after `wait`."""

    async def play(connection: Connection) -> None:
        while True:
            await connection.read_request()
            if wait is not None:
                await wait()
            await connection.send(response(body=text))

    return play


async def open_client(sidecar: Sidecar, listener: str = "inbound") -> RawClient:
    """A new connection."""
    return await RawClient.open(sidecar.port(listener), timeout=PATIENCE)


async def close(*clients: RawClient) -> None:
    """Close them."""
    for client in clients:
        await client.__aexit__(None, None, None)


async def admin(sidecar: Sidecar, path: str, *, method: str = "GET", body: bytes = b"") -> Any:
    """What the admin surface answers, as JSON."""
    async with await RawClient.open(sidecar.admin_port, timeout=PATIENCE) as client:
        return json.loads((await client.request(path, host="localhost", method=method, body=body)).body)


async def status(sidecar: Sidecar, path: str, headers: str = "") -> tuple[int, str]:
    """What the status surface answers."""
    async with await RawClient.open(sidecar.status_port, timeout=PATIENCE) as client:
        reply = await client.request(path, headers=headers)
        return reply.status, reply.body.decode()


async def metrics(sidecar: Sidecar) -> dict[tuple[str, str], float]:
    """(name, labels) -> value; a series that is there twice is a mistake."""
    found: dict[tuple[str, str], float] = {}
    for name, labels, value in LINE.findall((await status(sidecar, "/metrics"))[1]):
        assert (name, labels) not in found, (name, labels)
        found[name, labels] = float(value)
    return found


def total(numbers: dict[tuple[str, str], float], name: str, part: str = "") -> float:
    """The sum of the series of a metric whose labels have `part`."""
    return sum(value for (one, labels), value in numbers.items() if one == name and part in labels)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.05)


async def workers(sidecar: Sidecar) -> list[dict[str, Any]]:
    """The workers that serve, by number."""
    return list((await admin(sidecar, "/runtime"))["workers"])


async def pids(sidecar: Sidecar) -> list[int]:
    """Their process ids."""
    return [worker["pid"] for worker in await workers(sidecar)]


def kill(pid: int) -> None:
    """As the kernel does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """The processes below `pid`."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(child) for child in file.read().split()]
    return [*children, *(below for child in children for below in family(child))]


def alive(pid: int) -> bool:
    """Whether it runs; a process that has ended and that nobody has asked about does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def all_gone(processes: Sequence[int]) -> None:
    """Wait until none of them runs."""

    async def gone() -> bool:
        return not any(map(alive, processes))

    await until(gone)
