"""`outrider status`: one screen about a running sidecar."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sidecar.cli.client import AdminClient
from sidecar.cli.flags import add_admin_flag, add_flag, add_switch, admin_address, duration, one_of
from sidecar.cli.rates import Counts, Totals, rates, totals
from sidecar.model.quantity import format_duration
from sidecar.observe.text import printable

EXAMPLE = """\
example:
  outrider status --watch
  kubectl exec deploy/orders -c outrider -- outrider status

exit status: 0 ready, 1 not ready, or no sidecar answered
"""
MAX_ROWS: Final = 40
"""Rows of a list on the screen; `--output json` has them all."""
_CLEAR: Final = "\x1b[H\x1b[2J"

Json = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1, and how long rates are measured."""
    parser.epilog = EXAMPLE
    add_switch(parser, "--watch", help="show it again and again, until Ctrl-C")
    add_flag(parser, "--interval", parse=duration, default="1s", metavar="DURATION", help="how long rates are measured (default 1s)")
    add_flag(parser, "--output", parse=one_of("text", "json"), default="text", metavar="FORMAT", help="text or json (default text)")
    add_admin_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Look twice, show what is and what happened in between. Raises AdminError."""
    client = AdminClient(admin_address(args))
    show = _as_json if args.output == "json" else _as_text
    clear = args.watch and args.output == "text" and sys.stdout.isatty()
    while True:
        view = look(client, args.interval)
        print((_CLEAR if clear else "") + show(view), flush=True)
        if not args.watch:
            return 0 if view["readiness"]["ready"] else 1


def look(client: AdminClient, interval: float) -> dict[str, Any]:
    """Everything that the screen shows; takes `interval` seconds."""
    before, since = totals(client.get_text("/metrics")), time.monotonic()
    time.sleep(interval)
    after, seconds = totals(client.get_text("/metrics")), max(time.monotonic() - since, 0.001)
    overview = client.get("/overview")
    return {**overview, "address": client.address, "interval": interval, "rates": rates(before, after, seconds)}


def _as_json(view: Json) -> str:
    told = {kind: {name: asdict(counts) for (of, name), counts in view["rates"].items() if of == kind} for kind in ("listener", "upstream")}
    return json.dumps({**view, "rates": told})


def _as_text(view: Json) -> str:
    return "\n".join(printable(line) for line in _lines(view))


def _lines(view: Json) -> Iterator[str]:
    readiness = view["readiness"]
    word = "ready" if readiness["ready"] else f"NOT READY ({readiness['state']})"
    yield f"outrider {view['version']} at {view['address']}: {word}, up {_age(view['uptimeSeconds'])}"
    for check in readiness["checks"]:
        if not check["ok"]:
            yield f"  ! {check['name']}: {check['detail'] or 'not yet'}"
    yield ""
    yield from _configuration(view)
    yield from _listeners(view["listeners"], view["rates"])
    yield from _upstreams(view["upstreams"], view["rates"])


def _age(seconds: float) -> str:
    return format_duration(float(int(seconds)))


def _configuration(view: Json) -> Iterator[str]:
    config, problems = view["config"], view["problems"]
    if config["revision"] is None:
        yield "Configuration  none: no valid document has come yet"
    else:
        yield f"Configuration  revision {config['revision']} from {config['source']}, active since {config['loadedAt']}"
    for source in view["sources"]:
        if not source["connected"]:
            yield f"  ! {source['name']}: {source['problem']}"
    if problems["problems"]:
        yield f"  ! the newest document (revision {problems['revision']}) was refused at {problems['rejectedAt']}:"
        yield from _bounded([f"    line {one['line']}, {one['path'] or 'document'}: {one['message']}" for one in problems["problems"]])
    yield ""


def _bounded(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:MAX_ROWS]
    if len(lines) > MAX_ROWS:
        yield f"    and {len(lines) - MAX_ROWS} more"


def _listeners(listeners: Sequence[Json], measured: Totals) -> Iterator[str]:
    rows = [("Listeners", "mode", "address", "state", *_HEADINGS)]
    for listener in listeners:
        address = listener["address"] if str(listener["address"]).startswith("unix:") else f"{listener['address']}:{listener['port']}"
        counts = measured.get(("listener", listener["name"]), Counts())
        state = " ".join(filter(None, (listener["state"], listener["tls"])))
        rows.append((f"  {listener['name']}", listener["mode"], address, state, *_cells(counts)))
    yield from _bounded(_aligned(rows))
    for listener in listeners[:MAX_ROWS]:
        if listener["problem"]:
            yield f"    {listener['name']}: {listener['problem']}"
    yield ""


_HEADINGS: Final = ("req/s", "5xx/s", "retries/s", "bytes/s")


def _cells(counts: Counts) -> tuple[str, str, str, str]:
    return f"{counts.requests:.1f}", f"{counts.errors:.1f}", f"{counts.retries:.1f}", f"{counts.bytes:.0f}"


def _upstreams(upstreams: Sequence[Json], measured: Totals) -> Iterator[str]:
    rows = [("Upstreams", "state", "in flight", "connections", *_HEADINGS)]
    for upstream in upstreams:
        healthy = sum(endpoint["state"] == "healthy" for endpoint in upstream["endpoints"])
        pool = upstream["pool"]
        connections = f"{pool['active']} active, {pool['idle']} idle"
        counts = measured.get(("upstream", upstream["name"]), Counts())
        state = f"{healthy} of {len(upstream['endpoints'])} healthy"
        rows.append((f"  {upstream['name']}", state, str(upstream["inFlight"]), connections, *_cells(counts)))
        rows += [(f"    {one['address']}", one["state"], str(one["inFlight"]), "", "", "", "", "") for one in upstream["endpoints"]]
        if upstream["problem"]:
            rows.append((f"    ! {upstream['problem']}", "", "", "", "", "", "", ""))
    yield from _bounded(_aligned(rows))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Left-aligned columns, two blanks apart; a remark does not widen its column."""
    widths = [max((len(cell) for cell in column if not cell.startswith("    !")), default=0) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
