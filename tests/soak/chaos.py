"""Mixed load while everything around the sidecar changes at random: `python -m soak.chaos [--seconds 3600] [--seed N] [--workers N] [--plot FILE]`.

One real sidecar, its upstreams in this process (plain, over TLS, over HTTP/2, and one that gets copies), sixteen clients, plain and over
TLS. Reloads, restarts of upstreams, endpoints that come and go, a listener that is drained and comes back, certificates that are rotated,
clients that leave in the middle. Every answer must belong to its request; every failure must have a reason in the sidecar's own log; memory
and descriptors must be flat after warm-up. Exit 1 when one of these does not hold. The seed is printed: the same one gives the same order
of events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import uvloop
from soak.clients import KINDS, Client, Door, Tally
from soak.plot import Sample, draw
from soak.upstreams import Http2Server, Shadow, Upgrading, Upstreams
from support import Sidecar
from support.certificates import issue
from support.ports import free_ports
from support.tls import CA, client, write

from bench import machine

CLIENTS: Final = 16
LISTENERS: Final = ("inbound", "secure", "second")
MAX_GROWTH: Final = 4 * 1024 * 1024
"""Bytes of resident memory of a process between the second quarter of the run and the last: fragmentation, not a leak."""
MAX_MORE_DESCRIPTORS: Final = 40
UNANSWERED: Final = 0.01
"""Share of requests whose connection may close while they are on their way."""
ENOUGH: Final = 5000
"""Requests after which every kind of exchange must have succeeded."""


class Chaos:
    """What happens to everything else."""

    def __init__(self, rng: random.Random, sidecar: Sidecar, upstreams: Upstreams, document: Document, tally: Tally) -> None:
        self.rng = rng
        self.sidecar = sidecar
        self.upstreams = upstreams
        self.document = document
        self.tally = tally
        self.second = True

    async def run(self, ending: asyncio.Event) -> None:
        """An event after the other until `ending`."""
        happen = (self._reload, self._reload, self._restart, self._restart, self._endpoints, self._listener, self._certificate)
        while not ending.is_set():
            one = self.rng.choice(happen)
            await one()
            self.tally.events[one.__name__.removeprefix("_")] += 1
            await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        await self._apply(self.upstreams.ports["app"])

    async def _apply(self, app: list[int]) -> None:
        applied = len(self.sidecar.events("config_applied"))
        self.sidecar.edit(self.document.now(app, second=self.second))
        await self.sidecar.await_for("config_applied", count=applied + 1)

    async def _reload(self) -> None:
        await self._apply(self.upstreams.ports["app"])

    async def _endpoints(self) -> None:
        every = self.upstreams.ports["app"]
        await self._apply(self.rng.sample(every, self.rng.randrange(1, len(every))))

    async def _restart(self) -> None:
        port = self.upstreams.one(self.rng)
        await self.upstreams.down(port)
        await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        await self.upstreams.up(port)

    async def _listener(self) -> None:
        """The second listener drains and is gone, or comes back on its port."""
        self.second = not self.second
        await self._apply(self.upstreams.ports["app"])

    async def _certificate(self) -> None:
        """The listener's certificate is replaced; connections go on."""
        await asyncio.to_thread(self.document.rotate)


