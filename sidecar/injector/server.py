"""The injector's composition root: builds the process of `outrider injector`, and takes it down in order.

The certificate comes from `Keeper` (our own) or `CertificateFiles` (somebody else's); both hand leaves to the port and say
why there is none. The end: not ready, answers that ask for another connection, a delay for endpoints to follow, then close.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import uvloop

from sidecar import __version__
from sidecar.admin.quiet import quiet_server_log
from sidecar.errors import UsageError
from sidecar.injector.app import Webhooks, make_app
from sidecar.injector.authority import SETTLE_SECONDS, Keeper, Place, hosts_of
from sidecar.injector.certificates import Leaf, Lifetimes
from sidecar.injector.files import CertificateFiles, DefaultsFile
from sidecar.injector.port import Port
from sidecar.injector.refusals import Refusals
from sidecar.injector.tally import Tally
from sidecar.kube.connect import make_hub
from sidecar.model.identity import Identity
from sidecar.observe import logs
from sidecar.observe.exposition import Exposition
from sidecar.observe.logs import Event, event
from sidecar.observe.runtime import RuntimeSampler, raise_fd_limit
from sidecar.server.lifecycle import Check
from sidecar.server.sockets import BindError, SocketAddress
from sidecar.server.status import Checks, Page, StatusServer
from sidecar.tasks import cancel_and_wait, create_task

_STUCK_SECONDS: Final = 10.0
"""`/livez` fails when the event loop has not come round for this long."""
_POLL_SECONDS: Final = 0.1
"""How often it is looked whether all is ready for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags of `outrider injector`."""

    listen_address: SocketAddress
    status_address: SocketAddress
    defaults: Path
    namespace: str
    """The injector's own."""
    service_name: str
    secret_name: str
    webhook_name: str
    certificate_dir: Path | None
    """Where somebody else puts certificates; None: the injector makes its own."""
    drain_delay: float
    """Seconds from SIGTERM until new connections are refused."""
    kubeconfig: Path | None = None
    context: str = ""
    log_level: str = "info"
    log_format: str = "auto"
    identity: Identity = field(default_factory=Identity)


def serve(options: Options) -> int:
    """Run the injector until it is told to end; the exit code. Raises UsageError."""
    output = logs.setup(options.log_level, options.log_format)
    try:
        code = uvloop.run(_main(options))
        event(Event.STOPPED, "good-bye", exit_code=code)
    except UsageError:
        raise
    except Exception:
        logs.logger.exception("the injector failed", extra={"event": Event.INTERNAL_ERROR.value})
        raise
    finally:
        output.close()
    return code


async def _main(options: Options) -> int:
    gc.collect()
    gc.freeze()  # what has been loaded stays: the collector need not look at it
    injector = Injector(options)
    try:
        return await injector.run()
    finally:
        await injector.aclose()


class Certificates(Protocol):
    """Where the certificate comes from."""

    @property
    def problem(self) -> str:
        """Why API servers cannot talk to us; "" when they can."""
        ...

    async def run(self) -> None:
        """Keep it current until cancelled."""
        ...


