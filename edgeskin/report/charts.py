"""Charts as inline SVG: no script, no font, no network. Colours are CSS variables of the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgeskin.spec.bench import Histogram, Latency
from edgeskin.spec.result import Estimate

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 26, 34


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high` mapped onto pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value; a value outside the axis lies at its end."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) within [low, high], about `count` of them.

    >>> ticks(0, 23)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(label: str, parts: Sequence[str], *, height: int = HEIGHT) -> Markup:
    name = escape(label)
    body = "".join(parts)
    return Markup(  # every text in `parts` went through _text, which escapes
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {WIDTH} {height}" class="chart"><title>{name}</title>{body}'
        "</svg>"
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{style}"/>'


def _number(value: float) -> str:
    return f"{value:g}"


def _x_axis(axis: Axis, unit: str, bottom: float) -> list[str]:
    parts = [_line(axis.start, bottom, axis.end, bottom, "axis")]
    for value in ticks(axis.low, axis.high):
        x = axis(value)
        parts += [_line(x, bottom, x, bottom + 4, "axis"), _text(x, bottom + 17, _number(value), "tick", "middle")]
    parts.append(_text(axis.end, bottom + 31, unit, "tick", "end"))
    return parts


def _density(found: Histogram, queries: int) -> list[float]:
    width = (found.edges_ms[-1] - found.edges_ms[0]) / len(found.counts) or 1.0
    return [count / queries / width for count in found.counts]


def latency_chart(label: str, series: Mapping[str, Latency]) -> Markup:
    """Distributions of latency over one another, with the median and the p99 of each marked.

    `series`: name -> latency, at most two; areas are equal, so that heights compare.
    """
    longest = max(found.histogram.edges_ms[-1] for found in series.values())
    x = Axis(0, longest, LEFT, WIDTH - RIGHT)
    densities = {name: _density(found.histogram, found.queries) for name, found in series.items()}
    y = Axis(0, max(max(values) for values in densities.values()) or 1.0, HEIGHT - BOTTOM, TOP + 22)
    parts = []
    for index, (name, found) in enumerate(series.items()):
        style, edges = f"s{index}", found.histogram.edges_ms
        points = [f"{x(edges[0])},{y(0)}"]
        for left, right, value in zip(edges, edges[1:], densities[name], strict=False):
            points += [f"{x(left)},{y(value)}", f"{x(right)},{y(value)}"]
        points.append(f"{x(edges[-1])},{y(0)}")
        parts.append(f'<polygon points="{" ".join(points)}" class="area {style}"/>')
        for value, dash in ((found.p50_ms, ""), (found.p99_ms, "dash")):
            parts.append(_line(x(value), TOP + 14, x(value), HEIGHT - BOTTOM, f"mark {style} {dash}"))
        text = f"{name}: median {found.p50_ms:.3g} ms, p99 {found.p99_ms:.3g} ms, max {found.max_ms:.3g} ms"
        parts.append(f'<rect x="{LEFT}" y="{4 + 16 * index}" width="10" height="10" class="area {style}"/>')
        parts.append(_text(LEFT + 16, 13 + 16 * index, text, "legend"))
    return _svg(label, parts + _x_axis(x, "ms; median solid, p99 dashed; the tail is not drawn", HEIGHT - BOTTOM))


def difference_chart(label: str, rows: Sequence[tuple[str, Estimate]]) -> Markup | None:
    """Differences with their intervals about zero: left of it the bundle is worse. None without any."""
    known = [(n, e.value, e.low, e.high) for n, e in rows if e.value is not None]
    shown = [(n, v, v if lo is None else lo, v if hi is None else hi) for n, v, lo, hi in known]
    if not shown:
        return None
    reach = max(0.01, 1.1 * max(max(abs(low), abs(high)) for _, _, low, high in shown))
    height = TOP + 26 * len(shown) + BOTTOM
    x = Axis(-reach, reach, 190, WIDTH - RIGHT - 60)
    bottom = height - BOTTOM
    parts = [_line(x(0), TOP - 10, x(0), bottom, "axis"), *_x_axis(x, "difference, bundle minus FP32", bottom)]
    parts += [_text(x(0) - 8, 12, "worse", "tick", "end"), _text(x(0) + 8, 12, "better", "tick")]
    for index, (name, value, low, high) in enumerate(shown):
        y = TOP + 26 * index + 12
        parts += [
            _text(180, y + 4, name, "legend", "end"),
            _line(x(low), y, x(high), y, "mark s0 thick"),
            f'<circle cx="{x(value)}" cy="{y}" r="5" class="dot s0"/>',
            _text(WIDTH - RIGHT, y + 4, f"{value:+.4f}", "tick", "end"),
        ]
    return _svg(label, parts, height=height)


def curve_chart(label: str, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Markup | None:
    """Columns of the training log over its epochs. None if fewer than two epochs have any of them."""
    lines = {name: [(row["epoch"] + 1, row[name]) for row in rows if name in row] for name in names}
    lines = {name: points for name, points in lines.items() if len(points) >= 2}
    if not lines:
        return None
    values = [value for points in lines.values() for _, value in points]
    epochs = [epoch for points in lines.values() for epoch, _ in points]
    spread = (max(values) - min(values)) * 0.08 or 0.05
    x = Axis(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    y = Axis(min(values) - spread, max(values) + spread, HEIGHT - BOTTOM, TOP + 6)
    parts = _x_axis(x, "epoch", HEIGHT - BOTTOM)
    for value in ticks(y.low, y.high, 5):
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        parts.append(_text(LEFT - 6, y(value) + 4, _number(value), "tick", "end"))
    place = LEFT
    for index, (name, points) in enumerate(lines.items()):
        style = f"s{index % 4}"
        path = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points)
        parts.append(f'<polyline points="{path}" class="curve {style}"/>')
        parts += [f'<circle cx="{x(e)}" cy="{y(v)}" r="2.5" class="dot {style}"/>' for e, v in points]
        text = f"{name.replace('_', ' ')} {points[-1][1]:.3f}"
        parts.append(f'<rect x="{place}" y="4" width="10" height="10" class="dot {style}"/>')
        parts.append(_text(place + 15, 13, text, "legend"))
        place += 30 + 7 * len(text)
    return _svg(label, parts)
