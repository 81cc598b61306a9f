"""Plots as inline SVG text: no library, no request, readable in light, dark and print.

Every number that a plot shows also stands in a table of the report, so each ``<svg>`` carries a title and a
description for readers who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 18, 46


@dataclass(frozen=True)
class Point:
    """One candidate in a scatter plot; ``low``/``high`` bound ``y`` where an interval is known."""

    label: str
    x: float
    y: float
    verdict: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Span:
    """A difference with its interval, one row of a forest plot."""

    label: str
    value: float
    low: float
    high: float
    margin: float
    verdict: str


@dataclass(frozen=True)
class Axis:
    """Maps values of ``low…high`` to pixels ``start…end``; ``log`` for ratios."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of ``value``, clamped to the plot."""
        low, high, value = (math.log10(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside ``low…high``, about ``count`` of them."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs((high - low) / s - count))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def scatter(points: Sequence[Point], *, title: str, x_label: str, y_label: str, percent: bool = False) -> str:
    """``points`` over two linear axes, each with its label beside it."""
    if not points:
        return ""
    height = 300
    x = _axis([p.x for p in points], LEFT, WIDTH - RIGHT - 70, floor=0.0)
    bounds = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    y = _axis(bounds, height - BOTTOM, TOP, cap=1.0 if percent else None, floor=0.0)
    parts = [_frame(x, y, height, x_label, y_label, percent)]
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: p.x):
        parts.append(_mark(point, x, y, taken))
    told = "; ".join(f"{p.label}: {_number(p.x)}, {_number(p.y, percent)}" for p in points)
    return _svg(title, told, height, parts)


def forest(spans: Sequence[Span], *, title: str, x_label: str) -> str:
    """Differences with intervals, one per row, against zero and each row's margin."""
    if not spans:
        return ""
    height, left = TOP + 22 * len(spans) + BOTTOM, 200
    edges = [v for s in spans for v in (s.low, s.high, -s.margin, 0.02)]
    x = _axis(edges, left, WIDTH - RIGHT, cap=1.0, floor=-1.0)
    bottom = height - BOTTOM
    parts = [_vertical(x.at(t), bottom, f"{100 * t:+g}" if t else "0") for t in ticks(x.low, x.high)]
    parts.append(f'<line class="zero" x1="{x.at(0)}" x2="{x.at(0)}" y1="{TOP}" y2="{bottom}"/>')
    for row, span in enumerate(spans):
        parts.append(_span(span, x, TOP + 22 * row + 11, left))
    parts.append(f'<text class="axis" x="{(left + WIDTH - RIGHT) / 2}" y="{height - 8}">{escape(x_label)}</text>')
    told = "; ".join(f"{s.label}: {100 * s.value:+.1f} points ({s.verdict})" for s in spans)
    return _svg(title, told, height, parts)


def bars(values: Sequence[tuple[str, float]], *, title: str, unit: str) -> str:
    """Horizontal bars on a logarithmic scale (drift spans several powers of ten)."""
    shown = [(label, value) for label, value in values if value > 0]
    if not shown:
        return ""
    height, left = TOP + 24 * len(shown) + BOTTOM, 150
    low = 10 ** math.floor(math.log10(min(v for _, v in shown)) - 0.3)
    high = 10 ** math.ceil(math.log10(max(v for _, v in shown)))
    x = Axis(low, high, left, WIDTH - RIGHT - 60, log=True)
    parts = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        parts.append(_vertical(x.at(10.0**power), height - BOTTOM, f"{10.0**power:g}"))
    for row, (label, value) in enumerate(shown):
        y = TOP + 24 * row
        parts.append(f'<text class="row" x="{left - 8}" y="{y + 15}">{escape(_short(label, 20))}</text>')
        parts.append(f'<rect class="bar" x="{left}" y="{y + 4}" width="{x.at(value) - left:.1f}" height="14"/>')
        parts.append(f'<text class="value" x="{x.at(value) + 5}" y="{y + 15}">{value:.3g}</text>')
    parts.append(f'<text class="axis" x="{(left + WIDTH) / 2}" y="{height - 8}">{escape(unit)}</text>')
    return _svg(title, "; ".join(f"{label}: {value:.4g}" for label, value in shown), height, parts)


def lines(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str]] = (),
    percent: bool = False,
) -> str:
    """Values over steps, a line for each of at most three ``series``, named at its end; ``marks`` are named steps."""
    shown = [(label, points) for label, points in series if points]
    if not shown:
        return ""
    height = 300
    every = [point for _, points in shown for point in points]
    x = _axis([p[0] for p in every], LEFT, WIDTH - RIGHT - 70, floor=0.0)
    lowest = min(p[1] for p in every)
    y = _axis([p[1] for p in every], height - BOTTOM, TOP, cap=1.0 if percent else None, floor=min(lowest, 0.0))
    parts = [_frame(x, y, height, x_label, y_label, percent)]
    free = 0.0
    for at, label in sorted(mark for mark in marks if mark[0] <= x.high):
        parts.append(_vertical(x.at(at), height - BOTTOM, ""))
        if x.at(at) >= free:  # a label that would lie on the one before is left out
            parts.append(f'<text class="tick" x="{x.at(at)}" y="{TOP - 4}">{escape(_short(label, 12))}</text>')
            free = x.at(at) + 72
    told = []
    places = _apart([y.at(points[-1][1]) + 4 for _, points in shown])
    for number, (label, points) in enumerate(shown):
        path = " ".join(f"{x.at(a)},{y.at(b)}" for a, b in points)
        last = points[-1]
        parts.append(f'<polyline class="series s{number}" points="{path}"/>')
        if len(points) == 1:
            parts.append(f'<circle class="dot s{number}" cx="{x.at(last[0])}" cy="{y.at(last[1])}" r="3"/>')
        parts.append(f'<text class="label" x="{x.at(last[0]) + 5}" y="{places[number]:.1f}">{escape(label)}</text>')
        told.append(f"{label}: {_number(last[1], percent)} at {_number(last[0])}")
    return _svg(title, "; ".join(told), height, parts)


