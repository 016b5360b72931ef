"""Small plots as inline SVG: lines and areas in the page's colours, without scripts. The numbers beside them say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from typing import NamedTuple


class Curve(NamedTuple):
    """Values of one line, nan where there is none. `name` is its class in the style sheet; `filled` down to zero."""

    name: str
    values: Sequence[float]
    filled: bool = False


def plot(curves: Iterable[Curve], *, points: int, steps: int, width: int, height: int) -> str:
    """The curves on one scale from zero to the highest value, the newest value at the right edge.

    `steps` is how many values the whole width stands for; they are averaged to at most `points`, so that a page of
    many plots stays small.
    """
    reduced = [Curve(name, _reduce(values, steps, points), filled) for name, values, filled in curves]
    top = max((value for curve in reduced for value in curve.values if not isnan(value)), default=0.0) or 1.0
    each = max(1, steps // points)
    step = width / max(1, steps // each - 1)
    paths = "".join(_path(curve, step, width, height, top) for curve in reduced)
    return f'<svg class="plot" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true" focusable="false">{paths}</svg>'


def _reduce(values: Sequence[float], steps: int, points: int) -> list[float]:
    """Averages of as many neighbours as it takes, counted from the newest back, so that a plot moves and does not flicker."""
    each = max(1, steps // points)
    reduced = []
    for end in range(len(values), 0, -each):
        known = [value for value in values[max(0, end - each) : end] if not isnan(value)]
        reduced.append(sum(known) / len(known) if known else float("nan"))
    return reduced[::-1]


def _path(curve: Curve, step: float, width: int, height: int, top: float) -> str:
    start = width - step * (len(curve.values) - 1)
    room = height - 2.0  # the line's own width stays inside
    runs: list[list[tuple[float, float]]] = [[]]
    for number, value in enumerate(curve.values):
        if isnan(value):
            runs.append([])
        else:
            runs[-1].append((round(start + step * number, 1), round(1 + room * (1 - value / top), 1)))
    parts = []
    for run in filter(None, runs):
        if len(run) == 1:  # a single point would be invisible
            run.append((run[0][0] + 0.1, run[0][1]))
        line = "L".join(f"{x:g} {y:g}" for x, y in run)
        if curve.filled:
            parts.append(f'<path class="{curve.name} area" d="M{run[0][0]:g} {height}L{line}L{run[-1][0]:g} {height}Z"/>')
        parts.append(f'<path class="{curve.name}" d="M{line}"/>')
    return "".join(parts)
