"""Figures to Markdown: medians, spread, ratios to Envoy of the same round."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

from bench.machine import NOISY_SPREAD, spread
from bench.peers import OURS, YARDSTICK

BEGIN, END = "<!-- figures: begin (written by `make bench`) -->", "<!-- figures: end -->"
Samples = dict[str, list[dict[str, float]]]
"""By peer, one entry for each round."""


RATE_TITLES: Final = {
    "get_1k": ("1 KiB GET, 32 keep-alive connections", "cpu_us", "CPU us per request"),
    "post_16k": ("16 KiB POST, 32 keep-alive connections", "cpu_us", "CPU us per request"),
    "download_10m": ("10 MiB download, 4 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
    "upload_10m": ("10 MiB upload, 4 connections (more is better)", "gb_per_cpu_second", "GB per CPU second"),
}
"""Scenario -> heading, figure, and what the figure is called."""


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


def markdown(raw: dict[str, Any]) -> str:
    """The whole of what stands between the markers."""
    rates, single = raw["rates"], raw["single"]
    machine = ", ".join(f"{key} {value}" for key, value in raw["machine"].items())
    peers = ", ".join(f"{name} {version}" for name, version in raw["peers"].items())
    parts = [f"Measured {raw['date']}: {machine}. {peers}." + (f" Absent: {', '.join(raw['absent'])}." if raw["absent"] else "")]
    parts.append(
        f"{raw['plan']['rounds']} interleaved rounds of {raw['plan']['seconds']:g} s; median (lowest-highest). Ratios are of the same round."
    )
    refused = unsettled(rates)
    for name, (title, figure, unit) in RATE_TITLES.items():
        parts += [f"### {title}", f"Not reported: {refused[name]}." if name in refused else rate_table(rates[name], figure, unit)]
    size = raw["plan"]["big_body"] // 2**20
    parts += [
        f"### Memory per exchange: {size} MiB bodies, four at a time, slow reader",
        single_table(single["big_bodies"], {"download_kib": "download KiB", "upload_kib": "upload KiB"}),
    ]
    parts += [
        f"### Idle keep-alive connections ({raw['plan']['idle_connections']})",
        single_table(single["idle"], {"kib_each": "KiB each"}),
    ]
    parts += ["### Start to the first answer", single_table(single["start"], {"ready_seconds": "seconds", "rss_mb": "RSS MB then"})]
    return "\n\n".join(parts) + "\n"


def write(document: Path, text: str) -> None:
    """Replace what stands between the markers of `document`."""
    before, rest = document.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
