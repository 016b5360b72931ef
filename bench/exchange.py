"""`python -m bench.exchange [COUNT]`: CPU of one 1 KiB GET in the whole pipeline, without sockets and kernel.

The real connections, pipeline, pool and observers over transports that do nothing but pass bytes on, on the real loop.
Prints the least CPU per exchange over several rounds (a busy machine can only make them longer) and whether the
package is compiled. With COUNT it runs that many exchanges once and prints nothing: for profilers, and for
`valgrind --tool=callgrind --toggle-collect=...`, whose instruction counts repeat on any machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import uvloop

from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.snapshot import Backend, Listener, Mode, Route, Snapshot, Target, Upstream
from sidecar.observe.access_log import AccessLog
from sidecar.observe.fanout import Fanout
from sidecar.observe.metrics import Metrics
from sidecar.observe.output import Output
from sidecar.observe.recorder import Recorder
from sidecar.observe.tracing.service import Tracing
from sidecar.protocol.head import HeadLimits
from sidecar.proxy.pipeline import Proxy
from sidecar.proxy.plan import make_plan
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.upstream import native
from sidecar.upstream.registry import Registry

REQUEST = b"GET /bytes/1024 HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
CLIENTS = 32
ROUND = 5_000
ROUNDS = 12


class Wire(asyncio.Transport):
    """A transport that counts what is written and says so in the next turn of the loop, as a socket would."""

    def __init__(self, loop: asyncio.AbstractEventLoop, said: Any) -> None:
        super().__init__()
        self._loop = loop
        self._said = said

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name == "peername" else default

    def write(self, data: Any) -> None:  # noqa: ARG002  # the interface's
        self._loop.call_soon(self._said)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def abort(self) -> None: ...


def hear(connection: Any, data: bytes) -> None:
    """Bytes arrive, the way a loop hands them over."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


class Bench:
    """The data plane and its clients: each asks again when it has its answer, until `left` is used up."""

    def __init__(self) -> None:
        self.left = 0
        self.running = 0
        self.over = asyncio.Event()
        self.clients: list[ServerConnection] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(name="inbound", port=0, bind="127.0.0.1", mode=Mode.REVERSE)
        upstream = Upstream(name="origin", targets=(Target(host="127.0.0.1", port=1),))
        route = Route(name="all", index=0, listener="inbound", backends=(Backend(name="origin"),))
        snapshot = Snapshot(revision="1", hash="", listeners=(listener,), upstreams={"origin": upstream}, routes=(route,))
        self.log = AccessLog(Output(os.open(os.devnull, os.O_WRONLY)))
        observers = Fanout((Metrics(), self.log, Recorder(), Tracing({})))
        native.open_connection = self._connect  # no socket behind it
        registry = Registry(observers)
        await registry.reconcile(snapshot)
        self.timekeeper = Timekeeper(loop)
        proxy = Proxy(make_plan(snapshot, registry), registry, observers, self.timekeeper)
        limits = HeadLimits(listener.max_header_bytes, listener.max_header_count, listener.max_target_bytes)
        settings = ServerSettings(limits, listener.header_timeout, 0, IdleQueue(loop, listener.idle_timeout))
        owner = Owner("inbound", settings, proxy.handler("inbound"), lambda _: None, lambda _: None)
        for _ in range(CLIENTS):
            client = ServerConnection(owner)
            client.connection_made(Wire(loop, self._ask(client)))
            self.clients.append(client)
        await asyncio.sleep(0)

    def _ask(self, client: ServerConnection) -> Any:
        def ask() -> None:
            if self.left > 0:
                self.left -= 1
                hear(client, REQUEST)
            else:
                self.running -= 1
                if not self.running:
                    self.over.set()

        return ask

    async def _connect(self, endpoint: Any, *_: Any, **_more: Any) -> UpstreamConnection:
        connection = UpstreamConnection()
        connection.connection_made(Wire(connection.loop, lambda: hear(connection, ANSWER)))
        connection.endpoint = endpoint
        return connection

    async def run(self, count: int) -> None:
        self.left, self.running = count, len(self.clients)
        self.over.clear()
        for client in self.clients:
            client.transport.write(b"")
        await self.over.wait()


def compiled() -> bool:
    return not str(sys.modules["sidecar.proxy.pipeline"].__file__).endswith(".py")


async def main(count: int) -> None:
    bench = Bench()
    await bench.start()
    if count:
        await bench.run(count)
        os._exit(0)
    await bench.run(ROUND)
    times = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        await bench.run(ROUND)
        times.append((time.thread_time() - began) / ROUND * 1e6)
    print(
        f"{min(times):.2f} us per exchange ({'compiled' if compiled() else 'interpreted'}; median {sorted(times)[ROUNDS // 2]:.2f})",
        flush=True,
    )
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