class Document:
    """The sidecar's document, and the files that it names."""

    def __init__(self, folder: Path, upstreams: Upstreams) -> None:
        self.folder = folder
        self.upstreams = upstreams
        self.ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        """Of listeners, whether they listen now or not."""
        self.revision = 0
        write(folder, ca=CA)
        self.rotate()

    def rotate(self) -> None:
        """Another certificate of the listener."""
        write(self.folder, listener=issue(CA, "local", hosts=["127.0.0.1", "localhost"]))

    def now(self, app: list[int], *, second: bool) -> dict[str, Any]:
        """The document of this moment; something that clients do not notice differs each time."""
        self.revision += 1
        files = {name: str(self.folder / name) for name in ("ca.crt", "listener.crt", "listener.key")}
        names = [name for name in LISTENERS if second or name != "second"]
        tls = {"certFile": files["listener.crt"], "keyFile": files["listener.key"]}
        listeners = [{"name": name, "port": self.ports[name], "bind": "127.0.0.1"} for name in names]
        return {
            "apiVersion": "outrider.dev/v1alpha1",
            "kind": "SidecarConfig",
            "listeners": [{**one, "tls": tls} if one["name"] == "secure" else one for one in listeners],
            "upstreams": [
                self._upstream("app", app, outlierDetection={"consecutiveFailures": 3, "minPenalty": "500ms", "maxPenalty": "2s"}),
                self._upstream(
                    "secure",
                    circuitBreaker={"consecutiveFailures": 5, "openFor": "100ms"},
                    tls={"caCertificateRefs": [{"file": files["ca.crt"]}], "wellKnownCACertificates": "None"},
                ),
                self._upstream("h2", client="Httpx", protocol="H2C"),
                self._upstream("shadow"),
            ],
            "routes": [self._route("secure"), self._route("h2"), self._route("mirrored"), self._route("")],
            "telemetry": {"accessLog": {"sample": 0, "always": ["Error"]}},
            "lifecycle": {"drainTimeout": "5s"},
        }

    def _upstream(self, name: str, ports: list[int] | None = None, **more: Any) -> dict[str, Any]:
        scheme = "https" if name == "secure" else "http"
        return {
            "name": name,
            "targets": [{"url": f"{scheme}://127.0.0.1:{port}"} for port in ports or self.upstreams.ports[name]],
            "retryBudget": {"percent": 50},
            "connectionPool": {"maxConnections": 32},
            **more,
        }

    def _route(self, to: str) -> dict[str, Any]:
        upstream = "app" if to in ("", "mirrored") else to
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow"}}}
        return {
            "name": to or "all",
            **({"matches": [{"headers": [{"name": "x-to", "value": to}]}]} if to else {}),
            **({"filters": [mirror]} if to == "mirrored" else {}),
            "backendRefs": [{"name": upstream}],
            "timeouts": {"responseHeader": f"{20_000 + self.revision % 1000}ms"},
            "retry": {"attempts": 2, "codes": [503], "backoff": "5ms", "maxBackoff": "20ms"},
        }


def look(sidecar: Sidecar, tally: Tally, begun: float) -> Sample:
    """The process now, its workers included."""
    descriptors = 0
    for one in machine.family(sidecar.pid):
        with contextlib.suppress(FileNotFoundError):  # a child that has ended
            descriptors += len(list(Path(f"/proc/{one}/fd").iterdir()))
    return Sample(time.monotonic() - begun, machine.rss_bytes(sidecar.pid), descriptors, tally.done, len(tally.failed))


def explained(sidecar: Sidecar, tally: Tally) -> tuple[Counter[str], list[str]]:
    """Failures by what the client saw and the reason in the sidecar's log, and those for which the log has none."""
    reasons = {line["request_id"]: line["reason"] for line in sidecar.events("access") if line.get("reason")}
    found: Counter[str] = Counter()
    left = []
    for tag, saw in tally.failed.items():
        reason = reasons.get(tag)
        if reason is None and saw == "no answer":
            tally.unanswered += 1
        elif reason is None and saw == "tunnel cut" and tag in Upgrading.cut:
            found["tunnel cut: its upstream crashed"] += 1
        elif reason is None:
            left.append(f"{tag}: {saw}")
        else:
            found[f"{saw}: {reason}"] += 1
    return found, left


def average(values: list[int]) -> float:
    """Of some samples."""
    return sum(values) / max(len(values), 1)


