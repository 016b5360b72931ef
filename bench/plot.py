"""Bars as SVG, without a library: one plot for a scenario, one bar for a proxy, a line where Envoy is."""

from __future__ import annotations

from xml.sax.saxutils import escape

WIDTH, LEFT, BAR, GAP, TOP = 720, 150, 22, 10, 56
OURS, OTHERS, INK, LINE = "#2f6fbf", "#9aa5b1", "#24292f", "#d0453a"


def bars(title: str, unit: str, values: list[tuple[str, float, float, float]], yardstick: float | None) -> str:
    """`values`: (proxy, median, lowest, highest); `yardstick`: where the line stands."""
    top = max(high for _, _, _, high in values) or 1.0
    scale = (WIDTH - LEFT - 90) / top
    height = TOP + len(values) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold" fill="{INK}">{escape(title)}</text>',
        f'<text x="12" y="42" fill="{INK}">{escape(unit)}; the thin line spans lowest to highest</text>',
    ]
    for number, (name, middle, low, high) in enumerate(values):
        y = TOP + number * (BAR + GAP)
        colour = OURS if name.startswith("outrider") else OTHERS
        centre = y + BAR / 2
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end" fill="{INK}">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{LEFT + low * scale:.1f}" x2="{LEFT + high * scale:.1f}" y1="{centre}" y2="{centre}" stroke="{INK}"/>',
            f'<text x="{LEFT + high * scale + 6:.1f}" y="{y + 16}" fill="{INK}">{middle:.3g}</text>',
        ]
    if yardstick is not None:
        x = LEFT + yardstick * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - GAP + 2}" stroke="{LINE}" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>", ""])
