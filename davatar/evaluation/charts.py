"""Line and bar charts as inline SVG text: numbers in, markup out.

Colours come from the page's style sheet (classes series-0, series-1, ...), so a chart follows light and dark pages.
Every point carries its value as a tooltip; a None in a series is a gap.
"""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them."""
    span = high - low if high > low else max(abs(high), 1.0) * 0.1
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step), math.ceil(max(high, low + span * 1e-6) / step)
    return [k * step for k in range(first, last + 1)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.4g}"


def _frame(body: list[str], y_ticks: list[float], y_of, x_label: str, y_label: str, title: str) -> str:
    lines = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for value in y_ticks:
        y = y_of(value)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    lines += body
    lines.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    lines.append(
        f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{escape(y_label)}</text>'
    )
    return "\n".join([*lines, "</svg>"])


def _legend(names: list[str]) -> str:
    items = "".join(f'<span><i class="swatch series-{k % 6}"></i>{escape(name)}</span>' for k, name in enumerate(names))
    return f'<div class="legend">{items}</div>' if len(names) > 1 else ""


def line_chart(
    series: dict[str, list[tuple[float, float | None]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
) -> str:
    """One line per series of (x, y) pairs; an empty string when there is nothing to draw."""
    known = [(x, y) for points in series.values() for x, y in points if y is not None and math.isfinite(y)]
    if not known:
        return ""
    x_low, x_high = min(x for x, _ in known), max(x for x, _ in known)
    y_low, y_high = min(y for _, y in known), max(y for _, y in known)
    y_ticks = ticks(0 if from_zero else y_low, y_high)

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        low, high = y_ticks[0], y_ticks[-1]
        return HEIGHT - BOTTOM - (y - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    body = []
    for value in ticks(x_low, x_high, 8):
        if x_low <= value <= x_high:
            body.append(
                f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>'
            )
    for k, (name, points) in enumerate(series.items()):
        path, pen = [], "M"
        for x, y in points:
            if y is None or not math.isfinite(y):
                pen = "M"
                continue
            path.append(f"{pen}{x_of(x):.1f} {y_of(y):.1f}")
            pen = "L"
            if len(points) <= 120:
                tip = f"{escape(name)}: {_number(y)} at {_number(x)}"
                body.append(
                    f'<circle class="point series-{k % 6}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6">'
                    f"<title>{tip}</title></circle>"
                )
        body.append(f'<path class="line series-{k % 6}" d="{" ".join(path)}"/>')
    return _frame(body, y_ticks, y_of, x_label, y_label, title) + _legend(list(series))


def bar_chart(values: dict[str, float], *, title: str, y_label: str) -> str:
    """One bar per name, from zero, the value above it; an empty string when there is nothing to draw."""
    if not values:
        return ""
    y_ticks = ticks(min(0.0, *values.values()), max(0.0, *values.values()))

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    slot = (WIDTH - LEFT - RIGHT) / len(values)
    body = []
    for k, (name, value) in enumerate(values.items()):
        x, y = LEFT + slot * (k + 0.2), y_of(max(value, 0))
        height = abs(y_of(0) - y_of(value))
        body.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{slot * 0.6:.1f}" height="{height:.1f}"/>'
            f'<text x="{x + slot * 0.3:.1f}" y="{y - 4:.1f}" text-anchor="middle">{_number(value)}</text>'
            f'<text x="{x + slot * 0.3:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(name)}</text>'
        )
    return _frame(body, y_ticks, y_of, "", y_label, title)
