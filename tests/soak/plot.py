"""A run of the soak as an SVG: four lines over time, each with its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

WIDTH: Final = 900
HEIGHT: Final = 110
LEFT: Final = 70
GAP: Final = 34


class Sample(NamedTuple):
    """One look: `at` in seconds; the last two count from the beginning."""

    at: float
    rss: int
    descriptors: int
    requests: int
    failures: int


def draw(samples: Sequence[Sample], title: str) -> str:
    """The picture, readable on light and dark."""
    rates = [max(new.requests - old.requests, 0) / max(new.at - old.at, 0.01) for old, new in pairwise(samples)]
    rows = [
        ("resident memory, MiB", [one.rss / 1024 / 1024 for one in samples]),
        ("descriptors", [float(one.descriptors) for one in samples]),
        ("requests a second", [*rates, rates[-1] if rates else 0.0]),
        ("failed requests so far", [float(one.failures) for one in samples]),
    ]
    total = (HEIGHT + GAP) * len(rows) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{total}" fill="#fff"/><text x="{LEFT}" y="18" fill="#222">{title}</text>',
    ]
    for number, (name, values) in enumerate(rows):
        parts += _row(name, [one.at for one in samples], values, GAP + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(name: str, times: Sequence[float], values: Sequence[float], top: int) -> list[str]:
    highest, last = max(*values, 1.0), max(times[-1], 0.01)
    points = " ".join(
        f"{LEFT + at / last * (WIDTH - LEFT - 20):.1f},{top + HEIGHT - value / highest * (HEIGHT - 8):.1f}"
        for at, value in zip(times, values, strict=True)
    )
    base = top + HEIGHT
    return [
        f'<text x="{LEFT}" y="{top + 2}" fill="#222">{name}</text>',
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - 20}" y2="{base}" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{top + 14}" text-anchor="end" fill="#555">{highest:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end" fill="#555">0</text>',
        f'<text x="{WIDTH - 20}" y="{base + 14}" text-anchor="end" fill="#555">{last:.0f} s</text>',
        f'<polyline fill="none" stroke="#1f6feb" stroke-width="1.2" points="{points}"/>',
    ]