class Injector:
    """The parts and how they are joined. `run` once, then `aclose`."""

    def __init__(self, options: Options, *, lifetimes: Lifetimes = Lifetimes(), settle: float = SETTLE_SECONDS) -> None:  # noqa: B008 - frozen
        """`lifetimes` and `settle`: see `Keeper`. Raises UsageError: an address cannot be listened on."""
        self._options = options
        self._lifetimes = lifetimes
        self._settle = settle
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._expires: float | None = None
        flag = "--listen-address"
        try:
            self._port = Port(options.listen_address)
            flag = "--status-address"
            self._status = StatusServer(options.status_address, self._checks(), self._scrape)
        except BindError as error:
            raise UsageError(f"{flag}: {error}") from error
        self._sampler = RuntimeSampler()
        self._hub = make_hub(options.kubeconfig, options.context)
        self._defaults = DefaultsFile(options.defaults)
        self._certificates = self._make_certificates()
        self._refusals = Refusals(self._hub, instance=options.identity.pod)
        self._tally = Tally(
            expires=lambda: self._expires,
            ready=lambda: self.ready,
            events=lambda: self._refusals.written,
        )
        self._exposition = Exposition(self._tally.families)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Serve until told to end; the exit code. 1: a part has failed (`task_failed` in the log), and only a new start helps."""
        raise_fd_limit()
        quiet_server_log()
        self._sampler.start()
        self._catch_signals()
        addresses: dict[str, Any] = {"listen": str(self._port.address), "status": str(self._status.address)}
        event(Event.STARTING, "starting", version=__version__, **addresses, **self._options.identity.fields())
        webhooks = Webhooks(
            defaults=lambda: self._defaults.value,
            home=self._options.namespace,
            tally=self._tally,
            refusals=self._refusals,
            draining=self._stop.is_set,
        )
        await self._port.serve(make_app(webhooks))
        parts: dict[str, Callable[[], Awaitable[object]]] = {
            "defaults": self._defaults.run,
            "certificates": self._certificates.run,
            "Events": self._refusals.run,
            "end": self._stop.wait,
        }
        for_ever = [create_task(_run(part), name=name) for name, part in parts.items()]
        self._tasks = [*for_ever, create_task(self._announce(addresses), name="ready")]
        await asyncio.wait(for_ever, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if self._stop.is_set() else 1
        self._stop.set()
        event(Event.DRAINING, "not ready any more", drain_delay_s=self._options.drain_delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.drain_delay):
                await self._hurry.wait()
        return code

    @property
    def ready(self) -> bool:
        """Whether pods can be injected."""
        return all(check.ok for check in self._readiness())

    @property
    def addresses(self) -> tuple[SocketAddress, SocketAddress]:
        """Of the webhooks, and of probes and metrics."""
        return self._port.address, self._status.address

    def stop(self, *, hurry: bool = False) -> None:
        """Drain, then `run` returns. `hurry`: without `drain_delay`; asked again: now."""
        if hurry or self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def aclose(self) -> None:
        """From the outside in."""
        await self._port.aclose()
        await cancel_and_wait(self._tasks)
        await self._hub.aclose()
        await self._status.aclose()
        self._sampler.stop()

    def _make_certificates(self) -> Certificates:
        options = self._options
        if options.certificate_dir is not None:
            return CertificateFiles(options.certificate_dir, self._show)
        place = Place(options.namespace, options.secret_name, options.webhook_name)
        hosts = hosts_of(options.service_name, options.namespace)
        return Keeper(self._hub, place, hosts, self._show, lifetimes=self._lifetimes, settle=self._settle)

    def _show(self, leaf: Leaf) -> None:
        self._port.show(leaf.pair)
        self._expires = leaf.expires.timestamp()
        event(Event.CERTIFICATE_LOADED, f"{leaf.pair!r} is in use", expires=leaf.expires.isoformat(timespec="seconds"))

    def _catch_signals(self) -> None:
        """SIGTERM waits for `drain_delay`, SIGINT and a second signal do not."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, partial(self.stop, hurry=True))

    async def _announce(self, addresses: dict[str, Any]) -> None:
        """Once, when pods can be injected."""
        while not self.ready:  # noqa: ASYNC110 - what it waits for has many makers
            await asyncio.sleep(_POLL_SECONDS)
        event(Event.READY, "ready", **addresses, **self._options.identity.fields())

    # -- what is shown

    def _checks(self) -> dict[str, Checks]:
        return {"/startupz": lambda: [Check("listening", ok=True)], "/readyz": self._readiness, "/livez": self._liveness}

    def _readiness(self) -> list[Check]:
        certificate = self._certificates.problem
        return [
            Check("defaults", self._defaults.value is not None, self._defaults.problem),
            Check("certificate", not certificate, certificate),
            Check("not-draining", not self._stop.is_set(), "the injector is draining"),
        ]

    def _liveness(self) -> list[Check]:
        age = self._sampler.heartbeat_age()
        return [Check("event-loop", age < _STUCK_SECONDS, f"no heartbeat for {age:.0f}s")]

    async def _scrape(self, accept: bytes, accept_encoding: bytes) -> Page:
        return await self._exposition.render_in_slices(accept, accept_encoding)


async def _run(part: Callable[[], Awaitable[object]]) -> None:
    await part()