def _apart(wanted: Sequence[float], room: float = 13) -> list[float]:
    """Places of labels one below the other, the lowest where it is wanted, the others moved up where they must."""
    found, below = list(wanted), math.inf
    for number in sorted(range(len(found)), key=found.__getitem__, reverse=True):
        found[number] = below = min(found[number], below - room)
    return found


def _axis(
    values: Sequence[float], start: float, end: float, *, cap: float | None = None, floor: float | None = None
) -> Axis:
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.1 or 0.1
    low, high = low - room, high + room
    return Axis(low if floor is None else max(low, floor), high if cap is None else min(high, cap), start, end)


def _frame(x: Axis, y: Axis, height: int, x_label: str, y_label: str, percent: bool) -> str:
    parts = [_vertical(x.at(t), height - BOTTOM, _number(t)) for t in ticks(x.low, x.high)]
    for tick in ticks(y.low, y.high, 4):
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="row" x="{LEFT - 8}" y="{at + 4}">{_number(tick, percent)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH / 2}" y="{height - 8}">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" transform="translate(14 {height / 2}) rotate(-90)">{escape(y_label)}</text>')
    return "".join(parts)


def _mark(point: Point, x: Axis, y: Axis, taken: list[tuple[float, float]]) -> str:
    """A dot with its interval; its label moves down while another label is in the way."""
    px, py = x.at(point.x), y.at(point.y)
    parts = []
    if point.low is not None and point.high is not None:
        parts.append(f'<line class="span" x1="{px}" x2="{px}" y1="{y.at(point.low)}" y2="{y.at(point.high)}"/>')
    parts.append(f'<circle class="dot {_class(point.verdict)}" cx="{px}" cy="{py}" r="5"/>')
    ty = py - 8
    while any(abs(ty - other_y) < 12 and abs(px - other_x) < 110 for other_x, other_y in taken):
        ty += 13
    taken.append((px, ty))
    parts.append(f'<text class="value" x="{px + 8}" y="{ty + 4}">{escape(_short(point.label, 18))}</text>')
    return "".join(parts)


def _span(span: Span, x: Axis, y: float, left: float) -> str:
    margin = x.at(-span.margin)
    name = _class(span.verdict)
    return (
        f'<text class="row" x="{left - 8}" y="{y + 4}">{escape(_short(span.label, 28))}</text>'
        f'<line class="margin" x1="{margin}" x2="{margin}" y1="{y - 9}" y2="{y + 9}"/>'
        f'<line class="span {name}" x1="{x.at(span.low)}" x2="{x.at(span.high)}" y1="{y}" y2="{y}"/>'
        f'<circle class="dot {name}" cx="{x.at(span.value)}" cy="{y}" r="4"/>'
    )


def _vertical(at: float, bottom: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{at}" y="{bottom + 16}">{label}</text>'
    )


def _svg(title: str, description: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height}"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def _class(verdict: str) -> str:
    return {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open", "BASELINE": "base"}.get(verdict, "other")


def _number(value: float, percent: bool = False) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
