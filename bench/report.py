"""Figures to Markdown: medians, spread, ratios to Envoy of the same round."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

from bench.machine import NOISY_SPREAD, spread
from bench.peers import OURS, YARDSTICK
from bench.plot import bars

BEGIN, END = "<!-- figures: begin (written by `make bench`) -->", "<!-- figures: end -->"
Samples = dict[str, list[dict[str, float]]]
"""By peer, one entry for each round."""


RATE_TITLES: Final = {
    "get_1k": ("1 KiB GET, 32 keep-alive connections", "cpu_us", "CPU us per request"),
    "get_1k_1": ("1 KiB GET, 1 keep-alive connection", "cpu_us", "CPU us per request"),
    "get_1k_512": ("1 KiB GET, 512 keep-alive connections", "cpu_us", "CPU us per request"),
    "post_16k": ("16 KiB POST, 32 keep-alive connections", "cpu_us", "CPU us per request"),
    "fresh": ("1 KiB GET, a connection for each request", "cpu_us", "CPU us per request"),
    "download_10m": ("10 MiB download, 4 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
    "upload_10m": ("10 MiB upload, 4 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
    "download_1g": ("1 GiB download, 2 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
    "upload_1g": ("1 GiB upload, 2 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
}
"""Scenario -> heading, figure, and what the figure is called."""
SINGLE_TITLES: Final = {
    "websocket": (
        "WebSocket messages of 128 bytes there and back, 32 tunnels",
        {"cpu_us": "CPU us per message and its echo", "rps": "messages/s"},
    ),
    "tls": (
        "TLS 1.3 towards clients, P-256",
        {
            "get_us": "CPU us of a 1 KiB GET, kept connections",
            "full_us": "full handshake and one request",
            "resumed_us": "resumed handshake and one request",
        },
    ),
    "workers": (
        "Two workers against one (1 KiB GET, 32 keep-alive connections): CPU",
        {"one_us": "us with 1", "many_us": "us with 2", "ratio": "ratio"},
    ),
    "routes": ("1,000 routes against one (1 KiB GET)", {"one_us": "us with 1", "many_us": "us with 1,000", "ratio": "ratio"}),
    "reload": (
        "Reload of the sidecar at 500 requests per second",
        {
            "one_s": "one route: in force after s",
            "one_slower_ms": "slowest request above the slowest before, ms",
            "large_s": "1 MiB: in force after s",
            "large_slower_ms": "slowest request above, ms",
        },
    ),
    "big_bodies": (
        "Memory per exchange: {size} MiB bodies, four at a time, slow reader",
        {"download_kib": "download KiB", "upload_kib": "upload KiB"},
    ),
    "idle": (
        "At rest, and {idle} idle keep-alive connections",
        {"rss_mb": "RSS MB", "wakeups_per_s": "wake-ups/s", "cpu_ms_per_s": "CPU ms/s", "kib_each": "KiB for each connection"},
    ),
    "start": ("Start to the first answer", {"ready_seconds": "seconds", "rss_mb": "RSS MB then"}),
    "quota": (
        "A tenth of a core (control group): start, and 50 requests per second",
        {"ready_seconds": "start to the first answer, s", "p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    ),
}


def column(samples: Samples, peer: str, figure: str) -> list[float]:
    return [one[figure] for one in samples.get(peer, [])]


def median(samples: Samples, peer: str, figure: str) -> float:
    return statistics.median(column(samples, peer, figure))


def ratios(samples: Samples, peer: str, figure: str) -> list[float]:
    """`peer` to Envoy, round by round."""
    return [mine / other for mine, other in zip(column(samples, peer, figure), column(samples, YARDSTICK, figure), strict=False) if other]


def unsettled(results: dict[str, Samples]) -> dict[str, str]:
    """The scenarios in which the rounds of one proxy disagree too much to be compared, and why. They are not reported."""
    why: dict[str, str] = {}
    for name, samples in results.items():
        for peer in (OURS, YARDSTICK):
            if (seen := spread(column(samples, peer, "cpu_us"))) > NOISY_SPREAD:
                why[name] = f"the rounds of {peer} spread by {seen:.0%} of their median; more than {NOISY_SPREAD:.0%} is not reported"
    return why


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def rate_table(samples: Samples, figure: str, unit: str) -> str:
    rows = []
    for peer in samples:
        values, to_envoy = column(samples, peer, figure), ratios(samples, peer, figure)
        ratio = f"{statistics.median(to_envoy):.2f} ({min(to_envoy):.2f}-{max(to_envoy):.2f})" if to_envoy else "-"
        name = f"**{peer}**" if peer == OURS else peer
        rss, rate = median(samples, peer, "rss_mb"), median(samples, peer, "rps")
        rows.append(
            [
                name,
                f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})",
                ratio,
                f"{rss:.0f}",
                f"{rate:,.0f}",
                f"{median(samples, peer, 'p99_ms'):.1f}",
            ]
        )
    return table(["proxy", unit, "ratio to Envoy", "RSS MB", "requests/s", "p99 ms"], rows)


def single_table(samples: Samples, figures: dict[str, str]) -> str:
    rows = [[f"**{peer}**" if peer == OURS else peer, *(f"{median(samples, peer, figure):.3g}" for figure in figures)] for peer in samples]
    return table(["proxy", *figures.values()], rows)


def latency_table(samples: Samples) -> str:
    """Milliseconds by rate: p50, p99 and p99.9, each the median of the rounds."""
    rates = list(dict.fromkeys(name.split(" at ", 1)[1] for name in next(iter(samples.values()))[0]))
    rows = []
    for peer in samples:
        cells = [
            " / ".join(f"{median(samples, peer, f'{rank} at {rate}'):.2f}" for rank in ("p50_ms", "p99_ms", "p99.9_ms")) for rate in rates
        ]
        rows.append([f"**{peer}**" if peer == OURS else peer, *cells])
    return table(["proxy", *(f"{rate} requests/s" if rate[-1].isdigit() else rate for rate in rates)], rows)


def markdown(raw: dict[str, Any], *, noisy: bool = False) -> str:
    """The whole of what stands between the markers."""
    rates, single = raw["rates"], raw["single"]
    machine = ", ".join(f"{key} {value}" for key, value in raw["machine"].items())
    peers = ", ".join(f"{name} {version}" for name, version in raw["peers"].items())
    parts = [f"Measured {raw['date']}: {machine}. {peers}." + (f" Absent: {', '.join(raw['absent'])}." if raw["absent"] else "")]
    plan = raw["plan"]
    parts.append(
        f"{plan['rounds']} interleaved rounds of {plan['seconds']:g} s for the first table, {plan['few']} of {plan['short']:g} s for the others; "
        "median (lowest-highest). Ratios are of the same round."
    )
    refused = {} if noisy else unsettled(rates)
    for name, (title, figure, unit) in RATE_TITLES.items():
        if name in rates:
            parts += [f"### {title}", f"Not reported: {refused[name]}." if name in refused else rate_table(rates[name], figure, unit)]
    if "latency" in single:
        parts += ["### Latency at a constant rate: p50 / p99 / p99.9 ms, from when a request was due", latency_table(single["latency"])]
    for name, (title, figures) in SINGLE_TITLES.items():
        if single.get(name):
            parts += [
                f"### {title.format(size=plan['big_body'] // 2**20, idle=plan['idle_connections'])}",
                single_table(single[name], figures),
            ]
    return "\n\n".join(parts) + "\n"


def write_files(folder: Path, raw: dict[str, Any]) -> None:
    """The raw figures, and a plot for each scenario that is reported."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    (folder / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    refused = unsettled(raw["rates"])
    for name, samples in raw["rates"].items():
        if name in refused:
            continue
        title, figure, unit = RATE_TITLES[name]
        values = [
            (peer, median(samples, peer, figure), min(column(samples, peer, figure)), max(column(samples, peer, figure)))
            for peer in samples
        ]
        envoy = median(samples, YARDSTICK, figure) if samples.get(YARDSTICK) else None
        (folder / f"{name}.svg").write_text(bars(title, unit, values, envoy))


def write(document: Path, text: str) -> None:
    """Replace what stands between the markers of `document`."""
    before, rest = document.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