def verdict(samples: list[Sample], tally: Tally, unexplained: list[str], processes: int) -> list[str]:
    """What did not hold."""
    quarter = max(len(samples) // 4, 1)
    steady, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    growth = average([one.rss for one in last]) - average([one.rss for one in steady])
    more = average([one.descriptors for one in last]) - average([one.descriptors for one in steady])
    broken = [f"wrong answer: {one}" for one in (tally.wrong + Shadow.mixed_up + Http2Server.malformed)[:10]]
    broken += [f"failure that the log does not explain: {one}" for one in unexplained[:10]]
    if growth > MAX_GROWTH * processes:
        broken.append(f"memory grew by {growth / 1024:.0f} KiB after warm-up")
    if more > MAX_MORE_DESCRIPTORS * processes:
        broken.append(f"descriptors grew by {more:.0f} after warm-up")
    if tally.unanswered > max(tally.done * UNANSWERED, 20):
        broken.append(f"{tally.unanswered} of {tally.done} requests got no byte, and no reason")
    if tally.done > ENOUGH:
        wanted = (*KINDS, "to app", "to secure", "to h2", "over TLS", "plain")
        broken += [f"nothing of this kind ever succeeded: {kind}" for kind in wanted if not tally.kinds[kind]]
        broken += [] if Shadow.copies[b"POST"] else ["no copy of a request ever came"]
    return broken


async def soak(seconds: float, seed: int, workers: int = 1) -> tuple[dict[str, Any], list[Sample], list[str]]:
    """The run: its figures, its samples, and what did not hold."""
    rng, tally, upstreams, ending = random.Random(seed), Tally(), Upstreams(), asyncio.Event()
    await upstreams.start()
    with tempfile.TemporaryDirectory(prefix="outrider-soak-") as folder:
        document, believed = Document(Path(folder), upstreams), client()
        flags = [f"--workers={workers}"] if workers > 1 else []
        told = {"PYTHONFAULTHANDLER": "1"}  # an end by a signal says where it came from
        async with Sidecar(document.now(upstreams.ports["app"], second=True), flags=flags, env=told) as sidecar:
            ports = document.ports
            chaos = Chaos(rng, sidecar, upstreams, document, tally)
            idle = look(sidecar, tally, time.monotonic())

            def door(of: random.Random) -> Door:
                dice = of.random()
                if dice < 0.25:
                    return Door(ports["secure"], believed)
                return Door(ports["second"] if chaos.second and dice < 0.5 else ports["inbound"], None)

            async with asyncio.TaskGroup() as group:
                group.create_task(chaos.run(ending))
                for number in range(CLIENTS):
                    own = random.Random(f"{seed}-{number}")
                    group.create_task(Client(number, own, tally, lambda own=own: door(own)).run(ending))  # type: ignore[misc]  # mypy cannot infer it
                samples = await _watch(sidecar, tally, seconds)
                ending.set()
            await asyncio.sleep(1.0)
            found, unexplained = explained(sidecar, tally)
            after = look(sidecar, tally, time.monotonic())
        await upstreams.stop()
    figures = {
        "seconds": seconds,
        "seed": seed,
        "workers": workers,
        "requests": tally.done,
        "answered": dict(tally.answered),
        "answered, by kind": dict(sorted(tally.kinds.items())),
        "copies": {method.decode(): count for method, count in Shadow.copies.items()},
        "failed, by what the client saw and the reason in the log": dict(found),
        "closed without a byte while the request was on its way": tally.unanswered,
        "events": dict(tally.events),
        "cross-talk or repeated": len(tally.wrong) + len(Shadow.mixed_up) + len(Http2Server.malformed),
        "unexplained": len(unexplained),
        "MiB": {"idle": _mib(idle.rss), "most": _mib(max(one.rss for one in samples)), "last": _mib(samples[-1].rss)},
        "descriptors": {"idle": idle.descriptors, "most": max(one.descriptors for one in samples), "afterwards": after.descriptors},
    }
    return figures, samples, verdict(samples, tally, unexplained, workers)


def _mib(size: int) -> float:
    return round(size / 1024 / 1024, 1)


async def _watch(sidecar: Sidecar, tally: Tally, seconds: float) -> list[Sample]:
    begun, samples = time.monotonic(), []
    while (passed := time.monotonic() - begun) < seconds:
        samples.append(look(sidecar, tally, begun))
        await asyncio.sleep(min(max(seconds / 600, 0.2), max(seconds - passed, 0.05)))
    return samples


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m soak.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--workers", type=int, default=1, help="of the sidecar")
    parser.add_argument("--plot", default="", help="where to write an SVG of the run")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    figures, samples, broken = uvloop.run(soak(options.seconds, options.seed, options.workers))
    print(json.dumps(figures, indent=1))
    if options.plot:
        Path(options.plot).write_text(
            draw(samples, f"{options.seconds:.0f} s, seed {options.seed}, workers {options.workers}"), encoding="utf-8"
        )
    for one in broken:
        print(f"FAILED: {one}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
