"""The document's listeners: what a reload binds, keeps and lets go, and what a drain closes when."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sidecar.errors import ProxyError
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.snapshot import Listener, Mode
from sidecar.proxy.flight import Flight
from sidecar.proxy.timekeeper import Timed, Timekeeper
from sidecar.server.port import TURNS, Handler, OpenSocket, Port, Watcher, open_own, port_key
from sidecar.server.sockets import BindError
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.store import TlsStore

MAX_SHOWN: Final = 200
WORTH_CUTTING: Final = 16 * 1024
"""Bytes below which ending an exchange gives back less than what it ends is worth."""


class ListenerError(BindError):
    """A listener of a document cannot listen; `index` is its place in `listeners`."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class Change(NamedTuple):
    """A reload that is bound and not yet in force: `Listeners.commit` or `Listeners.discard` ends it."""

    listeners: tuple[Listener, ...]
    bound: dict[tuple[str, str, int], Port]


class Listeners:
    """Owns every port. `make_handler` gives what serves the connections of a listener."""

    def __init__(
        self,
        make_handler: Callable[[Listener], Handler],
        watcher: Watcher,
        exchanges: Timekeeper,
        tls: TlsStore | None = None,
        *,
        open_at: OpenSocket = open_own,
    ) -> None:
        """`tls` is left out only where no listener has TLS."""
        self._open_at = open_at
        self._tls = TlsStore() if tls is None else tls
        self._make_handler = make_handler
        self._watcher = watcher
        self._exchanges = exchanges
        self._ports: dict[tuple[str, str, int], Port] = {}
        self._retired: dict[Port, asyncio.Task[None]] = {}
        self._closing = False
        self._most: int | None = None

    # -- reload

    def prepare(self, listeners: tuple[Listener, ...]) -> Change:
        """Bind what is new, before anything old goes. Raises ListenerError; then nothing has changed."""
        change = Change(listeners, {})
        if self._closing:  # the process is on its way out: nothing is opened any more
            return change
        wanted = {port_key(listener) for listener in listeners}
        leaving = [port for key, port in self._ports.items() if key not in wanted]
        try:
            for index, listener in enumerate(listeners):
                key = port_key(listener)
                if key not in self._ports:
                    change.bound[key] = self._bind(index, listener, leaving)
        except BaseException:
            self.discard(change)
            raise
        return change

    def _bind(self, index: int, listener: Listener, leaving: list[Port]) -> Port:
        beside = tuple(port for port in leaving if listener.port and port.address.port == listener.port)
        try:
            port = Port(listener, self._watcher, self._tls, beside=beside, open_at=self._open_at)
        except BindError as error:
            raise ListenerError(index, str(error)) from error
        port.acceptor.narrow(self._most)
        return port

    def discard(self, change: Change) -> None:
        """Close what `prepare` bound: the document is not taken after all."""
        for port in change.bound.values():
            port.acceptor.close()

    def commit(self, change: Change, drain_timeout: float) -> None:
        """The new set is in force: new ports accept, kept ones have their new settings, the others drain.

        `drain_timeout`: seconds that exchanges of removed listeners have to finish; tunnels have no limit.
        """
        kept: dict[tuple[str, str, int], Port] = {}
        for listener in change.listeners:
            key = port_key(listener)
            if key in change.bound:
                kept[key] = change.bound[key]
                kept[key].open(self._make_handler(listener))
            elif key in self._ports:
                kept[key] = self._ports[key]
                kept[key].update(listener, self._make_handler(listener))
        for key, port in self._ports.items():
            if key not in kept:
                self._retire(port, drain_timeout)
        self._ports = kept

    def _retire(self, port: Port, drain_timeout: float) -> None:
        port.stop_accepting()  # here and not in the task: a worker says that it has committed before its next turn
        task = create_task(self._drain_port(port, drain_timeout), name=f"drain {port.listener.name}")
        self._retired[port] = task

    async def _drain_port(self, port: Port, drain_timeout: float) -> None:
        try:
            await self._until_empty([port], asyncio.get_running_loop().time() + drain_timeout, asyncio.Event())
            port.abort(self._tunnels())
            await port.emptied()
            await port.aclose()
        finally:
            self._retired.pop(port, None)

    # -- what there is

    def status(self) -> list[dict[str, Any]]:
        """`GET /listeners`: `[{name, mode, address, port, protocol, state, tls, problem}]`, those that drain included."""
        return [
            {
                "name": port.listener.name,
                "mode": port.listener.mode.value,
                "address": str(port.address) if port.address.path else port.address.host,
                "port": port.address.port,
                "protocol": "HTTP1",
                "state": port.state.value,
                "tls": tls_word(port.listener),
                "problem": "" if port.listener.tls is None else self._tls.problem(port.listener.tls),
            }
            for port in self._all()
        ]

    def addresses(self) -> dict[str, str]:
        """Name -> `address:port` of the listeners in force."""
        return {port.listener.name: str(port.address) for port in self._ports.values()}

    def names(self) -> set[str]:
        """Names under which connections are served: of this document, and of earlier ones while they drain."""
        return set().union(*(port.names for port in self._all()))

    def connections(self) -> dict[str, Any]:
        """`GET /connections`: by listener how many there are, and what the first `MAX_SHOWN` of them do."""
        busy = {flight.connection: "active" for flight in _flights(self._exchanges.running)}
        busy |= {flight.connection: "tunnel" for flight in _flights(self._exchanges.tunnels)}
        shown: dict[str, Any] = {}
        for port in self._all():
            states = Counter(busy.get(connection, "idle") for connection in port.connections)
            first = [
                {
                    "client": connection.peer,
                    "port": connection.peer_port,
                    "requests": connection.requests,
                    "state": busy.get(connection, "idle"),
                }
                for connection in islice(port.connections, MAX_SHOWN)
            ]
            shown[port.listener.name] = {
                "open": len(port.connections),
                "limit": port.listener.max_connections,
                **states,
                "connections": first,
            }
        return shown

    def in_flight(self, modes: Sequence[Mode] = tuple(Mode)) -> int:
        """Exchanges and tunnels that run on listeners of these modes."""
        return sum(flight.exchange.listener.mode in modes for flight in _flights(self._exchanges))

    def _all(self) -> list[Port]:
        return [*self._ports.values(), *self._retired]

    def _of(self, modes: Sequence[Mode]) -> list[Port]:
        return [port for port in self._all() if port.listener.mode in modes]

    def _tunnels(self) -> set[ServerConnection]:
        return {flight.connection for flight in _flights(self._exchanges.tunnels)}

    # -- overload

    def running(self) -> int:
        """Exchanges in flight, without tunnels."""
        return len(self._exchanges.running)

    def narrow(self, most: int | None) -> None:
        """For now each listener has not more than `most` connections; None: that is over."""
        self._most = most
        for port in self._all():
            port.acceptor.narrow(self._most)

    def close_idle(self, keep: int, most: int | None = None) -> int:
        """Of each listener close the longer idle half of the idle connections above `keep`, `most` in all; returns how many."""
        closed = 0
        for port in self._all():
            closed += port.close_idle(keep, None if most is None else most - closed)
        return closed

    def refuse_heads(self, refusal: Callable[[], ProxyError]) -> int:
        """Wait no longer for heads that come in pieces; returns how many."""
        return sum(port.refuse_heads(refusal) for port in self._all())

    def cut_largest(self, wanted: int, refusal: Callable[[], ProxyError]) -> int:
        """End the exchanges that hold the most bytes for slow peers, until `wanted` bytes are free; returns how many."""
        holders = [(flight.connection.held(), flight) for flight in _flights(self._exchanges)]
        holders.sort(key=lambda holder: holder[0], reverse=True)
        cut = 0
        for held, flight in holders:
            if wanted <= 0 or held < WORTH_CUTTING:
                break
            flight.cut(refusal())
            wanted -= held
            cut += 1
        return cut

    def stalled(self) -> list[str]:
        """Names of listeners whose clients wait to be accepted because memory or descriptors are short."""
        return sorted(port.listener.name for port in self._all() if port.acceptor.stalled)

    # -- drain

    def has(self, modes: Sequence[Mode] = tuple(Mode)) -> bool:
        """Whether a listener of these modes accepts, or has connections."""
        return bool(self._of(modes))

    def say_close(self, modes: Sequence[Mode]) -> None:
        """A drain begins: responses say `Connection: close`, and reloads bind nothing any more."""
        self._closing = True
        for port in self._of(modes):
            port.say_close()

    def last_opened(self, modes: Sequence[Mode]) -> float:
        """When the last connection came to these listeners since `say_close` (the loop's time); -inf: none did."""
        return max((port.last_opened for port in self._of(modes)), default=-math.inf)

    async def close(self, modes: Sequence[Mode], deadline: float, now: asyncio.Event) -> int:
        """Stop accepting on these listeners and let what runs finish until `deadline` (or `now`); then cut the rest.

        Returns how many connections were cut while something was still to be said on them.
        """
        ports = self._of(modes)
        for port in ports:
            port.stop_accepting()
        await self._until_empty(ports, deadline, now)
        return sum(port.abort() for port in ports)

    async def _until_empty(self, ports: list[Port], deadline: float, now: asyncio.Event) -> None:
        """Until no connection is left; those that wait for nothing close by themselves."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        ends = [create_task(_all_emptied(ports), name="drained"), create_task(now.wait(), name="now")]
        try:
            left = max(deadline - asyncio.get_running_loop().time(), 0.0)
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(ends)

    async def aclose(self) -> None:
        """Cut what is left and give everything back."""
        self._closing = True
        retired = list(self._retired.items())
        for _, task in retired:
            task.cancel()
        for port in [*self._ports.values(), *(port for port, _ in retired)]:
            await port.aclose()
        self._ports.clear()


def tls_word(listener: Listener) -> str:
    """`""`, `TLS`, or `mTLS` where clients are asked for certificates."""
    if listener.tls is None:
        return ""
    return "TLS" if listener.tls.client_ca is None else "mTLS"


def _flights(timed: Iterable[Timed]) -> Iterable[Flight]:
    return (item for item in timed if isinstance(item, Flight))


async def _all_emptied(ports: list[Port]) -> bool:
    for port in ports:
        await port.emptied()
    return True
